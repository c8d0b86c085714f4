//! From the journal to the lanes: a key always goes to the same lane.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use journal::{Journal, Outcome, ReadRules, Settlement, StreamIndex};
use message::KeyRule;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::conflate::Conflation;
use super::entry::Entry;

/// Most messages that wait in front of the lanes of a stream, and that are
/// read at once.
const WAITING: usize = 1024;
/// Most bytes that wait where only the newest message of a key does; the
/// journal hands out no more either.
const CONFLATED: usize = 64 << 20;

/// The queues in front of a stream's lanes.
#[derive(Debug)]
pub(super) struct Intake {
    queues: Vec<Queue>,
    /// Most messages and bytes in a batch.
    batch: (usize, usize),
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
    pub(super) fn new(lanes: u32, batch: (usize, usize)) -> Self {
        Self::with_queues(lanes, batch, None)
    }

    /// Keeps only the newest message of each key, and hands out at most one of
    /// a key in `interval`.
    pub(super) fn conflating(lanes: u32, batch: (usize, usize), interval: Duration) -> Self {
        Self::with_queues(lanes, batch, Some(interval))
    }

    fn with_queues(lanes: u32, batch: (usize, usize), interval: Option<Duration>) -> Self {
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

fn take_all(
    entries: &mut VecDeque<Arc<Entry>>,
    (most_messages, most_bytes): (usize, usize),
) -> Vec<Arc<Entry>> {
    let mut bytes = 0;
    let mut count = 0;
    for entry in entries.iter().take(most_messages) {
        bytes += entry.message.size();
        if bytes > most_bytes && count > 0 {
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
#[path = "intake_model.rs"]
mod model;
