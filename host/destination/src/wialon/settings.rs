//! What `[destination] type = "wialon"` may say, checked.

use std::time::Duration;

use settings_reader::section::Section;
use settings_reader::units::parse_tcp_url;

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

/// Wialon Hosting's receiver of the Retranslator protocol.
const HOSTING: &str = "tcp://193.193.165.165:20163";
/// Its port.
const PORT: u16 = 20163;

impl WialonSettings {
    /// Reads `[destination]`.
    pub fn read(section: &mut Section<'_>) -> Option<Self> {
        const URL: &str = "the address of the receiver, \"tcp://host:20163\"";
        let url = section.url("url", Some(HOSTING), URL, |text| parse_tcp_url(text, PORT));
        let seconds = Duration::from_secs;
        let timeout =
            section.duration("timeout", Duration::from_millis(100)..=seconds(600)).unwrap_or(seconds(10));
        let (host, port) = url?.value;
        Some(Self { host, port, timeout })
    }
}
