//! The Wialon Retranslator 1.0 binary protocol over TCP.

mod client;
pub mod decode;
mod settings;

pub use client::WialonDestination;
pub use settings::{KIND, WialonSettings};
