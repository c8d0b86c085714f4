//! The database that says what the journal holds. What it does not name does
//! not exist, so that the segment files need no recovery of their own.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `meta` | word | format, id, next numbers |
//! | `streams` | name | [`StreamRecord`] |
//! | `counters` | stream | [`Counts`] |
//! | `chunks` | chunk | [`Place`] |
//! | `live`, `again` | stream, chunk | mean size and bits of the messages that are pending; `again` those of a rewind |
//! | `segments` | segment | [`SegmentRecord`] |
//! | `dead_letters` | id | stream and letter |
//! | `state` | stream, key | what its scripts wrote |

use redb::{
    Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, Table,
    TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};

use super::{Counters, Outcome};

/// Format of index and chunks. A newer one is refused.
pub(super) const FORMAT: u64 = 1;

pub(super) type Result<T, E = redb::Error> = std::result::Result<T, E>;

type PlaceTuple = (u32, u64, u32, u32, u32, u64);
type CountsTuple = (u64, u64, u64, u64, u64, u64, u64, u64);
type SegmentTuple = (u64, u32, u64, u64, u64, u64);

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const STREAMS: TableDefinition<&str, &[u8]> = TableDefinition::new("streams");
const COUNTERS: TableDefinition<u32, CountsTuple> = TableDefinition::new("books");
const CHUNKS: TableDefinition<u64, PlaceTuple> = TableDefinition::new("chunks");
const LIVE: TableDefinition<(u32, u64), &[u8]> = TableDefinition::new("live");
const AGAIN: TableDefinition<(u32, u64), &[u8]> = TableDefinition::new("again");
const SEGMENTS: TableDefinition<u32, SegmentTuple> = TableDefinition::new("segments");
const DEAD_LETTERS: TableDefinition<u64, &[u8]> = TableDefinition::new("dead_letters");
const STATE: TableDefinition<(u32, &str), &[u8]> = TableDefinition::new("state");

/// Which of a stream's two queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Queue {
    /// What came from the bus, or was replayed.
    Live,
    /// What a rewind asked for.
    Again,
}

/// A stream as the journal knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct StreamRecord {
    pub index: u32,
    #[serde(default)]
    pub paused: bool,
    /// How often it was rewound.
    #[serde(default)]
    pub generation: u64,
    /// Messages a second of the last rewind.
    #[serde(default)]
    pub again_rate: Option<f64>,
    /// It has no file since then, Unix milliseconds.
    #[serde(default)]
    pub detached_since: Option<u64>,
}

/// A stream's counters. What is queued is counted from the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub read: u64,
    pub reread: u64,
    pub delivered: u64,
    pub filtered: u64,
    pub expired: u64,
    pub superseded: u64,
    pub dead_lettered: u64,
    /// Bytes of what is queued: its messages count as the mean of their row.
    pub backlog: u64,
}

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub segment: u32,
    pub offset: u64,
    pub length: u32,
    pub checksum: u32,
    /// Rows that name it.
    pub rows: u32,
    /// When its first message was received, Unix milliseconds.
    pub received: u64,
}

/// A segment file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SegmentRecord {
    /// Bytes that are in use from its beginning.
    pub length: u64,
    /// Chunks with rows, and their bytes.
    pub held: u32,
    pub held_bytes: u64,
    /// Lowest and highest number of the chunks in it.
    pub first: u64,
    pub last: u64,
    /// When its newest message was received, Unix milliseconds.
    pub newest: u64,
}

pub(super) struct Index {
    db: Database,
}

/// The tables inside a transaction that writes.
pub(super) struct Tables<'t> {
    pub meta: Table<'t, &'static str, &'static [u8]>,
    pub streams: Table<'t, &'static str, &'static [u8]>,
    counters: Table<'t, u32, CountsTuple>,
    chunks: Table<'t, u64, PlaceTuple>,
    live: Table<'t, (u32, u64), &'static [u8]>,
    again: Table<'t, (u32, u64), &'static [u8]>,
    segments: Table<'t, u32, SegmentTuple>,
    pub dead_letters: Table<'t, u64, &'static [u8]>,
    pub state: Table<'t, (u32, &'static str), &'static [u8]>,
}

// === impl Index ===

impl Index {
    /// Takes over a database, with all its tables made.
    pub(super) fn new(db: Database) -> Result<Self> {
        let index = Self { db };
        index.write(Durability::Immediate, |_| Ok(()))?;
        Ok(index)
    }

    /// One transaction; nothing of it stays if `work` fails.
    pub(super) fn write<T>(
        &self,
        durability: Durability,
        work: impl FnOnce(&mut Tables<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut transaction = self.db.begin_write()?;
        // Fails only where a savepoint was made, which nobody does.
        let _ = transaction.set_durability(durability);
        // Opening after a crash then costs nothing, whatever the size.
        transaction.set_quick_repair(matches!(durability, Durability::Immediate));
        let done = work(&mut Tables::open(&transaction)?)?;
        transaction.commit()?;
        Ok(done)
    }

    pub(super) fn read(&self) -> Result<Snapshot> {
        Snapshot::open(&self.db.begin_read()?)
    }
}

// === impl Tables ===

impl<'t> Tables<'t> {
    fn open(transaction: &'t WriteTransaction) -> Result<Self> {
        Ok(Self {
            meta: transaction.open_table(META)?,
            streams: transaction.open_table(STREAMS)?,
            counters: transaction.open_table(COUNTERS)?,
            chunks: transaction.open_table(CHUNKS)?,
            live: transaction.open_table(LIVE)?,
            again: transaction.open_table(AGAIN)?,
            segments: transaction.open_table(SEGMENTS)?,
            dead_letters: transaction.open_table(DEAD_LETTERS)?,
            state: transaction.open_table(STATE)?,
        })
    }

    pub(super) fn set_number(&mut self, word: &str, number: u64) -> Result<()> {
        self.meta.insert(word, number.to_le_bytes().as_slice())?;
        Ok(())
    }

    pub(super) fn set_stream(&mut self, name: &str, record: &StreamRecord) -> Result<()> {
        // Numbers and words: there is no way for this to fail.
        let json = serde_json::to_vec(record).unwrap_or_default();
        self.streams.insert(name, json.as_slice())?;
        Ok(())
    }

    pub(super) fn set_counts(&mut self, stream: u32, counts: &Counts) -> Result<()> {
        self.counters.insert(stream, counts.tuple())?;
        Ok(())
    }

    pub(super) fn forget_counts(&mut self, stream: u32) -> Result<()> {
        self.counters.remove(stream)?;
        Ok(())
    }

    pub(super) fn place(&self, chunk: u64) -> Result<Option<Place>> {
        Ok(self.chunks.get(chunk)?.map(|v| Place::of(v.value())))
    }

    pub(super) fn set_place(&mut self, chunk: u64, place: &Place) -> Result<()> {
        self.chunks.insert(chunk, place.tuple())?;
        Ok(())
    }

    pub(super) fn forget_place(&mut self, chunk: u64) -> Result<()> {
        self.chunks.remove(chunk)?;
        Ok(())
    }

    /// Chunks with a number in the range that lie in the segment.
    pub(super) fn places_in(&self, segment: u32, record: &SegmentRecord) -> Result<Vec<(u64, Place)>> {
        let mut found = Vec::new();
        for entry in self.chunks.range(record.first..=record.last)? {
            let (chunk, place) = entry?;
            let place = Place::of(place.value());
            if place.segment == segment {
                found.push((chunk.value(), place));
            }
        }
        Ok(found)
    }

    pub(super) fn row(&self, queue: Queue, stream: u32, chunk: u64) -> Result<Option<Vec<u8>>> {
        Ok(self.rows(queue).get((stream, chunk))?.map(|v| v.value().to_vec()))
    }

    pub(super) fn set_row(&mut self, queue: Queue, stream: u32, chunk: u64, bits: &[u8]) -> Result<()> {
        self.rows_mut(queue).insert((stream, chunk), bits)?;
        Ok(())
    }

    pub(super) fn forget_row(&mut self, queue: Queue, stream: u32, chunk: u64) -> Result<()> {
        self.rows_mut(queue).remove((stream, chunk))?;
        Ok(())
    }

    /// The first `count` rows of a stream from a chunk on.
    pub(super) fn rows_from(
        &self,
        queue: Queue,
        stream: u32,
        chunk: u64,
        count: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>> {
        collect_rows(self.rows(queue), stream, chunk, count)
    }

    pub(super) fn set_segment(&mut self, segment: u32, record: &SegmentRecord) -> Result<()> {
        self.segments.insert(segment, record.tuple())?;
        Ok(())
    }

    pub(super) fn forget_segment(&mut self, segment: u32) -> Result<()> {
        self.segments.remove(segment)?;
        Ok(())
    }

    fn rows(&self, queue: Queue) -> &Table<'t, (u32, u64), &'static [u8]> {
        match queue {
            Queue::Live => &self.live,
            Queue::Again => &self.again,
        }
    }

    fn rows_mut(&mut self, queue: Queue) -> &mut Table<'t, (u32, u64), &'static [u8]> {
        match queue {
            Queue::Live => &mut self.live,
            Queue::Again => &mut self.again,
        }
    }
}

/// What the index said at one moment. Not to be kept: the file grows meanwhile.
pub(super) struct Snapshot {
    pub meta: ReadOnlyTable<&'static str, &'static [u8]>,
    streams: ReadOnlyTable<&'static str, &'static [u8]>,
    counters: ReadOnlyTable<u32, CountsTuple>,
    chunks: ReadOnlyTable<u64, PlaceTuple>,
    live: ReadOnlyTable<(u32, u64), &'static [u8]>,
    again: ReadOnlyTable<(u32, u64), &'static [u8]>,
    segments: ReadOnlyTable<u32, SegmentTuple>,
    pub dead_letters: ReadOnlyTable<u64, &'static [u8]>,
    pub state: ReadOnlyTable<(u32, &'static str), &'static [u8]>,
}

impl Snapshot {
    fn open(transaction: &ReadTransaction) -> Result<Self> {
        Ok(Self {
            meta: transaction.open_table(META)?,
            streams: transaction.open_table(STREAMS)?,
            counters: transaction.open_table(COUNTERS)?,
            chunks: transaction.open_table(CHUNKS)?,
            live: transaction.open_table(LIVE)?,
            again: transaction.open_table(AGAIN)?,
            segments: transaction.open_table(SEGMENTS)?,
            dead_letters: transaction.open_table(DEAD_LETTERS)?,
            state: transaction.open_table(STATE)?,
        })
    }

    pub(super) fn number(&self, word: &str) -> Result<Option<u64>> {
        Ok(self.meta.get(word)?.and_then(|v| number_of(v.value())))
    }

    pub(super) fn streams(&self) -> Result<Vec<(String, StreamRecord)>> {
        let mut found = Vec::new();
        for entry in self.streams.iter()? {
            let (name, record) = entry?;
            let record = serde_json::from_slice(record.value()).map_err(|e| {
                redb::Error::Corrupted(format!("what the index has of stream {:?}: {e}", name.value()))
            })?;
            found.push((name.value().to_owned(), record));
        }
        Ok(found)
    }

    pub(super) fn counts(&self, stream: u32) -> Result<Counts> {
        Ok(self.counters.get(stream)?.map(|v| Counts::of(v.value())).unwrap_or_default())
    }

    pub(super) fn place(&self, chunk: u64) -> Result<Option<Place>> {
        Ok(self.chunks.get(chunk)?.map(|v| Place::of(v.value())))
    }

    /// The first `count` chunks from a number on.
    pub(super) fn places_from(&self, chunk: u64, count: usize) -> Result<Vec<(u64, Place)>> {
        let mut found = Vec::new();
        for entry in self.chunks.range(chunk..)?.take(count) {
            let (chunk, place) = entry?;
            found.push((chunk.value(), Place::of(place.value())));
        }
        Ok(found)
    }

    /// The last chunks before this one, the newest first.
    pub(super) fn places_before(&self, chunk: u64, count: usize) -> Result<Vec<(u64, Place)>> {
        let mut found = Vec::new();
        for entry in self.chunks.range(..chunk)?.rev().take(count) {
            let (chunk, place) = entry?;
            found.push((chunk.value(), Place::of(place.value())));
        }
        Ok(found)
    }

    pub(super) fn segments(&self) -> Result<Vec<(u32, SegmentRecord)>> {
        let mut found = Vec::new();
        for entry in self.segments.iter()? {
            let (segment, record) = entry?;
            found.push((segment.value(), SegmentRecord::of(record.value())));
        }
        Ok(found)
    }

    pub(super) fn row(&self, queue: Queue, stream: u32, chunk: u64) -> Result<Option<Vec<u8>>> {
        Ok(self.rows(queue).get((stream, chunk))?.map(|v| v.value().to_vec()))
    }

    pub(super) fn rows_from(
        &self,
        queue: Queue,
        stream: u32,
        chunk: u64,
        count: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>> {
        collect_rows(self.rows(queue), stream, chunk, count)
    }

    /// Every row of a queue.
    pub(super) fn each_row(&self, queue: Queue, mut see: impl FnMut(u32, u64, &[u8])) -> Result<()> {
        for entry in self.rows(queue).iter()? {
            let (key, bits) = entry?;
            let (stream, chunk) = key.value();
            see(stream, chunk, bits.value());
        }
        Ok(())
    }

    fn rows(&self, queue: Queue) -> &ReadOnlyTable<(u32, u64), &'static [u8]> {
        match queue {
            Queue::Live => &self.live,
            Queue::Again => &self.again,
        }
    }
}

fn collect_rows(
    table: &impl ReadableTable<(u32, u64), &'static [u8]>,
    stream: u32,
    chunk: u64,
    count: usize,
) -> Result<Vec<(u64, Vec<u8>)>> {
    let mut found = Vec::new();
    for entry in table.range((stream, chunk)..=(stream, u64::MAX))?.take(count) {
        let (key, bits) = entry?;
        found.push((key.value().1, bits.value().to_vec()));
    }
    Ok(found)
}

fn number_of(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

// === impl records ===

impl Counts {
    pub(super) fn count(&mut self, outcome: Outcome, messages: u64) {
        *match outcome {
            Outcome::Delivered => &mut self.delivered,
            Outcome::Filtered => &mut self.filtered,
            Outcome::Expired => &mut self.expired,
            Outcome::Superseded => &mut self.superseded,
            Outcome::DeadLettered => &mut self.dead_lettered,
        } += messages;
    }

    /// What must be queued for the counters to balance.
    pub(super) fn queued(&self) -> u64 {
        let ended = self.delivered + self.filtered + self.expired + self.superseded + self.dead_lettered;
        self.read.saturating_sub(ended)
    }

    pub(super) fn counters(&self, queued: u64, oldest: Option<u64>) -> Counters {
        Counters {
            read: self.read,
            reread: self.reread,
            delivered: self.delivered,
            filtered: self.filtered,
            expired: self.expired,
            superseded: self.superseded,
            dead_lettered: self.dead_lettered,
            queued,
            oldest,
        }
    }

    fn tuple(&self) -> CountsTuple {
        (
            self.read,
            self.reread,
            self.delivered,
            self.filtered,
            self.expired,
            self.superseded,
            self.dead_lettered,
            self.backlog,
        )
    }

    fn of(
        (read, reread, delivered, filtered, expired, superseded, dead_lettered, backlog): CountsTuple,
    ) -> Self {
        Self { read, reread, delivered, filtered, expired, superseded, dead_lettered, backlog }
    }
}

impl Place {
    fn tuple(&self) -> PlaceTuple {
        (self.segment, self.offset, self.length, self.checksum, self.rows, self.received)
    }

    fn of((segment, offset, length, checksum, rows, received): PlaceTuple) -> Self {
        Self { segment, offset, length, checksum, rows, received }
    }
}

impl SegmentRecord {
    fn tuple(&self) -> SegmentTuple {
        (self.length, self.held, self.held_bytes, self.first, self.last, self.newest)
    }

    fn of((length, held, held_bytes, first, last, newest): SegmentTuple) -> Self {
        Self { length, held, held_bytes, first, last, newest }
    }
}
