//! The Wialon Retranslator 1.0 binary protocol over TCP.

mod settings;

pub use settings::WialonSettings;
