//! The journal on the disk: the steps of its one writer thread. It has no
//! threads of its own, so that tests can stop it anywhere.
//!
//! A commit writes the messages to a segment file and syncs it. Then one
//! transaction of the index names them and carries all settlements.

mod commit;
mod latest;
mod letters;
mod open;
mod read;
mod rewind;
mod space;
mod streams;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use read::Cache;

use crate::chunk::Item;
use crate::counters::{self, Counters};
use crate::disk::{Disk, DiskFile};
use crate::index::{Counts, Index, Queue, SegmentRecord, StreamRecord};
use crate::rows::Row;
use crate::types::{
    DeadLetterId, Pending, Position, Quota, Reading, Sequence, Settlement, StreamIndex, StreamQuota,
};

pub(crate) use latest::Latest;
#[cfg(test)]
pub(crate) use letters::TOGETHER;
pub(crate) use letters::{DropLetters, Replay, find_letters};
pub use open::OpenError;
pub use rewind::Difference;
pub(crate) use rewind::check;
#[cfg(any(test, feature = "test-support"))]
pub use sim::Simulated;

/// Maximum bytes that all streams together have in memory: handed out and not
/// settled.
const LOADED_BYTES_OF_ALL: u64 = 256 * 1024 * 1024;
/// A rewind may use one part in so many of that.
const PART_OF_REWIND: u64 = 4;
/// Where live messages go first, the backlog may use one part in so many.
const PART_OF_WAITING: u64 = 2;
/// A stream that conflates may have so many times as much: it keeps the newest
/// message of each key, and finds superseded ones only by reading on.
const SHARE_OF_CONFLATING: u64 = 16;

/// The limits of the store.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Maximum bytes on the disk.
    pub max_size: u64,
    /// How long settled messages can be read again.
    pub keep: Duration,
    /// Maximum bytes of dead letters.
    pub max_dead_letters: u64,
    /// Size at which a new segment begins.
    pub segment: u64,
    /// Maximum messages, and bytes of them, that one stream has in memory.
    pub loaded_messages: u64,
    pub loaded_bytes: u64,
}

/// Messages that are appended together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub items: Vec<(Item, Vec<StreamIndex>)>,
    /// The stream reads them again.
    pub reread: bool,
    /// The appends that it belongs to.
    pub sequence: Sequence,
}

/// The content of one commit.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub batches: Vec<Batch>,
    pub settlements: Vec<(StreamIndex, Settlement)>,
    pub drop_letters: Vec<DeadLetterId>,
}

impl Work {
    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.settlements.is_empty() && self.drop_letters.is_empty()
    }
}

/// Where messages that are handed out come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// From their commit.
    Live,
    /// From the backlog on the disk.
    Backlog,
    /// From a rewind.
    Rewind,
}

/// Messages that are ready for the reader of a stream.
#[derive(Debug)]
pub(crate) struct ReadyBatch {
    pub stream: StreamIndex,
    pub source: Source,
    pub messages: Vec<Pending>,
}

/// Why the store cannot continue; it has to be opened again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("{path}: {source}")]
    File { path: String, source: io::Error },
    #[error("the index of the journal: {0}")]
    Index(#[from] redb::Error),
}

impl StoreError {
    /// Whether the disk is full.
    pub(crate) fn is_full(&self) -> bool {
        let (Self::File { source, .. } | Self::Index(redb::Error::Io(source))) = self else { return false };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

pub(crate) type Result<T, E = StoreError> = std::result::Result<T, E>;

pub(crate) struct Store {
    disk: Arc<dyn Disk>,
    options: Options,
    index: Arc<Index>,
    id: [u8; 16],
    streams: BTreeMap<StreamIndex, Stream>,
    segments: BTreeMap<u32, Segment>,
    files: HashMap<u32, Arc<dyn DiskFile>>,
    /// Where the next chunk goes.
    current: Option<u32>,
    /// Something was written since the last sync.
    unsynced: bool,
    next_chunk: u64,
    next_letter: u64,
    next_segment: u32,
    next_stream: u32,
    /// The sum of [`Stream::share`] of the streams with a file.
    shares: u64,
    letter_bytes: u64,
    /// Loaded rows that have to be written.
    dirty_rows: Vec<(Queue, StreamIndex, u64)>,
    cache: Cache,
}

struct Stream {
    name: String,
    record: StreamRecord,
    counts: Counts,
    /// Counted with each pending bit that is set or cleared.
    queued: u64,
    /// None: it has no file.
    options: Option<StreamQuota>,
    live: Rows,
    rewind: Rows,
    /// `counts` have to be written.
    dirty: bool,
}

/// The rows of a stream in one of its queues.
#[derive(Default)]
struct Rows {
    /// The rows whose messages were handed out.
    loaded: BTreeMap<u64, Loaded>,
    loaded_messages: u64,
    loaded_bytes: u64,
    /// Rows of this chunk and later ones may wait on the disk.
    next: u64,
    behind: bool,
    /// When the first message that waits on the disk was received.
    waiting_since: Option<u64>,
}

struct Loaded {
    row: Row,
    received: u64,
    dirty: bool,
}

#[derive(Clone, Copy, Default)]
struct Segment {
    record: SegmentRecord,
    dirty: bool,
    /// It is not rewritten again.
    damaged: bool,
}

impl Store {
    pub(crate) fn id(&self) -> [u8; 16] {
        self.id
    }

    pub(crate) fn index(&self) -> Arc<Index> {
        self.index.clone()
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// The streams that have a file: name and number.
    pub(crate) fn running(&self) -> impl Iterator<Item = (&str, StreamIndex)> {
        self.streams.iter().filter(|(_, s)| s.options.is_some()).map(|(i, s)| (s.name.as_str(), *i))
    }

    /// The detached streams: name, number, and since when.
    pub(crate) fn detached(&self) -> impl Iterator<Item = (&str, StreamIndex, u64)> {
        self.streams.iter().filter_map(|(i, s)| Some((s.name.as_str(), *i, s.record.detached_since?)))
    }

    pub(crate) fn record(&self, stream: StreamIndex) -> Option<&StreamRecord> {
        self.streams.get(&stream).map(|s| &s.record)
    }

    pub(crate) fn quota(&self, stream: StreamIndex) -> Option<Quota> {
        self.streams.get(&stream)?.options.as_ref().map(|o| o.quota)
    }

    /// The durable counters, and the bytes in the queue.
    pub(crate) fn counters(&self, stream: StreamIndex) -> (Counters, u64) {
        let Some(stream) = self.streams.get(&stream) else { return (Counters::default(), 0) };
        let first = |rows: &Rows| {
            let loaded = rows.loaded.values().next().map(|l| l.received);
            loaded.into_iter().chain(rows.waiting_since).min()
        };
        let oldest = first(&stream.live).into_iter().chain(first(&stream.rewind)).min();
        (stream.counts.counters(stream.queued, oldest), stream.counts.backlog)
    }

    pub(crate) fn letter_bytes(&self) -> u64 {
        self.letter_bytes
    }

    /// Maximum bytes that a stream has in memory, for its share.
    fn room_of_one(&self, share: u64) -> u64 {
        let max = self.options.loaded_bytes * share;
        (LOADED_BYTES_OF_ALL * share / self.shares.max(1)).clamp(max.min(256 * 1024), max)
    }

    /// Whether a stream may be handed more messages of a queue; with `part`
    /// above 1, whether it has used less than that part of its limit. A rewind
    /// has a limit of its own, so that live messages never wait for a slow
    /// rewind.
    fn has_room(&self, index: StreamIndex, queue: Queue, part: u64) -> bool {
        let Some(stream) = self.streams.get(&index) else { return false };
        let (rows, part) = match queue {
            Queue::Live => (&stream.live, part),
            Queue::Rewind => (&stream.rewind, part * PART_OF_REWIND),
        };
        let share = stream.share();
        let bytes = self.room_of_one(share);
        // So that a small quota still has messages to expire.
        let bytes = stream.options.as_ref().map_or(bytes, |o| bytes.min(o.quota.max_backlog / 4));
        rows.loaded_messages == 0
            || (rows.loaded_messages < self.options.loaded_messages * share / part
                && rows.loaded_bytes < bytes / part)
    }

    fn file_error(&self, name: &str) -> impl FnOnce(io::Error) -> StoreError + use<> {
        let path = self.disk.path(name);
        move |source| StoreError::File { path, source }
    }
}

impl Stream {
    fn conflates(&self) -> bool {
        self.options.as_ref().is_some_and(|o| o.conflates)
    }

    /// How many times as much as others it may be handed.
    fn share(&self) -> u64 {
        if self.conflates() { SHARE_OF_CONFLATING } else { 1 }
    }

    fn rows(&mut self, queue: Queue) -> &mut Rows {
        match queue {
            Queue::Live => &mut self.live,
            Queue::Rewind => &mut self.rewind,
        }
    }

    /// Notes the messages of a row as handed out.
    fn load(&mut self, queue: Queue, chunk: u64, row: Row, received: u64) {
        let rows = self.rows(queue);
        rows.loaded_messages += u64::from(row.len());
        rows.loaded_bytes += u64::from(row.len()) * u64::from(row.mean);
        rows.loaded.insert(chunk, Loaded { row, received, dirty: false });
    }

    /// One loaded message has ended.
    fn unload(&mut self, queue: Queue, mean: u32) {
        let rows = self.rows(queue);
        counters::take(&mut rows.loaded_messages, 1, "loaded messages");
        counters::take(&mut rows.loaded_bytes, mean.into(), "loaded bytes");
    }

    /// `messages` of a chunk leave the queue.
    fn ended(&mut self, messages: u64, mean: u32) {
        counters::take(&mut self.queued, messages, "queued");
        counters::take(&mut self.counts.backlog, messages * u64::from(mean), "backlog bytes");
        self.dirty = true;
    }

    /// `messages` of a chunk enter the queue.
    fn begun(&mut self, messages: u64, mean: u32, reread: bool) {
        self.queued += messages;
        self.counts.begin(messages, reread);
        self.counts.backlog += messages * u64::from(mean);
        self.dirty = true;
    }
}

/// The messages of a row. With `few` their payloads are copied, so that they do
/// not keep the whole chunk in memory.
fn pending(chunk: u64, row: &Row, items: &[Item], queue: Queue, few: bool) -> Vec<Pending> {
    let few = few || (row.len() as usize) * 4 < items.len();
    row.iter()
        .filter_map(|index| {
            let mut item = items.get(index as usize)?.clone();
            if few {
                item.message.payload = bytes::Bytes::copy_from_slice(&item.message.payload);
            }
            let position = Position { chunk, index };
            let reading = match queue {
                Queue::Rewind => Reading::Rewound,
                Queue::Live if item.reread => Reading::Replayed,
                Queue::Live => Reading::First,
            };
            Some(Pending { position, message: item.message, as_is: item.as_is, reading })
        })
        .collect()
}

#[cfg(any(test, feature = "test-support"))]
pub(crate) mod sim;
#[cfg(test)]
mod tests;
