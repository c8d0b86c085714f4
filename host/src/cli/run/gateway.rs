//! The running gateway: its parts, put together.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::bus::{self, BusStatus, Router, Stop};
use crate::cli::operate::{Operated, Operations};
use crate::cli::wiring;
use crate::config::{Config, StreamEntry};
use crate::journal::{Books, Journal, OpenError, StreamIndex};
use crate::script::{Engine, EngineError};
use crate::stream::{self, StreamStatus};

/// What the admin listener shows.
pub struct Gateway {
    /// The journal with the books.
    pub journal: Journal,
    /// The connection to the bus.
    pub bus: Arc<BusStatus>,
    /// Every stream that has a file, in the order of the names.
    pub streams: Vec<Arc<StreamStatus>>,
    /// What an operator may do with them.
    pub operations: Operations,
}

impl Gateway {
    /// The books of a stream; those of one that cannot run stand still.
    pub fn books(&self, status: &StreamStatus) -> Books {
        let index = status.index().or_else(|| self.journal.stream(status.name()));
        index.map(|index| self.journal.books(index)).unwrap_or_default()
    }

    /// The name of a stream by its number.
    pub fn stream_name(&self, index: StreamIndex) -> Option<String> {
        self.streams.iter().find(|s| s.index() == Some(index)).map(|s| s.name().to_owned())
    }
}

/// Streams that run and wait for messages.
pub struct Started {
    /// For the admin listener.
    pub gateway: Arc<Gateway>,
    streams: JoinSet<()>,
    stop_streams: CancellationToken,
    router: Router,
}

/// Why nothing runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Scripts cannot be run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] OpenError),
    /// The folder of the accepted scripts cannot be made.
    #[error("the accepted scripts cannot be kept: {0}")]
    Scripts(#[from] std::io::Error),
}

/// Starts the streams of a configuration.
pub async fn start_streams(config: &Config) -> Result<Started, StartError> {
    let lanes = config.streams.iter().map(|s| match s {
        StreamEntry::Ready(settings) => settings.delivery.lanes.max(1),
        StreamEntry::Unusable { .. } => 0,
    });
    // Twice the lanes: splitting a refused delivery needs an instance of its own.
    let engine = Engine::new(lanes.sum::<u32>().saturating_mul(2).max(16))?;
    let journal = wiring::open_journal(config).await?;
    let groups = wiring::rate_limit_groups(&config.rate_limit_groups);
    let scripts = wiring::scripts(config).await?;
    let stop_streams = CancellationToken::new();
    let mut streams = JoinSet::new();
    let mut statuses = Vec::with_capacity(config.streams.len());
    let mut routes = Vec::new();
    let mut operated = Vec::with_capacity(config.streams.len());
    for entry in &config.streams {
        match entry {
            StreamEntry::Ready(settings) => {
                // Every stream that is ready was named when it was opened.
                let Some(index) = journal.stream(&settings.name) else { continue };
                let status = Arc::new(StreamStatus::new(&settings.name, index));
                statuses.push(status.clone());
                routes.push(wiring::route(index, settings));
                operated.push(Operated::new(index, settings, Some(status.clone())));
                let (stream, _) = wiring::stream(index, settings, &groups, &scripts, status);
                streams.spawn(stream::run(stream, engine.clone(), journal.clone(), stop_streams.clone()));
            }
            StreamEntry::Unusable { name, errors } => {
                let reasons: Vec<String> = errors.iter().map(|e| e.summary()).collect();
                operated.push(Operated::unusable(name, errors));
                statuses.push(Arc::new(StreamStatus::unusable(name, reasons.join("; "))));
            }
        }
    }
    let operations = Operations::new(journal.clone(), operated);
    let gateway = Arc::new(Gateway { journal, bus: Arc::default(), streams: statuses, operations });
    Ok(Started { gateway, streams, stop_streams, router: Router::new(routes) })
}

impl Started {
    /// Takes messages from the bus until `stop`; then reads no more, lets the
    /// streams settle what is in flight, and acknowledges that.
    pub async fn run(mut self, config: &Config, stop: CancellationToken) {
        let settling = CancellationToken::new();
        let bus = bus::run(
            config.bus.clone(),
            config.data.clone(),
            Arc::new(self.router),
            self.gateway.journal.clone(),
            self.gateway.bus.clone(),
            Stop { reading: stop.clone(), settling: settling.clone() },
        );
        let streams = async {
            stop.cancelled().await;
            self.stop_streams.cancel();
            while self.streams.join_next().await.is_some() {}
            settling.cancel();
        };
        tokio::join!(bus, streams);
        self.gateway.journal.close().await;
    }
}
