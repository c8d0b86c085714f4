//! The words of the journal: its input, its output, and the questions that it
//! answers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use message::Message;

use crate::counters::Outcome;

/// How much of a limit is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Used.
    pub used: u64,
    /// The maximum.
    pub limit: u64,
}

/// An amount of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Their number.
    pub messages: usize,
    /// Bytes of topics and payloads.
    pub bytes: usize,
}

/// How full the journal is, and which stream fills it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Unsettled messages of all streams; a message counts once per stream.
    pub messages: u64,
    /// Bytes of the journal on the disk.
    pub bytes: Fill,
    /// Bytes of dead letters.
    pub dead_letters: Fill,
    /// An append waits for room: the bus is held back.
    pub full: bool,
    /// The stream with the largest backlog, while `full`.
    pub holder: Option<StreamIndex>,
    /// Why appends fail, while the disk is broken.
    pub broken: Option<String>,
}

/// How much a stream has queued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Bytes of its messages (topic and payload).
    pub bytes: u64,
    /// The maximum.
    pub max_bytes: u64,
    /// The share of it that was passed and raised an alarm: 0, 50 or 80 percent.
    pub alarm: u64,
}

/// A stream that has a file.
#[derive(Clone, Debug)]
pub struct StreamQuota {
    /// Its name, under which the journal keeps its messages.
    pub name: String,
    /// How much it may hold.
    pub quota: Quota,
    /// As in [`ReadRules`].
    pub live_first: bool,
    /// It keeps only the newest message of each key, and is handed more messages
    /// than others: it finds superseded messages only by reading on.
    pub conflates: bool,
}

/// Why the journal did not do its work. Messages of a failed append must not be
/// acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// It was closed.
    #[error("the journal is closed")]
    Closed,
    /// Its disk has failed; it opens again when the disk works.
    #[error("the journal has failed: {0}")]
    Broken(String),
    /// An earlier append of the same [`Sequence`] has failed.
    #[error("an earlier append of this connection failed")]
    EarlierFailed,
    /// The task that did the work has ended early.
    #[error("the journal's work was interrupted: {0}")]
    Interrupted(String),
}

/// A stream's number in the running configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamIndex(pub u32);

/// The place of a message in the journal. Sorts in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The commit that stored it.
    pub chunk: u64,
    /// Its number in that chunk.
    pub index: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.chunk, self.index)
    }
}

/// Appends that keep their order: after one has failed, all later ones fail. The
/// broker sends the failed messages again, and they must not end up behind later
/// ones. A clone is another handle.
#[derive(Clone, Debug, Default)]
pub struct Sequence(Arc<AtomicBool>);

impl Sequence {
    /// One of its appends has failed.
    pub(crate) fn end(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A message to append, with the streams that want it.
#[derive(Clone, Debug)]
pub struct Append {
    /// The message.
    pub message: Message,
    /// The streams: each once, at least one.
    pub streams: Vec<StreamIndex>,
}

/// A pending message that a stream reads.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Its place.
    pub position: Position,
    /// The message.
    pub message: Message,
    /// Send this instead of mapping the message.
    pub as_is: Option<Arc<StoredDelivery>>,
    /// Why the stream reads it.
    pub reading: Reading,
}

/// Why a stream reads a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reading {
    /// It came from the bus.
    #[default]
    First,
    /// It was a dead letter: an isolated instance maps it.
    Replayed,
    /// The stream was rewound.
    Rewound,
}

/// A delivery that is sent as it was stored; no script maps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDelivery {
    /// Topic, or path and query; none: the destination's own.
    pub target: Option<String>,
    /// As the script set them.
    pub headers: Vec<(String, String)>,
    /// The bytes to transmit.
    pub body: Bytes,
}

/// A message that will not be delivered, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The place of the message.
    pub position: Position,
    /// When it became a dead letter, Unix milliseconds.
    pub at: u64,
    /// Why, as text.
    pub reason: String,
    /// Name and version of the script that mapped it, or failed to.
    pub script: String,
    /// The message.
    pub message: Message,
    /// The delivery that was refused, if there was one.
    pub delivery: Option<StoredDelivery>,
    /// The destination's reply, at most [`REPLY_BYTES`] characters.
    pub reply: Option<String>,
}

/// Characters of a destination's reply that a dead letter keeps.
pub const REPLY_BYTES: usize = 4096;

/// The number of a dead letter: unique in a journal, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeadLetterId(pub u64);

/// Selects dead letters. All fields that are set must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Of this stream.
    pub stream: Option<StreamIndex>,
    /// Their reason or reply contains this text.
    pub reason: Option<String>,
    /// Became a dead letter at this time or later, Unix milliseconds.
    pub since: Option<u64>,
    /// Only these.
    pub ids: Option<Vec<DeadLetterId>>,
    /// The maximum number; the oldest are selected.
    pub limit: Option<usize>,
}

/// The finished work of a lane. All of it becomes durable together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settlement {
    /// Messages and how they ended.
    pub ended: Vec<(Position, Outcome)>,
    /// One for each message among them that ended as [`Outcome::DeadLettered`].
    pub dead_letters: Vec<DeadLetter>,
    /// State that scripts wrote while they mapped them, in order (none: deleted).
    pub state: Vec<(String, Option<Bytes>)>,
}

/// In which order and how fast a stream reads its backlog.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReadRules {
    /// New messages go before the backlog.
    pub live_first: bool,
    /// Maximum messages of the backlog per second.
    pub backlog_rate: Option<f64>,
}

/// How much a stream may hold, and what happens when it holds more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Bytes of messages (topic and payload) that may be queued.
    pub max_backlog: u64,
    /// What happens at the limit.
    pub on_full: OnFull,
}

/// What happens when the quota of a stream is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFull {
    /// The stream's oldest messages end as [`Outcome::Expired`].
    #[default]
    ExpireOldest,
    /// The bus waits, and with it the other streams.
    Block,
}

/// A request that a stream reads messages again.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewind {
    /// The stream.
    pub stream: StreamIndex,
    /// Received at this time or later, Unix milliseconds.
    pub from: u64,
    /// Received before this time.
    pub until: u64,
    /// Maximum messages per second.
    pub rate: Option<f64>,
    /// Keep the script's state; otherwise it is cleared.
    pub keep_state: bool,
    /// Only count.
    pub dry_run: bool,
}

/// The extent of a rewind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewound {
    /// Messages that are read again.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the first of them was received, Unix milliseconds.
    pub oldest: Option<u64>,
    /// When the last of them was received.
    pub newest: Option<u64>,
    /// The journal holds all messages received since then (because of `keep`, or
    /// because they are queued); older ones may be gone.
    pub kept_since: Option<u64>,
}

impl DeadLetterFilter {
    /// Whether it selects a dead letter, apart from the limit.
    pub fn admits(&self, id: DeadLetterId, stream: StreamIndex, letter: &DeadLetter) -> bool {
        let in_reason = |text: &String| {
            letter.reason.contains(text) || letter.reply.as_ref().is_some_and(|r| r.contains(text))
        };
        self.stream.is_none_or(|s| s == stream)
            && self.reason.as_ref().is_none_or(in_reason)
            && self.since.is_none_or(|since| letter.at >= since)
            && self.ids.as_ref().is_none_or(|ids| ids.contains(&id))
    }
}

impl Rewound {
    pub(crate) fn add(&mut self, part: &Self) {
        self.messages += part.messages;
        self.bytes += part.bytes;
        self.oldest = self.oldest.into_iter().chain(part.oldest).min();
        self.newest = self.newest.max(part.newest);
        self.kept_since = self.kept_since.or(part.kept_since);
    }
}
