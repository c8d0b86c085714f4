//! The database that describes the content of the journal. Anything that it
//! does not name does not exist, so segment files need no recovery.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `meta` | word | format, id, next numbers |
//! | `streams` | name | [`StreamRecord`] |
//! | `books` | stream | [`Counts`] |
//! | `chunks` | chunk | [`Place`] |
//! | `live`, `again` | stream, chunk | mean size and pending bits; `again` for a rewind |
//! | `segments` | segment | [`SegmentRecord`] |
//! | `dead_letters` | id | stream and letter |
//! | `state` | stream, key | written by its scripts |

use std::marker::PhantomData;

use redb::{
    Database, Durability, Key, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, Table,
    TableDefinition, TypeName, Value, WriteTransaction,
};
use serde::{Deserialize, Serialize};

use crate::counters::{Counters, Outcome};
use crate::types::StreamIndex;

/// Format of index and chunks. A newer one is refused.
pub(crate) const FORMAT: u64 = 1;

pub(crate) type Result<T, E = redb::Error> = std::result::Result<T, E>;

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const STREAMS: TableDefinition<&str, &[u8]> = TableDefinition::new("streams");
const COUNTERS: TableDefinition<u32, Counts> = TableDefinition::new("books");
const CHUNKS: TableDefinition<u64, Place> = TableDefinition::new("chunks");
const LIVE: TableDefinition<(u32, u64), &[u8]> = TableDefinition::new("live");
const REWIND: TableDefinition<(u32, u64), &[u8]> = TableDefinition::new("again");
const SEGMENTS: TableDefinition<u32, SegmentRecord> = TableDefinition::new("segments");
const DEAD_LETTERS: TableDefinition<u64, &[u8]> = TableDefinition::new("dead_letters");
const STATE: TableDefinition<(u32, &str), &[u8]> = TableDefinition::new("state");

/// Which of a stream's two queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Queue {
    /// Messages from the bus, and replayed ones.
    Live,
    /// Messages that a rewind asked for.
    Rewind,
}

/// The stored record of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StreamRecord {
    pub index: u32,
    #[serde(default)]
    pub paused: bool,
    /// How many times it was rewound.
    #[serde(default)]
    pub generation: u64,
    /// Messages per second of the last rewind.
    #[serde(default, rename = "again_rate")]
    pub rewind_rate: Option<f64>,
    /// Since when it has no file, Unix milliseconds.
    #[serde(default, rename = "orphaned_since", alias = "detached_since")]
    pub detached_since: Option<u64>,
}

/// The stored counters of a stream. `queued` and `oldest` are not among them:
/// they follow from the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    counters: Counters,
    /// Bytes that are queued: a message counts as the mean of its row.
    pub backlog: u64,
}

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub segment: u32,
    pub offset: u64,
    pub length: u32,
    pub checksum: u32,
    /// Number of rows that name it.
    pub rows: u32,
    /// When its first message was received, Unix milliseconds.
    pub received: u64,
}

/// A segment file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SegmentRecord {
    /// Bytes that are in use from its start.
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

pub(crate) struct Index {
    db: Database,
}

/// The kind of a transaction, which decides the type of its tables.
pub(crate) trait Access {
    type Table<K: Key + 'static, V: Value + 'static>: ReadableTable<K, V>;
}

/// A transaction that writes.
pub(crate) struct Write<'t>(PhantomData<&'t ()>);
/// A transaction that reads.
pub(crate) struct Read;

impl<'t> Access for Write<'t> {
    type Table<K: Key + 'static, V: Value + 'static> = Table<'t, K, V>;
}

impl Access for Read {
    type Table<K: Key + 'static, V: Value + 'static> = ReadOnlyTable<K, V>;
}

/// All tables in one transaction.
pub(crate) struct Tables<A: Access> {
    pub meta: A::Table<&'static str, &'static [u8]>,
    pub streams: A::Table<&'static str, &'static [u8]>,
    counters: A::Table<u32, Counts>,
    chunks: A::Table<u64, Place>,
    live: A::Table<(u32, u64), &'static [u8]>,
    rewind: A::Table<(u32, u64), &'static [u8]>,
    segments: A::Table<u32, SegmentRecord>,
    pub dead_letters: A::Table<u64, &'static [u8]>,
    pub state: A::Table<(u32, &'static str), &'static [u8]>,
}

/// The tables in a transaction that writes.
pub(crate) type Writes<'t> = Tables<Write<'t>>;
/// The tables at one moment. Not to be kept: the file grows meanwhile.
pub(crate) type Snapshot = Tables<Read>;

impl Index {
    /// Takes over a database and creates its tables.
    pub(crate) fn new(db: Database) -> Result<Self> {
        let index = Self { db };
        index.write(Durability::Immediate, |_| Ok(()))?;
        Ok(index)
    }

    /// Runs one transaction. If `work` fails, nothing of it stays.
    pub(crate) fn write<T>(
        &self,
        durability: Durability,
        work: impl FnOnce(&mut Writes<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut transaction = self.db.begin_write()?;
        // Fails only after a savepoint, and the journal makes none.
        let _ = transaction.set_durability(durability);
        // So that opening after a crash takes the same short time at any size.
        transaction.set_quick_repair(matches!(durability, Durability::Immediate));
        let done = work(&mut Writes::open(&transaction)?)?;
        transaction.commit()?;
        Ok(done)
    }

    pub(crate) fn read(&self) -> Result<Snapshot> {
        Snapshot::open(&self.db.begin_read()?)
    }
}

impl Snapshot {
    fn open(transaction: &ReadTransaction) -> Result<Self> {
        Ok(Self {
            meta: transaction.open_table(META)?,
            streams: transaction.open_table(STREAMS)?,
            counters: transaction.open_table(COUNTERS)?,
            chunks: transaction.open_table(CHUNKS)?,
            live: transaction.open_table(LIVE)?,
            rewind: transaction.open_table(REWIND)?,
            segments: transaction.open_table(SEGMENTS)?,
            dead_letters: transaction.open_table(DEAD_LETTERS)?,
            state: transaction.open_table(STATE)?,
        })
    }
}

/// What both kinds of transaction can read.
impl<A: Access> Tables<A> {
    pub(crate) fn number(&self, word: &str) -> Result<Option<u64>> {
        Ok(self.meta.get(word)?.and_then(|v| number_of(v.value())))
    }

    pub(crate) fn streams(&self) -> Result<Vec<(String, StreamRecord)>> {
        let mut found = Vec::new();
        for entry in self.streams.iter()? {
            let (name, record) = entry?;
            let record = serde_json::from_slice(record.value()).map_err(|e| {
                redb::Error::Corrupted(format!("the record of stream {:?}: {e}", name.value()))
            })?;
            found.push((name.value().to_owned(), record));
        }
        Ok(found)
    }

    pub(crate) fn counts(&self, stream: StreamIndex) -> Result<Counts> {
        Ok(self.counters.get(stream.0)?.map(|v| v.value()).unwrap_or_default())
    }

    pub(crate) fn place(&self, chunk: u64) -> Result<Option<Place>> {
        Ok(self.chunks.get(chunk)?.map(|v| v.value()))
    }

    /// The first `count` chunks from a number on.
    pub(crate) fn places_from(&self, chunk: u64, count: usize) -> Result<Vec<(u64, Place)>> {
        let mut found = Vec::new();
        for entry in self.chunks.range(chunk..)?.take(count) {
            let (chunk, place) = entry?;
            found.push((chunk.value(), place.value()));
        }
        Ok(found)
    }

    /// The last `count` chunks before a number, newest first.
    pub(crate) fn places_before(&self, chunk: u64, count: usize) -> Result<Vec<(u64, Place)>> {
        let mut found = Vec::new();
        for entry in self.chunks.range(..chunk)?.rev().take(count) {
            let (chunk, place) = entry?;
            found.push((chunk.value(), place.value()));
        }
        Ok(found)
    }

    /// The chunks of a segment.
    pub(crate) fn places_in(&self, segment: u32, record: &SegmentRecord) -> Result<Vec<(u64, Place)>> {
        let mut found = Vec::new();
        for entry in self.chunks.range(record.first..=record.last)? {
            let (chunk, place) = entry?;
            let place = place.value();
            if place.segment == segment {
                found.push((chunk.value(), place));
            }
        }
        Ok(found)
    }

    pub(crate) fn segments(&self) -> Result<Vec<(u32, SegmentRecord)>> {
        let mut found = Vec::new();
        for entry in self.segments.iter()? {
            let (segment, record) = entry?;
            found.push((segment.value(), record.value()));
        }
        Ok(found)
    }

    pub(crate) fn row(&self, queue: Queue, stream: StreamIndex, chunk: u64) -> Result<Option<Vec<u8>>> {
        Ok(self.rows(queue).get((stream.0, chunk))?.map(|v| v.value().to_vec()))
    }

    /// The first `count` rows of a stream from a chunk on.
    pub(crate) fn rows_from(
        &self,
        queue: Queue,
        stream: StreamIndex,
        chunk: u64,
        count: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>> {
        let mut found = Vec::new();
        for entry in self.rows(queue).range((stream.0, chunk)..=(stream.0, u64::MAX))?.take(count) {
            let (key, bits) = entry?;
            found.push((key.value().1, bits.value().to_vec()));
        }
        Ok(found)
    }

    /// Calls `see` with every row of a queue.
    pub(crate) fn each_row(&self, queue: Queue, mut see: impl FnMut(StreamIndex, u64, &[u8])) -> Result<()> {
        for entry in self.rows(queue).iter()? {
            let (key, bits) = entry?;
            let (stream, chunk) = key.value();
            see(StreamIndex(stream), chunk, bits.value());
        }
        Ok(())
    }

    fn rows(&self, queue: Queue) -> &A::Table<(u32, u64), &'static [u8]> {
        match queue {
            Queue::Live => &self.live,
            Queue::Rewind => &self.rewind,
        }
    }
}

impl<'t> Writes<'t> {
    fn open(transaction: &'t WriteTransaction) -> Result<Self> {
        Ok(Self {
            meta: transaction.open_table(META)?,
            streams: transaction.open_table(STREAMS)?,
            counters: transaction.open_table(COUNTERS)?,
            chunks: transaction.open_table(CHUNKS)?,
            live: transaction.open_table(LIVE)?,
            rewind: transaction.open_table(REWIND)?,
            segments: transaction.open_table(SEGMENTS)?,
            dead_letters: transaction.open_table(DEAD_LETTERS)?,
            state: transaction.open_table(STATE)?,
        })
    }

    pub(crate) fn set_number(&mut self, word: &str, number: u64) -> Result<()> {
        self.meta.insert(word, number.to_le_bytes().as_slice())?;
        Ok(())
    }

    pub(crate) fn set_stream(&mut self, name: &str, record: &StreamRecord) -> Result<()> {
        // Numbers and words: this cannot fail.
        let json = serde_json::to_vec(record).unwrap_or_default();
        self.streams.insert(name, json.as_slice())?;
        Ok(())
    }

    pub(crate) fn set_counts(&mut self, stream: StreamIndex, counts: &Counts) -> Result<()> {
        self.counters.insert(stream.0, counts)?;
        Ok(())
    }

    pub(crate) fn forget_counts(&mut self, stream: StreamIndex) -> Result<()> {
        self.counters.remove(stream.0)?;
        Ok(())
    }

    pub(crate) fn set_place(&mut self, chunk: u64, place: &Place) -> Result<()> {
        self.chunks.insert(chunk, place)?;
        Ok(())
    }

    pub(crate) fn forget_place(&mut self, chunk: u64) -> Result<()> {
        self.chunks.remove(chunk)?;
        Ok(())
    }

    pub(crate) fn set_row(
        &mut self,
        queue: Queue,
        stream: StreamIndex,
        chunk: u64,
        bits: &[u8],
    ) -> Result<()> {
        self.rows_mut(queue).insert((stream.0, chunk), bits)?;
        Ok(())
    }

    pub(crate) fn forget_row(&mut self, queue: Queue, stream: StreamIndex, chunk: u64) -> Result<()> {
        self.rows_mut(queue).remove((stream.0, chunk))?;
        Ok(())
    }

    pub(crate) fn set_segment(&mut self, segment: u32, record: &SegmentRecord) -> Result<()> {
        self.segments.insert(segment, record)?;
        Ok(())
    }

    pub(crate) fn forget_segment(&mut self, segment: u32) -> Result<()> {
        self.segments.remove(segment)?;
        Ok(())
    }

    fn rows_mut(&mut self, queue: Queue) -> &mut Table<'t, (u32, u64), &'static [u8]> {
        match queue {
            Queue::Live => &mut self.live,
            Queue::Rewind => &mut self.rewind,
        }
    }
}

fn number_of(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

impl Counts {
    pub(crate) fn count(&mut self, outcome: Outcome, messages: u64) {
        *self.counters.ended_mut(outcome) += messages;
    }

    /// The number of queued messages with which the counters balance; none: there
    /// is no such number.
    pub(crate) fn queued(&self) -> Option<u64> {
        self.counters.read.checked_sub(self.counters.settled())
    }

    /// `messages` were appended, or are read again.
    pub(crate) fn begin(&mut self, messages: u64, reread: bool) {
        self.counters.read += messages;
        if reread {
            self.counters.reread += messages;
        }
    }

    /// The counters with this much in the queue.
    pub(crate) fn counters(&self, queued: u64, oldest: Option<u64>) -> Counters {
        Counters { queued, oldest, ..self.counters }
    }
}

/// Stores a record as a tuple: the same bytes and the same name of the type as
/// the tuple itself, so that the format does not depend on the struct.
macro_rules! stored_as_tuple {
    ($record:ty, $tuple:ty, $record_of:expr, $tuple_of:expr) => {
        impl Value for $record {
            type SelfType<'a> = Self;
            type AsBytes<'a> = <$tuple as Value>::AsBytes<'a>;

            fn fixed_width() -> Option<usize> {
                <$tuple>::fixed_width()
            }

            fn from_bytes<'a>(bytes: &'a [u8]) -> Self
            where
                Self: 'a,
            {
                $record_of(<$tuple>::from_bytes(bytes))
            }

            fn as_bytes<'a, 'b: 'a>(value: &'a Self) -> Self::AsBytes<'a>
            where
                Self: 'b,
            {
                <$tuple>::as_bytes(&$tuple_of(value))
            }

            fn type_name() -> TypeName {
                <$tuple>::type_name()
            }
        }
    };
}

stored_as_tuple!(
    Counts,
    (u64, u64, u64, u64, u64, u64, u64, u64),
    |(read, reread, delivered, filtered, expired, superseded, dead_lettered, backlog)| {
        let ended =
            Counters { delivered, filtered, expired, superseded, dead_lettered, ..Counters::default() };
        Counts { counters: Counters { read, reread, ..ended }, backlog }
    },
    |Counts { counters: c, backlog }: &Counts| {
        (c.read, c.reread, c.delivered, c.filtered, c.expired, c.superseded, c.dead_lettered, *backlog)
    }
);
stored_as_tuple!(
    Place,
    (u32, u64, u32, u32, u32, u64),
    |(segment, offset, length, checksum, rows, received)| {
        Place { segment, offset, length, checksum, rows, received }
    },
    |p: &Place| (p.segment, p.offset, p.length, p.checksum, p.rows, p.received)
);
stored_as_tuple!(
    SegmentRecord,
    (u64, u32, u64, u64, u64, u64),
    |(length, held, held_bytes, first, last, newest)| {
        SegmentRecord { length, held, held_bytes, first, last, newest }
    },
    |s: &SegmentRecord| (s.length, s.held, s.held_bytes, s.first, s.last, s.newest)
);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use redb::backends::InMemoryBackend;

    use super::*;

    /// The tables of format 1, as every released version has written them.
    #[allow(clippy::type_complexity)]
    const COUNTERS_AS_TUPLE: TableDefinition<u32, (u64, u64, u64, u64, u64, u64, u64, u64)> =
        TableDefinition::new("books");
    const CHUNKS_AS_TUPLE: TableDefinition<u64, (u32, u64, u32, u32, u32, u64)> =
        TableDefinition::new("chunks");
    const SEGMENTS_AS_TUPLE: TableDefinition<u32, (u64, u32, u64, u64, u64, u64)> =
        TableDefinition::new("segments");

    #[test]
    fn records_are_read_and_written_as_tuples() {
        let db = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let transaction = db.begin_write().unwrap();
        transaction.open_table(COUNTERS_AS_TUPLE).unwrap().insert(1, (1, 2, 3, 4, 5, 6, 7, 8)).unwrap();
        transaction.open_table(CHUNKS_AS_TUPLE).unwrap().insert(2, (1, 2, 3, 4, 5, 6)).unwrap();
        transaction.open_table(SEGMENTS_AS_TUPLE).unwrap().insert(3, (1, 2, 3, 4, 5, 6)).unwrap();
        transaction.commit().unwrap();
        let index = Index::new(db).unwrap();
        let tables = index.read().unwrap();
        let counts = tables.counts(StreamIndex(1)).unwrap();
        let numbers: Vec<_> = counts.counters(0, None).named().map(|(_, n)| n).collect();
        assert_eq!((numbers, counts.backlog), (vec![1, 3, 4, 5, 6, 7, 0, 2], 8));
        let place = tables.place(2).unwrap().unwrap();
        assert_eq!(place, Place { segment: 1, offset: 2, length: 3, checksum: 4, rows: 5, received: 6 });
        let (_, segment) = tables.segments().unwrap().remove(0);
        let expected = SegmentRecord { length: 1, held: 2, held_bytes: 3, first: 4, last: 5, newest: 6 };
        assert_eq!(segment, expected);
        drop(tables);
        let written = index.write(Durability::Immediate, |tables| {
            tables.set_counts(StreamIndex(9), &counts)?;
            tables.set_place(9, &place)?;
            tables.set_segment(9, &segment)
        });
        written.unwrap();
        let transaction = index.db.begin_read().unwrap();
        let counts = transaction.open_table(COUNTERS_AS_TUPLE).unwrap().get(9).unwrap().unwrap().value();
        assert_eq!(counts, (1, 2, 3, 4, 5, 6, 7, 8));
        let place = transaction.open_table(CHUNKS_AS_TUPLE).unwrap().get(9).unwrap().unwrap().value();
        assert_eq!(place, (1, 2, 3, 4, 5, 6));
        let segment = transaction.open_table(SEGMENTS_AS_TUPLE).unwrap().get(9).unwrap().unwrap().value();
        assert_eq!(segment, (1, 2, 3, 4, 5, 6));
    }
}
