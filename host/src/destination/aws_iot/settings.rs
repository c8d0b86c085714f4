//! What `[destination] type = "aws-iot"` may say, checked.

use std::time::Duration;

use crate::destination::mqtt::MqttAccess;

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
