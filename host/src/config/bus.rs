//! `[bus]` and `[admin]` of sluicegate.toml.

use std::net::SocketAddr;
use std::time::Duration;

use super::{MqttUrl, Secret, TlsSettings};

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
    /// Receive maximum of MQTT 5 (default 1,000). Not every broker keeps to it.
    pub receive_maximum: u16,
    /// Largest MQTT packet taken, in bytes (default 1 MiB).
    pub max_packet: u32,
    /// Most messages received and not yet acknowledged (default 10,000).
    pub window_messages: usize,
    /// Most bytes of them (default 64 MiB).
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

/// The admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSettings {
    /// A loopback address (default `127.0.0.1:8080`).
    pub listen: SocketAddr,
}
