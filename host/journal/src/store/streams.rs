//! The streams that have a file: at the start, and later changes.

use message::unix_millis;
use redb::Durability;
use tracing::{info, warn};

use super::{Result, Rows, Store, Stream};
use crate::index::{FORMAT, StreamRecord};
use crate::types::{StreamIndex, StreamQuota};

/// How long a detached stream is kept, in milliseconds.
const DETACHED_FOR: u64 = 24 * 60 * 60 * 1000;

impl Store {
    /// Gives each stream with a file its number and its rules, and detaches the
    /// others. The messages that a detached stream was handed wait on the disk
    /// again, so that it can come back.
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
                    "the stream has no file any more: the journal keeps its messages for 24 h"
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

    /// All messages that a stream was handed and has not settled wait on the
    /// disk again, for its next reader. Nothing is written: they are pending
    /// anyway.
    pub(crate) fn take_back(&mut self, stream: StreamIndex) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.take_back();
        }
    }

    /// Logs which streams are detached.
    pub(super) fn log_detached(&self) {
        for (name, index, since) in self.detached() {
            warn!(
                stream = name,
                queued = self.streams.get(&index).map_or(0, |s| s.queued),
                since,
                "the journal has messages of a detached stream and keeps them for 24 h"
            );
        }
    }

    /// Deletes streams that were detached for too long.
    pub(super) fn forget_detached(&mut self, now: u64) -> Result<()> {
        let expired: Vec<_> = self
            .detached()
            .filter(|(_, _, since)| since.saturating_add(DETACHED_FOR) <= now)
            .map(|(name, index, _)| (name.to_owned(), index))
            .collect();
        for (name, index) in expired {
            info!(stream = name, "deleting a stream that was detached for 24 h");
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
    /// Rows of which no message was handed out.
    pub(super) fn on_the_disk() -> Self {
        Self { behind: true, ..Self::default() }
    }
}
