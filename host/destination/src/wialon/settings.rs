//! What `[destination] type = "wialon"` may say, checked.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use settings_reader::section::Section;
use settings_reader::units::parse_tcp_url;

use super::{WialonDestination, decode};
use crate::{Destination, DestinationSettings, InFlight, Key, Kind, MAX_LANES};

/// The row of the table of kinds.
pub static KIND: Kind = Kind {
    name: "wialon",
    adapter: "wialon-retranslator",
    max_lanes: MAX_LANES,
    in_flight: InFlight::One,
    keys: &[
        Key { name: "url", default: HOSTING, meaning: "the receiver, `tcp://host:20163`" },
        Key {
            name: "timeout",
            default: "10s",
            meaning: "longest wait for the connection and for each answer, 100 ms to 10 min",
        },
    ],
    decode: Some(packet),
    read: |section, _| Some(Arc::new(WialonSettings::read(section)?)),
};

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

impl DestinationSettings for WialonSettings {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn address(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("tcp://[{host}]:{port}") } else { format!("tcp://{host}:{port}") }
    }

    fn build(&self) -> Arc<dyn Destination> {
        Arc::new(WialonDestination::new(self.clone()))
    }
}

/// The block tree, or why the bytes are not a packet.
fn packet(body: &[u8]) -> Value {
    match decode::decode(body) {
        Ok(packet) => packet.to_json(),
        Err(error) => json!({"error": error.to_string()}),
    }
}
