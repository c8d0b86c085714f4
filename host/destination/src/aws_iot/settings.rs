//! What `[destination] type = "aws-iot"` may say, checked.

use std::sync::Arc;
use std::time::Duration;

use settings_reader::TlsSettings;
use settings_reader::section::{Plain, Section, TlsUse};
use settings_reader::units::{UrlError, parse_mqtt_url};

use super::AwsIotDestination;
use crate::mqtt::{self, MqttAccess, read_access};
use crate::{Destination, DestinationSettings, InFlight, Key, Kind, Lanes, MAX_LANES};

/// The row of the table of kinds.
pub static KIND: Kind = Kind {
    name: "aws-iot",
    adapter: "aws-shadow",
    max_lanes: MAX_LANES,
    // AWS closes connections with more than 100 unacknowledged publishes.
    in_flight: InFlight::Settable { default: mqtt::IN_FLIGHT, max: 100 },
    keys: &[
        Key {
            name: "url",
            default: "required",
            meaning: "the endpoint of the account, `mqtts://...-ats.iot.REGION.amazonaws.com:8883`",
        },
        Key {
            name: "username",
            default: "",
            meaning: "for a custom authoriser, in place of `cert` and `key`",
        },
        Key { name: "password", default: "", meaning: "a reference to a secret, for a custom authoriser" },
        mqtt::CA,
        mqtt::CERT,
        mqtt::KEY,
        mqtt::KEEP_ALIVE,
        mqtt::TIMEOUT,
        Key {
            name: "reject_window",
            default: "1s",
            meaning: "how long a `rejected` answer is waited for after the PUBACK, up to 1 min",
        },
        Key {
            name: "publishes_per_second",
            default: "100",
            meaning: "maximum rate on one connection, 1 to 10000",
        },
    ],
    decode: None,
    read: |section, lanes| Some(Arc::new(AwsIotSettings::read(section, lanes)?)),
};

/// Settings of an AWS IoT destination.
#[derive(Clone, Debug)]
pub struct AwsIotSettings {
    /// The endpoint (`mqtts://…-ats.iot.….amazonaws.com:8883`; on port 443 the
    /// ALPN name `x-amzn-mqtt-ca` is set).
    pub access: MqttAccess,
    /// How long after the PUBACK a `rejected` answer is waited for before an
    /// update counts as delivered (default 1 s).
    pub reject_window: Duration,
    /// Most publishes a second on one connection (default 100, AWS's limit).
    pub publishes_per_second: u32,
}

/// Longest client id, in bytes (AWS IoT quotas).
const CLIENT_ID_LIMIT: usize = 128;
/// ALPN name on port 443 with a client certificate.
const ALPN_CERTIFICATE: &str = "x-amzn-mqtt-ca";
/// ALPN name on port 443 with a custom authoriser.
const ALPN_AUTHORISER: &str = "mqtt";

impl AwsIotSettings {
    /// Reads `[destination]`.
    pub fn read(section: &mut Section<'_>, lanes: &Lanes) -> Option<Self> {
        const URL: &str = "the endpoint of the account, \"mqtts://...-ats.iot.REGION.amazonaws.com:8883\"";
        let url = section.url("url", None, URL, |text| match parse_mqtt_url(text)? {
            url if url.tls => Ok(url),
            _ => Err(UrlError::Scheme("mqtt".to_owned())),
        });
        let usage = if url.is_some() { TlsUse::Yes } else { TlsUse::Unknown };
        let access = read_access(section, url.map(|given| given.value), usage, lanes);
        let username = section.secret("username", Plain::Allowed);
        let password = section.secret("password", Plain::Refused);
        let authoriser = section.value("username").is_some();
        if !authoriser && section.value("cert").is_none() && section.value("key").is_none() {
            section.missing("cert", "`cert` and `key` of the gateway, or `username` for a custom authoriser");
        }
        check_client_id(section, lanes);
        let reject_window = section
            .duration("reject_window", Duration::ZERO..=Duration::from_secs(60))
            .unwrap_or(Duration::from_secs(1));
        let rate = section.number("publishes_per_second", 1..=10_000);
        let mut access = MqttAccess { username, password, ..access? };
        if access.url.port == 443 {
            let name = if authoriser { ALPN_AUTHORISER } else { ALPN_CERTIFICATE };
            access.tls.alpn = vec![name.to_owned()];
        }
        Some(Self {
            access,
            reject_window,
            publishes_per_second: rate.map_or(100, |given| u32::try_from(given.value).unwrap_or(100)),
        })
    }
}

impl DestinationSettings for AwsIotSettings {
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
        Arc::new(AwsIotDestination::new(self.clone()))
    }
}

fn check_client_id(section: &Section<'_>, lanes: &Lanes) {
    let longest = format!("{}-{}", lanes.client_id, lanes.count.saturating_sub(1));
    let what = if longest.len() > CLIENT_ID_LIMIT {
        format!("the client id `{longest}` has {} bytes, AWS allows {CLIENT_ID_LIMIT}", longest.len())
    } else if longest.starts_with('$') {
        format!("the client id `{longest}` begins with `$`, which AWS does not allow")
    } else {
        return;
    };
    section.doc().error(section.span(), what, "another `client_id` in [bus], or a shorter name of this file");
}
