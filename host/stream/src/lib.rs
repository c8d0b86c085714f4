//! The life of a stream: messages come from the journal, go to lanes by key
//! ([`intake`]), are mapped in batches ([`map`]), wait to be sent ([`outbox`]),
//! are sent and retried ([`lane`]) and settle ([`settle`]).
//!
//! The rules are plain state machines without I/O; `lane` carries them out.

mod burial;
mod code;
mod conflate;
mod edition;
mod endings;
mod entry;
mod identity;
mod intake;
mod lane;
mod map;
mod outbox;
mod proof;
mod rate_limit;
pub mod reload;
mod remember;
mod renew;
mod settle;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use destination::Destination;
use identity::Identities;
use intake::Intake;
use journal::{Journal, ReadRules, StreamIndex};
use lane::{Lane, Shared};
use message::{Backoff, KeyRule, unix_millis};
use reload::{Noted, Reloader};
use script::{Engine, LogLevel, LogSink};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use watch::Watch;

pub use code::Code;
pub use edition::GuardWindow;
pub use rate_limit::{RateLimit, RateLimits};
pub use reload::{Orders, ReloadHandle, ReloadRules, ScriptSource, Takes};
pub use status::{State, StreamStatus};

/// What a stream is made of.
pub struct Stream {
    /// Its name.
    pub name: String,
    /// Its number in the journal.
    pub index: StreamIndex,
    /// What order is kept by.
    pub key: KeyRule,
    /// Ordered workers, at least one.
    pub lanes: u32,
    /// Most messages and payload bytes that one call of the script maps.
    pub batch: (usize, usize),
    /// What slows it down.
    pub pressure: Pressure,
    /// Where its deliveries go.
    pub destination: Arc<dyn Destination>,
    /// Its script.
    pub script: ScriptSource,
    /// Which messages are its own, whatever subscription brings them.
    pub takes: Takes,
    /// What an operator tells it.
    pub orders: Orders,
    /// Where it says how it is.
    pub status: Arc<StreamStatus>,
    /// Notices that the destination's certificates and secrets have changed.
    pub watch: Watch,
}

/// What slows a stream down, and what is dropped so that it keeps up.
#[derive(Clone, Debug)]
pub struct Pressure {
    /// A message that was received longer ago is not sent any more.
    pub queue_ttl: Option<Duration>,
    /// How often it may send.
    pub rate_limits: RateLimits,
    /// How it reads what has waited.
    pub read: ReadRules,
    /// Only the newest message of each key, at most one in this time.
    pub conflate: Option<Duration>,
    /// The wall clock that `queue_ttl` goes by: Unix milliseconds.
    pub clock: fn() -> u64,
}

impl Default for Pressure {
    fn default() -> Self {
        Self {
            queue_ttl: None,
            rate_limits: RateLimits::default(),
            read: ReadRules::default(),
            conflate: None,
            clock: unix_millis,
        }
    }
}

/// Runs a stream until `stop`, then lets what is in flight settle. What has
/// not settled then is the next reader's, after [`Journal::take_back`].
pub async fn run(stream: Stream, engine: Engine, journal: Journal, stop: CancellationToken) {
    let Stream {
        name,
        index,
        key,
        lanes,
        batch,
        pressure,
        destination,
        script,
        takes,
        orders,
        status,
        watch,
    } = stream;
    let mut reloader = Reloader {
        changes: script.changes(),
        stream: name.clone(),
        engine,
        journal: journal.clone(),
        status: status.clone(),
        takes,
        source: Arc::new(script),
        orders,
        noted: Noted::default(),
    };
    // It may have run before, with other settings.
    status.set_stream(State::Starting);
    let loaded = async {
        let script = reloader.first().await;
        let slot = reloader.slot(script.clone()).await;
        load_state(&journal, index, &status).await;
        (script, slot, renew::begin(destination.clone(), &watch, lanes.max(1), &status).await)
    };
    let Some((script, slot, (current, renewal))) = stop.run_until_cancelled(loaded).await else {
        status.set_stream(State::Stopped);
        return;
    };
    status.set_script(script.name(), &script.version().to_string());
    status.set_stream(State::Running);

    let intake = Arc::new(match pressure.conflate {
        Some(interval) => Intake::conflating(lanes, batch, interval),
        None => Intake::new(lanes, batch),
    });
    let rules = pressure.read;
    let slot = Arc::new(slot);
    let identities = destination.wants_identity().then(|| Identities::new(journal.id(), &name));
    let shared = Arc::new(Shared {
        name,
        index,
        destination,
        current,
        status: status.clone(),
        intake: intake.clone(),
        pressure,
        life: Arc::default(),
        identities,
        slot: slot.clone(),
        journal: journal.clone(),
    });
    let mut workers = JoinSet::new();
    for number in 0..lanes.max(1) {
        workers.spawn(Lane::new(number, shared.clone()).run(stop.clone()));
    }
    // Tasks of their own: what they try out must not hold up the reading.
    workers.spawn({
        let stop = stop.clone();
        async move {
            let _ = stop.run_until_cancelled(reloader.run(slot)).await;
        }
    });
    if let Some(renewal) = renewal {
        let stop = stop.clone();
        workers.spawn(async move {
            let _ = stop.run_until_cancelled(renewal.run()).await;
        });
    }
    let _ = stop.run_until_cancelled(intake.feed(&journal, index, rules, Arc::new(key))).await;
    while workers.join_next().await.is_some() {}
    status.set_stream(State::Stopped);
}

/// Reads what the script remembers, for ever: without it the stream would
/// deliver what it must not.
async fn load_state(journal: &Journal, index: StreamIndex, status: &StreamStatus) {
    let mut backoff = Backoff::new(fastrand::u64(..));
    let mut failures = 0;
    while let Err(error) = status.memory.load(journal, index).await {
        let reason = format!("the state of the script cannot be read: {error}");
        status.set_stream(State::Blocked(Code::Journal, reason));
        failures += 1;
        sleep(backoff.pause(failures, None)).await;
    }
}

fn log_sink(stream: &str) -> LogSink {
    let stream = stream.to_owned();
    Arc::new(move |level, text| match level {
        LogLevel::Debug => tracing::debug!(stream, "script: {text}"),
        LogLevel::Info => tracing::info!(stream, "script: {text}"),
        LogLevel::Warn => tracing::warn!(stream, "script: {text}"),
        LogLevel::Error => tracing::error!(stream, "script: {text}"),
    })
}
