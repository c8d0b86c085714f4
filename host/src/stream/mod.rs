//! The life of a stream: messages come from the journal, go to lanes by key
//! ([`intake`]), are mapped in batches ([`map`]), wait to be sent ([`outbox`]),
//! are sent and retried ([`lane`]) and settle ([`settle`]).
//!
//! The rules are plain state machines without I/O; `lane` carries them out.

mod burial;
mod code;
mod conflate;
mod endings;
mod entry;
mod identity;
mod intake;
mod lane;
mod map;
mod outbox;
mod proof;
mod rate_limit;
mod remember;
mod settle;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::bus::{KeyRule, unix_millis};
use crate::destination::Destination;
use crate::journal::{Journal, ReadRules, StreamIndex};
use crate::script::{Engine, Limits, LogLevel, LogSink, Recipe, Script};
use identity::Identities;
use intake::Intake;
use lane::{Lane, Shared};

pub use code::Code;
pub use rate_limit::{RateLimit, RateLimits};
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
    /// Where it says how it is.
    pub status: Arc<StreamStatus>,
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

/// How to come by a stream's script.
pub struct ScriptSource {
    /// What it is called in logs and in `/streams`.
    pub name: String,
    /// Reads the module or component; an error for a person.
    pub read: Box<dyn Fn() -> Result<Bytes, String> + Send + Sync>,
    /// `[script.settings]`.
    pub settings: Value,
    /// What it may use.
    pub limits: Limits,
}

/// Runs a stream until `stop`, then lets what is in flight settle.
pub async fn run(stream: Stream, engine: Engine, journal: Journal, stop: CancellationToken) {
    let Stream { name, index, key, lanes, batch, pressure, destination, script, status } = stream;
    let loaded = async {
        let script = load(script, &engine, &status).await;
        load_state(&journal, index, &status).await;
        script
    };
    let Some(script) = stop.run_until_cancelled(loaded).await else {
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
    let identities = destination.wants_identity().then(|| Identities::new(journal.id(), &name));
    let shared = Arc::new(Shared {
        script: format!("{} {}", script.name(), script.version()),
        name: name.clone(),
        index,
        destination,
        status: status.clone(),
        intake: intake.clone(),
        pressure,
        life: Arc::default(),
        identities,
        journal: journal.clone(),
    });
    let mut workers = JoinSet::new();
    for number in 0..lanes.max(1) {
        let mapper = script.lane(number, &status.memory.state, log_sink(&name));
        workers.spawn(Lane::new(number, shared.clone(), mapper).run(stop.clone()));
    }
    let _ = stop.run_until_cancelled(intake.feed(&journal, index, rules, Arc::new(key))).await;
    while workers.join_next().await.is_some() {}
    status.set_stream(State::Stopped);
}

/// Loads the script, for ever: a stream whose script cannot be loaded holds
/// its messages, and a file that is put in place later is found.
async fn load(source: ScriptSource, engine: &Engine, status: &StreamStatus) -> Script {
    let ScriptSource { name, read, settings, limits } = source;
    let read: Arc<dyn Fn() -> Result<Bytes, String> + Send + Sync> = read.into();
    let recipe = Recipe { settings, limits, ..Recipe::new(name, Vec::new()) };
    let mut backoff = Backoff::new(fastrand::u64(..));
    let mut failures = 0;
    loop {
        let reader = read.clone();
        let wasm = match tokio::task::spawn_blocking(move || reader()).await {
            Ok(wasm) => wasm,
            Err(failed) => Err(failed.to_string()),
        };
        let (code, reason) = match wasm {
            Ok(wasm) => match Script::load(engine, Recipe { wasm, ..recipe.clone() }).await {
                Ok(script) => return script,
                Err(error) => (Code::ScriptInvalid, error.to_string()),
            },
            Err(error) => (Code::ScriptMissing, error),
        };
        status.set_stream(State::Blocked(code, format!("script: {reason}")));
        failures += 1;
        sleep(backoff.pause(failures, None)).await;
    }
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
