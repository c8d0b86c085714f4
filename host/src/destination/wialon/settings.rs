//! What `[destination] type = "wialon"` may say, checked.

use std::time::Duration;

/// Settings of a Wialon Retranslator destination.
#[derive(Clone, Debug)]
pub struct WialonSettings {
    /// Host name or address (default of `url`: `tcp://193.193.165.165:20163`).
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Longest wait for the connection, and for the 0x11 of one packet
    /// (default 10 s).
    pub timeout: Duration,
}
