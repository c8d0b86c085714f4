//! AWS IoT device shadows over MQTT with client certificates.

mod settings;

pub use settings::AwsIotSettings;
