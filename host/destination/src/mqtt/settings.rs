//! What `[destination] type = "mqtt"` may say, checked.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use settings_reader::section::{Plain, Section, TlsUse};
use settings_reader::units::parse_mqtt_url;
use settings_reader::{MqttUrl, Secret, SecretError, TlsSettings};

use super::MqttDestination;
use super::rules::check_topic;
use crate::{Destination, DestinationSettings, InFlight, Key, Kind, Lanes, MAX_LANES, StreamFacts};

/// The row of the table of kinds.
pub static KIND: Kind = Kind {
    name: "mqtt",
    adapter: ADAPTER,
    max_lanes: MAX_LANES,
    in_flight: InFlight::Settable { default: IN_FLIGHT, max: 65_535 },
    keys: &[
        Key {
            name: "url",
            default: "required",
            meaning: "the MQTT 5 broker, `mqtt://host:1883` or `mqtts://host:8883`",
        },
        Key {
            name: "topic",
            default: "",
            meaning: "where deliveries without a target go; `mqtt-json` needs it, or a template in `[script.settings] topic`",
        },
        Key {
            name: "client_id",
            default: "`<bus client_id>-<stream>`",
            meaning: "the number of the lane is appended",
        },
        Key { name: "username", default: "", meaning: "text, or a reference to a secret" },
        Key { name: "password", default: "", meaning: "a reference to a secret" },
        CA,
        CERT,
        KEY,
        KEEP_ALIVE,
        TIMEOUT,
    ],
    decode: None,
    read: |section, lanes| Some(Arc::new(MqttSettings::read(section, lanes)?)),
};

/// `ca` of every kind over MQTT.
pub const CA: Key = Key {
    name: "ca",
    default: "the system's",
    meaning: "certificates that the server's must descend from, a PEM file",
};
/// `cert` of every kind over MQTT.
pub const CERT: Key = Key { name: "cert", default: "", meaning: "the gateway's certificate, a PEM file" };
/// `key` of every kind over MQTT.
pub const KEY: Key = Key { name: "key", default: "", meaning: "the key of `cert`, a PEM file" };
/// `keep_alive` of every kind over MQTT.
pub const KEEP_ALIVE: Key =
    Key { name: "keep_alive", default: "30s", meaning: "time between pings, 5 s to 20 min" };
/// `timeout` of every kind over MQTT.
pub const TIMEOUT: Key = Key {
    name: "timeout",
    default: "30s",
    meaning: "longest wait for the login and for each PUBACK, 100 ms to 10 min",
};

/// Default of `[delivery] in_flight` for kinds over MQTT.
pub const IN_FLIGHT: usize = 64;

/// The official adapter.
const ADAPTER: &str = "mqtt-json";

/// How to reach and enter an MQTT broker; shared by the three destinations
/// that speak MQTT.
#[derive(Clone, Debug)]
pub struct MqttAccess {
    /// `mqtt://` or `mqtts://`, host and port.
    pub url: MqttUrl,
    /// Without the lane: `<bus client_id>-<stream>`; the lane number is appended.
    pub client_id: String,
    /// User name, where the broker wants one.
    pub username: Option<Secret>,
    /// Password, where the broker wants one.
    pub password: Option<Secret>,
    /// CA, client certificate, key and ALPN for `mqtts://`.
    pub tls: TlsSettings,
    /// Seconds between pings (default 30).
    pub keep_alive: Duration,
    /// Longest wait for CONNACK, and for the PUBACK of one publish (default 30 s).
    pub timeout: Duration,
    /// Most unacknowledged publishes on a connection (default 64).
    pub in_flight: usize,
}

impl MqttAccess {
    /// The files whose content a new connection makes use of.
    pub fn files(&self) -> Vec<PathBuf> {
        settings_reader::files(&self.tls, [&self.username, &self.password].into_iter().flatten())
    }

    /// The same with what the files say now. Blocks.
    pub fn renewed(&self) -> Result<Self, SecretError> {
        let again = |secret: &Option<Secret>| secret.as_ref().map(Secret::renewed).transpose();
        Ok(Self {
            username: again(&self.username)?,
            password: again(&self.password)?,
            tls: self.tls.renewed(),
            ..self.clone()
        })
    }
}

/// Settings of a plain MQTT destination.
#[derive(Clone, Debug)]
pub struct MqttSettings {
    /// The broker.
    pub access: MqttAccess,
    /// Topic of deliveries that have no target.
    pub topic: Option<String>,
}

impl MqttSettings {
    /// Reads `[destination]`.
    pub fn read(section: &mut Section<'_>, lanes: &Lanes) -> Option<Self> {
        const URL: &str = "the address of an MQTT 5 broker, \"mqtt://host:1883\" or \"mqtts://host:8883\"";
        const CLIENT_ID: &str = "a name for the broker; the number of the lane is appended";
        const TOPIC: &str = "a topic without wildcards, such as \"fleet/up\"";
        let url = section.url("url", None, URL, parse_mqtt_url).map(|given| given.value);
        let usage = tls_use(url.as_ref());
        let access = read_access(section, url, usage, lanes);
        let client_id = section.parsed("client_id", CLIENT_ID, |text| {
            if text.is_empty()
                || text.len() > 256
                || text.chars().any(|c| c.is_control() || c.is_whitespace())
            {
                Err("`client_id` is empty, longer than 256 bytes, or has spaces or control characters")
            } else {
                Ok(text.to_owned())
            }
        });
        let topic = section.parsed("topic", TOPIC, |text| match check_topic(text) {
            Ok(()) if text.contains(['{', '}']) => Err(format!(
                "the topic {text:?} is a template, which only `topic` in [script.settings] may be"
            )),
            checked => checked.map(|()| text.to_owned()),
        });
        let username = section.secret("username", Plain::Allowed);
        let password = section.secret("password", Plain::Refused);
        let mut access = MqttAccess { username, password, ..access? };
        if let Some(given) = client_id {
            access.client_id = given.value;
        }
        Some(Self { access, topic: topic.map(|given| given.value) })
    }
}

impl DestinationSettings for MqttSettings {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn address(&self) -> String {
        self.access.url.to_string()
    }

    fn tls(&self) -> Option<&TlsSettings> {
        Some(&self.access.tls)
    }

    fn check(&self, section: &Section<'_>, stream: &StreamFacts<'_>) {
        let span = section.value_span("topic");
        match &self.topic {
            Some(topic) => self.check_loop(section, topic, stream),
            // An unusable topic has been reported.
            None if span.is_none() => check_topic_given(section, stream),
            None => {}
        }
    }

    fn build(&self) -> Arc<dyn Destination> {
        Arc::new(MqttDestination::new(self.clone()))
    }
}

impl MqttSettings {
    /// A stream that reads its own publishes would never come to rest.
    fn check_loop(&self, section: &Section<'_>, topic: &str, stream: &StreamFacts<'_>) {
        let same = (stream.is_bus)(&self.access.url);
        if let Some(filter) = stream.topics.iter().find(|filter| same && filter.matches(topic)) {
            section.doc().error(
                section.value_span("topic"),
                format!("the stream subscribes to `{filter}`, and so to what it publishes on `{topic}`"),
                "another topic or another broker: messages would go round for ever",
            );
        }
    }
}

/// The official adapter publishes nowhere without a topic.
fn check_topic_given(section: &Section<'_>, stream: &StreamFacts<'_>) {
    if stream.adapter == Some(ADAPTER) && stream.script_settings.get("topic").is_none() {
        section.doc().error(
            section.span(),
            "no topic to publish to",
            "`topic` in [destination], or a template `topic` in [script.settings]",
        );
    }
}

/// Reads what every MQTT destination may say beside `url` and login: TLS, times.
/// None where the address is unusable.
pub fn read_access(
    section: &mut Section<'_>,
    url: Option<MqttUrl>,
    usage: TlsUse,
    lanes: &Lanes,
) -> Option<MqttAccess> {
    let seconds = Duration::from_secs;
    let tls = section.tls(usage);
    let keep_alive = section.whole_seconds("keep_alive", seconds(5)..=seconds(1200)).unwrap_or(seconds(30));
    let timeout =
        section.duration("timeout", Duration::from_millis(100)..=seconds(600)).unwrap_or(seconds(30));
    Some(MqttAccess {
        url: url?,
        client_id: lanes.client_id.clone(),
        username: None,
        password: None,
        tls,
        keep_alive,
        timeout,
        in_flight: lanes.in_flight,
    })
}

/// Whether an address makes use of `ca`, `cert` and `key`.
pub fn tls_use(url: Option<&MqttUrl>) -> TlsUse {
    match url {
        None => TlsUse::Unknown,
        Some(url) if url.tls => TlsUse::Yes,
        Some(_) => TlsUse::OnlyWith("mqtts://"),
    }
}
