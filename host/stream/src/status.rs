//! How a stream is doing, for the admin listener and the log.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use journal::{Journal, JournalError, Rewind, Rewound, StreamIndex};
use message::Message;
use script::Script;
use telemetry::event;
use telemetry::histogram::Histogram;

use super::code::Code;
use super::remember::Memory;

/// What a stream or one of its lanes is doing. Ordered by how much it needs
/// somebody's attention.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Its lanes have ended.
    Stopped,
    /// Nothing is in the way.
    Running,
    /// An operator has said so; its messages wait.
    Paused,
    /// The script is being loaded, or the first connection made.
    #[default]
    Starting,
    /// Something failed that is expected to pass; it is tried again.
    Retrying(String),
    /// Something failed that needs an operator; it is tried again all the same.
    Blocked(Code, String),
}

/// A stream as the admin listener shows it; the counters are in the journal.
#[derive(Debug)]
pub struct StreamStatus {
    name: String,
    index: Option<StreamIndex>,
    retries: AtomicU64,
    ack_latency: Histogram,
    /// What its script remembers.
    pub(crate) memory: Memory,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// What concerns the stream as a whole; lanes are only asked when it runs.
    stream: State,
    lanes: BTreeMap<u32, State>,
    script: Option<(String, String)>,
    last_error: Option<String>,
    refused: Option<String>,
    /// Why it has been blocked so far.
    codes: BTreeSet<Code>,
}

// === impl State ===

impl State {
    /// The word for `/streams`, metrics and tables.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Starting => "starting",
            Self::Retrying(_) => "retrying",
            Self::Blocked(..) => "blocked",
        }
    }

    /// Why, where there is a why.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Retrying(reason) | Self::Blocked(_, reason) => Some(reason),
            Self::Stopped | Self::Running | Self::Paused | Self::Starting => None,
        }
    }

    /// Why it is blocked, in one word.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Blocked(code, _) => Some(*code),
            _ => None,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason() {
            Some(reason) => write!(f, "{}: {reason}", self.word()),
            None => f.write_str(self.word()),
        }
    }
}

// === impl StreamStatus ===

impl StreamStatus {
    /// A stream that is starting.
    pub fn new(name: &str, index: StreamIndex) -> Self {
        Self {
            name: name.to_owned(),
            index: Some(index),
            retries: AtomicU64::new(0),
            ack_latency: Histogram::default(),
            memory: Memory::default(),
            inner: Mutex::default(),
        }
    }

    /// A stream whose file cannot be used: it is listed, and has no counters.
    pub fn unusable(name: &str, reason: String) -> Self {
        let status = Self { index: None, ..Self::new(name, StreamIndex(0)) };
        status.set_stream(State::Blocked(Code::Configuration, reason));
        status
    }

    /// The stream's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number in the journal; none where it cannot run.
    pub fn index(&self) -> Option<StreamIndex> {
        self.index
    }

    /// Name and version of the script that runs.
    pub fn script(&self) -> Option<(String, String)> {
        self.lock().script.clone()
    }

    /// Why a newer version of the script than the one that runs was not taken,
    /// or was taken back.
    pub fn refused(&self) -> Option<String> {
        self.lock().refused.clone()
    }

    /// Deliveries that were sent again, or will be.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// From the receipt of each message to its settlement as delivered.
    pub fn ack_latency(&self) -> &Histogram {
        &self.ack_latency
    }

    /// The last thing that went wrong, also when all is well again.
    pub fn last_error(&self) -> Option<String> {
        self.lock().last_error.clone()
    }

    /// The state of the lane that needs most attention.
    pub fn state(&self) -> State {
        self.lock().state()
    }

    /// Lets the running stream read again what it has settled, where `wanted`
    /// says so. If that clears the state, the script has forgotten before the
    /// first of these messages is handed out. Not to be dropped half-way: some
    /// would be read again and others not, and the script might not forget.
    pub async fn rewind(
        &self,
        journal: &Journal,
        rewind: Rewind,
        wanted: impl Fn(&Message) -> bool + Send + Sync + 'static,
    ) -> Result<Rewound, JournalError> {
        let keeps_state = rewind.keep_state || rewind.dry_run;
        let begin = journal.begin_rewind(rewind);
        let begun = if keeps_state { begin.await } else { self.clear_state_with(begin).await };
        begun?.mark(wanted).await
    }

    /// Runs `clear`, which clears what the journal has of the script's state,
    /// and has the running script forget with it. An error leaves the state as
    /// it is. What is in flight goes on with what it was mapped with.
    pub(crate) async fn clear_state_with<T, E>(
        &self,
        clear: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.memory.clear_with(clear).await
    }

    /// Lets the script's state go where the one script cannot read what the
    /// other has left. No lane may be in the middle of a call.
    pub(crate) async fn clear_state_between(
        &self,
        one: &Script,
        other: &Script,
        journal: &Journal,
    ) -> Result<(), JournalError> {
        match self.index {
            Some(index) if one.state_version() != other.state_version() => {
                self.clear_state_with(journal.clear_state(index)).await
            }
            _ => Ok(()),
        }
    }

    /// The reasons for which it has been blocked so far, and whether it is now.
    pub fn codes(&self) -> Vec<(&'static str, bool)> {
        let inner = self.lock();
        let now = inner.state().code().map(Code::word);
        let words: BTreeSet<&'static str> = inner.codes.iter().map(|c| c.word()).collect();
        words.into_iter().map(|word| (word, Some(word) == now)).collect()
    }

    pub(crate) fn set_script(&self, name: &str, version: &str) {
        self.lock().script = Some((name.to_owned(), version.to_owned()));
    }

    pub(crate) fn set_stream(&self, state: State) {
        self.change(|inner| inner.stream = state);
    }

    pub(crate) fn set_refused(&self, refused: Option<String>) {
        self.lock().refused = refused;
    }

    pub(crate) fn set_lane(&self, lane: u32, state: State) {
        self.change(|inner| {
            inner.lanes.insert(lane, state);
        });
    }

    pub(crate) fn count_retries(&self, deliveries: usize) {
        self.retries.fetch_add(deliveries as u64, Ordering::Relaxed);
    }

    pub(crate) fn set_last_error(&self, error: String) {
        self.lock().last_error = Some(error);
    }

    /// One log line per change of state, however many lanes go through it. A
    /// new reason alone is a change only where an operator is needed.
    fn change(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.lock();
        let before = inner.state();
        change(&mut inner);
        let after = inner.state();
        inner.codes.extend(after.code());
        if let Some(reason) = after.reason()
            && inner.last_error.as_deref() != Some(reason)
        {
            inner.last_error = Some(reason.to_owned());
        }
        drop(inner);
        let changed = match (&before, &after) {
            (State::Blocked(..), State::Blocked(..)) => before != after,
            (a, b) => a.word() != b.word(),
        };
        if changed {
            event::StateChanged {
                stream: &self.name,
                before: before.word(),
                after: after.word(),
                reason: after.reason(),
                needs_operator: matches!(after, State::Blocked(..)),
            }
            .emit();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn state(&self) -> State {
        if self.stream == State::Running {
            self.lanes.values().max().cloned().unwrap_or(State::Starting)
        } else {
            self.stream.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use destination::Cause;

    use super::*;

    #[test]
    fn a_stream_is_as_bad_as_its_worst_lane() {
        let status = StreamStatus::new("s", StreamIndex(0));
        assert_eq!(status.state(), State::Starting);
        status.set_stream(State::Running);
        status.set_lane(0, State::Running);
        status.set_lane(1, State::Retrying("connection refused".into()));
        status.set_lane(2, State::Running);
        assert_eq!(status.state().to_string(), "retrying: connection refused");
        status.set_lane(2, State::Blocked(Code::Destination(Cause::Credentials), "401".into()));
        assert_eq!(status.state().word(), "blocked");
        assert_eq!(status.codes(), [("credentials", true)]);
        status.set_lane(1, State::Running);
        status.set_lane(2, State::Running);
        assert_eq!(status.state(), State::Running);
        assert_eq!(status.last_error().as_deref(), Some("401"));
        assert_eq!(status.codes(), [("credentials", false)]);
    }
}
