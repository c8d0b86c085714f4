//! The Wialon Retranslator 1.0 binary protocol over TCP.

pub mod decode;
mod settings;

pub use settings::WialonSettings;
