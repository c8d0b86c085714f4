//! Segment files: where the next chunk goes, and when a file is removed.

use std::io;
use std::sync::Arc;

use message::unix_millis;
use redb::Durability;
use tracing::{info, warn};

use super::open::segment_name;
use super::{Result, Segment, Store};
use crate::counters;
use crate::disk::DiskFile;
use crate::index::{self, Index, Place, Queue, SegmentRecord, Writes};
use crate::rows::Row;
use crate::types::StreamIndex;

/// When space runs short, a segment is rewritten if less than one in so many of
/// its bytes is pending.
const SPARSE: u64 = 2;

impl Store {
    /// Bytes on the disk.
    pub(crate) fn used(&self) -> u64 {
        let segments: u64 = self.segments.values().map(|s| s.record.length).sum();
        segments + self.disk.size("index.redb")
    }

    /// Bytes that may still be appended. A reserve is left in which settlements
    /// always fit: they make room.
    pub(crate) fn room(&self) -> u64 {
        let reserve = (self.options.max_size / 20).max(1024 * 1024).min(self.options.max_size / 4);
        self.options.max_size.saturating_sub(reserve).saturating_sub(self.used())
    }

    /// Makes room for so many bytes, if possible: first removes segments that
    /// are only kept for rewinds, then rewrites mostly settled ones.
    pub(crate) fn make_room(&mut self, wanted: u64) -> Result<()> {
        if self.room() < wanted {
            self.remove_settled(u64::MAX, wanted)?;
        }
        while self.room() < wanted {
            let sparse = self.segments.iter().filter(|(number, s)| {
                Some(**number) != self.current && !s.damaged && s.record.held_bytes * SPARSE < s.record.length
            });
            let Some((number, _)) = sparse.min_by_key(|(_, s)| s.record.held_bytes) else { break };
            let number = *number;
            self.rewrite(number)?;
        }
        Ok(())
    }

    /// Removes settled segments that are older than `keep`, and streams that
    /// were detached for too long.
    pub(crate) fn sweep(&mut self) -> Result<()> {
        let keep = u64::try_from(self.options.keep.as_millis()).unwrap_or(u64::MAX);
        let now = unix_millis();
        if let Some(current) = self.current
            && self
                .segments
                .get(&current)
                .is_some_and(|s| s.record.held == 0 && s.record.newest.saturating_add(keep) < now)
        {
            self.current = None;
        }
        self.remove_settled(now.saturating_sub(keep), u64::MAX)?;
        self.forget_detached(now)
    }

    /// Removes settled segments whose messages are all older than `before`,
    /// oldest first, until there is room for `wanted` bytes.
    fn remove_settled(&mut self, before: u64, wanted: u64) -> Result<()> {
        for number in self.settled(before) {
            if self.room() >= wanted {
                break;
            }
            self.forget_segment(number)?;
        }
        Ok(())
    }

    /// Makes room on a full disk, whatever `max_size` allows: removes the older
    /// half of the segments that are only kept for rewinds.
    pub(crate) fn evict_half(&mut self) -> Result<()> {
        let settled = self.settled(u64::MAX);
        let going = settled.len().div_ceil(2);
        for number in settled.into_iter().take(going) {
            self.forget_segment(number)?;
        }
        if going > 0 {
            warn!(segments = going, "the disk is full: deleted segments that were kept for rewinds");
        }
        Ok(())
    }

    /// Settled segments whose messages are all older than `before`, oldest
    /// first.
    fn settled(&self, before: u64) -> Vec<u32> {
        let settled = self.segments.iter().filter(|(number, s)| {
            s.record.held == 0 && s.record.newest < before && Some(**number) != self.current
        });
        settled.map(|(number, _)| *number).collect()
    }

    /// Removes a segment and all chunks in it.
    pub(super) fn forget_segment(&mut self, number: u32) -> Result<()> {
        let index = self.durable_index()?;
        let Some(segment) = self.segments.remove(&number) else { return Ok(()) };
        index.write(Durability::Immediate, |tables| {
            for (chunk, _) in tables.places_in(number, &segment.record)? {
                tables.forget_place(chunk)?;
            }
            tables.forget_segment(number)?;
            self.write_back(tables)
        })?;
        // Only now: the index does not name it any more.
        self.files.remove(&number);
        if self.current == Some(number) {
            self.current = None;
        }
        let name = segment_name(number);
        match self.disk.remove(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.file_error(&name)(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Moves the pending chunks of a segment to the current one.
    fn rewrite(&mut self, number: u32) -> Result<()> {
        let Some(segment) = self.segments.get(&number).copied() else { return Ok(()) };
        let index = self.durable_index()?;
        let places = index.write(Durability::Immediate, |t| t.places_in(number, &segment.record))?;
        let mut moved = Vec::new();
        let mut damaged = false;
        for (chunk, place) in places.into_iter().filter(|(_, place)| place.rows > 0) {
            let mut bytes = vec![0; place.length as usize];
            let name = segment_name(number);
            let read = self.file(number).and_then(|file| file.read_at(place.offset, &mut bytes));
            if read.is_err() || crc32fast::hash(&bytes) != place.checksum {
                self.damaged(chunk, &place, "found while rewriting a segment")?;
                // Readers may have its messages in memory: the rows stay.
                damaged = true;
                continue;
            }
            let (segment, offset) = self.write_segment(&bytes)?;
            moved.push((chunk, Place { segment, offset, ..place }));
            tracing::trace!(chunk, from = name, "moved");
        }
        self.sync_segments()?;
        index.write(Durability::Immediate, |tables| {
            for (chunk, place) in &moved {
                tables.set_place(*chunk, place)?;
                self.chunk_added(*chunk, place, segment.record.newest);
            }
            self.write_back(tables)
        })?;
        info!(segment = number, chunks = moved.len(), "rewrote a mostly settled segment of the journal");
        if damaged {
            if let Some(segment) = self.segments.get_mut(&number) {
                segment.damaged = true;
            }
            return Ok(());
        }
        self.forget_segment(number)
    }

    /// Writes to the end of the current segment, or to a new one.
    pub(super) fn write_segment(&mut self, bytes: &[u8]) -> Result<(u32, u64)> {
        let full =
            |s: &Segment| s.record.length > 0 && s.record.length + bytes.len() as u64 > self.options.segment;
        let current = self.current.filter(|n| self.segments.get(n).is_some_and(|s| !full(s)));
        let number = match current {
            Some(number) => number,
            None => self.new_segment()?,
        };
        let name = segment_name(number);
        let file = self.file(number).map_err(|e| self.file_error(&name)(e))?;
        let failed = self.file_error(&name);
        let Some(segment) = self.segments.get_mut(&number) else {
            return Err(failed(io::Error::other("not a segment of the journal")));
        };
        let offset = segment.record.length;
        file.write_at(offset, bytes).map_err(failed)?;
        segment.record.length += bytes.len() as u64;
        segment.dirty = true;
        self.unsynced = true;
        Ok((number, offset))
    }

    fn new_segment(&mut self) -> Result<u32> {
        // Nothing would sync the one before later.
        self.sync_segments()?;
        let number = self.next_segment;
        self.next_segment += 1;
        let name = segment_name(number);
        let file = self.disk.create(&name).map_err(self.file_error(&name))?;
        self.disk.sync().map_err(self.file_error(""))?;
        self.files.insert(number, file);
        self.segments.insert(number, Segment::default());
        self.current = Some(number);
        Ok(number)
    }

    /// The index, for a durable commit. Such a commit also makes earlier ones
    /// durable, so their segments are synced first.
    pub(super) fn durable_index(&mut self) -> Result<Arc<Index>> {
        self.sync_segments()?;
        Ok(self.index.clone())
    }

    pub(super) fn sync_segments(&mut self) -> Result<()> {
        if let Some(current) = self.current.filter(|_| self.unsynced) {
            let name = segment_name(current);
            let file = self.file(current).map_err(|e| self.file_error(&name)(e))?;
            file.sync().map_err(self.file_error(&name))?;
        }
        self.unsynced = false;
        Ok(())
    }

    pub(super) fn file(&mut self, number: u32) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = self.files.get(&number) {
            return Ok(file.clone());
        }
        // Only a few files are open: a backlog has hundreds of segments.
        if self.files.len() >= 8 {
            self.files.retain(|n, _| Some(*n) == self.current);
        }
        let file = self.disk.open(&segment_name(number))?;
        self.files.insert(number, file.clone());
        Ok(file)
    }

    /// Adds a chunk to the record of its segment.
    pub(super) fn chunk_added(&mut self, chunk: u64, place: &Place, newest: u64) {
        let Some(segment) = self.segments.get_mut(&place.segment) else { return };
        let record = &mut segment.record;
        let empty = *record == SegmentRecord { length: record.length, ..SegmentRecord::default() };
        record.first = if empty { chunk } else { record.first.min(chunk) };
        record.last = record.last.max(chunk);
        record.newest = record.newest.max(newest);
        if place.rows > 0 {
            record.held += 1;
            record.held_bytes += u64::from(place.length);
        }
        segment.dirty = true;
    }

    /// One row stops naming the chunk.
    pub(super) fn release(&mut self, tables: &mut Writes<'_>, chunk: u64) -> index::Result<()> {
        let Some(mut place) = tables.place(chunk)? else { return Ok(()) };
        let mut rows = u64::from(place.rows);
        counters::take(&mut rows, 1, "rows of a chunk");
        place.rows = u32::try_from(rows).unwrap_or(u32::MAX);
        tables.set_place(chunk, &place)?;
        if place.rows == 0
            && let Some(segment) = self.segments.get_mut(&place.segment)
        {
            let mut held = u64::from(segment.record.held);
            counters::take(&mut held, 1, "chunks of a segment");
            segment.record.held = u32::try_from(held).unwrap_or(u32::MAX);
            counters::take(&mut segment.record.held_bytes, place.length.into(), "bytes of a segment");
            segment.dirty = true;
        }
        Ok(())
    }

    /// One more row names the chunk.
    pub(super) fn retain(
        &mut self,
        tables: &mut Writes<'_>,
        chunk: u64,
        mut place: Place,
    ) -> index::Result<()> {
        place.rows += 1;
        tables.set_place(chunk, &place)?;
        if place.rows == 1
            && let Some(segment) = self.segments.get_mut(&place.segment)
        {
            segment.record.held += 1;
            segment.record.held_bytes += u64::from(place.length);
            segment.dirty = true;
        }
        Ok(())
    }

    /// Deletes a detached stream and everything that it has. False: it has a
    /// file, or does not exist.
    pub(crate) fn forget(&mut self, stream: StreamIndex) -> Result<bool> {
        let detached = self.streams.get(&stream).filter(|s| s.options.is_none());
        let Some(name) = detached.map(|s| s.name.clone()) else { return Ok(false) };
        let mut letters = Some(0);
        while let Some(from) = letters {
            letters = self.forget_letters(stream, from)?;
        }
        let index = self.durable_index()?;
        index.write(Durability::Immediate, |tables| {
            for queue in [Queue::Live, Queue::Rewind] {
                loop {
                    let rows = tables.rows_from(queue, stream, 0, 1024)?;
                    if rows.is_empty() {
                        break;
                    }
                    for (chunk, _) in rows {
                        self.put_row(tables, queue, stream, chunk, &Row::default())?;
                    }
                }
            }
            self.clear_state(tables, stream)?;
            tables.forget_counts(stream)?;
            tables.streams.remove(name.as_str())?;
            self.write_back(tables)
        })?;
        if let Some(gone) = self.streams.remove(&stream) {
            warn!(stream = name, queued = gone.queued, "deleted a stream and everything that it had");
        }
        Ok(true)
    }

    /// Deletes the state that the scripts of a stream have written.
    pub(crate) fn forget_state(&mut self, stream: StreamIndex) -> Result<()> {
        let index = self.durable_index()?;
        Ok(index.write(Durability::Immediate, |tables| self.clear_state(tables, stream))?)
    }

    pub(super) fn clear_state(&mut self, tables: &mut Writes<'_>, stream: StreamIndex) -> index::Result<()> {
        let from = (stream.0, "");
        let to = (stream.0 + 1, "");
        tables.state.retain_in(from..to, |_, _| false)?;
        Ok(())
    }
}
