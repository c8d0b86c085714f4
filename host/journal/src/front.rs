//! What everybody asks the writer's thread through, and what it shows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, oneshot, watch};

use super::index::Index;
use super::policy::Waiting;
use super::store::{Batch, Handed, Lot, Store, StoreError, StreamOptions};
use super::stream_front::{Pace, StreamFront};
use super::{
    Backlog, Counters, DeadLetter, Holding, JournalError, Pending, ReadRules, Settlement, StreamIndex,
};

/// Bytes that may wait for the writer: two commits' worth under load.
const QUEUE_BYTES: u64 = 4 * 1024 * 1024;
/// What a message takes in a segment beside topic and payload.
const FRAME: u64 = 32;

pub(super) type Answer<T> = oneshot::Sender<Result<T, JournalError>>;
pub(super) type Command = Box<dyn FnOnce(&mut Store) -> Result<Vec<Handed>, StoreError> + Send>;

/// What the threads share.
pub(super) struct Front {
    inner: Mutex<Inner>,
    /// There is something for the writer.
    pub(super) work: Condvar,
    /// There may be room for appends that wait.
    pub(super) room: Notify,
    id: [u8; 16],
}

pub(super) struct Inner {
    pub(super) appends: Vec<(Batch, Answer<()>)>,
    pub(super) append_messages: usize,
    pub(super) append_bytes: u64,
    pub(super) settlements: Vec<(StreamIndex, Settlement)>,
    pub(super) first_settlement: Option<Instant>,
    pub(super) commands: VecDeque<Command>,
    pub(super) streams: BTreeMap<u32, StreamFront>,
    /// The streams with a file: what the store is opened for, should it have
    /// to be opened again.
    pub(super) with_file: Vec<StreamOptions>,
    pub(super) detached: Vec<(String, StreamIndex, u64)>,
    pub(super) index: Option<Arc<Index>>,
    /// Appends that wait for room, and bytes of the largest of them.
    pub(super) waiting: usize,
    pub(super) wanted: u64,
    pub(super) room: u64,
    pub(super) used: u64,
    pub(super) max_size: u64,
    pub(super) letters: u64,
    pub(super) max_letters: u64,
    pub(super) alarm: u64,
    pub(super) broken: Option<String>,
    pub(super) closing: bool,
    pub(super) closed: bool,
}

// === impl Front ===

impl Front {
    pub(super) fn new(store: &Store, streams: Vec<StreamOptions>) -> Self {
        let inner = Inner {
            appends: Vec::new(),
            append_messages: 0,
            append_bytes: 0,
            settlements: Vec::new(),
            first_settlement: None,
            commands: VecDeque::new(),
            streams: BTreeMap::new(),
            with_file: streams,
            detached: Vec::new(),
            index: Some(store.index()),
            waiting: 0,
            wanted: 0,
            room: 0,
            used: 0,
            max_size: store.options().max_size,
            letters: 0,
            max_letters: store.options().max_dead_letters,
            alarm: 0,
            broken: None,
            closing: false,
            closed: false,
        };
        let front =
            Self { inner: Mutex::new(inner), work: Condvar::new(), room: Notify::new(), id: store.id() };
        front.follow(store);
        front
    }

    /// Has the streams that the store has, and no other. To be called before
    /// anything is handed out.
    pub(super) fn follow(&self, store: &Store) {
        let mut inner = self.lock();
        inner.streams.retain(|index, _| store.quota(StreamIndex(*index)).is_some());
        for (name, index) in store.running() {
            let Some(quota) = store.quota(index) else { continue };
            let known = inner.streams.entry(index.0).or_insert_with(|| StreamFront::new(name, quota));
            known.quota = quota;
            known.show(store, index);
        }
        inner.show_detached(store);
        drop(inner);
        // A stream that held the bus back may have gone, or may hold more.
        self.room.notify_waiters();
    }

    /// From now on these streams have a file.
    pub(super) async fn set_streams(
        self: &Arc<Self>,
        streams: Vec<StreamOptions>,
    ) -> Result<(), JournalError> {
        self.lock().with_file.clone_from(&streams);
        let front = self.clone();
        let set = self.run(move |store| {
            store.set_streams(&streams)?;
            front.follow(store);
            Ok(((), Vec::new()))
        });
        set.await
    }

    /// What a stream was handed and has not settled is handed out anew.
    pub(super) async fn take_back(self: &Arc<Self>, stream: StreamIndex) -> Result<(), JournalError> {
        let front = self.clone();
        let taken = self.run(move |store| {
            // Only this thread hands out, so nothing comes between the two.
            store.take_back(stream);
            if let Some(known) = front.lock().streams.get_mut(&stream.0) {
                known.live.clear();
                known.waited.clear();
                known.again.clear();
            }
            Ok(((), Vec::new()))
        });
        taken.await
    }

    pub(super) fn id(&self) -> [u8; 16] {
        self.id
    }

    /// The streams by name.
    pub(super) fn stream(&self, name: &str) -> Option<StreamIndex> {
        self.lock().streams.iter().find(|(_, s)| s.name == name).map(|(index, _)| StreamIndex(*index))
    }

    pub(super) fn name(&self, stream: StreamIndex) -> Option<String> {
        let inner = self.lock();
        let detached =
            || inner.detached.iter().find(|(_, index, _)| *index == stream).map(|(name, _, _)| name);
        inner.streams.get(&stream.0).map(|known| &known.name).or_else(detached).cloned()
    }

    /// Waits for room, then leaves the batch to the writer. Nothing was left if
    /// the future is dropped before.
    pub(super) async fn append(&self, batch: Batch) -> oneshot::Receiver<Result<(), JournalError>> {
        let (answer, ticket) = oneshot::channel();
        if batch.items.is_empty() {
            let _ = answer.send(Ok(()));
            return ticket;
        }
        let bytes = batch.bytes() as u64 + batch.items.len() as u64 * FRAME;
        let mut waiting = AppendWaits { front: self, counted: false };
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            {
                let mut inner = self.lock();
                if inner.closing || inner.has_room(&batch, bytes) {
                    waiting.uncount(&mut inner);
                    // After the end nobody answers: the ticket fails.
                    if !inner.closing {
                        inner.append_messages += batch.items.len();
                        inner.append_bytes += bytes;
                        inner.appends.push((batch, answer));
                        self.work.notify_one();
                    }
                    return ticket;
                }
                waiting.count(&mut inner);
                inner.wanted = inner.wanted.max(bytes);
                self.work.notify_one();
            }
            room.await;
        }
    }

    pub(super) fn settle(&self, stream: StreamIndex, settlement: Settlement) {
        let mut inner = self.lock();
        inner.letters += settlement.dead_letters.iter().map(letter_size).sum::<u64>();
        inner.settlements.push((stream, settlement));
        if inner.first_settlement.is_none() {
            inner.first_settlement = Some(Instant::now());
            self.work.notify_one();
        }
    }

    pub(super) fn has_room_for_dead_letter(&self, bytes: usize) -> bool {
        let inner = self.lock();
        inner.letters + bytes as u64 <= inner.max_letters
    }

    /// Messages for a stream that were not handed out yet; at least one.
    pub(super) async fn read(
        &self,
        stream: StreamIndex,
        rules: &ReadRules,
        paces: &mut [Pace; 2],
        max: usize,
    ) -> Vec<Pending> {
        let Some(arrivals) = self.lock().streams.get(&stream.0).map(|s| s.arrived.clone()) else {
            return std::future::pending().await;
        };
        loop {
            let mut arrived = std::pin::pin!(arrivals.notified());
            arrived.as_mut().enable();
            let (taken, again_at) = self.take(stream, rules, paces, max);
            if !taken.is_empty() {
                return taken;
            }
            match again_at {
                Some(at) => tokio::select! {
                    () = &mut arrived => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => arrived.await,
            }
        }
    }

    fn take(
        &self,
        stream: StreamIndex,
        rules: &ReadRules,
        paces: &mut [Pace; 2],
        max: usize,
    ) -> (Vec<Pending>, Option<tokio::time::Instant>) {
        let mut inner = self.lock();
        inner.streams.get_mut(&stream.0).map(|known| known.take(rules, paces, max)).unwrap_or_default()
    }

    pub(super) fn counters(&self, stream: StreamIndex) -> Counters {
        self.lock().streams.get(&stream.0).map(|s| s.counters).unwrap_or_default()
    }

    pub(super) fn backlog(&self, stream: StreamIndex) -> Backlog {
        let inner = self.lock();
        let Some(known) = inner.streams.get(&stream.0) else { return Backlog::default() };
        Backlog { bytes: known.backlog, max_bytes: known.quota.max_backlog, alarm: known.alarm }
    }

    pub(super) fn holding(&self) -> Holding {
        let inner = self.lock();
        let full = inner.waiting > 0 && inner.is_full();
        // Whoever blocks with its own quota, else whoever has most.
        let holder = inner.streams.iter().max_by_key(|(_, s)| (s.blocks(), s.backlog));
        Holding {
            messages: inner.streams.values().map(|s| s.counters.queued).sum(),
            bytes: (inner.used, inner.max_size),
            dead_letters: (inner.letters, inner.max_letters),
            full,
            holder: holder.filter(|_| full).map(|(index, _)| StreamIndex(*index)),
            broken: inner.broken.clone(),
        }
    }

    pub(super) fn generation(&self, stream: StreamIndex) -> u64 {
        self.lock().streams.get(&stream.0).map_or(0, |s| s.generation)
    }

    pub(super) fn paused(&self, stream: StreamIndex) -> watch::Receiver<bool> {
        match self.lock().streams.get(&stream.0) {
            Some(known) => known.paused.subscribe(),
            None => watch::Sender::new(false).subscribe(),
        }
    }

    pub(super) fn detached(&self) -> Vec<(String, StreamIndex, u64)> {
        self.lock().detached.clone()
    }

    /// The index, for reading; none while it is opened again.
    pub(super) fn index(&self) -> Result<Arc<Index>, JournalError> {
        let inner = self.lock();
        let broken = || JournalError(inner.broken.clone().unwrap_or_else(|| "it was closed".to_owned()));
        inner.index.clone().ok_or_else(broken)
    }

    /// Lets the writer do something between two commits.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<(T, Vec<Handed>), StoreError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let (answer, answered) = oneshot::channel();
        let command: Command = Box::new(move |store| match work(store) {
            Ok((done, handed)) => {
                let _ = answer.send(Ok(done));
                Ok(handed)
            }
            Err(error) => {
                let _ = answer.send(Err(JournalError(error.to_string())));
                Err(error)
            }
        });
        {
            let mut inner = self.lock();
            if inner.closing {
                return Err(JournalError("it was closed".to_owned()));
            }
            inner.commands.push_back(command);
            self.work.notify_one();
        }
        answered.await.unwrap_or_else(|_| Err(JournalError("it was closed".to_owned())))
    }

    /// Commits what waits and ends the thread. Blocks.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        inner.closing = true;
        self.work.notify_one();
        self.room.notify_waiters();
        while !inner.closed {
            inner = self.work.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under the lock panics half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Inner ===

impl Inner {
    fn has_room(&self, batch: &Batch, bytes: u64) -> bool {
        let blocked = |index: &StreamIndex| self.streams.get(&index.0).is_some_and(StreamFront::blocks);
        let queue = self.append_bytes == 0 || self.append_bytes + bytes <= QUEUE_BYTES;
        queue
            && self.broken.is_none()
            && self.append_bytes + bytes <= self.room
            && !batch.items.iter().flat_map(|(_, streams)| streams).any(blocked)
    }

    /// Whether an append would wait for more than its turn.
    fn is_full(&self) -> bool {
        self.broken.is_some()
            || self.room < QUEUE_BYTES.max(self.wanted)
            || self.streams.values().any(StreamFront::blocks)
    }

    pub(super) fn waits(&self) -> Waiting {
        Waiting {
            messages: self.append_messages,
            bytes: usize::try_from(self.append_bytes).unwrap_or(usize::MAX),
            settlement: self.first_settlement,
        }
    }

    pub(super) fn show_detached(&mut self, store: &Store) {
        self.detached =
            store.detached().map(|(name, index, since)| (name.to_owned(), index, since)).collect();
    }

    pub(super) fn put(&mut self, handed: Handed) {
        let Some(stream) = self.streams.get_mut(&handed.stream.0) else { return };
        match handed.lot {
            Lot::Live => stream.live.extend(handed.messages),
            Lot::Waited => stream.waited.extend(handed.messages),
            Lot::Again => stream.again.extend(handed.messages),
        }
        stream.arrived.notify_one();
    }
}

/// Counts an append as waiting, also when its future is dropped meanwhile.
struct AppendWaits<'a> {
    front: &'a Front,
    counted: bool,
}

impl AppendWaits<'_> {
    fn count(&mut self, inner: &mut Inner) {
        if !std::mem::replace(&mut self.counted, true) {
            inner.waiting += 1;
        }
    }

    fn uncount(&mut self, inner: &mut Inner) {
        if std::mem::take(&mut self.counted) {
            inner.waiting -= 1;
            if inner.waiting == 0 {
                inner.wanted = 0;
            }
        }
    }
}

impl Drop for AppendWaits<'_> {
    fn drop(&mut self) {
        if self.counted {
            let front = self.front;
            self.uncount(&mut front.lock());
        }
    }
}

pub(super) fn letter_size(letter: &DeadLetter) -> u64 {
    letter.size() as u64
}
