//! The journal on the disk: what its one writer thread does, step by step and
//! without threads of its own, so that tests can stop it anywhere.
//!
//! A commit writes the messages to a segment file and syncs it, then one
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

/// Bytes that all streams together may have handed out and not settled.
const LOADED_BYTES_OF_ALL: u64 = 256 * 1024 * 1024;
/// What a rewind may have handed out is so small a part of that.
const PART_OF_REWIND: u64 = 4;
/// The part that waiting messages may take where live ones go first.
const PART_OF_WAITING: u64 = 2;
/// So many times as much may be handed out to a stream that conflates: what
/// stays with it is the newest message of each key, and older ones are found
/// superseded only by reading on.
const SHARE_OF_CONFLATING: u64 = 16;

/// How the journal is kept.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Most bytes on the disk.
    pub max_size: u64,
    /// How long what has settled can be read again.
    pub keep: Duration,
    /// Most bytes of dead letters.
    pub max_dead_letters: u64,
    /// Bytes after which a new segment is begun.
    pub segment: u64,
    /// Messages, and bytes of them, that one stream may have handed out and
    /// not settled.
    pub loaded_messages: u64,
    pub loaded_bytes: u64,
}

/// Messages that are appended together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub items: Vec<(Item, Vec<StreamIndex>)>,
    /// They were read before.
    pub reread: bool,
    /// Which appends it comes after.
    pub sequence: Sequence,
}

/// What one commit makes durable.
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

/// Why the store cannot go on; it has to be opened again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("{path}: {source}")]
    File { path: String, source: io::Error },
    #[error("the index of the journal: {0}")]
    Index(#[from] redb::Error),
}

impl StoreError {
    /// The disk has no more room for us.
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
    /// What the streams with a file have of [`LOADED_BYTES_OF_ALL`]: the sum of
    /// [`Stream::share`].
    shares: u64,
    letter_bytes: u64,
    /// Loaded rows that are to be written.
    dirty_rows: Vec<(Queue, StreamIndex, u64)>,
    cache: Cache,
}

struct Stream {
    name: String,
    record: StreamRecord,
    counts: Counts,
    /// Counted with every mark that is set or cleared.
    queued: u64,
    /// None: it has no file.
    options: Option<StreamQuota>,
    live: Rows,
    rewind: Rows,
    /// `counts` are to be written.
    dirty: bool,
}

/// A stream's rows in one of its queues.
#[derive(Default)]
struct Rows {
    /// Those whose messages were handed out.
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

// === impl Store ===

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

    /// Streams that have a file: name and number.
    pub(crate) fn running(&self) -> impl Iterator<Item = (&str, StreamIndex)> {
        self.streams.iter().filter(|(_, s)| s.options.is_some()).map(|(i, s)| (s.name.as_str(), *i))
    }

    /// Streams that have none: name, and since when.
    pub(crate) fn detached(&self) -> impl Iterator<Item = (&str, StreamIndex, u64)> {
        self.streams.iter().filter_map(|(i, s)| Some((s.name.as_str(), *i, s.record.detached_since?)))
    }

    pub(crate) fn record(&self, stream: StreamIndex) -> Option<&StreamRecord> {
        self.streams.get(&stream).map(|s| &s.record)
    }

    pub(crate) fn quota(&self, stream: StreamIndex) -> Option<Quota> {
        self.streams.get(&stream)?.options.as_ref().map(|o| o.quota)
    }

    /// The counters as they are durable, and the bytes of what is queued.
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

    /// Bytes that a stream may have handed out: a share of what all may.
    fn room_of_one(&self, share: u64) -> u64 {
        let most = self.options.loaded_bytes * share;
        (LOADED_BYTES_OF_ALL * share / self.shares.max(1)).clamp(most.min(256 * 1024), most)
    }

    /// Whether a stream may be ready more of a queue than it has; with `part`
    /// above 1 only so small a part of what it may have in all. What a rewind
    /// asks for counts apart, so that live messages never wait for it, however
    /// slowly it goes.
    fn has_room(&self, index: StreamIndex, queue: Queue, part: u64) -> bool {
        let Some(stream) = self.streams.get(&index) else { return false };
        let (rows, part) = match queue {
            Queue::Live => (&stream.live, part),
            Queue::Rewind => (&stream.rewind, part * PART_OF_REWIND),
        };
        let share = stream.share();
        let bytes = self.room_of_one(share);
        // Little enough that a small quota still has something to expire.
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

// === impl Stream ===

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

    /// `messages` of a chunk are queued no more.
    fn ended(&mut self, messages: u64, mean: u32) {
        counters::take(&mut self.queued, messages, "queued");
        counters::take(&mut self.counts.backlog, messages * u64::from(mean), "backlog bytes");
        self.dirty = true;
    }

    /// `messages` of a chunk are queued.
    fn begun(&mut self, messages: u64, mean: u32, reread: bool) {
        self.queued += messages;
        self.counts.begin(messages, reread);
        self.counts.backlog += messages * u64::from(mean);
        self.dirty = true;
    }
}

/// The messages of a row. Those that are `few` do not keep the whole chunk in
/// memory, which payloads share.
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
