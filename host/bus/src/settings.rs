//! `[bus]` of sluicegate.toml.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use settings_reader::section::{Plain, Section, TlsUse, number_or};
use settings_reader::units::{parse_mqtt_url, socket_address};
use settings_reader::{MqttUrl, Secret, SecretError, TlsSettings, files};

/// How to reach the bus and how much may be under way from it.
#[derive(Clone, Debug)]
pub struct BusSettings {
    /// The broker, or the one inside.
    pub source: BusSource,
    /// Names the persistent session; also the beginning of the client ids of
    /// destinations.
    pub client_id: String,
    /// User name, where the broker wants one.
    pub username: Option<Secret>,
    /// Password, where the broker wants one.
    pub password: Option<Secret>,
    /// CA, client certificate and key for `mqtts://`.
    pub tls: TlsSettings,
    /// Group of a shared subscription (`$share/<group>/<filter>`).
    pub share: Option<String>,
    /// How long the broker keeps the session while nobody is connected; whole
    /// seconds (default 7 d).
    pub session_expiry: Duration,
    /// Time between pings; whole seconds (default 30 s).
    pub keep_alive: Duration,
    /// Receive maximum of MQTT 5: publishes that the broker may send without an
    /// acknowledgement (default `window_messages`). Not every broker keeps to it.
    pub receive_maximum: u16,
    /// Largest MQTT packet taken, in bytes (default 1 MiB).
    pub max_packet: u32,
    /// Most messages received and not yet acknowledged (default 10,000).
    pub window_messages: usize,
    /// Most bytes of those that the journal has not let in (default 16 MiB).
    pub window_bytes: usize,
}

/// Where messages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusSource {
    /// An MQTT 5 broker.
    Mqtt(MqttUrl),
    /// A broker inside this process, for trying out.
    Embedded {
        /// Where it listens (default `127.0.0.1:1883`).
        listen: SocketAddr,
    },
}

impl BusSettings {
    /// The files whose content a new connection makes use of.
    pub fn files(&self) -> Vec<PathBuf> {
        files(&self.tls, [&self.username, &self.password].into_iter().flatten())
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

    /// Reads `[bus]`. Where something is missing or wrong the rest is read
    /// with a stand-in, so that all errors are found at once.
    pub fn read(mut bus: Section<'_>) -> Self {
        const EMBEDDED_LISTEN: &str = "a loopback address and a port such as \"127.0.0.1:1883\"";
        const URL: &str =
            "the address of an MQTT 5 broker, \"mqtt://host:1883\" or \"mqtts://host:8883\", or \"embedded\"";
        let url = bus.url("url", None, URL, |text| match text {
            "embedded" => Ok(None),
            text => parse_mqtt_url(text).map(Some),
        });
        let url = url.map(|given| given.value);
        let source = match url {
            Some(Some(ref url)) => {
                bus.refuse(
                    "listen",
                    "`listen` is set, but `url` is the address of a broker",
                    "`listen` only together with url = \"embedded\"",
                );
                BusSource::Mqtt(url.clone())
            }
            _ => {
                let listen =
                    bus.parsed("listen", EMBEDDED_LISTEN, |text| match socket_address("listen", text)? {
                        address if address.ip().is_loopback() => Ok(address),
                        address => Err(format!("`listen`: {address} is not a loopback address")),
                    });
                let listen = listen.map_or(SocketAddr::from(([127, 0, 0, 1], 1883)), |given| given.value);
                BusSource::Embedded { listen }
            }
        };
        let embedded = url == Some(None);
        if embedded {
            for (key, what) in [
                ("username", "`username` does not apply to the embedded broker"),
                ("password", "`password` does not apply to the embedded broker"),
                ("ca", "`ca` does not apply to the embedded broker"),
                ("cert", "`cert` does not apply to the embedded broker"),
                ("key", "`key` does not apply to the embedded broker"),
                ("share", "`share` does not apply to the embedded broker"),
            ] {
                bus.refuse(
                    key,
                    what,
                    "no such key: the embedded broker is for trials and has no login, TLS or shared groups",
                );
            }
        }
        let (username, password, tls) = if embedded {
            (None, None, TlsSettings::default())
        } else {
            let usage = match &url {
                Some(Some(url)) if url.tls => TlsUse::Yes,
                Some(_) => TlsUse::OnlyWith("mqtts://"),
                None => TlsUse::Unknown,
            };
            (bus.secret("username", Plain::Allowed), bus.secret("password", Plain::Refused), bus.tls(usage))
        };
        let share = bus.parsed("share", "the name of the group, without `/`, `+` and `#`", |text| {
            let good =
                !text.is_empty() && !text.contains(['/', '+', '#']) && !text.chars().any(char::is_control);
            if good { Ok(text.to_owned()) } else { Err(format!("`share` is \"{}\"", text.escape_debug())) }
        });
        let seconds = Duration::from_secs;
        let window_messages = number_or(bus.number("window_messages", 1..=10_000_000), 10_000);
        let settings = Self {
            source,
            client_id: client_id(&mut bus, embedded).unwrap_or_else(|| "sluicegate".to_owned()),
            username,
            password,
            tls,
            share: share.map(|given| given.value),
            session_expiry: bus
                .whole_seconds("session_expiry", seconds(60)..=seconds(365 * 86_400))
                .unwrap_or(seconds(7 * 86_400)),
            keep_alive: bus
                .whole_seconds("keep_alive", seconds(5)..=seconds(18 * 3600))
                .unwrap_or(seconds(30)),
            receive_maximum: bus
                .number("receive_maximum", 1..=u64::from(u16::MAX))
                .map_or(u16::try_from(window_messages).unwrap_or(u16::MAX), |given| {
                    u16::try_from(given.value).unwrap_or(u16::MAX)
                }),
            max_packet: bus
                .size("max_packet", 1024..=256 << 20)
                .map_or(1 << 20, |bytes| u32::try_from(bytes).unwrap_or(u32::MAX)),
            window_messages,
            window_bytes: bus
                .size("window_bytes", 64 << 10..=1 << 40)
                .map_or(16 << 20, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
        };
        bus.finish();
        settings
    }
}

fn client_id(bus: &mut Section<'_>, embedded: bool) -> Option<String> {
    const CLIENT_ID: &str =
        "a name that no other client of the broker uses, such as \"sluicegate-1\"; it identifies the session";
    if !embedded && bus.value("client_id").is_none() {
        bus.missing("client_id", CLIENT_ID);
    }
    let given = bus.parsed("client_id", CLIENT_ID, |text| {
        if text.is_empty() || text.len() > 256 || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            Err("`client_id` is empty, longer than 256 bytes, or has spaces or control characters")
        } else {
            Ok(text.to_owned())
        }
    });
    given.map(|given| given.value)
}
