//! The queue in front of the writer's thread, and the state that it publishes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use telemetry::event;
use tokio::sync::{Notify, oneshot, watch};

use crate::counters::{self, Counters};
use crate::index::Index;
use crate::policy::{self, Waiting};
use crate::store::{Batch, ReadyBatch, Store, StoreError, Work};
use crate::stream_front::{Pace, StreamFront};
use crate::types::{
    Backlog, DeadLetter, Fill, Holding, JournalError, Pending, ReadRules, Settlement, StreamIndex,
    StreamQuota,
};

/// Bytes that may wait for the writer: two commits under load.
const QUEUE_BYTES: u64 = 4 * 1024 * 1024;
/// Bytes that a message takes in a segment in addition to topic and payload.
const FRAME: u64 = 32;
/// The name of a counter in alarms.
const RESERVED: &str = "reserved dead-letter bytes";

type Answer<T> = oneshot::Sender<Result<T, JournalError>>;

/// Work for the store between two commits.
pub(crate) type Command = Box<dyn FnOnce(&mut Store) -> Done + Send>;

/// The result of a command.
pub(crate) struct Done {
    /// Messages for readers.
    pub ready: Result<Vec<ReadyBatch>, StoreError>,
    /// Answers the caller. To be called after the result was published.
    pub answer: Box<dyn FnOnce() + Send>,
}

/// Everything that waited for the writer.
pub(crate) struct Taken {
    pub work: Work,
    /// One for each append of `work`.
    pub tickets: Vec<Answer<()>>,
    pub commands: VecDeque<Command>,
    pub closing: bool,
}

/// The demand by which the writer decides when to work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    pub waiting: Waiting,
    /// Appends wait for room in the journal.
    pub starving: bool,
}

/// When the writer works next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Now,
    At(Instant),
}

/// A writer without a thread, for tests: it works when it is called.
#[cfg(any(test, feature = "test-support"))]
pub(crate) trait Stepper: Send {
    fn step(&mut self, front: &Front);
}

/// The state that callers and the writer share.
pub(crate) struct Front {
    inner: Mutex<Inner>,
    /// Notified when there is work for the writer, and when it has ended.
    work: Condvar,
    /// Notified when there may be room for appends that wait.
    room: Notify,
    id: [u8; 16],
    #[cfg(any(test, feature = "test-support"))]
    stepper: Mutex<Option<Box<dyn Stepper>>>,
}

struct Inner {
    appends: Vec<(Batch, Answer<()>)>,
    append_messages: usize,
    append_bytes: u64,
    settlements: Vec<(StreamIndex, Settlement)>,
    first_settlement: Option<Instant>,
    commands: VecDeque<Command>,
    streams: BTreeMap<StreamIndex, StreamFront>,
    /// The streams with a file: needed to open the store again.
    with_file: Vec<StreamQuota>,
    detached: Vec<(String, StreamIndex, u64)>,
    index: Option<Arc<Index>>,
    /// Number of appends that wait for room, and bytes of the largest of them.
    waiting: usize,
    wanted: u64,
    /// Bytes that may still be appended.
    room: u64,
    size: Fill,
    letters: Fill,
    /// Bytes of dead letters that are reserved and not settled yet.
    reserved: u64,
    alarm: u64,
    broken: Option<String>,
    closing: bool,
    closed: bool,
    /// A test delays the commits.
    #[cfg(any(test, feature = "test-support"))]
    held: bool,
}

/// The side of the callers.
impl Front {
    pub(crate) fn new(store: &Store, streams: Vec<StreamQuota>) -> Self {
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
            size: Fill { used: 0, limit: store.options().max_size },
            letters: Fill { used: 0, limit: store.options().max_dead_letters },
            reserved: 0,
            alarm: 0,
            broken: None,
            closing: false,
            closed: false,
            #[cfg(any(test, feature = "test-support"))]
            held: false,
        };
        let front = Self {
            inner: Mutex::new(inner),
            work: Condvar::new(),
            room: Notify::new(),
            id: store.id(),
            #[cfg(any(test, feature = "test-support"))]
            stepper: Mutex::new(None),
        };
        front.follow(store);
        front.publish(store);
        front
    }

    /// Replaces the streams that have a file.
    pub(crate) async fn set_streams(self: &Arc<Self>, streams: Vec<StreamQuota>) -> Result<(), JournalError> {
        self.lock().with_file.clone_from(&streams);
        let front = self.clone();
        let set = self.run(move |store| {
            store.set_streams(&streams)?;
            front.follow(store);
            Ok(())
        });
        set.await
    }

    /// Hands out again all messages that the stream has read and not settled.
    pub(crate) async fn take_back(self: &Arc<Self>, stream: StreamIndex) -> Result<(), JournalError> {
        let front = self.clone();
        let taken = self.run(move |store| {
            // Only this thread hands out, so nothing comes between the two.
            store.take_back(stream);
            if let Some(known) = front.lock().streams.get_mut(&stream) {
                known.clear();
            }
            Ok(())
        });
        taken.await
    }

    pub(crate) fn id(&self) -> [u8; 16] {
        self.id
    }

    /// The number of a stream with a file.
    pub(crate) fn stream(&self, name: &str) -> Option<StreamIndex> {
        self.lock().streams.iter().find(|(_, s)| s.name() == name).map(|(index, _)| *index)
    }

    /// The number of a detached stream.
    pub(crate) fn detached_stream(&self, name: &str) -> Option<StreamIndex> {
        self.lock().detached.iter().find(|(known, _, _)| known == name).map(|(_, index, _)| *index)
    }

    pub(crate) fn name(&self, stream: StreamIndex) -> Option<String> {
        let inner = self.lock();
        let detached =
            || inner.detached.iter().find(|(_, index, _)| *index == stream).map(|(name, _, _)| &**name);
        inner.streams.get(&stream).map(StreamFront::name).or_else(detached).map(str::to_owned)
    }

    /// Waits for room, then queues the batch. A future that is dropped before
    /// has queued nothing.
    pub(crate) async fn append(&self, batch: Batch) -> oneshot::Receiver<Result<(), JournalError>> {
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
                    // After the end the answer is dropped: the ticket fails.
                    if !inner.closing {
                        inner.append_messages += batch.items.len();
                        inner.append_bytes += bytes;
                        inner.appends.push((batch, answer));
                        drop(inner);
                        self.wake();
                    }
                    return ticket;
                }
                inner.wanted = inner.wanted.max(bytes);
                if waiting.count(&mut inner) {
                    drop(inner);
                    self.wake();
                }
            }
            room.await;
        }
    }

    /// Queues a settlement. Its dead letters consume `reserved` bytes.
    pub(crate) fn settle(&self, stream: StreamIndex, settlement: Settlement, reserved: u64) {
        let mut inner = self.lock();
        counters::take(&mut inner.reserved, reserved, RESERVED);
        inner.letters.used += letter_bytes(&settlement);
        inner.settlements.push((stream, settlement));
        if inner.first_settlement.is_none() {
            inner.first_settlement = Some(Instant::now());
            drop(inner);
            self.wake();
        }
    }

    /// Reserves bytes for dead letters. False: there is no room.
    pub(crate) fn reserve_letters(&self, bytes: u64) -> bool {
        let mut inner = self.lock();
        let fits = inner.letters.used + inner.reserved + bytes <= inner.letters.limit;
        if fits {
            inner.reserved += bytes;
        }
        fits
    }

    pub(crate) fn release_letters(&self, bytes: u64) {
        counters::take(&mut self.lock().reserved, bytes, RESERVED);
    }

    /// Messages of a stream that were not handed out yet; at least one.
    pub(crate) async fn read(
        &self,
        stream: StreamIndex,
        rules: &ReadRules,
        paces: &mut [Pace; 2],
        max: usize,
    ) -> Vec<Pending> {
        let Some(arrivals) = self.lock().streams.get(&stream).map(StreamFront::arrivals) else {
            return std::future::pending().await;
        };
        loop {
            let mut arrived = std::pin::pin!(arrivals.notified());
            arrived.as_mut().enable();
            let (taken, look_at) = self.take(stream, rules, paces, max);
            if !taken.is_empty() {
                return taken;
            }
            match look_at {
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
        inner.streams.get_mut(&stream).map(|known| known.take(rules, paces, max)).unwrap_or_default()
    }

    pub(crate) fn counters(&self, stream: StreamIndex) -> Counters {
        self.lock().streams.get(&stream).map(StreamFront::counters).unwrap_or_default()
    }

    pub(crate) fn backlog(&self, stream: StreamIndex) -> Backlog {
        self.lock().streams.get(&stream).map(StreamFront::backlog).unwrap_or_default()
    }

    pub(crate) fn holding(&self) -> Holding {
        let inner = self.lock();
        let full = inner.waiting > 0 && inner.is_full();
        // A stream that blocks with its own quota, else the one with the largest backlog.
        let holder = inner.streams.iter().max_by_key(|(_, s)| (s.blocks(), s.backlog().bytes));
        Holding {
            messages: inner.streams.values().map(|s| s.counters().queued).sum(),
            bytes: inner.size,
            dead_letters: inner.letters,
            full,
            holder: holder.filter(|_| full).map(|(index, _)| *index),
            broken: inner.broken.clone(),
        }
    }

    pub(crate) fn generation(&self, stream: StreamIndex) -> u64 {
        self.lock().streams.get(&stream).map_or(0, StreamFront::generation)
    }

    pub(crate) fn paused(&self, stream: StreamIndex) -> watch::Receiver<bool> {
        match self.lock().streams.get(&stream) {
            Some(known) => known.paused(),
            None => watch::Sender::new(false).subscribe(),
        }
    }

    pub(crate) fn detached(&self) -> Vec<(String, StreamIndex, u64)> {
        self.lock().detached.clone()
    }

    /// The index, for reading; an error while the store is being opened again.
    pub(crate) fn index(&self) -> Result<Arc<Index>, JournalError> {
        let inner = self.lock();
        inner.index.clone().ok_or_else(|| inner.unavailable())
    }

    /// Runs `work` between two commits. Its result is published before this
    /// returns.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, JournalError> {
        self.run_handing(move |store| Ok((work(store)?, Vec::new()))).await
    }

    /// Like [`Front::run`], for work that has messages for readers.
    pub(crate) async fn run_handing<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<(T, Vec<ReadyBatch>), StoreError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let (answer, answered) = oneshot::channel();
        let command: Command = Box::new(move |store| {
            let (done, ready) = match work(store) {
                Ok((done, ready)) => (Ok(done), Ok(ready)),
                Err(error) => (Err(JournalError::Broken(error.to_string())), Err(error)),
            };
            // The caller may have gone.
            Done { ready, answer: Box::new(move || drop(answer.send(done))) }
        });
        {
            let mut inner = self.lock();
            if inner.closing {
                return Err(JournalError::Closed);
            }
            inner.commands.push_back(command);
        }
        self.wake();
        answered.await.unwrap_or_else(|_| Err(self.lock().unavailable()))
    }

    /// Commits everything that waits and ends the writer. Blocks.
    pub(crate) fn close(&self) {
        self.begin_close();
        let mut inner = self.lock();
        while !inner.closed {
            inner = self.work.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets the writer come to its end. Calls fail from now on.
    pub(crate) fn begin_close(&self) {
        self.lock().closing = true;
        self.wake();
        self.room.notify_waiters();
    }

    /// There is work for the writer.
    fn wake(&self) {
        self.work.notify_all();
        #[cfg(any(test, feature = "test-support"))]
        if let Some(stepper) = &mut *self.stepper.lock().unwrap_or_else(PoisonError::into_inner) {
            let held = self.lock().is_held();
            if !held {
                stepper.step(self);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code panics half-way while it holds the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The side of the writer.
impl Front {
    /// Waits until it is time to work, and takes everything that waits. `next`
    /// decides when that is; commands and the end do not wait.
    pub(crate) fn take_work(&self, next: impl Fn(Demand, Instant) -> Next) -> Taken {
        let mut inner = self.lock();
        loop {
            let now = Instant::now();
            let until = match next(inner.demand(), now) {
                Next::At(until) if until > now && !inner.closing && inner.commands.is_empty() => until,
                Next::At(_) | Next::Now => return inner.take_work(),
            };
            let waited = self.work.wait_timeout(inner, until.saturating_duration_since(now));
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether appends wait for room, and bytes of the largest of them.
    pub(crate) fn wanted(&self) -> Option<u64> {
        let inner = self.lock();
        (inner.waiting > 0).then_some(inner.wanted)
    }

    /// Gives messages to the readers.
    pub(crate) fn hand_out(&self, ready: Vec<ReadyBatch>) {
        if ready.is_empty() {
            return;
        }
        let mut inner = self.lock();
        for batch in ready {
            if let Some(stream) = inner.streams.get_mut(&batch.stream) {
                stream.put(batch.source, batch.messages);
            }
        }
    }

    /// Publishes the durable state, and raises alarms.
    pub(crate) fn publish(&self, store: &Store) {
        let mut inner = self.lock();
        for (index, stream) in &mut inner.streams {
            stream.show(store, *index);
            stream.check_alarm();
        }
        inner.show_detached(store);
        inner.size.used = store.used();
        inner.room = store.room();
        let queued: u64 = inner.settlements.iter().map(|(_, settlement)| letter_bytes(settlement)).sum();
        inner.letters.used = store.letter_bytes() + queued;
        let alarm = policy::alarm(inner.size);
        if alarm > inner.alarm {
            let Fill { used, limit } = inner.size;
            event::BacklogAlarm { stream: None, percent: alarm, bytes: used, limit }.emit();
        }
        inner.alarm = alarm;
        if inner.waiting > 0 {
            self.room.notify_waiters();
        }
    }

    /// Follows the streams of the store. To be called before any message of a
    /// new stream is handed out.
    pub(crate) fn follow(&self, store: &Store) {
        let mut inner = self.lock();
        inner.streams.retain(|index, _| store.quota(*index).is_some());
        for (name, index) in store.running() {
            let Some(quota) = store.quota(index) else { continue };
            let known = inner.streams.entry(index).or_insert_with(|| StreamFront::new(name, quota));
            known.set_quota(quota);
            known.show(store, index);
        }
        inner.show_detached(store);
        drop(inner);
        // A stream that made the bus wait may have gone, or may hold more.
        self.room.notify_waiters();
    }

    /// The store cannot work any more: nothing is accepted until
    /// [`Front::repaired`].
    pub(crate) fn set_broken(&self, reason: String) {
        let mut inner = self.lock();
        inner.broken = Some(reason);
        inner.index = None;
    }

    /// The streams to open the store for; none: the journal is being closed.
    pub(crate) fn reopen_for(&self) -> Vec<StreamQuota> {
        self.lock().with_file.clone()
    }

    /// The store works again. The settlements go before all that came since.
    pub(crate) fn repaired(&self, store: &Store, settlements: Vec<(StreamIndex, Settlement)>) {
        {
            let mut inner = self.lock();
            inner.settlements.splice(0..0, settlements);
            inner.first_settlement = Some(Instant::now());
            inner.broken = None;
            inner.index = Some(store.index());
        }
        self.publish(store);
        self.room.notify_waiters();
    }

    /// Waits a while for the disk. True: the journal is being closed.
    pub(crate) fn wait_for_disk(&self, pause: std::time::Duration) -> bool {
        let inner = self.lock();
        if inner.closing {
            return true;
        }
        drop(self.work.wait_timeout(inner, pause));
        false
    }

    /// The writer has ended and has closed its files.
    pub(crate) fn set_closed(&self) {
        let mut inner = self.lock();
        inner.index = None;
        inner.closed = true;
        inner.appends.clear();
        inner.commands.clear();
        self.work.notify_all();
    }
}

/// For tests that work without a thread.
#[cfg(any(test, feature = "test-support"))]
impl Front {
    pub(crate) fn set_stepper(&self, stepper: Box<dyn Stepper>) {
        *self.stepper.lock().unwrap_or_else(PoisonError::into_inner) = Some(stepper);
    }

    pub(crate) fn take_work_now(&self) -> Taken {
        self.lock().take_work()
    }

    pub(crate) fn hold_commits(&self, hold: bool) {
        self.lock().held = hold;
        self.wake();
    }
}

impl Inner {
    fn has_room(&self, batch: &Batch, bytes: u64) -> bool {
        let blocked = |index: &StreamIndex| self.streams.get(index).is_some_and(StreamFront::blocks);
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

    fn demand(&self) -> Demand {
        let waiting = Waiting {
            messages: self.append_messages,
            bytes: usize::try_from(self.append_bytes).unwrap_or(usize::MAX),
            settlement: self.first_settlement,
        };
        Demand { waiting, starving: self.waiting > 0 }
    }

    fn take_work(&mut self) -> Taken {
        let mut taken = Taken {
            work: Work::default(),
            tickets: Vec::new(),
            commands: std::mem::take(&mut self.commands),
            closing: self.closing,
        };
        for (batch, ticket) in std::mem::take(&mut self.appends) {
            if batch.sequence.has_ended() {
                let _ = ticket.send(Err(JournalError::EarlierFailed));
            } else {
                taken.work.batches.push(batch);
                taken.tickets.push(ticket);
            }
        }
        self.append_messages = 0;
        self.append_bytes = 0;
        self.first_settlement = None;
        taken.work.settlements = std::mem::take(&mut self.settlements);
        taken
    }

    fn show_detached(&mut self, store: &Store) {
        self.detached =
            store.detached().map(|(name, index, since)| (name.to_owned(), index, since)).collect();
    }

    /// Whether a test delays the commits. Commands and the end do not wait.
    #[cfg(any(test, feature = "test-support"))]
    fn is_held(&self) -> bool {
        self.held && self.commands.is_empty() && !self.closing
    }

    /// Why no call is served.
    fn unavailable(&self) -> JournalError {
        self.broken.clone().map_or(JournalError::Closed, JournalError::Broken)
    }
}

/// Counts an append as waiting, also when its future is dropped while it waits.
struct AppendWaits<'a> {
    front: &'a Front,
    counted: bool,
}

impl AppendWaits<'_> {
    /// True: it was not counted before.
    fn count(&mut self, inner: &mut Inner) -> bool {
        let is_new = !std::mem::replace(&mut self.counted, true);
        inner.waiting += usize::from(is_new);
        is_new
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

fn letter_bytes(settlement: &Settlement) -> u64 {
    settlement.dead_letters.iter().map(DeadLetter::size).sum()
}
