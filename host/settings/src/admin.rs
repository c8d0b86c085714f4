//! `[admin]` of sluicegate.toml.

use std::net::SocketAddr;

use settings_reader::section::Section;
use settings_reader::units::socket_address;

/// The admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSettings {
    /// A loopback address (default `127.0.0.1:8080`).
    pub listen: SocketAddr,
}

impl AdminSettings {
    /// Reads `[admin]`.
    pub(super) fn read(mut admin: Section<'_>) -> Option<Self> {
        const LISTEN: &str = "a loopback address and a port such as \"127.0.0.1:8080\", or \"off\"";
        let listen = admin.parsed("listen", LISTEN, |text| match text {
            "off" => Ok(None),
            text => match socket_address("listen", text)? {
                address if address.ip().is_loopback() => Ok(Some(address)),
                address => Err(format!("`listen`: {address} is not a loopback address")),
            },
        });
        admin.finish();
        match listen {
            Some(given) => given.value.map(|listen| Self { listen }),
            None => Some(Self { listen: SocketAddr::from(([127, 0, 0, 1], 8080)) }),
        }
    }
}
