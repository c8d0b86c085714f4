//! MQTT 5 publish at QoS 1; PUBACK is delivered.

mod settings;

pub use settings::{MqttAccess, MqttSettings};
