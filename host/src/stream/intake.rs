//! From the journal to the lanes: a key always goes to the same lane.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::entry::Entry;
use crate::bus::KeyRule;
use crate::journal::Reader;

/// Most messages that wait in front of the lanes of a stream.
const WAITING: usize = 1024;

/// The queues in front of a stream's lanes.
#[derive(Debug)]
pub(super) struct Intake {
    queues: Vec<Queue>,
    /// Most messages and bytes in a batch.
    batch: (usize, usize),
    waiting: AtomicUsize,
    room: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    entries: Mutex<VecDeque<Arc<Entry>>>,
    arrived: Notify,
}

impl Intake {
    pub(super) fn new(lanes: u32, batch: (usize, usize)) -> Self {
        Self {
            batch,
            queues: (0..lanes.max(1)).map(|_| Queue::default()).collect(),
            waiting: AtomicUsize::new(0),
            room: Notify::new(),
        }
    }

    /// Reads the journal for ever and hands each message to its lane.
    pub(super) async fn feed(&self, mut reader: Reader, rule: Arc<KeyRule>) {
        loop {
            let room = loop {
                let mut made_room = std::pin::pin!(self.room.notified());
                made_room.as_mut().enable();
                let waiting = self.waiting.load(Ordering::Acquire);
                if waiting < WAITING {
                    break WAITING - waiting;
                }
                made_room.await;
            };
            let entries: Vec<_> =
                reader.next(room).await.into_iter().map(|p| Entry::new(p, rule.clone())).collect();
            self.waiting.fetch_add(entries.len(), Ordering::AcqRel);
            self.hand_out(entries);
        }
    }

    fn hand_out(&self, entries: Vec<Arc<Entry>>) {
        match self.queues.as_slice() {
            [only] => only.push(entries),
            lanes => {
                for entry in entries {
                    let lane = usize::try_from(entry.key() % lanes.len() as u64).unwrap_or(0);
                    lanes[lane].push([entry]);
                }
            }
        }
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
    pub(super) fn take(&self, lane: u32) -> Vec<Arc<Entry>> {
        let Some(queue) = self.queues.get(lane as usize) else { return Vec::new() };
        let mut entries = queue.lock();
        let mut bytes = 0;
        let mut count = 0;
        let (most_messages, most_bytes) = self.batch;
        for entry in entries.iter().take(most_messages) {
            bytes += entry.message.size();
            if bytes > most_bytes && count > 0 {
                break;
            }
            count += 1;
        }
        let batch: Vec<_> = entries.drain(..count).collect();
        drop(entries);
        if !batch.is_empty() {
            self.waiting.fetch_sub(batch.len(), Ordering::AcqRel);
            self.room.notify_one();
        }
        batch
    }
}

impl Queue {
    fn push(&self, entries: impl IntoIterator<Item = Arc<Entry>>) {
        self.lock().extend(entries);
        self.arrived.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "intake_model.rs"]
mod model;
