//! What `[destination] type = "thingsboard"` may say, checked.

use crate::destination::mqtt::MqttAccess;

/// Settings of a ThingsBoard destination.
#[derive(Clone, Debug)]
pub struct ThingsBoardSettings {
    /// The platform (default `mqtt://demo.thingsboard.io:1883`); the access
    /// token of the gateway device is the user name.
    pub access: MqttAccess,
}
