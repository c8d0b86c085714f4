//! The life of a stream: messages come from the journal and go to lanes by key
//! ([`intake`]), are mapped in batches ([`map`]), wait to be sent ([`outbox`]),
//! are sent and retried ([`lane`]) and settle ([`endings`]).
//!
//! The rules are plain state machines without I/O; `lane` carries them out.

mod clock;
mod code;
mod conflate;
mod credentials;
mod dead_letter_queue;
mod endings;
mod entry;
mod identity;
mod intake;
mod lane;
mod map;
mod outbox;
mod pressure;
mod proof_of_life;
mod rate_limit;
pub mod reload;
mod remember;
mod settle;
mod shared;
mod status;
mod suspicion;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use ::watch::{Watch, credentials as watched};
use credentials::Target;
use destination::Destination;
use identity::Identities;
use intake::Intake;
use journal::{Amount, Journal, StreamIndex};
use lane::Lane;
use message::{Backoff, KeyRule, Takes};
use reload::Reloader;
use reload::generation::Slot;
use script::Engine;
use shared::Shared;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub use clock::Clock;
pub use code::Code;
pub use pressure::Pressure;
pub use rate_limit::{RateLimit, RateLimits};
pub use reload::{GuardWindow, Orders, ReloadHandle, ReloadRules, ScriptFiles, ScriptSource};
pub use status::{State, StreamStatus};

/// The parts of a stream.
pub struct Stream {
    /// Its name.
    pub name: String,
    /// Its number in the journal.
    pub index: StreamIndex,
    /// The rule that finds the key of a message. Order is kept per key.
    pub key: KeyRule,
    /// Ordered workers, at least one.
    pub lanes: u32,
    /// The maximum that one call of the script maps.
    pub batch: Amount,
    /// The limits that slow it down.
    pub pressure: Pressure,
    /// The destination of its deliveries.
    pub destination: Arc<dyn Destination>,
    /// Its script.
    pub script: ScriptSource,
    /// The messages that belong to it.
    pub takes: Takes,
    /// Orders of the operator.
    pub orders: Orders,
    /// Its status.
    pub status: Arc<StreamStatus>,
    /// Notices that the destination's certificates and secrets have changed.
    pub watch: Watch,
    /// The wall clock.
    pub clock: Clock,
}

/// Runs a stream until `stop`, then lets the deliveries in flight settle. The
/// other messages wait for the next reader, after [`Journal::take_back`].
pub async fn run(stream: Stream, engine: Engine, journal: Journal, stop: CancellationToken) {
    let status = stream.status.clone();
    // It may have run before, with other settings.
    status.set_stream(State::Starting);
    let starting = Workers::start(stream, engine, journal, stop.clone());
    if let Some(workers) = stop.run_until_cancelled(starting).await {
        workers.finish().await;
    }
    status.set_stream(State::Stopped);
}

/// The tasks of a running stream.
struct Workers {
    shared: Arc<Shared>,
    key: Arc<KeyRule>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

// === impl Workers ===

impl Workers {
    /// Loads the script, its state and the credentials, and starts the tasks.
    async fn start(stream: Stream, engine: Engine, journal: Journal, stop: CancellationToken) -> Self {
        let Stream { name, index, key, lanes, batch, pressure, destination, status, clock, .. } = stream;
        let (source, takes, orders) = (stream.script, stream.takes, stream.orders);
        let mut reloader =
            Reloader::new(status.clone(), source, takes, orders, engine, journal.clone(), clock);
        let script = reloader.first().await;
        load_state(&journal, index, &status).await;
        let target = Target { destination: destination.clone(), spare_lane: lanes.max(1) };
        let (current, credentials) = watched::begin(target, &stream.watch).await;
        status.set_script(script.name(), &script.version().to_string());
        status.set_stream(State::Running);

        let slot = Arc::new(Slot::new(script));
        let shared = Arc::new(Shared {
            index,
            current,
            status: status.clone(),
            intake: Arc::new(match pressure.conflate {
                Some(interval) => Intake::conflating(lanes, batch, interval),
                None => Intake::new(lanes, batch),
            }),
            pressure,
            clock,
            life: Arc::default(),
            identities: destination.wants_identity().then(|| Identities::new(journal.id(), &name)),
            destination,
            slot: slot.clone(),
            journal,
            name,
        });
        let mut workers = Self { shared: shared.clone(), key: Arc::new(key), stop, tasks: JoinSet::new() };
        for number in 0..lanes.max(1) {
            workers.tasks.spawn(Lane::new(number, shared.clone()).run(workers.stop.clone()));
        }
        // Tasks of their own: their attempts must not hold up the reading.
        workers.spawn(reloader.run(slot));
        if let Some(credentials) = credentials {
            workers.spawn(credentials::keep_up(credentials, status));
        }
        workers
    }

    /// Runs a task until the stream stops.
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let _ = stop.run_until_cancelled(task).await;
        });
    }

    /// Reads the journal until the stream stops, then waits for the tasks.
    async fn finish(mut self) {
        let Shared { intake, journal, index, pressure, .. } = &*self.shared;
        let reading = intake.feed(journal, *index, pressure.read, self.key);
        let _ = self.stop.run_until_cancelled(reading).await;
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Reads the state of the script, and retries for ever: without it the stream
/// would deliver wrong messages.
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
