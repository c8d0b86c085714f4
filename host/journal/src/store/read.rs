//! From the disk to the readers; damaged chunks are quarantined.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use message::{Message, unix_millis};
use redb::Durability;
use tracing::error;

use super::open::segment_name;
use super::{PART_OF_WAITING, ReadyBatch, Result, Rows, Source, Store, StoreError, pending};
use crate::chunk::{self, Item};
use crate::counters::Outcome;
use crate::index::{Place, Queue, Snapshot};
use crate::rows::Row;
use crate::types::{DeadLetter, Position, StreamIndex};

/// Rows that are read together, and messages that are enough.
const ROWS: usize = 64;
const MESSAGES: u64 = 1024;
/// Bytes of decoded chunks that are cached for other streams.
const CACHE_BYTES: usize = 16 * 1024 * 1024;
/// Given of a decoded message in addition to its bytes.
const ITEM_BYTES: usize = 128;

/// The chunks that were read most recently.
#[derive(Default)]
pub(super) struct Cache {
    chunks: HashMap<u64, (usize, Arc<[Item]>)>,
    /// Their numbers, in the order of reading.
    order: VecDeque<u64>,
    bytes: usize,
}

enum ReadError {
    /// The bytes are damaged.
    Damaged(String),
    /// Reading failed and may work later.
    Failed(StoreError),
}

impl Store {
    /// Reads on for streams that are behind and have room. Only a few rows of
    /// each: commits do not wait for long, and streams that are equally far
    /// behind find each other's chunks in the cache.
    pub(crate) fn read_on(&mut self) -> Result<Vec<ReadyBatch>> {
        let hungry: Vec<_> =
            self.streams.keys().filter_map(|index| Some((*index, self.hunger(*index)?))).collect();
        let mut ready = Vec::new();
        for (index, queue) in hungry {
            ready.extend(self.read_queue(index, queue)?);
        }
        Ok(ready)
    }

    /// Whether a stream is behind and has room.
    pub(crate) fn is_hungry(&self) -> bool {
        self.streams.keys().any(|index| self.hunger(*index).is_some())
    }

    /// The queue from which a stream is handed more. A rewind comes last.
    fn hunger(&self, index: StreamIndex) -> Option<Queue> {
        let stream = self.streams.get(&index).filter(|s| s.options.is_some())?;
        let queue = match (stream.live.behind, stream.rewind.behind) {
            (true, _) => Queue::Live,
            (false, true) => Queue::Rewind,
            (false, false) => return None,
        };
        // Not after each settled message.
        self.has_room(index, queue, 2 * self.part(index, queue)).then_some(queue)
    }

    /// Where live messages go first, the part of the stream's room that its
    /// backlog may use.
    fn part(&self, index: StreamIndex, queue: Queue) -> u64 {
        let live_first =
            self.streams.get(&index).and_then(|s| s.options.as_ref()).is_some_and(|o| o.live_first);
        if live_first && queue == Queue::Live { PART_OF_WAITING } else { 1 }
    }

    fn read_queue(&mut self, index: StreamIndex, queue: Queue) -> Result<Option<ReadyBatch>> {
        let part = self.part(index, queue);
        let mut messages = Vec::new();
        let Some(stream) = self.streams.get_mut(&index) else { return Ok(None) };
        let snapshot = self.index.read()?;
        let page = snapshot.rows_from(queue, index, stream.rows(queue).next, ROWS)?;
        let last = page.len() < ROWS;
        let mut whole = true;
        for (chunk, bits) in page {
            let enough = messages.len() as u64 >= MESSAGES || !self.has_room(index, queue, part);
            let Some(stream) = self.streams.get_mut(&index) else { return Ok(None) };
            let rows = stream.rows(queue);
            if enough {
                rows.waiting_since = snapshot.place(chunk)?.map(|p| p.received);
                whole = false;
                break;
            }
            rows.next = chunk + 1;
            if rows.loaded.contains_key(&chunk) {
                continue;
            }
            let row = Row::from_bytes(&bits);
            if let Some((place, items)) = self.chunk_or_damage(&snapshot, chunk)?
                && let Some(stream) = self.streams.get_mut(&index)
            {
                messages.extend(pending(chunk, &row, &items, queue, stream.conflates()));
                stream.load(queue, chunk, row, place.received);
            }
        }
        if last
            && whole
            && let Some(stream) = self.streams.get_mut(&index)
        {
            let Rows { behind, waiting_since, .. } = stream.rows(queue);
            *behind = false;
            *waiting_since = None;
        }
        let source = match queue {
            Queue::Live => Source::Backlog,
            Queue::Rewind => Source::Rewind,
        };
        Ok((!messages.is_empty()).then_some(ReadyBatch { stream: index, source, messages }))
    }

    /// The messages of a chunk; none if it was damaged, which is handled here.
    pub(super) fn chunk_or_damage(
        &mut self,
        snapshot: &Snapshot,
        chunk: u64,
    ) -> Result<Option<(Place, Arc<[Item]>)>> {
        let Some(place) = snapshot.place(chunk)? else { return Ok(None) };
        match self.chunk(chunk, &place) {
            Ok(items) => Ok(Some((place, items))),
            Err(ReadError::Damaged(reason)) => {
                self.damaged(chunk, &place, &reason)?;
                Ok(None)
            }
            Err(ReadError::Failed(error)) => Err(error),
        }
    }

    fn chunk(&mut self, chunk: u64, place: &Place) -> Result<Arc<[Item]>, ReadError> {
        if let Some(items) = self.cache.get(chunk) {
            return Ok(items);
        }
        let bytes = self.chunk_bytes(place)?;
        if crc32fast::hash(&bytes) != place.checksum {
            return Err(ReadError::Damaged("its checksum is wrong".to_owned()));
        }
        let items = chunk::decode(chunk, &bytes).map_err(|damage| ReadError::Damaged(damage.0))?;
        let items: Arc<[Item]> = items.into();
        self.cache.keep(chunk, bytes.len(), items.clone());
        Ok(items)
    }

    fn chunk_bytes(&mut self, place: &Place) -> Result<Bytes, ReadError> {
        let name = segment_name(place.segment);
        let read = self.file(place.segment).and_then(|file| {
            let mut bytes = vec![0; place.length as usize];
            file.read_at(place.offset, &mut bytes)?;
            Ok(Bytes::from(bytes))
        });
        read.map_err(|error| {
            use std::io::ErrorKind::{NotFound, UnexpectedEof};
            // 5 is EIO: the medium has lost these bytes.
            if matches!(error.kind(), NotFound | UnexpectedEof) || error.raw_os_error() == Some(5) {
                ReadError::Damaged(format!("{name}: {error}"))
            } else {
                ReadError::Failed(self.file_error(&name)(error))
            }
        })
    }

    /// Handles a damaged chunk: quarantines its bytes and ends its messages as
    /// dead letters. Each stream gets one letter for all of them, because their
    /// content is lost.
    pub(super) fn damaged(&mut self, chunk: u64, place: &Place, reason: &str) -> Result<()> {
        let name = segment_name(place.segment);
        let aside = format!("quarantine/chunk-{chunk}");
        if let Ok(bytes) = self.chunk_bytes(place) {
            let failed = self.file_error(&aside);
            let copied = self.disk.create(&aside).and_then(|file| {
                file.write_at(0, &bytes)?;
                file.sync()
            });
            // A full disk must not stop the rest.
            if let Err(error) = copied.map_err(failed) {
                error!(chunk, %error, "cannot quarantine a damaged chunk");
            }
        }
        let file = self.disk.path(&name);
        error!(
            chunk,
            file,
            offset = place.offset,
            bytes = place.length,
            reason,
            "a part of the journal is damaged"
        );
        metrics::counter!("sluicegate_journal_damaged_total").increment(1);
        let reason = format!(
            "the journal is damaged: chunk {chunk} in {file} at {} ({} bytes): {reason}; its remains are in {}",
            place.offset,
            place.length,
            self.disk.path(&aside)
        );
        let index = self.durable_index()?;
        let streams: Vec<StreamIndex> = self.streams.keys().copied().collect();
        index.write(Durability::Immediate, |tables| {
            for number in streams {
                for queue in [Queue::Live, Queue::Rewind] {
                    let Some(bits) = tables.row(queue, number, chunk)? else { continue };
                    let Some(stream) = self.streams.get_mut(&number) else { continue };
                    // The lanes have the messages that were handed out.
                    if stream.rows(queue).loaded.contains_key(&chunk) {
                        continue;
                    }
                    let row = Row::from_bytes(&bits);
                    let messages = u64::from(row.len());
                    stream.ended(messages, row.mean);
                    stream.counts.count(Outcome::DeadLettered, messages);
                    let letter = DeadLetter {
                        position: Position { chunk, index: row.iter().next().unwrap_or(0) },
                        at: unix_millis(),
                        reason: format!("{messages} messages are lost: {reason}"),
                        script: String::new(),
                        message: Message {
                            topic: "".into(),
                            payload: Bytes::new(),
                            received_at: place.received,
                        },
                        delivery: None,
                        reply: None,
                    };
                    self.keep_letter(tables, number, &letter)?;
                    self.put_row(tables, queue, number, chunk, &Row::default())?;
                }
            }
            self.write_back(tables)
        })?;
        Ok(())
    }
}

impl Cache {
    fn get(&self, chunk: u64) -> Option<Arc<[Item]>> {
        self.chunks.get(&chunk).map(|(_, items)| items.clone())
    }

    fn keep(&mut self, chunk: u64, bytes: usize, items: Arc<[Item]>) {
        let bytes = bytes + items.len() * ITEM_BYTES;
        if self.chunks.insert(chunk, (bytes, items)).is_none() {
            self.order.push_back(chunk);
            self.bytes += bytes;
        }
        while self.bytes > CACHE_BYTES
            && let Some(first) = self.order.pop_front()
        {
            self.bytes -= self.chunks.remove(&first).map_or(0, |(bytes, _)| bytes);
        }
    }
}
