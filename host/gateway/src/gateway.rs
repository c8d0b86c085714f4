//! The running gateway: its parts, put together.

use std::sync::Arc;

use admin_api::answer::Plan;
use bus::{Bus, BusStatus, Router, Routes, Stop};
use journal::{Counters, Journal, OpenError, StreamIndex};
use script::EngineError;
use script::compile::Compilation;
use settings::{Accepted, Config, Note};
use stream::StreamStatus;
use tokio_util::sync::CancellationToken;
use tracing::error;
use watch::Watch;

use super::certificates::Certificates;
use super::streams::{ChangeError, Streams};
use crate::operate::{OperateError, Operations};
use crate::wiring;

/// What the admin listener shows and changes.
pub struct Gateway {
    /// The journal with the counters.
    pub journal: Journal,
    /// The connection to the bus.
    pub bus: Arc<BusStatus>,
    /// Every stream that has a file.
    pub streams: Streams,
    /// What an operator may do with them.
    pub operations: Operations,
    /// The certificates that bus and streams name.
    pub certificates: Arc<Certificates>,
}

impl Gateway {
    /// The counters of a stream; those of one that cannot run stand still.
    pub fn counters(&self, status: &StreamStatus) -> Counters {
        let index = status.index().or_else(|| self.journal.stream(status.name()));
        index.map(|index| self.journal.counters(index)).unwrap_or_default()
    }

    /// How every stream that has a file is doing, in the order of the names.
    pub fn statuses(&self) -> Vec<Arc<StreamStatus>> {
        self.streams.statuses()
    }

    /// The name of a stream by its number.
    pub fn stream_name(&self, index: StreamIndex) -> Option<String> {
        self.statuses().iter().find(|s| s.index() == Some(index)).map(|s| s.name().to_owned())
    }

    /// What an apply would change.
    pub async fn plan(&self) -> Result<Plan, OperateError> {
        self.streams.plan().await.map_err(|wrong| OperateError::NotNow(wrong.to_string()))
    }

    /// Takes over the stream files as they are now, all of them or nothing.
    /// Runs to completion even if the future is dropped.
    pub async fn take_over(self: &Arc<Self>) -> Result<Plan, ChangeError> {
        let gateway = self.clone();
        let applying = tokio::spawn(async move {
            let changed = || {
                gateway.operations.set_streams(gateway.streams.operated());
                gateway.certificates.set_files(gateway.streams.certificates());
            };
            gateway.streams.apply(changed).await
        });
        applying.await.unwrap_or_else(|failed| Err(ChangeError::Failed(failed.to_string())))
    }

    /// The same for an operator.
    pub async fn apply(self: &Arc<Self>) -> Result<Plan, OperateError> {
        self.take_over().await.map_err(|wrong| OperateError::NotNow(wrong.to_string()))
    }
}

/// Streams that run and wait for messages.
pub struct Started {
    /// For the admin listener.
    pub gateway: Arc<Gateway>,
    routes: Routes,
    watch: Watch,
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
    #[error("cannot save the accepted scripts: {0}")]
    Scripts(#[from] std::io::Error),
}

/// Starts the streams of a configuration and keeps what is `accepted` with
/// that.
pub async fn start_streams(
    config: &Config,
    accepted: Accepted,
    notes: Vec<Note>,
    watch: Watch,
) -> Result<Started, StartError> {
    let engine = Streams::engine(config, Compilation::isolated().cached_in(config.data.join("cache")))?;
    let journal = wiring::open_journal(config).await?;
    let scripts = wiring::scripts(config, watch.clone()).await?;
    let versions = scripts.versions.clone();
    wiring::forget_scripts(versions.as_ref(), &journal).await;
    let data = config.data.clone();
    // Only now that the data folder is known to be ours.
    let saved = tokio::task::spawn_blocking(move || accepted.save(&data)).await;
    if let Ok(Err(error)) = saved {
        error!(%error, "cannot save the accepted configuration; the next start may use the previous one");
    }
    let routes = Routes::new(Router::new(Vec::new()));
    let streams = Streams::start(config.clone(), engine, scripts, journal.clone(), routes.clone(), notes);
    let operations = Operations::new(journal.clone(), streams.operated(), versions);
    let certificates = Arc::new(Certificates::new(streams.certificates()));
    let gateway = Arc::new(Gateway { journal, bus: Arc::default(), streams, operations, certificates });
    Ok(Started { gateway, routes, watch })
}

impl Started {
    /// Takes messages from the bus until `stop`; then reads no more, lets the
    /// streams settle what is in flight, and acknowledges that.
    pub async fn run(self, config: &Config, stop: CancellationToken) {
        let settling = CancellationToken::new();
        let bus = Bus {
            settings: config.bus.clone(),
            data: config.data.clone(),
            routes: self.routes,
            journal: self.gateway.journal.clone(),
            status: self.gateway.bus.clone(),
            stop: Stop { reading: stop.clone(), settling: settling.clone() },
            watch: self.watch,
        };
        let streams = async {
            stop.cancelled().await;
            self.gateway.streams.shut_down().await;
            settling.cancel();
        };
        tokio::join!(bus.run(), streams);
        self.gateway.journal.close().await;
    }
}
