//! What `[destination] type = "mqtt"` may say, checked.

use std::time::Duration;

use crate::config::{MqttUrl, Secret, TlsSettings};

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

/// Settings of a plain MQTT destination.
#[derive(Clone, Debug)]
pub struct MqttSettings {
    /// The broker.
    pub access: MqttAccess,
    /// Topic of deliveries that have no target.
    pub topic: Option<String>,
}
