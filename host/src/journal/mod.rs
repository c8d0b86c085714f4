//! The log that every message enters before the bus is acknowledged.
//!
//! `append` gives a [`Ticket`] that resolves once the messages may be
//! acknowledged; a [`Reader`] hands each stream what is pending for it, in
//! order; `settle` is the only way out. Nothing above this folder knows how
//! the messages are kept.
//!
//! Today they are kept in memory ([`memory`]): a ticket resolves when every
//! stream that matched has settled its copy, so the bus itself is the backlog
//! and a crash loses nothing that was acknowledged.

mod memory;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::bus::Message;
use memory::Memory;

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

/// A stream's books. They balance:
/// `read = delivered + filtered + expired + superseded + dead_lettered + queued`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Messages appended for the stream.
    pub read: u64,
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
    /// Not settled yet: counted from the pending marks, not derived.
    pub queued: u64,
    /// When the oldest queued message was received, Unix milliseconds.
    pub oldest: Option<u64>,
}

impl Books {
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

/// How much the journal holds, and who holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Unsettled messages, and how many there may be.
    pub messages: (usize, usize),
    /// Their bytes, and how many there may be.
    pub bytes: (usize, usize),
    /// An append is waiting for room: the bus is being held back.
    pub full: bool,
    /// The stream of the oldest unsettled message: acknowledgements go out in
    /// order, so this is the one that the others wait for.
    pub holder: Option<StreamIndex>,
}

/// Why a ticket will not resolve: the messages must not be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the journal was closed before the message was settled")]
pub struct JournalError;

/// The journal. Cloning gives another handle.
#[derive(Clone)]
pub struct Journal(Arc<Memory>);

/// Resolves when what was appended may be acknowledged to the bus.
#[derive(Debug)]
pub struct Ticket(oneshot::Receiver<()>);

/// Hands one stream its pending messages, each once, in order.
pub struct Reader {
    store: Arc<Memory>,
    stream: StreamIndex,
}

// === impl Journal ===

impl Journal {
    /// A journal in memory for `streams` streams that holds at most
    /// `max_messages` messages and `max_bytes` bytes unsettled. (mosquitto
    /// 2.0.11 does not keep to `receive_maximum`, so the bound is ours.)
    pub fn in_memory(streams: usize, max_messages: usize, max_bytes: usize) -> Self {
        Self(Arc::new(Memory::new(streams, max_messages, max_bytes)))
    }

    /// Appends the messages in one commit. Waits while the journal is full.
    /// An empty batch resolves at once.
    pub async fn append(&self, batch: Vec<Append>) -> Ticket {
        Ticket(self.0.append(batch).await)
    }

    /// The reader of a stream. A second one would share the work with the first.
    pub fn reader(&self, stream: StreamIndex) -> Reader {
        Reader { store: self.0.clone(), stream }
    }

    /// Ends messages of a stream. What is not pending (any more) is ignored:
    /// a message is counted once.
    pub fn settle(&self, stream: StreamIndex, settled: &[(Position, Outcome)]) {
        self.0.settle(stream, settled);
    }

    /// The books of a stream now.
    pub fn books(&self, stream: StreamIndex) -> Books {
        self.0.books(stream)
    }

    /// What is held, and by whom.
    pub fn holding(&self) -> Holding {
        self.0.holding()
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Journal").field(&self.holding()).finish()
    }
}

// === impl Ticket ===

impl Future for Ticket {
    type Output = Result<(), JournalError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_err(|_| JournalError)
    }
}

// === impl Reader ===

impl Reader {
    /// What is pending and was not handed out yet: at least one message (waits
    /// for it), at most `max_messages`. Safe to cancel.
    pub async fn next(&mut self, max_messages: usize) -> Vec<Pending> {
        self.store.read(self.stream, max_messages).await
    }
}

#[cfg(test)]
mod tests;
