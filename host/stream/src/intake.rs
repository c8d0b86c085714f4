//! From the journal to the lanes: a key always goes to the same lane.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use journal::{Amount, Journal, Outcome, ReadRules, Settlement, StreamIndex};
use message::KeyRule;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::conflate::Conflation;
use super::entry::Entry;

/// Maximum messages that wait in front of the lanes of a stream, and that are
/// read at once.
const WAITING: usize = 1024;
/// Maximum bytes that wait where only the newest message of a key does; the
/// journal hands out no more either.
const CONFLATED: usize = 64 << 20;

/// The queues in front of a stream's lanes.
#[derive(Debug)]
pub(super) struct Intake {
    queues: Vec<Queue>,
    /// The maximum of a batch.
    batch: Amount,
    /// What waits in all queues: messages, or bytes where it is conflated.
    waiting: AtomicUsize,
    conflates: bool,
    room: Notify,
}

#[derive(Debug)]
struct Queue {
    entries: Mutex<Entries>,
    arrived: Notify,
}

#[derive(Debug)]
enum Entries {
    All(VecDeque<Arc<Entry>>),
    Newest(Conflation),
}

impl Intake {
    pub(super) fn new(lanes: u32, batch: Amount) -> Self {
        Self::with_queues(lanes, batch, None)
    }

    /// Keeps only the newest message of each key, and hands out at most one of
    /// a key in `interval`.
    pub(super) fn conflating(lanes: u32, batch: Amount, interval: Duration) -> Self {
        Self::with_queues(lanes, batch, Some(interval))
    }

    fn with_queues(lanes: u32, batch: Amount, interval: Option<Duration>) -> Self {
        let queue = |_| Queue {
            entries: Mutex::new(match interval {
                Some(interval) => Entries::Newest(Conflation::new(interval)),
                None => Entries::All(VecDeque::new()),
            }),
            arrived: Notify::new(),
        };
        Self {
            batch,
            queues: (0..lanes.max(1)).map(queue).collect(),
            waiting: AtomicUsize::new(0),
            conflates: interval.is_some(),
            room: Notify::new(),
        }
    }

    /// Reads the journal for ever, except while the stream is paused, and hands
    /// each message to its lane; settles what is superseded.
    pub(super) async fn feed(
        &self,
        journal: &Journal,
        index: StreamIndex,
        rules: ReadRules,
        key: Arc<KeyRule>,
    ) {
        let mut reader = journal.reader(index, rules);
        let mut paused = journal.paused(index);
        loop {
            let room = loop {
                let mut made_room = std::pin::pin!(self.room.notified());
                made_room.as_mut().enable();
                match self.room() {
                    0 => made_room.await,
                    room => break room,
                }
            };
            if paused.wait_for(|paused| !paused).await.is_err() {
                return;
            }
            let entries = reader.next(room).await.into_iter().map(|p| Entry::new(p, key.clone()));
            let superseded = self.hand_out(entries.collect(), Instant::now());
            if !superseded.is_empty() {
                let ended = superseded.iter().map(|e| (e.position, Outcome::Superseded)).collect();
                journal.settle(index, Settlement { ended, ..Settlement::default() });
            }
        }
    }

    /// Messages that may be read now.
    fn room(&self) -> usize {
        let waiting = self.waiting.load(Ordering::Acquire);
        match self.conflates {
            true if waiting >= CONFLATED => 0,
            true => WAITING,
            false => WAITING.saturating_sub(waiting),
        }
    }

    /// Hands each message to its lane. Those that are superseded.
    fn hand_out(&self, entries: Vec<Arc<Entry>>, now: Instant) -> Vec<Arc<Entry>> {
        let mut superseded = Vec::new();
        match self.queues.as_slice() {
            [only] => self.push(only, entries, now, &mut superseded),
            lanes => {
                for entry in entries {
                    let lane = usize::try_from(entry.key() % lanes.len() as u64).unwrap_or(0);
                    self.push(&lanes[lane], vec![entry], now, &mut superseded);
                }
            }
        }
        superseded
    }

    fn push(&self, queue: &Queue, new: Vec<Arc<Entry>>, now: Instant, superseded: &mut Vec<Arc<Entry>>) {
        self.change(queue, |entries| match entries {
            Entries::All(all) => all.extend(new),
            Entries::Newest(newest) => superseded.extend(new.into_iter().filter_map(|e| newest.put(e, now))),
        });
        queue.arrived.notify_one();
    }

    /// Waits until something was handed to this lane (or was since the last
    /// time anybody waited).
    pub(super) async fn arrived(&self, lane: u32) {
        match self.queues.get(lane as usize) {
            Some(queue) => queue.arrived.notified().await,
            None => std::future::pending().await,
        }
    }

    /// What waits for the lane now: up to a batch, without lingering for more.
    /// A message larger than a batch is one by itself. Empty when nothing waits.
    pub(super) fn take(&self, lane: u32, now: Instant) -> Vec<Arc<Entry>> {
        let Some(queue) = self.queues.get(lane as usize) else { return Vec::new() };
        self.change(queue, |entries| match entries {
            Entries::All(all) => take_all(all, self.batch),
            Entries::Newest(newest) => newest.release(now, self.batch),
        })
    }

    /// When there is something to take although nothing arrives: a key may be
    /// handed out again.
    pub(super) fn due(&self, lane: u32) -> Option<Instant> {
        match &*self.queues.get(lane as usize)?.lock() {
            Entries::All(_) => None,
            Entries::Newest(newest) => newest.due(),
        }
    }

    /// Takes out what waits longest for the lane, as long as it was received
    /// before `horizon` (Unix milliseconds). What is conflated is few, and
    /// looked at when it is taken.
    pub(super) fn expire(&self, lane: u32, horizon: u64) -> Vec<Arc<Entry>> {
        let Some(queue) = self.queues.get(lane as usize) else { return Vec::new() };
        self.change(queue, |entries| match entries {
            Entries::All(all) => {
                let old = all.iter().take_while(|e| e.waiting_since() < horizon).count();
                all.drain(..old).collect()
            }
            Entries::Newest(_) => Vec::new(),
        })
    }

    /// When the message was received that waits longest for the lane, Unix
    /// milliseconds.
    pub(super) fn oldest(&self, lane: u32) -> Option<u64> {
        match &*self.queues.get(lane as usize)?.lock() {
            Entries::All(all) => all.front().map(|e| e.waiting_since()),
            Entries::Newest(_) => None,
        }
    }

    /// Changes a queue and keeps count of what waits.
    fn change<T>(&self, queue: &Queue, change: impl FnOnce(&mut Entries) -> T) -> T {
        let mut entries = queue.lock();
        let before = entries.weight();
        let result = change(&mut entries);
        let after = entries.weight();
        if after >= before {
            self.waiting.fetch_add(after - before, Ordering::AcqRel);
        } else {
            self.waiting.fetch_sub(before - after, Ordering::AcqRel);
            self.room.notify_one();
        }
        result
    }
}

fn take_all(entries: &mut VecDeque<Arc<Entry>>, most: Amount) -> Vec<Arc<Entry>> {
    let mut bytes = 0;
    let mut count = 0;
    for entry in entries.iter().take(most.messages) {
        bytes += entry.message.size();
        if bytes > most.bytes && count > 0 {
            break;
        }
        count += 1;
    }
    entries.drain(..count).collect()
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    /// What it counts for in [`Intake::waiting`].
    fn weight(&self) -> usize {
        match self {
            Self::All(all) => all.len(),
            Self::Newest(newest) => newest.bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use journal::{Pending, Position, Reading};
    use message::Message;
    use proptest::prelude::*;

    use super::*;

    const LANES: u32 = 3;
    const BATCH: Amount = Amount { messages: 4, bytes: 60 };

    /// A message of this key and size, the first of its chunk.
    fn entry(chunk: u64, key: u8, size: usize) -> Arc<Entry> {
        let message =
            Message { topic: key.to_string().into(), payload: vec![0; size].into(), received_at: 0 };
        let pending =
            Pending { position: Position { chunk, index: 0 }, message, as_is: None, reading: Reading::First };
        Entry::new(pending, Arc::new(KeyRule::Topic))
    }

    /// What each lane takes, batch by batch.
    fn drain(intake: &Intake, now: Instant) -> Vec<Vec<Vec<Arc<Entry>>>> {
        let batch = |lane| Some(intake.take(lane, now)).filter(|batch| !batch.is_empty());
        (0..LANES).map(|lane| std::iter::from_fn(|| batch(lane)).collect()).collect()
    }

    proptest! {
        #[test]
        fn each_lane_takes_its_keys_in_order(rows in prop::collection::vec((0u8..7, 0usize..50), 0..80)) {
            let (intake, now) = (Intake::new(LANES, BATCH), Instant::now());
            let entries = (0..).zip(&rows).map(|(chunk, (key, size))| entry(chunk, *key, *size)).collect();
            prop_assert!(intake.hand_out(entries, now).is_empty());
            let mut taken = 0;
            let mut lane_of = std::collections::HashMap::new();
            for (lane, batches) in drain(&intake, now).into_iter().enumerate() {
                for batch in &batches {
                    let bytes: usize = batch.iter().map(|e| e.message.size()).sum();
                    prop_assert!(batch.len() <= BATCH.messages && (bytes <= BATCH.bytes || batch.len() == 1));
                }
                let of_lane = batches.concat();
                prop_assert!(of_lane.is_sorted_by_key(|e| e.position));
                prop_assert!(of_lane.iter().all(|e| *lane_of.entry(e.key()).or_insert(lane) == lane));
                taken += of_lane.len();
            }
            prop_assert_eq!(taken, rows.len());
            prop_assert_eq!(intake.room(), WAITING);
        }

        #[test]
        fn conflation_takes_the_newest_of_each_key(keys in prop::collection::vec(0u8..7, 1..80)) {
            let (intake, now) = (Intake::conflating(LANES, BATCH, Duration::from_secs(1)), Instant::now());
            let entries = (0..).zip(&keys).map(|(chunk, key)| entry(chunk, *key, 1)).collect();
            let superseded = intake.hand_out(entries, now).len();
            let taken: Vec<u64> = drain(&intake, now).concat().concat().iter().map(|e| e.position.chunk).collect();
            prop_assert_eq!(taken.len() + superseded, keys.len());
            for (chunk, key) in (0u64..).zip(&keys) {
                let is_newest = !keys[usize::try_from(chunk).unwrap_or(0) + 1..].contains(key);
                prop_assert_eq!(taken.contains(&chunk), is_newest);
            }
        }
    }
}
