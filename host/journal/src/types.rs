//! The words of the journal: what goes in, what comes out, what is asked.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use message::Message;

/// A stream's number in the running configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamIndex(pub u32);

/// A message's place in the journal. Orders as the messages arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The commit that it came with.
    pub chunk: u64,
    /// Its number in that chunk.
    pub index: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.chunk, self.index)
    }
}

/// Appends that are in order: when one has failed, no later one is taken, for what
/// failed comes again and would lie behind it. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub struct Sequence(Arc<AtomicBool>);

impl Sequence {
    /// One of its appends has failed.
    pub(super) fn end(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A message on its way in, with the streams that want it.
#[derive(Clone, Debug)]
pub struct Append {
    /// The message.
    pub message: Message,
    /// Whose it is: each stream once, at least one.
    pub streams: Vec<StreamIndex>,
}

/// A pending message as a stream reads it.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Where it is.
    pub position: Position,
    /// What it is.
    pub message: Message,
    /// To be sent like this instead of being mapped.
    pub as_is: Option<Arc<StoredDelivery>>,
    /// Whether somebody asked for it to be read again.
    pub reading: Reading,
}

/// How a stream comes to read a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reading {
    /// It came from the bus.
    #[default]
    First,
    /// It was a dead letter: it is mapped apart from the running instance.
    Replayed,
    /// The stream was rewound.
    Rewound,
}

/// A pending message that is sent as it was stored: no script maps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDelivery {
    /// Topic, or path and query; none: the destination's own.
    pub target: Option<String>,
    /// As the script made them.
    pub headers: Vec<(String, String)>,
    /// The bytes to transmit.
    pub body: Bytes,
}

/// A message that will not be delivered, with what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where the message was.
    pub position: Position,
    /// When it was given up, Unix milliseconds.
    pub at: u64,
    /// Why, for a person.
    pub reason: String,
    /// Name and version of the script that mapped it, or could not.
    pub script: String,
    /// The message.
    pub message: Message,
    /// What was refused, if it got that far.
    pub delivery: Option<StoredDelivery>,
    /// What the far side said, at most [`REPLY_BYTES`] of it.
    pub reply: Option<String>,
}

/// Bytes of a far side's reply that a dead letter keeps.
pub const REPLY_BYTES: usize = 4096;

/// A dead letter's number: unique in a journal, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeadLetterId(pub u64);

/// Which dead letters. Every field that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Of this stream.
    pub stream: Option<StreamIndex>,
    /// Whose reason or reply contains this text.
    pub reason: Option<String>,
    /// Given up at this time or later, Unix milliseconds.
    pub since: Option<u64>,
    /// These.
    pub ids: Option<Vec<DeadLetterId>>,
    /// The oldest so many.
    pub limit: Option<usize>,
}

/// What a lane has finished, in one step: all of it becomes durable together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settlement {
    /// Messages and how they ended.
    pub ended: Vec<(Position, Outcome)>,
    /// One for each message among them that ended as [`Outcome::DeadLettered`].
    pub dead_letters: Vec<DeadLetter>,
    /// What scripts wrote while they mapped them (none: deleted), in order.
    pub state: Vec<(String, Option<Bytes>)>,
}

/// In what order and how fast a stream reads what has waited.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReadRules {
    /// New messages go before those that have waited in the journal.
    pub live_first: bool,
    /// Most messages a second that have waited in the journal.
    pub backlog_rate: Option<f64>,
}

/// How much a stream may hold, and what happens then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Bytes of messages (topic and payload) that may be queued.
    pub max_backlog: u64,
    /// What happens to the next message.
    pub on_full: OnFull,
}

/// What happens when a stream's quota is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFull {
    /// The stream's oldest messages end as [`Outcome::Expired`].
    #[default]
    ExpireOldest,
    /// The bus waits, and with it the other streams.
    Block,
}

/// Messages that a stream is to read again.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewind {
    /// Whose.
    pub stream: StreamIndex,
    /// Received at this time or later, Unix milliseconds.
    pub from: u64,
    /// Received before this time.
    pub until: u64,
    /// Most messages a second.
    pub rate: Option<f64>,
    /// Leave the script's state as it is; else it is cleared.
    pub keep_state: bool,
    /// Only count.
    pub dry_run: bool,
}

/// What a rewind concerns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewound {
    /// Messages that are read again.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the first of them was received, Unix milliseconds.
    pub oldest: Option<u64>,
    /// The last.
    pub newest: Option<u64>,
    /// The journal holds everything received since then (`keep`, or what is
    /// still queued); what is older may be gone.
    pub kept_since: Option<u64>,
}

/// How a message ended in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The far side took every delivery of it.
    Delivered,
    /// The script did not want it.
    Filtered,
    /// It waited longer than `queue_ttl`, or the stream's quota pushed it out.
    Expired,
    /// A newer message of the same key took its place.
    Superseded,
    /// It was rejected, or any delivery of it was.
    DeadLettered,
}

/// A stream's counters. They balance:
/// `read = delivered + filtered + expired + superseded + dead_lettered + queued`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages appended for the stream, and those that it reads again.
    pub read: u64,
    /// How many of them are read again (replay, rewind).
    pub reread: u64,
    /// Settled as [`Outcome::Delivered`].
    pub delivered: u64,
    /// Settled as [`Outcome::Filtered`].
    pub filtered: u64,
    /// Settled as [`Outcome::Expired`].
    pub expired: u64,
    /// Settled as [`Outcome::Superseded`].
    pub superseded: u64,
    /// Settled as [`Outcome::DeadLettered`].
    pub dead_lettered: u64,
    /// Not settled yet: counted from the pending marks when the journal is
    /// opened, and with each mark since; not derived from the others.
    pub queued: u64,
    /// When the oldest queued message was received, Unix milliseconds.
    pub oldest: Option<u64>,
}

impl Counters {
    /// Whether every message that was read is accounted for.
    pub fn balance(&self) -> bool {
        self.read
            == self.delivered
                + self.filtered
                + self.expired
                + self.superseded
                + self.dead_lettered
                + self.queued
    }
}

// === impl DeadLetterFilter ===

impl DeadLetterFilter {
    /// Whether it lets a dead letter through (the limit aside).
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

// === impl DeadLetter ===

impl DeadLetter {
    /// About what it takes in the journal, in bytes.
    pub fn size(&self) -> usize {
        let delivery = self.delivery.as_ref().map_or(0, |d| {
            let headers: usize = d.headers.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
            d.body.len() + headers + d.target.as_ref().map_or(0, String::len) + 64
        });
        let reply = self.reply.as_ref().map_or(0, |r| r.len().min(REPLY_BYTES));
        self.message.size() + delivery + self.reason.len() + reply + self.script.len() + 160
    }
}

// === impl Rewound ===

impl Rewound {
    pub(super) fn add(&mut self, part: &Self) {
        self.messages += part.messages;
        self.bytes += part.bytes;
        self.oldest = self.oldest.into_iter().chain(part.oldest).min();
        self.newest = self.newest.max(part.newest);
        self.kept_since = self.kept_since.or(part.kept_since);
    }
}
