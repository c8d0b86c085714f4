//! From the disk to the readers; what cannot be read is put aside.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use redb::Durability;
use tracing::error;

use super::open::segment_name;
use super::{Handed, Lot, Result, Rows, Store, StoreError, pending};
use crate::bus::{Message, unix_millis};
use crate::journal::chunk::{self, Item};
use crate::journal::index::{Place, Queue, Snapshot};
use crate::journal::rows::Row;
use crate::journal::{DeadLetter, Outcome, Position, StreamIndex};

/// Rows that are looked at together, and messages after which it is enough.
const ROWS: usize = 64;
const MESSAGES: u64 = 1024;
/// Bytes of decoded chunks that are kept for the other streams.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// The chunks that were read last.
#[derive(Default)]
pub(super) struct Cache {
    chunks: VecDeque<(u64, usize, Arc<[Item]>)>,
    bytes: usize,
}

enum ReadError {
    /// These are not the bytes that were written.
    Damaged(String),
    /// The disk may give them another time.
    Failed(StoreError),
}

impl Store {
    /// Reads on for streams that are behind and have room.
    pub(in crate::journal) fn read_on(&mut self) -> Result<Vec<Handed>> {
        let room = self.room_of_one();
        let hungry: Vec<u32> = self
            .streams
            .iter()
            .filter(|(_, s)| s.options.is_some() && (s.live.behind || s.again.behind) && s.has_room(room / 2))
            .map(|(index, _)| *index)
            .collect();
        let mut handed = Vec::new();
        for index in hungry {
            handed.extend(self.read_queue(index, Queue::Live, Lot::Waited)?);
            // What a rewind asks for goes behind everything else.
            let again = self.streams.get(&index).is_some_and(|s| !s.live.behind && s.again.behind);
            if again {
                handed.extend(self.read_queue(index, Queue::Again, Lot::Again)?);
            }
        }
        Ok(handed)
    }

    fn read_queue(&mut self, index: u32, queue: Queue, lot: Lot) -> Result<Option<Handed>> {
        let room = self.room_of_one();
        let mut messages = Vec::new();
        'pages: loop {
            let Some(stream) = self.streams.get_mut(&index) else { return Ok(None) };
            if !stream.rows(queue).behind {
                break;
            }
            let snapshot = self.index.read()?;
            let page = snapshot.rows_from(queue, index, stream.rows(queue).next, ROWS)?;
            let last = page.len() < ROWS;
            for (chunk, bits) in page {
                let Some(stream) = self.streams.get_mut(&index) else { return Ok(None) };
                if messages.len() as u64 >= MESSAGES || !stream.has_room(room) {
                    let rows = stream.rows(queue);
                    rows.waiting_since = snapshot.place(chunk)?.map(|p| p.received);
                    break 'pages;
                }
                stream.rows(queue).next = chunk + 1;
                if stream.rows(queue).loaded.contains_key(&chunk) {
                    continue;
                }
                let row = Row::from_bytes(&bits);
                if let Some((place, items)) = self.chunk_or_damage(&snapshot, chunk)?
                    && let Some(stream) = self.streams.get_mut(&index)
                {
                    messages.extend(pending(chunk, &row, &items, queue));
                    stream.load(queue, chunk, row, place.mean, place.received);
                }
            }
            if last {
                if let Some(stream) = self.streams.get_mut(&index) {
                    let Rows { behind, waiting_since, .. } = stream.rows(queue);
                    *behind = false;
                    *waiting_since = None;
                }
                break;
            }
        }
        Ok((!messages.is_empty()).then_some(Handed { stream: StreamIndex(index), lot, messages }))
    }

    /// The messages of a chunk; none where they are damaged, which has then
    /// been dealt with.
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

    /// A chunk whose bytes are not what was written: what is there is put
    /// aside, and each stream's messages of it end as dead letters, one entry
    /// for all of them, since nobody knows any more what they said.
    pub(super) fn damaged(&mut self, chunk: u64, place: &Place, reason: &str) -> Result<()> {
        let name = segment_name(place.segment);
        let aside = format!("quarantine/chunk-{chunk}");
        if let Ok(bytes) = self.chunk_bytes(place) {
            let failed = self.file_error(&aside);
            let copied = self.disk.create(&aside).and_then(|file| {
                file.write_at(0, &bytes)?;
                file.sync()
            });
            copied.map_err(failed)?;
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
            "the journal is damaged: chunk {chunk} in {file} at {} ({} bytes): {reason}; what is left of it is in {}",
            place.offset,
            place.length,
            self.disk.path(&aside)
        );
        let index = self.index.clone();
        let streams: Vec<u32> = self.streams.keys().copied().collect();
        index.write(Durability::Immediate, |tables| {
            for number in streams {
                for queue in [Queue::Live, Queue::Again] {
                    let Some(bits) = tables.row(queue, number, chunk)? else { continue };
                    let Some(stream) = self.streams.get_mut(&number) else { continue };
                    // Those that were handed out before live in the lanes.
                    if stream.rows(queue).loaded.contains_key(&chunk) {
                        continue;
                    }
                    let row = Row::from_bytes(&bits);
                    let messages = u64::from(row.len());
                    stream.ended(messages, place.mean);
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
                    self.keep_letter(tables, StreamIndex(number), &letter)?;
                    self.put_row(tables, queue, number, chunk, &Row::default())?;
                }
            }
            self.write_back(tables)
        })?;
        Ok(())
    }
}

// === impl Cache ===

impl Cache {
    fn get(&self, chunk: u64) -> Option<Arc<[Item]>> {
        self.chunks.iter().find(|(number, _, _)| *number == chunk).map(|(_, _, items)| items.clone())
    }

    fn keep(&mut self, chunk: u64, bytes: usize, items: Arc<[Item]>) {
        self.chunks.push_back((chunk, bytes, items));
        self.bytes += bytes;
        while self.bytes > CACHE_BYTES
            && let Some((_, bytes, _)) = self.chunks.pop_front()
        {
            self.bytes -= bytes;
        }
    }
}
