//! A broker inside this process, for trying the gateway out: rumqttd, MQTT 5,
//! everything in memory.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

/// Longest wait until it answers.
const START: Duration = Duration::from_secs(5);

/// Why it does not run.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// The address is taken, or not ours.
    #[error("the embedded broker cannot listen on {listen}: {source}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Anybody in the network could publish: it knows no passwords.
    #[error("the embedded broker listens on a loopback address only, {0} is none")]
    NotLoopback(SocketAddr),
    /// The program was built without the feature `embedded`.
    #[error("this build has no embedded broker: `url` in [bus] has to be the address of a broker")]
    LeftOut,
    /// It was started and does not answer.
    #[error("the embedded broker does not answer on {0}")]
    Silent(SocketAddr),
}

/// Whether this build has the broker.
pub const AVAILABLE: bool = cfg!(feature = "embedded");

/// Starts the broker and returns when it answers. It runs until the process
/// ends: rumqttd knows no stop.
pub async fn start(listen: SocketAddr, max_packet: u32) -> Result<(), EmbeddedError> {
    if !listen.ip().is_loopback() {
        return Err(EmbeddedError::NotLoopback(listen));
    }
    // rumqttd only logs that it cannot listen, so this is tried before.
    match TcpListener::bind(listen).await {
        Ok(probe) => drop(probe),
        Err(source) => return Err(EmbeddedError::Listen { listen, source }),
    }
    broker::start(listen, max_packet)?;
    let deadline = Instant::now() + START;
    while TcpStream::connect(listen).await.is_err() {
        if Instant::now() > deadline {
            return Err(EmbeddedError::Silent(listen));
        }
        sleep(Duration::from_millis(10)).await;
    }
    tracing::warn!(
        "EMBEDDED BROKER on mqtt://{listen}: in memory, nothing durable; what it holds is lost when this process ends"
    );
    Ok(())
}

#[cfg(not(feature = "embedded"))]
mod broker {
    use super::{EmbeddedError, SocketAddr};

    pub fn start(_: SocketAddr, _: u32) -> Result<(), EmbeddedError> {
        Err(EmbeddedError::LeftOut)
    }
}

#[cfg(feature = "embedded")]
mod broker {
    use std::collections::HashMap;

    use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

    use super::{EmbeddedError, SocketAddr};

    /// Room for what the broker adds to a publish on its way out.
    const HEADERS: usize = 512;

    pub fn start(listen: SocketAddr, max_packet: u32) -> Result<(), EmbeddedError> {
        let mut broker = Broker::new(config(listen, max_packet));
        std::thread::Builder::new()
            .name("embedded-broker".to_owned())
            .spawn(move || {
                if let Err(error) = broker.start() {
                    tracing::error!("the embedded broker ended: {error}");
                }
            })
            .map_err(|source| EmbeddedError::Listen { listen, source })
            .map(drop)
    }

    fn config(listen: SocketAddr, max_packet: u32) -> Config {
        let connections = ConnectionSettings {
            connection_timeout_ms: 5_000,
            // What the gateway would not take, the broker must not keep for it: it
            // would come again with every connection.
            max_payload_size: (max_packet as usize).saturating_sub(HEADERS),
            max_inflight_count: 100,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        };
        let server = ServerSettings {
            name: "embedded".to_owned(),
            listen,
            tls: None,
            next_connection_delay_ms: 1,
            connections,
        };
        Config {
            router: RouterConfig {
                max_connections: 1_000,
                max_outgoing_packet_count: 200,
                max_segment_size: 16 * 1024 * 1024,
                max_segment_count: 10,
                ..RouterConfig::default()
            },
            v5: Some(HashMap::from([("v5".to_owned(), server)])),
            ..Config::default()
        }
    }
}
