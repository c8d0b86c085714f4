//! From files to typed, checked settings.

mod values;

pub use values::{ClientIdentity, MqttUrl, Secret, TlsSettings};
