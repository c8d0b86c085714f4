//! Reading settled messages again, and checking the counters.

use std::collections::BTreeMap;

use redb::Durability;

use super::{ReadyBatch, Result, Source, Store, pending};
use crate::index::{self, Index, Queue};
use crate::rows::Row;
use crate::types::{Rewind, Rewound, StreamIndex};

/// Chunks that are searched between two commits.
const CHUNKS: usize = 64;

/// A part of a rewind.
#[derive(Debug)]
pub(crate) struct Slice {
    /// Where the next part begins; none: this was the last.
    pub next: Option<u64>,
    pub found: Rewound,
    pub ready: Vec<ReadyBatch>,
}

/// The counters differ from the pending bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The difference, as text.
    pub what: String,
}

impl Store {
    /// Stores the beginning of a rewind.
    pub(crate) fn begin_rewind(&mut self, rewind: &Rewind) -> Result<()> {
        let index = self.durable_index()?;
        let Some(stream) = self.streams.get_mut(&rewind.stream) else { return Ok(()) };
        stream.record.generation += 1;
        stream.record.rewind_rate = rewind.rate;
        let (name, record) = (stream.name.clone(), stream.record.clone());
        Ok(index.write(Durability::Immediate, |tables| {
            tables.set_stream(&name, &record)?;
            if rewind.keep_state { Ok(()) } else { self.clear_state(tables, rewind.stream) }
        })?)
    }

    /// Sets the pending bits of the wanted messages of some chunks.
    pub(crate) fn rewind_slice(
        &mut self,
        rewind: &Rewind,
        from: u64,
        wanted: &dyn Fn(&message::Message) -> bool,
    ) -> Result<Slice> {
        let snapshot = self.index.read()?;
        let places = snapshot.places_from(from, CHUNKS)?;
        let next = if places.len() < CHUNKS { None } else { places.last().map(|(chunk, _)| chunk + 1) };
        let mut found = Rewound::default();
        if from == 0 {
            found.kept_since = places.first().map(|(_, place)| place.received);
        }
        let mut rows: BTreeMap<u64, (Row, std::sync::Arc<[crate::chunk::Item]>)> = BTreeMap::new();
        for (chunk, place) in places {
            // A chunk tells when its first message was received. In a full
            // journal the others may have waited for hours to join it.
            let newest = self.segments.get(&place.segment).map_or(u64::MAX, |s| s.record.newest);
            if place.received >= rewind.until || newest < rewind.from {
                continue;
            }
            let Some((_, items)) = self.chunk_or_damage(&snapshot, chunk)? else { continue };
            let mut row = Row::default();
            let mut bytes = 0;
            for (number, item) in (0u32..).zip(items.iter()) {
                let message = &item.message;
                let in_time = (rewind.from..rewind.until).contains(&message.received_at);
                if !in_time
                    // The first reading of a replayed message is further back.
                    || item.reread
                    || item.as_is.is_some()
                    || !wanted(message)
                    || self.is_pending(&snapshot, rewind.stream, chunk, number)?
                {
                    continue;
                }
                row.insert(number);
                bytes += message.size();
                found.messages += 1;
                found.bytes += message.size() as u64;
                found.oldest = Some(found.oldest.map_or(message.received_at, |o| o.min(message.received_at)));
                found.newest = found.newest.max(Some(message.received_at));
            }
            if !row.is_empty() {
                row.weigh(bytes);
                rows.insert(chunk, (row, items));
            }
        }
        drop(snapshot);
        let ready = if rewind.dry_run { Vec::new() } else { self.set_pending(rewind.stream, rows)? };
        Ok(Slice { next, found, ready })
    }

    fn is_pending(
        &self,
        snapshot: &index::Snapshot,
        stream: StreamIndex,
        chunk: u64,
        number: u32,
    ) -> Result<bool> {
        let Some(known) = self.streams.get(&stream) else { return Ok(false) };
        for (queue, rows) in [(Queue::Live, &known.live), (Queue::Rewind, &known.rewind)] {
            let is_set = match rows.loaded.get(&chunk) {
                Some(loaded) => loaded.row.contains(number),
                None => snapshot
                    .row(queue, stream, chunk)?
                    .is_some_and(|bits| Row::from_bytes(&bits).contains(number)),
            };
            if is_set {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn set_pending(
        &mut self,
        stream: StreamIndex,
        rows: BTreeMap<u64, (Row, std::sync::Arc<[crate::chunk::Item]>)>,
    ) -> Result<Vec<ReadyBatch>> {
        let mut ready = Vec::new();
        let index = self.durable_index()?;
        index.write(Durability::Immediate, |tables| {
            for (chunk, (row, items)) in rows {
                let Some(place) = tables.place(chunk)? else { continue };
                let before = tables.row(Queue::Rewind, stream, chunk)?;
                let is_new = before.is_none();
                let Some(known) = self.streams.get_mut(&stream) else { continue };
                // A row has one mean: added messages count like the others.
                let mean = before.as_ref().map_or(row.mean, |bits| Row::from_bytes(bits).mean);
                known.begun(row.len().into(), mean, true);
                let few = known.conflates();
                if let Some(loaded) = known.rewind.loaded.get_mut(&chunk) {
                    // Readers are already past this chunk.
                    row.iter().for_each(|number| loaded.row.insert(number));
                    let whole = loaded.row.clone();
                    known.rewind.loaded_messages += u64::from(row.len());
                    known.rewind.loaded_bytes += u64::from(row.len()) * u64::from(mean);
                    tables.set_row(Queue::Rewind, stream, chunk, &whole.to_bytes())?;
                    ready.push(ReadyBatch {
                        stream,
                        source: Source::Rewind,
                        messages: pending(chunk, &row, &items, Queue::Rewind, few),
                    });
                    continue;
                }
                let mut whole = before.map(|bits| Row::from_bytes(&bits)).unwrap_or_default();
                whole.mean = mean;
                row.iter().for_each(|number| whole.insert(number));
                tables.set_row(Queue::Rewind, stream, chunk, &whole.to_bytes())?;
                known.rewind.next = known.rewind.next.min(chunk);
                known.rewind.behind = true;
                known.rewind.waiting_since =
                    Some(known.rewind.waiting_since.map_or(place.received, |w| w.min(place.received)));
                if is_new {
                    self.retain(tables, chunk, place)?;
                }
            }
            self.write_back(tables)
        })?;
        Ok(ready)
    }
}

/// Counts all pending bits and compares them with the counters, the chunks and
/// the segments.
pub(crate) fn check(index: &Index) -> index::Result<Vec<Difference>> {
    let snapshot = index.read()?;
    let mut queued: BTreeMap<StreamIndex, u64> = BTreeMap::new();
    let mut rows: BTreeMap<u64, u32> = BTreeMap::new();
    for queue in [Queue::Live, Queue::Rewind] {
        snapshot.each_row(queue, |stream, chunk, bits| {
            *queued.entry(stream).or_default() += Row::count(bits);
            *rows.entry(chunk).or_default() += 1;
        })?;
    }
    let mut differences = Vec::new();
    let mut differ = |what: String| differences.push(Difference { what });
    for (name, record) in snapshot.streams()? {
        let stream = StreamIndex(record.index);
        let bits = queued.remove(&stream).unwrap_or(0);
        match snapshot.counts(stream)?.queued() {
            Some(counted) if counted == bits => {}
            Some(counted) => differ(format!(
                "stream {name}: {counted} messages are queued by its counters, {bits} have a pending bit"
            )),
            None => differ(format!("stream {name}: more messages have ended than were read")),
        }
    }
    for (StreamIndex(stream), bits) in queued {
        differ(format!("{bits} pending bits for unknown stream {stream}"));
    }
    let mut held: BTreeMap<u32, u32> = BTreeMap::new();
    let mut from = 0;
    loop {
        let places = snapshot.places_from(from, 4096)?;
        let Some((last, _)) = places.last() else { break };
        from = last + 1;
        for (chunk, place) in places {
            let named = rows.remove(&chunk).unwrap_or(0);
            if named != place.rows {
                differ(format!("chunk {chunk} counts {} rows, but {named} rows name it", place.rows));
            }
            *held.entry(place.segment).or_default() += u32::from(place.rows > 0);
        }
    }
    for chunk in rows.keys() {
        differ(format!("rows of chunk {chunk}, which does not exist"));
    }
    for (segment, record) in snapshot.segments()? {
        let chunks = held.remove(&segment).unwrap_or(0);
        if chunks != record.held {
            differ(format!("segment {segment} counts {} chunks with rows, but has {chunks}", record.held));
        }
    }
    for segment in held.keys() {
        differ(format!("chunks in segment {segment}, which does not exist"));
    }
    Ok(differences)
}
