//! From the configuration to the running gateway, and to its end.

use std::path::Path;
use std::time::Duration;

use admin_api::token::AdminToken;
use bus::BusSource;
use settings::{Accepted, Config, Note, StreamEntry, StreamFiles};
use telemetry::{self, Metrics};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use watch::Watch;

use crate::{admin, checker, follow, gateway, sums};

/// How long the end waits for what the admin listener is answering.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Why the gateway could not start; for a person.
pub type RunError = Box<dyn std::error::Error + Send + Sync>;

/// Runs the gateway of the configuration at `path` until SIGTERM or Ctrl-C.
/// With `apply` the stream files are accepted as they are now.
pub async fn run(path: Option<&Path>, apply: bool) -> Result<(), RunError> {
    let mut config = Config::load(path)?;
    telemetry::init_logs()?;
    let metrics = Metrics::install()?;
    tokio::fs::create_dir_all(&config.data)
        .await
        .map_err(|e| format!("cannot create the data folder {}: {e}", config.data.display()))?;
    // An admin listener that cannot be opened must prevent the start.
    let admin = match &config.admin {
        Some(settings) => {
            Some((admin::bind(settings.listen).await?, AdminToken::read_or_make(&config.data)?))
        }
        None => None,
    };
    if let BusSource::Embedded { listen } = &config.bus.source {
        bus::embedded::start(*listen, config.bus.max_packet).await?;
    }
    let accepted = Accepted::load(&config.data).unwrap_or_else(|error| {
        error!(%error, "cannot read the last accepted configuration; using the stream files as they are");
        Accepted::default()
    });
    let take_over = apply || config.reload.streams == StreamFiles::Watch;
    let (accepted, notes) = config.settle(&accepted, take_over);
    report(&config, &notes);
    if matches!(config.bus.source, BusSource::Mqtt(_)) {
        abort_on_panic();
    }

    let stop = CancellationToken::new();
    let watch = Watch::new();
    let started = gateway::start_streams(&config, accepted, notes, watch.clone()).await?;
    let admin = admin.map(|(listener, token)| {
        tokio::spawn(admin::serve(listener, started.gateway.clone(), metrics, token, stop.clone()))
    });
    let gateway = started.gateway.clone();
    let signals = tokio::spawn({
        let stop = stop.clone();
        async move {
            let signal = terminated().await?;
            stop.cancel();
            info!(signal, "shutting down: draining in-flight deliveries");
            std::io::Result::Ok(())
        }
    });
    let sums = tokio::spawn(sums::log(gateway.clone()));
    let checker = tokio::spawn(checker::run(gateway.clone()));
    let certificates = tokio::spawn(gateway.certificates.clone().run(watch.clone()));
    let follow = (config.reload.streams == StreamFiles::Watch)
        .then(|| tokio::spawn(follow::run(gateway.clone(), watch)));
    started.run(&config, stop).await;
    certificates.abort();
    if let Some(follow) = follow {
        follow.abort();
    }
    signals.abort();
    sums.abort();
    checker.abort();
    if let Some(admin) = admin {
        // A client that keeps its connection open must not delay the exit.
        let _ = timeout(LAST_ANSWERS, admin).await;
    }
    let held = gateway.journal.holding().messages;
    info!(queued = held, "stopped; queued messages are in the journal");
    Ok(())
}

/// A task that panicked would leave its stream waiting for ever, the journal's
/// thread the bus. A process that ends is started again by its supervisor, and
/// nothing is lost. (Not with the embedded broker, which would be lost with all
/// that it holds.)
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// The first lines of the log: what is going to happen.
fn report(config: &Config, notes: &[Note]) {
    let ready = config.streams.iter().filter(|s| matches!(s, StreamEntry::Ready(_))).count();
    let admin = config.admin.as_ref().map(|a| a.listen.to_string());
    let bus = match &config.bus.source {
        BusSource::Mqtt(url) => url.to_string(),
        BusSource::Embedded { listen } => format!("embedded on {listen}"),
    };
    info!(
        version = env!("CARGO_PKG_VERSION"),
        config = %config.path.display(),
        bus,
        admin = admin.as_deref().unwrap_or("off"),
        streams = ready,
        "sluicegate starting"
    );
    for entry in &config.streams {
        if let StreamEntry::Unusable { name, errors } = entry {
            for error in errors {
                warn!(stream = name, "stream blocked, its file is invalid; the other streams run:\n{error}");
            }
        }
    }
    for Note { stream, text } in notes {
        warn!(stream, "stream runs its last accepted configuration: {text}");
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
