//! Only the newest message of each key, and of a key at most one in a time.
//! No I/O: what waits in front of a lane of a stream that conflates.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use journal::{Amount, Position};
use tokio::time::Instant;

use super::entry::Entry;

/// Keys that are remembered at least, with nothing waiting.
const REMEMBERED: usize = 65_536;
/// What a waiting message takes beside its own bytes.
const OVERHEAD: usize = 256;

/// The newest message of each key.
#[derive(Debug)]
pub(super) struct Conflation {
    interval: Duration,
    keys: HashMap<Arc<str>, Key>,
    /// Keys with a message, by when it may go, and then by who came first.
    due: BTreeMap<Due, Arc<str>>,
    arrivals: u64,
    /// Bytes of what waits.
    bytes: usize,
    /// So many keys, and those with nothing to say are forgotten.
    forget_at: usize,
}

type Due = (Instant, u64);

#[derive(Debug, Default)]
struct Key {
    waiting: Option<(Arc<Entry>, Due)>,
    /// The newest that was released, and until when the key rests.
    released: Option<(Position, Instant)>,
}

impl Conflation {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            keys: HashMap::new(),
            due: BTreeMap::new(),
            arrivals: 0,
            bytes: 0,
            forget_at: REMEMBERED,
        }
    }

    /// Takes a message in. The one that is superseded: mostly the older one of
    /// its key that was waiting; this one itself where a newer one of its key
    /// came before it (live before backlog, replay, rewind).
    pub(super) fn put(&mut self, entry: Arc<Entry>, now: Instant) -> Option<Arc<Entry>> {
        if self.keys.len() >= self.forget_at {
            self.forget(now);
        }
        let name: Arc<str> = entry.key_text().into();
        let key = self.keys.entry(name.clone()).or_default();
        let rests_until = match key.released {
            Some((newest, _)) if newest > entry.position => return Some(entry),
            Some((_, until)) => until.max(now),
            None => now,
        };
        match &mut key.waiting {
            Some((waiting, _)) if waiting.position > entry.position => Some(entry),
            Some((waiting, _)) => {
                self.bytes = self.bytes + size(&entry) - size(waiting);
                Some(std::mem::replace(waiting, entry))
            }
            None => {
                self.arrivals += 1;
                let due = (rests_until, self.arrivals);
                self.bytes += size(&entry);
                self.due.insert(due, name);
                key.waiting = Some((entry, due));
                None
            }
        }
    }

    /// The messages that may go now: at most `most`, but at least one if there is one.
    pub(super) fn release(&mut self, now: Instant, most: Amount) -> Vec<Arc<Entry>> {
        let mut released = Vec::new();
        let mut bytes = 0;
        while released.len() < most.messages
            && let Some(first) = self.due.first_entry()
            && first.key().0 <= now
        {
            let Some(key) = self.keys.get_mut(first.get()) else {
                first.remove();
                continue;
            };
            if let Some((entry, _)) = &key.waiting {
                bytes += entry.message.size();
                if bytes > most.bytes && !released.is_empty() {
                    break;
                }
            }
            first.remove();
            if let Some((entry, _)) = key.waiting.take() {
                key.released = Some((entry.position, now + self.interval));
                self.bytes -= size(&entry);
                released.push(entry);
            }
        }
        released
    }

    /// When something may go, if anything waits.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets keys that have nothing waiting and may go at any time.
    fn forget(&mut self, now: Instant) {
        self.keys
            .retain(|_, key| key.waiting.is_some() || key.released.is_some_and(|(_, until)| until > now));
        self.forget_at = REMEMBERED.max(self.keys.len() * 2);
    }
}

fn size(entry: &Entry) -> usize {
    entry.message.size() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use journal::{Pending, Reading};
    use message::{KeyRule, Message};
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NONE: [u64; 0] = [];

    fn entry(key: u8, chunk: u64) -> Arc<Entry> {
        let message = Message { topic: format!("k/{key}").into(), payload: "12345".into(), received_at: 0 };
        let position = Position { chunk, index: 0 };
        Entry::new(
            Pending { position, message, as_is: None, reading: Reading::First },
            Arc::new(KeyRule::Topic),
        )
    }

    fn most(messages: usize, bytes: usize) -> Amount {
        Amount { messages, bytes }
    }

    fn chunks(entries: impl IntoIterator<Item = Arc<Entry>>) -> Vec<u64> {
        entries.into_iter().map(|e| e.position.chunk).collect()
    }

    #[test]
    fn the_newest_goes_and_then_the_key_rests() {
        let start = Instant::now();
        let mut conflation = Conflation::new(SECOND);
        assert_eq!(chunks(conflation.put(entry(1, 1), start)), NONE);
        assert_eq!(chunks(conflation.put(entry(2, 2), start)), NONE);
        assert_eq!(chunks(conflation.put(entry(1, 3), start)), [1]);
        assert_eq!(chunks(conflation.release(start, most(9, 999))), [3, 2], "a newer one keeps the place");
        assert_eq!(conflation.due(), None);
        let later = start + SECOND / 2;
        assert_eq!(chunks(conflation.put(entry(1, 4), later)), NONE);
        assert_eq!(chunks(conflation.put(entry(1, 5), later)), [4]);
        assert_eq!(conflation.due(), Some(start + SECOND));
        assert!(conflation.release(later, most(9, 999)).is_empty());
        assert_eq!(chunks(conflation.release(start + SECOND, most(9, 999))), [5]);
        assert_eq!(conflation.bytes(), 0);
    }

    #[test]
    fn a_batch_is_no_larger_than_asked_for_but_never_empty() {
        let start = Instant::now();
        let mut conflation = Conflation::new(SECOND);
        (1..=5).for_each(|n| assert!(conflation.put(entry(n, n.into()), start).is_none()));
        assert_eq!(chunks(conflation.release(start, most(2, 999))), [1, 2]);
        assert_eq!(chunks(conflation.release(start, most(9, 1))), [3]);
        assert_eq!(chunks(conflation.release(start, most(9, 16))), [4, 5]);
    }

    #[test]
    fn what_is_older_than_what_went_is_superseded_itself() {
        let start = Instant::now();
        let mut conflation = Conflation::new(SECOND);
        conflation.put(entry(1, 7), start);
        assert_eq!(chunks(conflation.put(entry(1, 3), start)), [3]);
        assert_eq!(chunks(conflation.release(start, most(9, 999))), [7]);
        assert_eq!(chunks(conflation.put(entry(1, 6), start + SECOND * 60)), [6]);
        assert_eq!(chunks(conflation.put(entry(1, 7), start + SECOND * 60)), NONE, "read again by a rewind");
    }

    #[test]
    fn keys_are_forgotten_only_when_there_are_many_and_they_rest_no_more() {
        let start = Instant::now();
        let mut conflation = Conflation::new(SECOND);
        conflation.forget_at = 3;
        (1..=4).for_each(|n| assert!(conflation.put(entry(n, n.into()), start).is_none()));
        conflation.release(start, most(3, 999));
        conflation.forget(start);
        assert_eq!(conflation.keys.len(), 4);
        conflation.forget(start + SECOND);
        assert_eq!(conflation.keys.len(), 1, "one still waits");
    }

    proptest! {
        /// Everything is released or superseded, once; of each key in order, no
        /// sooner than its interval, and the newest of it at the end.
        #[test]
        fn everything_goes_or_is_superseded(
            steps in prop::collection::vec((0u8..4, 0u64..700, any::<bool>()), 1..120),
        ) {
            let mut now = Instant::now();
            let mut conflation = Conflation::new(SECOND);
            let (mut released, mut superseded) = (Vec::new(), BTreeSet::new());
            let mut newest = BTreeMap::new();
            let count = steps.len() as u64;
            for (chunk, (key, wait, release)) in steps.into_iter().enumerate() {
                now += Duration::from_millis(wait);
                newest.insert(key, chunk as u64);
                superseded.extend(chunks(conflation.put(entry(key, chunk as u64), now)));
                if release {
                    released.extend(conflation.release(now, most(2, 999)).into_iter().map(|e| (now, e)));
                }
            }
            while let Some(due) = conflation.due() {
                now = now.max(due);
                released.extend(conflation.release(now, most(9, 999)).into_iter().map(|e| (now, e)));
            }
            prop_assert_eq!(conflation.bytes(), 0);
            prop_assert_eq!(released.len() + superseded.len(), usize::try_from(count).unwrap_or(0));
            let mut last: BTreeMap<String, (Instant, u64)> = BTreeMap::new();
            for (at, entry) in released {
                let chunk = entry.position.chunk;
                prop_assert!(!superseded.contains(&chunk));
                if let Some((before, earlier)) = last.insert(entry.message.topic.to_string(), (at, chunk)) {
                    prop_assert!(at >= before + SECOND && earlier < chunk);
                }
            }
            for (key, chunk) in newest {
                prop_assert_eq!(last[&format!("k/{key}")].1, chunk);
            }
        }
    }
}
