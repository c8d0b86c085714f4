//! What `[destination] type = "thingsboard"` may say, checked.

use std::sync::Arc;

use settings_reader::TlsSettings;
use settings_reader::section::{Plain, Section};
use settings_reader::units::parse_mqtt_url;

use super::ThingsBoardDestination;
use crate::mqtt::{self, MqttAccess, read_access, tls_use};
use crate::{Destination, DestinationSettings, InFlight, Key, Kind, Lanes, MAX_LANES};

/// The row of the table of kinds.
pub static KIND: Kind = Kind {
    name: "thingsboard",
    adapter: "thingsboard-gateway",
    max_lanes: MAX_LANES,
    in_flight: InFlight::Settable { default: mqtt::IN_FLIGHT, max: 65_535 },
    keys: &[
        Key { name: "url", default: DEMO, meaning: "ThingsBoard, `mqtt://host:1883` or `mqtts://host:8883`" },
        Key {
            name: "access_token",
            default: "required without `cert`",
            meaning: "the token of the gateway device, a reference to a secret",
        },
        mqtt::CA,
        mqtt::CERT,
        mqtt::KEY,
        mqtt::KEEP_ALIVE,
        mqtt::TIMEOUT,
    ],
    decode: None,
    read: |section, lanes| Some(Arc::new(ThingsBoardSettings::read(section, lanes)?)),
};

/// Settings of a ThingsBoard destination.
#[derive(Clone, Debug)]
pub struct ThingsBoardSettings {
    /// The platform (default `mqtt://demo.thingsboard.io:1883`); the access
    /// token of the gateway device is the user name.
    pub access: MqttAccess,
}

/// The public platform for trying out.
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

impl DestinationSettings for ThingsBoardSettings {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn address(&self) -> String {
        self.access.url.to_string()
    }

    fn tls(&self) -> Option<&TlsSettings> {
        Some(&self.access.tls)
    }

    fn build(&self) -> Arc<dyn Destination> {
        Arc::new(ThingsBoardDestination::new(self.clone()))
    }
}
