//! Which streams have a file: when the journal is opened, and later.

use message::unix_millis;
use redb::Durability;
use tracing::{info, warn};

use super::{Result, Rows, Store, Stream};
use crate::index::{FORMAT, StreamRecord};
use crate::types::{StreamIndex, StreamQuota};

/// How long the rows of a stream without a file are kept.
const DETACHED_FOR: u64 = 24 * 60 * 60 * 1000;

impl Store {
    /// Gives every stream with a file its number and its rules; the others are
    /// detached. What a detached stream was ready waits on the disk again, so that a
    /// stream that comes back goes on where it was.
    pub(crate) fn set_streams(&mut self, wanted: &[StreamQuota]) -> Result<()> {
        let index = self.durable_index()?;
        for options in wanted {
            let known = self.streams.values_mut().find(|s| s.name == options.name);
            if let Some(stream) = known {
                stream.record.detached_since = None;
                stream.options = Some(options.clone());
                continue;
            }
            let number = self.next_stream;
            self.next_stream += 1;
            let record = StreamRecord {
                index: number,
                paused: false,
                generation: 0,
                rewind_rate: None,
                detached_since: None,
            };
            let stream = Stream {
                name: options.name.clone(),
                record,
                counts: Default::default(),
                queued: 0,
                options: Some(options.clone()),
                live: Rows::default(),
                rewind: Rows::default(),
                dirty: false,
            };
            self.streams.insert(StreamIndex(number), stream);
        }
        let now = unix_millis();
        for stream in self.streams.values_mut().filter(|s| wanted.iter().all(|w| w.name != s.name)) {
            stream.record.detached_since.get_or_insert(now);
            if stream.options.take().is_some() {
                stream.take_back();
                info!(
                    stream = stream.name,
                    queued = stream.queued,
                    "the stream has no file any more: what the journal has of it is kept 24 h"
                );
            }
        }
        self.shares = self.streams.values().filter(|s| s.options.is_some()).map(Stream::share).sum();
        let records: Vec<_> = self.streams.values().map(|s| (s.name.clone(), s.record.clone())).collect();
        let (id, next_stream) = (self.id, self.next_stream);
        index.write(Durability::Immediate, |tables| {
            tables.set_number("format", FORMAT)?;
            tables.meta.insert("id", id.as_slice())?;
            tables.set_number("next_stream", next_stream.into())?;
            records.iter().try_for_each(|(name, record)| tables.set_stream(name, record))
        })?;
        Ok(())
    }

    /// What a stream was ready and has not settled waits on the disk again:
    /// its reader has gone, the next one begins with it. Nothing is written
    /// for that, because what was handed out is marked as pending anyway.
    pub(crate) fn take_back(&mut self, stream: StreamIndex) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.take_back();
        }
    }

    /// Says which streams have rows here and no file.
    pub(super) fn tell_of_detached(&self) {
        for (name, index, since) in self.detached() {
            warn!(
                stream = name,
                queued = self.streams.get(&index).map_or(0, |s| s.queued),
                since,
                "the journal has messages of a stream that has no file any more: they are kept 24 h"
            );
        }
    }

    /// Forgets streams that have had no file for too long.
    pub(super) fn forget_detached(&mut self, now: u64) -> Result<()> {
        let expired: Vec<_> = self
            .detached()
            .filter(|(_, _, since)| since.saturating_add(DETACHED_FOR) <= now)
            .map(|(name, index, _)| (name.to_owned(), index))
            .collect();
        for (name, index) in expired {
            info!(stream = name, "forgotten: it has had no file for 24 h");
            self.forget(index)?;
        }
        Ok(())
    }
}

impl Stream {
    fn take_back(&mut self) {
        self.live = Rows::on_the_disk();
        self.rewind = Rows::on_the_disk();
    }
}

impl Rows {
    /// Rows of which nobody was ready anything.
    pub(super) fn on_the_disk() -> Self {
        Self { behind: true, ..Self::default() }
    }
}
