//! One commit: new messages, settlements and quotas in one transaction.

use std::collections::BTreeMap;
use std::time::Instant;

use redb::Durability;

use super::{Batch, ReadyBatch, Result, Source, Store, Work, pending};
use crate::chunk::{self, Item};
use crate::counters::Outcome;
use crate::index::{self, Place, Queue, Writes};
use crate::letter;
use crate::policy::{ENOUGH_BYTES, ENOUGH_MESSAGES};
use crate::rows::Row;
use crate::types::{DeadLetter, OnFull, Position, Settlement, StreamIndex};

/// A chunk that is in its segment and not in the index yet.
struct Laid {
    chunk: u64,
    place: Place,
    items: Vec<Item>,
    rows: BTreeMap<StreamIndex, Row>,
    newest: u64,
    reread: bool,
}

impl Store {
    /// Makes all of `work` durable (with `durable` false: at the next durable
    /// commit) and returns the messages that readers get at once. After an
    /// error the outcome is unknown and the store has to be opened again.
    pub(crate) fn commit(&mut self, work: &Work, durable: bool) -> Result<Vec<ReadyBatch>> {
        let started = Instant::now();
        let laid = self.lay_down(&work.batches)?;
        if durable {
            self.sync_segments()?;
        }
        let durability = if durable { Durability::Immediate } else { Durability::None };
        let index = self.index.clone();
        index.write(durability, |tables| {
            for laid in &laid {
                self.enter(tables, laid)?;
            }
            for (stream, settlement) in &work.settlements {
                self.settle(tables, *stream, settlement)?;
            }
            for id in &work.drop_letters {
                self.drop_letter(tables, *id)?;
            }
            self.enforce_quotas(tables)?;
            self.write_back(tables)
        })?;
        metrics::histogram!("sluicegate_journal_commit_seconds").record(started.elapsed().as_secs_f64());
        Ok(laid.iter().flat_map(|laid| self.hand_out(laid)).collect())
    }

    /// Writes the messages to the end of the current segment.
    fn lay_down(&mut self, batches: &[Batch]) -> Result<Vec<Laid>> {
        let mut laid = Vec::new();
        let mut batches = batches.iter().filter(|b| !b.items.is_empty()).peekable();
        while let Some(first) = batches.next() {
            let mut items: Vec<Item> = Vec::new();
            let mut rows: BTreeMap<StreamIndex, (Row, usize)> = BTreeMap::new();
            let mut bytes = 0;
            let mut add = |batch: &Batch| {
                for (item, streams) in &batch.items {
                    let number = u32::try_from(items.len()).unwrap_or(u32::MAX);
                    for stream in streams {
                        let (row, bytes) = rows.entry(*stream).or_default();
                        row.insert(number);
                        *bytes += item.message.size();
                    }
                    bytes += item.message.size();
                    items.push(item.clone());
                }
                (items.len(), bytes)
            };
            let mut sum = add(first);
            while let Some(next) = batches.next_if(|next| {
                next.reread == first.reread
                    && sum.0 + next.items.len() <= ENOUGH_MESSAGES
                    && sum.1 + next.bytes() <= ENOUGH_BYTES
            }) {
                sum = add(next);
            }
            // Unknown streams get nothing.
            rows.retain(|stream, _| self.streams.contains_key(stream));
            let weighed = rows.into_iter().map(|(stream, (mut row, bytes))| {
                row.weigh(bytes);
                (stream, row)
            });
            let rows: BTreeMap<StreamIndex, Row> = weighed.collect();
            let chunk = self.next_chunk;
            self.next_chunk += 1;
            let frame = chunk::encode(chunk, &items);
            let (segment, offset) = self.write_segment(&frame)?;
            let received = items.iter().map(|i| i.message.received_at).min().unwrap_or(0);
            let newest = items.iter().map(|i| i.message.received_at).max().unwrap_or(0);
            let place = Place {
                segment,
                offset,
                length: u32::try_from(frame.len()).unwrap_or(u32::MAX),
                checksum: crc32fast::hash(&frame),
                rows: u32::try_from(rows.len()).unwrap_or(u32::MAX),
                received,
            };
            laid.push(Laid { chunk, place, items, rows, newest, reread: first.reread });
        }
        Ok(laid)
    }

    /// Writes a chunk and its rows into the index.
    fn enter(&mut self, tables: &mut Writes<'_>, laid: &Laid) -> index::Result<()> {
        let Laid { chunk, place, rows, .. } = laid;
        tables.set_place(*chunk, place)?;
        self.chunk_added(*chunk, place, laid.newest);
        for (index, row) in rows {
            let Some(stream) = self.streams.get_mut(index) else { continue };
            tables.set_row(Queue::Live, *index, *chunk, &row.to_bytes())?;
            stream.begun(row.len().into(), row.mean, laid.reread);
        }
        Ok(())
    }

    fn settle(
        &mut self,
        tables: &mut Writes<'_>,
        index: StreamIndex,
        settlement: &Settlement,
    ) -> index::Result<()> {
        if !self.streams.contains_key(&index) {
            return Ok(());
        }
        let mut buried: Vec<Position> = Vec::new();
        for (position, outcome) in &settlement.ended {
            if self.clear(tables, index, *position)? {
                if let Some(stream) = self.streams.get_mut(&index) {
                    stream.counts.count(*outcome, 1);
                }
                if *outcome == Outcome::DeadLettered {
                    buried.push(*position);
                }
            }
        }
        buried.sort_unstable();
        // A letter is useless if its message had ended before.
        for letter in &settlement.dead_letters {
            if buried.binary_search(&letter.position).is_ok() {
                self.keep_letter(tables, index, letter)?;
            }
        }
        for (key, value) in &settlement.state {
            match value {
                Some(value) => tables.state.insert((index.0, key.as_str()), &**value)?,
                None => tables.state.remove((index.0, key.as_str()))?,
            };
        }
        Ok(())
    }

    /// Clears the pending bit of a message in either queue. False: it was not
    /// pending.
    fn clear(
        &mut self,
        tables: &mut Writes<'_>,
        index: StreamIndex,
        position: Position,
    ) -> index::Result<bool> {
        let Position { chunk, index: number } = position;
        let Some(stream) = self.streams.get_mut(&index) else { return Ok(false) };
        for queue in [Queue::Live, Queue::Rewind] {
            if let Some(loaded) = stream.rows(queue).loaded.get_mut(&chunk) {
                if loaded.row.remove(number) {
                    if !std::mem::replace(&mut loaded.dirty, true) {
                        self.dirty_rows.push((queue, index, chunk));
                    }
                    let mean = loaded.row.mean;
                    stream.unload(queue, mean);
                    stream.ended(1, mean);
                    return Ok(true);
                }
                continue;
            }
            let Some(bits) = tables.row(queue, index, chunk)? else { continue };
            let mut row = Row::from_bytes(&bits);
            if row.remove(number) {
                stream.ended(1, row.mean);
                self.put_row(tables, queue, index, chunk, &row)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes a row back. An empty row is removed and its chunk released.
    pub(super) fn put_row(
        &mut self,
        tables: &mut Writes<'_>,
        queue: Queue,
        stream: StreamIndex,
        chunk: u64,
        row: &Row,
    ) -> index::Result<()> {
        if row.is_empty() {
            tables.forget_row(queue, stream, chunk)?;
            self.release(tables, chunk)
        } else {
            tables.set_row(queue, stream, chunk, &row.to_bytes())
        }
    }

    /// Expires the oldest messages of streams that exceed their quota, except
    /// those that were handed out. Messages of a rewind go first: they were
    /// delivered once.
    fn enforce_quotas(&mut self, tables: &mut Writes<'_>) -> index::Result<()> {
        let over: Vec<StreamIndex> = self
            .streams
            .iter()
            .filter(|(_, s)| {
                s.options.as_ref().is_some_and(|o| {
                    o.quota.on_full == OnFull::ExpireOldest && s.counts.backlog > o.quota.max_backlog
                })
            })
            .map(|(index, _)| *index)
            .collect();
        for index in over {
            self.expire_oldest(tables, Queue::Rewind, index)?;
            self.expire_oldest(tables, Queue::Live, index)?;
        }
        Ok(())
    }

    fn expire_oldest(
        &mut self,
        tables: &mut Writes<'_>,
        queue: Queue,
        index: StreamIndex,
    ) -> index::Result<()> {
        loop {
            let Some(stream) = self.streams.get_mut(&index) else { return Ok(()) };
            let limit = stream.options.as_ref().map_or(u64::MAX, |o| o.quota.max_backlog);
            // Handed out messages are on their way. The rest waits on the disk
            // from `next` on, or is of this commit.
            let oldest = tables.rows_from(queue, index, stream.rows(queue).next, 16)?;
            stream.rows(queue).waiting_since = match oldest.first() {
                Some((chunk, _)) => tables.place(*chunk)?.map(|p| p.received),
                None => None,
            };
            if oldest.is_empty() || stream.counts.backlog <= limit {
                return Ok(());
            }
            for (chunk, bits) in oldest {
                let Some(stream) = self.streams.get_mut(&index) else { return Ok(()) };
                if stream.counts.backlog <= limit {
                    break;
                }
                let rows = stream.rows(queue);
                rows.next = chunk + 1;
                if rows.loaded.contains_key(&chunk) {
                    continue;
                }
                let row = Row::from_bytes(&bits);
                let messages = u64::from(row.len());
                stream.ended(messages, row.mean);
                stream.counts.count(Outcome::Expired, messages);
                self.put_row(tables, queue, index, chunk, &Row::default())?;
            }
        }
    }

    /// Writes everything that has changed in memory since the last commit.
    pub(super) fn write_back(&mut self, tables: &mut Writes<'_>) -> index::Result<()> {
        for (queue, index, chunk) in std::mem::take(&mut self.dirty_rows) {
            let Some(stream) = self.streams.get_mut(&index) else { continue };
            let Some(loaded) = stream.rows(queue).loaded.get_mut(&chunk) else { continue };
            loaded.dirty = false;
            let row = loaded.row.clone();
            if row.is_empty() {
                stream.rows(queue).loaded.remove(&chunk);
            }
            self.put_row(tables, queue, index, chunk, &row)?;
        }
        for (index, stream) in &mut self.streams {
            if std::mem::take(&mut stream.dirty) {
                tables.set_counts(*index, &stream.counts)?;
            }
        }
        for (number, segment) in &mut self.segments {
            if std::mem::take(&mut segment.dirty) {
                tables.set_segment(*number, &segment.record)?;
            }
        }
        tables.set_number("next_chunk", self.next_chunk)?;
        tables.set_number("next_segment", self.next_segment.into())?;
        Ok(())
    }

    /// The messages of a new chunk that go to readers directly.
    fn hand_out(&mut self, laid: &Laid) -> Vec<ReadyBatch> {
        let mut ready = Vec::new();
        for (index, row) in &laid.rows {
            let has_room = self.has_room(*index, Queue::Live, 1);
            let Some(stream) = self.streams.get_mut(index) else { continue };
            let live_first = stream.options.as_ref().is_some_and(|o| o.live_first);
            // A very small quota has expired it at once.
            if laid.chunk < stream.live.next {
                continue;
            }
            if stream.options.is_none() || !has_room || (stream.live.behind && !live_first) {
                if !stream.live.behind {
                    stream.live.behind = true;
                    stream.live.waiting_since = Some(laid.place.received);
                }
                continue;
            }
            stream.load(Queue::Live, laid.chunk, row.clone(), laid.place.received);
            if !stream.live.behind {
                stream.live.next = laid.chunk + 1;
            }
            // Most messages will be superseded; the rest stays in memory.
            let few = stream.conflates();
            let messages = pending(laid.chunk, row, &laid.items, Queue::Live, few);
            ready.push(ReadyBatch { stream: *index, source: Source::Live, messages });
        }
        ready
    }

    /// Stores a dead letter.
    pub(super) fn keep_letter(
        &mut self,
        tables: &mut Writes<'_>,
        stream: StreamIndex,
        letter: &DeadLetter,
    ) -> index::Result<()> {
        let id = self.next_letter;
        self.next_letter += 1;
        let bytes = letter::encode(stream, letter);
        self.letter_bytes += bytes.len() as u64;
        tables.dead_letters.insert(id, bytes.as_slice())?;
        tables.set_number("next_letter", self.next_letter)?;
        tables.set_number("letter_bytes", self.letter_bytes)
    }
}

impl Batch {
    pub(crate) fn bytes(&self) -> usize {
        self.items.iter().map(|(item, _)| item.message.size()).sum()
    }
}
