//! Dead letters, pausing and scripts' state: what operators and streams ask
//! of the index.

use std::collections::HashSet;
use std::ops::Range;

use bytes::Bytes;
use redb::Durability;
use serde::{Deserialize, Serialize};

use super::{Batch, Handed, Result, Store, Work};
use crate::chunk::{self, Damage, Item};
use crate::index::{self, Index, Tables};
use crate::{DeadLetter, DeadLetterFilter, DeadLetterId, Position, REPLY_BYTES, StreamIndex};

/// Letters that are dealt with in one commit: the next one waits for it.
pub(crate) const TOGETHER: usize = 500;

/// What a letter says beside the message and the delivery.
#[derive(Serialize, Deserialize)]
struct Head {
    chunk: u64,
    index: u32,
    at: u64,
    reason: String,
    script: String,
    reply: Option<String>,
}

/// `stream u32 | head length u32 | head as JSON | chunk of one message`.
pub(super) fn encode_letter(stream: StreamIndex, letter: &DeadLetter) -> Vec<u8> {
    let head = Head {
        chunk: letter.position.chunk,
        index: letter.position.index,
        at: letter.at,
        reason: letter.reason.clone(),
        script: letter.script.clone(),
        reply: letter.reply.as_ref().map(|r| r.chars().take(REPLY_BYTES).collect()),
    };
    // Numbers and strings: there is no way for this to fail.
    let head = serde_json::to_vec(&head).unwrap_or_default();
    let item = Item {
        message: letter.message.clone(),
        as_is: letter.delivery.clone().map(Into::into),
        reread: false,
    };
    let mut bytes = stream.0.to_le_bytes().to_vec();
    bytes.extend_from_slice(&u32::try_from(head.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&head);
    bytes.extend(chunk::encode(0, &[item]));
    bytes
}

pub(crate) fn decode_letter(bytes: &[u8]) -> Result<(StreamIndex, DeadLetter), Damage> {
    let damage = || Damage("a dead letter is cut off".to_owned());
    let number = |at: usize| {
        let bytes: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes))
    };
    let stream = StreamIndex(number(0).ok_or_else(damage)?);
    let end = 8 + number(4).ok_or_else(damage)? as usize;
    let head = bytes.get(8..end).ok_or_else(damage)?;
    let head: Head = serde_json::from_slice(head).map_err(|e| Damage(format!("a dead letter: {e}")))?;
    let rest = Bytes::copy_from_slice(bytes.get(end..).ok_or_else(damage)?);
    let item = chunk::decode(0, &rest)?.pop().ok_or_else(damage)?;
    let letter = DeadLetter {
        position: Position { chunk: head.chunk, index: head.index },
        at: head.at,
        reason: head.reason,
        script: head.script,
        message: item.message,
        delivery: item.as_is.map(|d| (*d).clone()),
        reply: head.reply,
    };
    Ok((stream, letter))
}

/// The dead letters that the filter lets through, the oldest first.
pub(crate) fn find_letters(
    index: &Index,
    filter: &DeadLetterFilter,
) -> index::Result<Vec<(DeadLetterId, StreamIndex, DeadLetter)>> {
    find_letters_in(index, filter, 0..u64::MAX)
}

/// The same, of those with these numbers.
pub(crate) fn find_letters_in(
    index: &Index,
    filter: &DeadLetterFilter,
    ids: Range<u64>,
) -> index::Result<Vec<(DeadLetterId, StreamIndex, DeadLetter)>> {
    let mut found = Vec::new();
    each_letter(index, filter, ids, |id, stream, letter| found.push((id, stream, letter)))?;
    Ok(found)
}

/// The numbers of such letters: for those who need nothing else of them.
pub(crate) fn find_ids_in(
    index: &Index,
    filter: &DeadLetterFilter,
    ids: Range<u64>,
) -> index::Result<Vec<DeadLetterId>> {
    let mut found = Vec::new();
    each_letter(index, filter, ids, |id, _, _| found.push(id))?;
    Ok(found)
}

/// Shows those that the filter lets through, the oldest first, until its limit.
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
            decode_letter(bytes.value()).map_err(|damage| redb::Error::Corrupted(damage.0))?;
        if filter.admits(id, stream, &letter) {
            left -= 1;
            see(id, stream, letter);
        }
    }
    Ok(())
}

impl Store {
    /// Lets streams read the messages of dead letters again, in one commit.
    pub(crate) fn replay_work(
        letters: Vec<(DeadLetterId, StreamIndex, DeadLetter)>,
        as_is: bool,
    ) -> (Work, u64) {
        let mut batch = Batch { reread: true, ..Batch::default() };
        let mut seen = std::collections::BTreeSet::new();
        let mut drop_letters = Vec::new();
        for (id, stream, letter) in letters {
            // What a damaged journal has lost cannot be read again: there is
            // only the letter. A message from the bus has a topic.
            if letter.message.topic.is_empty() {
                continue;
            }
            drop_letters.push(id);
            let as_is = if as_is { letter.delivery.map(Into::into) } else { None };
            // A message may have left several letters, one a delivery; it is
            // mapped once.
            if as_is.is_some() || seen.insert((stream, letter.position)) {
                batch.items.push((Item { message: letter.message, as_is, reread: true }, vec![stream]));
            }
        }
        let count = batch.items.len() as u64;
        (Work { batches: vec![batch], settlements: Vec::new(), drop_letters }, count)
    }

    pub(super) fn drop_letter(&mut self, tables: &mut Tables<'_>, id: DeadLetterId) -> index::Result<()> {
        let Some(length) = tables.dead_letters.remove(id.0)?.map(|v| v.value().len() as u64) else {
            return Ok(());
        };
        self.letter_bytes = self.letter_bytes.saturating_sub(length);
        tables.set_number("letter_bytes", self.letter_bytes)
    }

    /// Drops those of the letters that are there (still), in one commit. How
    /// many.
    pub(crate) fn drop_letters(&mut self, mut ids: Vec<DeadLetterId>) -> Result<(u64, Vec<Handed>)> {
        let snapshot = self.index.read()?;
        let mut there = HashSet::new();
        for id in &ids {
            if snapshot.dead_letters.get(id.0).map_err(redb::Error::from)?.is_some() {
                there.insert(*id);
            }
        }
        drop(snapshot);
        ids.retain(|id| there.contains(id));
        let work = Work { drop_letters: ids, ..Work::default() };
        Ok((there.len() as u64, self.commit(&work, true)?))
    }

    /// Looks at some letters from a number on and drops those of a stream that
    /// has no file. Where to go on; none: that was all, or it has one.
    pub(crate) fn forget_letters(&mut self, stream: StreamIndex, from: u64) -> Result<Option<u64>> {
        if self.streams.get(&stream.0).is_none_or(|s| s.options.is_some()) {
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
        let Some(known) = self.streams.get_mut(&stream.0) else { return Ok(()) };
        known.record.paused = paused;
        let (name, record) = (known.name.clone(), known.record.clone());
        let index = self.durable_index()?;
        Ok(index.write(Durability::Immediate, |tables| tables.set_stream(&name, &record))?)
    }

    /// What the scripts of a stream have left.
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
