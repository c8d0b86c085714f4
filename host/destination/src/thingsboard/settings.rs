//! What `[destination] type = "thingsboard"` may say, checked.

use settings_reader::section::{Plain, Section};
use settings_reader::units::parse_mqtt_url;

use crate::Lanes;
use crate::mqtt::{MqttAccess, read_access, tls_use};

/// Settings of a ThingsBoard destination.
#[derive(Clone, Debug)]
pub struct ThingsBoardSettings {
    /// The platform (default `mqtt://demo.thingsboard.io:1883`); the access
    /// token of the gateway device is the user name.
    pub access: MqttAccess,
}

/// The platform that anybody can try.
const DEMO: &str = "mqtt://demo.thingsboard.io:1883";

impl ThingsBoardSettings {
    /// Reads `[destination]`.
    pub fn read(section: &mut Section<'_>, lanes: &Lanes) -> Option<Self> {
        const URL: &str = "the address of ThingsBoard, \"mqtt://host:1883\" or \"mqtts://host:8883\"";
        const TOKEN: &str =
            "the access token of the gateway device, as { env = \"NAME\" } or { file = \"path\" }";
        let url = section.url("url", Some(DEMO), URL, parse_mqtt_url).map(|given| given.value);
        let usage = tls_use(url.as_ref());
        let token = section.secret("access_token", Plain::Refused);
        if section.value("access_token").is_none() && section.value("cert").is_none() {
            section.missing("access_token", TOKEN);
        }
        let mut access = read_access(section, url, usage, lanes)?;
        access.username = token;
        Some(Self { access })
    }
}
