//! `sluicegate run`: the gateway itself.

mod admin;
mod gateway;

use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::bus::embedded;
use crate::config::{BusSource, Config, StreamEntry};
use crate::telemetry::{self, Metrics};

/// Arguments of `sluicegate run`.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// sluicegate.toml [default: ./sluicegate.toml, then /etc/sluicegate/sluicegate.toml]
    #[arg(long, value_name = "FILE", env = "SLUICEGATE_CONFIG")]
    pub config: Option<PathBuf>,
}

/// Runs until SIGTERM or SIGINT. An error is for a person and ends the program
/// with exit status 1.
pub async fn run(args: RunArgs) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let config = Config::load(args.config.as_deref())?;
    telemetry::init_logs()?;
    let metrics = Metrics::install()?;
    tokio::fs::create_dir_all(&config.data)
        .await
        .map_err(|e| format!("the data folder {} cannot be made: {e}", config.data.display()))?;
    // Whoever cannot be told has to be held up before anything is started.
    let admin = match &config.admin {
        Some(settings) => Some(admin::bind(settings.listen).await?),
        None => None,
    };
    let _broker = match &config.bus.source {
        BusSource::Embedded { listen } => Some(embedded::start(*listen).await?),
        BusSource::Mqtt(_) => None,
    };
    report(&config);

    let stop = CancellationToken::new();
    let started = gateway::start_streams(&config)?;
    let admin = admin.map(|listener| {
        tokio::spawn(admin::serve(listener, started.gateway.clone(), metrics, stop.clone()))
    });
    let gateway = started.gateway.clone();
    let running = tokio::spawn({
        let (config, stop) = (config.clone(), stop.clone());
        async move { started.run(&config, stop).await }
    });
    let signal = terminated().await?;
    info!(signal, "stopping: no more is read, what is in flight is finished");
    stop.cancel();
    running.await?;
    if let Some(admin) = admin {
        let _ = admin.await;
    }
    let held = gateway.journal.holding().messages.0;
    info!(handed_back = held, "stopped; what was handed back is still the bus's and comes again");
    Ok(())
}

/// The first lines of the log: what is going to happen.
fn report(config: &Config) {
    let ready = config.streams.iter().filter(|s| matches!(s, StreamEntry::Ready(_))).count();
    let admin = config.admin.as_ref().map(|a| a.listen.to_string());
    info!(
        version = env!("CARGO_PKG_VERSION"),
        config = %config.path.display(),
        bus = %config.bus.source,
        admin = admin.as_deref().unwrap_or("off"),
        streams = ready,
        "sluicegate starts"
    );
    for entry in &config.streams {
        if let StreamEntry::Unusable { name, errors } = entry {
            for error in errors {
                warn!(stream = name, "blocked, its file cannot be used while the others run:\n{error}");
            }
        }
    }
}

async fn terminated() -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}
