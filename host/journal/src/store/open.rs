//! Opening: everything that the index names exists, or is reported as damaged.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use message::unix_millis;
use redb::Durability;
use tracing::error;

use super::read::Cache;
use super::{Options, ReadyBatch, Result, Rows, Segment, Source, Store, StoreError, Stream, pending};
use crate::disk::Disk;
use crate::index::{FORMAT, Index, Queue, Snapshot};
use crate::rows::Row;
use crate::types::{Position, Settlement, StreamIndex, StreamQuota};

const INDEX: &str = "index.redb";
/// Given that redb may use as a cache.
const INDEX_CACHE: usize = 32 * 1024 * 1024;

/// Why the journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{path} is in use by another process: each gateway needs its own data folder")]
    InUse {
        /// The index.
        path: String,
    },
    /// A newer version of the gateway has written it.
    #[error(
        "{path} has format {found}, which is newer than this version knows ({FORMAT}): use the version that wrote it"
    )]
    Newer {
        /// The index.
        path: String,
        /// Its format.
        found: u64,
    },
    /// The disk has failed.
    #[error("the journal cannot be opened: {0}")]
    Failed(String),
}

/// The messages that readers had when a store was closed.
#[derive(Debug)]
pub(crate) struct Given {
    /// The rows of both queues of each stream.
    given: HashMap<StreamIndex, [BTreeMap<u64, Row>; 2]>,
    next_chunk: u64,
    next_letter: u64,
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<redb::Error> for OpenError {
    fn from(error: redb::Error) -> Self {
        StoreError::from(error).into()
    }
}

impl Store {
    /// Opens or creates the journal for these streams.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        options: Options,
        streams: &[StreamQuota],
    ) -> Result<Self, OpenError> {
        let index = open_index(&*disk)?;
        let snapshot = index.read()?;
        let found = snapshot.number("format")?;
        if let Some(found) = found.filter(|found| *found > FORMAT) {
            return Err(OpenError::Newer { path: disk.path(INDEX), found });
        }
        if found.is_none() && disk.list().map_err(|e| io_failed(&*disk, e))?.iter().any(|n| is_segment(n)) {
            quarantine(&*disk, &"it does not exist", is_segment)?;
        }
        let number = |word| Ok::<u64, OpenError>(snapshot.number(word)?.unwrap_or(0));
        let id = match snapshot.meta.get("id").map_err(redb::Error::from)? {
            Some(id) => <[u8; 16]>::try_from(id.value()).ok(),
            None => None,
        };
        let mut store = Self {
            next_chunk: number("next_chunk")?,
            next_letter: number("next_letter")?,
            next_segment: u32::try_from(number("next_segment")?).unwrap_or(u32::MAX),
            next_stream: u32::try_from(number("next_stream")?).unwrap_or(u32::MAX),
            shares: 0,
            letter_bytes: number("letter_bytes")?,
            id: id.unwrap_or_else(|| fastrand::u128(..).to_le_bytes()),
            disk,
            options,
            index: Arc::new(index),
            streams: BTreeMap::new(),
            segments: BTreeMap::new(),
            files: HashMap::new(),
            current: None,
            unsynced: false,
            dirty_rows: Vec::new(),
            cache: Cache::default(),
        };
        store.load(&snapshot)?;
        drop(snapshot);
        store.set_streams(streams)?;
        store.log_detached();
        store.forget_detached(unix_millis())?;
        store.clear_leftovers()?;
        store.find_damage()?;
        Ok(store)
    }

    /// Closes the files. The rest tells which messages readers have.
    pub(crate) fn into_given(self) -> Given {
        let rows = |rows: Rows| rows.loaded.into_iter().map(|(c, l)| (c, l.row)).collect();
        Given {
            given: self.streams.into_iter().map(|(i, s)| (i, [rows(s.live), rows(s.rewind)])).collect(),
            next_chunk: self.next_chunk,
            next_letter: self.next_letter,
        }
    }

    /// Continues where the closed store had stopped: readers do not get again
    /// the messages that they have. `unsettled` may be missing in the index;
    /// the caller commits it again. Messages that are pending again because a
    /// commit was lost are handed out again, here or later by reading on; the
    /// position of a reader says nothing about rows that have come back.
    pub(crate) fn resume(
        &mut self,
        memory: &Given,
        unsettled: &[(StreamIndex, Settlement)],
    ) -> Result<Vec<ReadyBatch>> {
        let ended: HashSet<(StreamIndex, Position)> =
            unsettled.iter().flat_map(|(i, s)| s.ended.iter().map(|(p, _)| (*i, *p))).collect();
        let snapshot = self.index.read()?;
        let mut ready = Vec::new();
        // The numbers of a lost commit are not reused: readers may still settle
        // messages under them.
        self.next_chunk = self.next_chunk.max(memory.next_chunk);
        self.next_letter = self.next_letter.max(memory.next_letter);
        for (&index, queues) in &memory.given {
            if self.streams.get(&index).is_none_or(|s| s.options.is_none()) {
                // Its file is gone, and with it its reader.
                continue;
            }
            for (queue, loaded) in [Queue::Live, Queue::Rewind].into_iter().zip(queues) {
                let mut lost = Vec::new();
                for (&chunk, had) in loaded {
                    let Some(bits) = snapshot.row(queue, index, chunk)? else { continue };
                    let row = Row::from_bytes(&bits);
                    let Some((place, items)) = self.chunk_or_damage(&snapshot, chunk)? else { continue };
                    let mut again = Row::default();
                    row.iter()
                        .filter(|i| {
                            !had.contains(*i) && !ended.contains(&(index, Position { chunk, index: *i }))
                        })
                        .for_each(|i| again.insert(i));
                    if let Some(stream) = self.streams.get_mut(&index) {
                        lost.extend(pending(chunk, &again, &items, queue, stream.conflates()));
                        stream.load(queue, chunk, row, place.received);
                    }
                }
                if !lost.is_empty() {
                    ready.push(ReadyBatch { stream: index, source: Source::Backlog, messages: lost });
                }
            }
        }
        Ok(ready)
    }

    /// Reads streams and segments from the index.
    fn load(&mut self, snapshot: &Snapshot) -> Result<(), OpenError> {
        for (segment, record) in snapshot.segments()? {
            self.segments.insert(segment, Segment { record, dirty: false, damaged: false });
        }
        // Counted from the bits, not computed from the counters, because the
        // check compares the two. 0.1 s for a million rows.
        let mut queued: HashMap<StreamIndex, u64> = HashMap::new();
        for queue in [Queue::Live, Queue::Rewind] {
            snapshot.each_row(queue, |stream, _, bits| {
                *queued.entry(stream).or_default() += Row::count(bits);
            })?;
        }
        for (name, record) in snapshot.streams()? {
            let counts = snapshot.counts(StreamIndex(record.index))?;
            let stream = Stream {
                name,
                counts,
                queued: queued.remove(&StreamIndex(record.index)).unwrap_or(0),
                options: None,
                live: Rows::on_the_disk(),
                rewind: Rows::on_the_disk(),
                dirty: false,
                record,
            };
            self.streams.insert(StreamIndex(stream.record.index), stream);
        }
        Ok(())
    }

    /// Removes segment files that the index does not name: an unfinished commit
    /// has left them.
    fn clear_leftovers(&mut self) -> Result<()> {
        let names = self.disk.list().map_err(self.file_error(""))?;
        for name in names {
            let Some(segment) = name.strip_suffix(".seg").and_then(|n| n.parse::<u32>().ok()) else {
                continue;
            };
            if !self.segments.contains_key(&segment) {
                self.disk.remove(&name).map_err(self.file_error(&name))?;
            }
            self.next_segment = self.next_segment.max(segment.saturating_add(1));
        }
        Ok(())
    }

    /// Checks that each segment exists and is long enough.
    fn find_damage(&mut self) -> Result<()> {
        let short: Vec<u32> = self
            .segments
            .iter()
            .filter(|(number, segment)| self.disk.size(&segment_name(**number)) < segment.record.length)
            .map(|(number, _)| *number)
            .collect();
        for number in short {
            let Some(segment) = self.segments.get(&number).copied() else { continue };
            let name = segment_name(number);
            let there = self.disk.size(&name);
            error!(
                file = self.disk.path(&name),
                bytes = there,
                expected = segment.record.length,
                "a segment of the journal is missing or cut off"
            );
            let index = self.index.clone();
            let places = index.write(Durability::Immediate, |t| t.places_in(number, &segment.record))?;
            for (chunk, place) in places {
                if place.offset + u64::from(place.length) > there {
                    self.damaged(chunk, &place, &format!("{name} has only {there} bytes"))?;
                }
            }
            if let Some(segment) = self.segments.get_mut(&number) {
                // Nothing is written behind a damaged end.
                segment.record.length = there;
                segment.dirty = true;
            }
            if there == 0 {
                // Its file does not exist.
                self.forget_segment(number)?;
            }
        }
        Ok(())
    }
}

pub(super) fn segment_name(segment: u32) -> String {
    format!("{segment:08}.seg")
}

/// Opens the index. A damaged one is quarantined together with the segments:
/// without it no segment can be used. The gateway continues with an empty
/// journal and logs an error.
fn open_index(disk: &dyn Disk) -> Result<Index, OpenError> {
    match try_index(disk) {
        Err(redb::Error::DatabaseAlreadyOpen) => Err(OpenError::InUse { path: disk.path(INDEX) }),
        Err(
            damage @ (redb::Error::Corrupted(_)
            | redb::Error::UpgradeRequired(_)
            | redb::Error::RepairAborted
            | redb::Error::TableTypeMismatch { .. }),
        ) => {
            quarantine(disk, &damage, |name| name == INDEX || is_segment(name))?;
            Ok(try_index(disk)?)
        }
        Err(redb::Error::Io(io)) if io.kind() == std::io::ErrorKind::InvalidData => {
            quarantine(disk, &io, |name| name == INDEX || is_segment(name))?;
            Ok(try_index(disk)?)
        }
        other => Ok(other?),
    }
}

fn try_index(disk: &dyn Disk) -> Result<Index, redb::Error> {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(INDEX_CACHE);
    Index::new(disk.database(builder, INDEX)?)
}

fn is_segment(name: &str) -> bool {
    name.ends_with(".seg")
}

fn io_failed(disk: &dyn Disk, error: std::io::Error) -> OpenError {
    OpenError::Failed(format!("{}: {error}", disk.path("")))
}

fn quarantine(
    disk: &dyn Disk,
    damage: &dyn std::fmt::Display,
    goes: impl Fn(&str) -> bool,
) -> Result<(), OpenError> {
    let folder = format!("quarantine/{}", unix_millis());
    let failed = |e: std::io::Error| OpenError::Failed(format!("{}: {e}", disk.path(&folder)));
    let mut segments = 0;
    for name in disk.list().map_err(failed)? {
        if goes(&name) {
            segments += usize::from(name != INDEX);
            disk.rename(&name, &format!("{folder}/{name}")).map_err(failed)?;
        }
    }
    disk.sync().map_err(failed)?;
    error!(
        %damage,
        segments,
        aside = disk.path(&folder),
        "the index of the journal is damaged: index and segments are quarantined, and the gateway continues without the queued messages"
    );
    metrics::counter!("sluicegate_journal_damaged_total").increment(1);
    Ok(())
}
