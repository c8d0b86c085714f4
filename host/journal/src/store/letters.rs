//! Dead letters, pausing and the scripts' state: requests of operators and
//! streams to the index.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use bytes::Bytes;
use redb::Durability;

use super::{Batch, ReadyBatch, Result, Store, Work};
use crate::chunk::Item;
use crate::counters;
use crate::index::{self, Index, Writes};
use crate::letter;
use crate::types::{DeadLetter, DeadLetterFilter, DeadLetterId, StreamIndex};

/// Letters that one commit handles.
pub(crate) const TOGETHER: usize = 500;

/// Dead letters that are being replayed, a page per commit.
pub(crate) struct Replay {
    pages: Pages,
    as_is: bool,
    replayed: u64,
}

/// Dead letters that are being deleted, a page per commit.
pub(crate) struct DropLetters {
    pages: Pages,
    /// The present page.
    found: Vec<DeadLetterId>,
    dropped: u64,
}

/// The letters that a filter selects, in pages. Letters that come later are not
/// among them.
struct Pages {
    filter: DeadLetterFilter,
    ids: Range<u64>,
    left: usize,
}

impl Pages {
    fn begin(store: &Store, filter: DeadLetterFilter) -> Self {
        let left = filter.limit.unwrap_or(usize::MAX);
        Self { filter, ids: 0..store.next_letter, left }
    }

    fn page(&self) -> (DeadLetterFilter, Range<u64>) {
        let limit = Some(TOGETHER.min(self.left));
        (DeadLetterFilter { limit, ..self.filter.clone() }, self.ids.clone())
    }

    /// Continues behind a page of so many letters.
    fn turn(&mut self, letters: usize, last: Option<DeadLetterId>) {
        match last {
            Some(last) => {
                self.ids.start = last.0 + 1;
                self.left = self.left.saturating_sub(letters);
            }
            None => self.left = 0,
        }
    }
}

impl Replay {
    pub(crate) fn begin(store: &Store, filter: DeadLetterFilter, as_is: bool) -> Self {
        Self { pages: Pages::begin(store, filter), as_is, replayed: 0 }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.pages.left == 0
    }

    /// Messages that are read again.
    pub(crate) fn replayed(&self) -> u64 {
        self.replayed
    }

    /// Replays one page.
    pub(crate) fn page(&mut self, store: &mut Store) -> Result<Vec<ReadyBatch>> {
        let (filter, ids) = self.pages.page();
        let letters = find_letters_in(&store.index, &filter, ids)?;
        self.pages.turn(letters.len(), letters.last().map(|(id, _, _)| *id));
        if letters.is_empty() {
            return Ok(Vec::new());
        }
        let (work, count) = self.work(letters);
        self.replayed += count;
        store.commit(&work, true)
    }

    /// Makes streams read the messages of dead letters again, in one commit.
    pub(super) fn work(&self, letters: Vec<(DeadLetterId, StreamIndex, DeadLetter)>) -> (Work, u64) {
        let mut batch = Batch { reread: true, ..Batch::default() };
        let mut seen = BTreeSet::new();
        let mut drop_letters = Vec::new();
        for (id, stream, letter) in letters {
            // A message that damage has lost cannot be read again: only the
            // letter is left. A message from the bus has a topic.
            if letter.message.topic.is_empty() {
                continue;
            }
            drop_letters.push(id);
            let as_is = if self.as_is { letter.delivery.map(Into::into) } else { None };
            // A message may have several letters, one per delivery; it is
            // mapped once.
            if as_is.is_some() || seen.insert((stream, letter.position)) {
                batch.items.push((Item { message: letter.message, as_is, reread: true }, vec![stream]));
            }
        }
        let count = batch.items.len() as u64;
        (Work { batches: vec![batch], settlements: Vec::new(), drop_letters }, count)
    }
}

impl DropLetters {
    pub(crate) fn begin(store: &Store, filter: DeadLetterFilter) -> Self {
        Self { pages: Pages::begin(store, filter), found: Vec::new(), dropped: 0 }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.pages.left == 0
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Finds the next page.
    pub(crate) fn find(mut self, index: &Index) -> index::Result<Self> {
        let (filter, ids) = self.pages.page();
        let found = &mut self.found;
        each_letter(index, &filter, ids, |id, _, _| found.push(id))?;
        self.pages.turn(self.found.len(), self.found.last().copied());
        Ok(self)
    }

    /// Deletes those of the page that still exist, in one commit.
    pub(crate) fn page(&mut self, store: &mut Store) -> Result<Vec<ReadyBatch>> {
        let mut ids = std::mem::take(&mut self.found);
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let snapshot = store.index.read()?;
        let mut existing = HashSet::new();
        for id in &ids {
            if snapshot.dead_letters.get(id.0).map_err(redb::Error::from)?.is_some() {
                existing.insert(*id);
            }
        }
        drop(snapshot);
        ids.retain(|id| existing.contains(id));
        self.dropped += existing.len() as u64;
        store.commit(&Work { drop_letters: ids, ..Work::default() }, true)
    }
}

/// The dead letters that match the filter, oldest first.
pub(crate) fn find_letters(
    index: &Index,
    filter: &DeadLetterFilter,
) -> index::Result<Vec<(DeadLetterId, StreamIndex, DeadLetter)>> {
    find_letters_in(index, filter, 0..u64::MAX)
}

/// The same, for a range of numbers.
fn find_letters_in(
    index: &Index,
    filter: &DeadLetterFilter,
    ids: Range<u64>,
) -> index::Result<Vec<(DeadLetterId, StreamIndex, DeadLetter)>> {
    let mut found = Vec::new();
    each_letter(index, filter, ids, |id, stream, letter| found.push((id, stream, letter)))?;
    Ok(found)
}

/// Calls `see` with each letter that matches the filter, oldest first.
fn each_letter(
    index: &Index,
    filter: &DeadLetterFilter,
    ids: Range<u64>,
    mut see: impl FnMut(DeadLetterId, StreamIndex, DeadLetter),
) -> index::Result<()> {
    let snapshot = index.read()?;
    let mut left = filter.limit.unwrap_or(usize::MAX);
    for entry in snapshot.dead_letters.range(ids)? {
        if left == 0 {
            break;
        }
        let (id, bytes) = entry?;
        let id = DeadLetterId(id.value());
        let (stream, letter) =
            letter::decode(bytes.value()).map_err(|damage| redb::Error::Corrupted(damage.0))?;
        if filter.admits(id, stream, &letter) {
            left -= 1;
            see(id, stream, letter);
        }
    }
    Ok(())
}

impl Store {
    pub(super) fn drop_letter(&mut self, tables: &mut Writes<'_>, id: DeadLetterId) -> index::Result<()> {
        let Some(length) = tables.dead_letters.remove(id.0)?.map(|v| v.value().len() as u64) else {
            return Ok(());
        };
        counters::take(&mut self.letter_bytes, length, "dead-letter bytes");
        tables.set_number("letter_bytes", self.letter_bytes)
    }

    /// Looks at a page of letters from a number on and deletes those of a detached
    /// stream. Returns where the next page begins; none: no page is left, or the
    /// stream has a file.
    pub(crate) fn forget_letters(&mut self, stream: StreamIndex, from: u64) -> Result<Option<u64>> {
        if self.streams.get(&stream).is_none_or(|s| s.options.is_some()) {
            return Ok(None);
        }
        let snapshot = self.index.read()?;
        let mut mine = Vec::new();
        let mut next = None;
        for entry in snapshot.dead_letters.range(from..).map_err(redb::Error::from)?.take(TOGETHER) {
            let (id, bytes) = entry.map_err(redb::Error::from)?;
            next = Some(id.value() + 1);
            if bytes.value().starts_with(&stream.0.to_le_bytes()) {
                mine.push(DeadLetterId(id.value()));
            }
        }
        drop(snapshot);
        if !mine.is_empty() {
            let index = self.durable_index()?;
            index.write(Durability::Immediate, |tables| {
                mine.iter().try_for_each(|id| self.drop_letter(tables, *id))
            })?;
        }
        Ok(next)
    }

    /// Pauses or resumes a stream.
    pub(crate) fn pause(&mut self, stream: StreamIndex, paused: bool) -> Result<()> {
        let Some(known) = self.streams.get_mut(&stream) else { return Ok(()) };
        known.record.paused = paused;
        let (name, record) = (known.name.clone(), known.record.clone());
        let index = self.durable_index()?;
        Ok(index.write(Durability::Immediate, |tables| tables.set_stream(&name, &record))?)
    }

    /// The state that the scripts of a stream have written.
    pub(crate) fn state(&self, stream: StreamIndex) -> Result<Vec<(String, Bytes)>> {
        let snapshot = self.index.read()?;
        let mut found = Vec::new();
        let range = snapshot.state.range((stream.0, "")..(stream.0 + 1, "")).map_err(redb::Error::from)?;
        for entry in range {
            let (key, value) = entry.map_err(redb::Error::from)?;
            found.push((key.value().1.to_owned(), Bytes::copy_from_slice(value.value())));
        }
        Ok(found)
    }
}
