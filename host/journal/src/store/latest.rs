//! Finding the newest messages, pending or settled.

use message::Message;

use super::{Result, Store};
use crate::types::Amount;

/// Chunks that are searched together.
const CHUNKS: usize = 32;

/// A search that goes back from the end of the journal.
#[derive(Debug)]
pub(crate) struct Latest {
    /// Chunks from this one on have been searched.
    before: u64,
    messages: usize,
    bytes: usize,
    /// Bytes of chunks that may still be read.
    look_back: u64,
    /// Newest first.
    found: Vec<Message>,
}

impl Latest {
    pub(crate) fn new(Amount { messages, bytes }: Amount, look_back: u64) -> Self {
        Self { before: u64::MAX, messages, bytes, look_back, found: Vec::new() }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.messages == 0 || self.bytes == 0 || self.look_back == 0
    }

    /// Oldest first.
    pub(crate) fn into_messages(mut self) -> Vec<Message> {
        self.found.reverse();
        self.found
    }

    /// Takes a wanted message; false: it exceeds the amount.
    fn take(&mut self, message: &Message) -> bool {
        if self.messages == 0 || message.size() > self.bytes {
            self.messages = 0;
            return false;
        }
        self.messages -= 1;
        self.bytes -= message.size();
        // The payload must not keep its whole chunk in memory.
        let payload = bytes::Bytes::copy_from_slice(&message.payload);
        self.found.push(Message { payload, ..message.clone() });
        true
    }
}

impl Store {
    /// Searches some more chunks.
    pub(crate) fn latest_slice(
        &mut self,
        search: &mut Latest,
        wanted: &dyn Fn(&Message) -> bool,
    ) -> Result<()> {
        let snapshot = self.index.read()?;
        let places = snapshot.places_before(search.before, CHUNKS)?;
        if places.is_empty() {
            search.look_back = 0;
        }
        for (chunk, place) in places {
            search.before = chunk;
            search.look_back = search.look_back.saturating_sub(place.length.into());
            let Some((_, items)) = self.chunk_or_damage(&snapshot, chunk)? else { continue };
            // The first reading of a replayed message is further back.
            for item in items.iter().rev().filter(|item| !item.reread && item.as_is.is_none()) {
                if wanted(&item.message) && !search.take(&item.message) {
                    return Ok(());
                }
            }
            if search.is_done() {
                return Ok(());
            }
        }
        Ok(())
    }
}
