//! The one thread that writes, and what everybody else asks it through.
//!
//! Appends and settlements wait in [`Front`] until [`policy`] says that a
//! commit is due; the thread takes all of them, commits, resolves the tickets
//! and puts the messages where the readers find them. After an I/O error
//! nothing is acknowledged until the store was opened again: what a failed
//! sync has left on the disk is known only to a new look at it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot, watch};

use super::disk::Disk;
use super::index::Index;
use super::policy::{self, Waiting};
use super::store::{Batch, Handed, Lot, OpenError, Options, Store, StoreError, StreamOptions, Work};
use super::{
    Backlog, Books, Holding, JournalError, OnFull, Pending, Quota, ReadRules, Settlement, StreamIndex,
};
use crate::config::SyncMode;
use crate::telemetry::event;

/// Bytes that may wait for the writer: two commits' worth under load.
const QUEUE_BYTES: u64 = 4 * 1024 * 1024;
/// How often the writer looks for what has grown too old, without work.
const TICK: Duration = Duration::from_secs(1);
/// How often while an append waits for room.
const LOOK: Duration = Duration::from_millis(50);
/// Room below which the writer looks for more, and the share of the journal
/// where that is less.
const LITTLE_ROOM: u64 = 8 * 1024 * 1024;
const LITTLE_SHARE: u64 = 16;
/// What a message takes in a segment beside topic and payload.
const FRAME: u64 = 32;
/// Shares of a limit at which somebody should know, in percent.
const ALARMS: [u64; 2] = [80, 50];

type Answer<T> = oneshot::Sender<Result<T, JournalError>>;
type Command = Box<dyn FnOnce(&mut Store) -> Result<Vec<Handed>, StoreError> + Send>;

/// What the threads share.
pub(super) struct Front {
    inner: Mutex<Inner>,
    /// There is something for the writer.
    work: Condvar,
    /// There may be room for appends that wait.
    room: Notify,
    id: [u8; 16],
}

struct Inner {
    appends: Vec<(Batch, Answer<()>)>,
    append_messages: usize,
    append_bytes: u64,
    settlements: Vec<(StreamIndex, Settlement)>,
    first_settlement: Option<Instant>,
    commands: VecDeque<Command>,
    streams: BTreeMap<u32, StreamFront>,
    /// The streams with a file: what the store is opened for, should it have
    /// to be opened again.
    with_file: Vec<StreamOptions>,
    orphans: Vec<(String, StreamIndex, u64)>,
    index: Option<Arc<Index>>,
    /// Appends that wait for room, and bytes of the largest of them.
    waiting: usize,
    wanted: u64,
    room: u64,
    used: u64,
    max_size: u64,
    letters: u64,
    max_letters: u64,
    alarm: u64,
    broken: Option<String>,
    closing: bool,
    closed: bool,
}

/// A stream as its reader and the admin listener see it.
struct StreamFront {
    name: String,
    live: VecDeque<Pending>,
    waited: VecDeque<Pending>,
    again: VecDeque<Pending>,
    again_rate: Option<f64>,
    arrived: Arc<Notify>,
    books: Books,
    backlog: u64,
    quota: Quota,
    alarm: u64,
    generation: u64,
    paused: watch::Sender<bool>,
}

/// When how many messages may be read, for a rate.
#[derive(Debug, Default)]
pub(super) struct Pace {
    next: Option<tokio::time::Instant>,
}

struct Writer {
    front: Arc<Front>,
    store: Option<Store>,
    disk: Arc<dyn Disk>,
    options: Options,
    sync: SyncMode,
    last_commit: Option<Instant>,
    last_tick: Instant,
    last_look: Instant,
    /// Something was committed without a sync.
    unsynced: bool,
    /// Streams have room for more of what waits on the disk.
    reads_on: bool,
}

/// Opens the store and starts the thread.
pub(super) fn start(
    disk: Arc<dyn Disk>,
    options: Options,
    streams: Vec<StreamOptions>,
    sync: SyncMode,
) -> Result<Arc<Front>, OpenError> {
    let store = Store::open(disk.clone(), options.clone(), &streams)?;
    let front = Arc::new(Front::new(&store, streams));
    let mut writer = Writer {
        front: front.clone(),
        store: None,
        disk,
        options,
        sync,
        last_commit: None,
        last_tick: Instant::now(),
        last_look: Instant::now(),
        unsynced: false,
        reads_on: true,
    };
    writer.publish(&store);
    writer.store = Some(store);
    std::thread::Builder::new()
        .name("journal".to_owned())
        .spawn(move || writer.run())
        .map_err(|e| OpenError::Failed(format!("no thread for it: {e}")))?;
    Ok(front)
}

// === impl Front ===

impl Front {
    fn new(store: &Store, streams: Vec<StreamOptions>) -> Self {
        let inner = Inner {
            appends: Vec::new(),
            append_messages: 0,
            append_bytes: 0,
            settlements: Vec::new(),
            first_settlement: None,
            commands: VecDeque::new(),
            streams: BTreeMap::new(),
            with_file: streams,
            orphans: Vec::new(),
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
    fn follow(&self, store: &Store) {
        let mut inner = self.lock();
        inner.streams.retain(|index, _| store.quota(StreamIndex(*index)).is_some());
        for (name, index) in store.running() {
            let Some(quota) = store.quota(index) else { continue };
            let known = inner.streams.entry(index.0).or_insert_with(|| StreamFront::new(name, quota));
            known.quota = quota;
            known.show(store, index);
        }
        inner.show_orphans(store);
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
        let orphan = || inner.orphans.iter().find(|(_, index, _)| *index == stream).map(|(name, _, _)| name);
        inner.streams.get(&stream.0).map(|known| &known.name).or_else(orphan).cloned()
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

    pub(super) fn books(&self, stream: StreamIndex) -> Books {
        self.lock().streams.get(&stream.0).map(|s| s.books).unwrap_or_default()
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
            messages: inner.streams.values().map(|s| s.books.queued).sum(),
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

    pub(super) fn orphans(&self) -> Vec<(String, StreamIndex, u64)> {
        self.lock().orphans.clone()
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

    fn lock(&self) -> MutexGuard<'_, Inner> {
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

    fn waits(&self) -> Waiting {
        Waiting {
            messages: self.append_messages,
            bytes: usize::try_from(self.append_bytes).unwrap_or(usize::MAX),
            settlement: self.first_settlement,
        }
    }

    fn show_orphans(&mut self, store: &Store) {
        self.orphans = store.orphans().map(|(name, index, since)| (name.to_owned(), index, since)).collect();
    }

    fn put(&mut self, handed: Handed) {
        let Some(stream) = self.streams.get_mut(&handed.stream.0) else { return };
        match handed.lot {
            Lot::Live => stream.live.extend(handed.messages),
            Lot::Waited => stream.waited.extend(handed.messages),
            Lot::Again => stream.again.extend(handed.messages),
        }
        stream.arrived.notify_one();
    }
}

// === impl StreamFront ===

impl StreamFront {
    fn new(name: &str, quota: Quota) -> Self {
        Self {
            name: name.to_owned(),
            live: VecDeque::new(),
            waited: VecDeque::new(),
            again: VecDeque::new(),
            again_rate: None,
            arrived: Arc::default(),
            books: Books::default(),
            backlog: 0,
            quota,
            alarm: 0,
            generation: 0,
            paused: watch::Sender::new(false),
        }
    }

    /// Shows what is durable now.
    fn show(&mut self, store: &Store, index: StreamIndex) {
        (self.books, self.backlog) = store.books(index);
        if let Some(record) = store.record(index) {
            self.generation = record.generation;
            self.again_rate = record.again_rate;
            self.paused.send_if_modified(|paused| std::mem::replace(paused, record.paused) != record.paused);
        }
    }

    /// Whether its quota keeps the bus waiting.
    fn blocks(&self) -> bool {
        self.quota.on_full == OnFull::Block && self.backlog >= self.quota.max_backlog
    }

    /// The next messages, and when to look again if a rate is the reason that
    /// there are none.
    fn take(
        &mut self,
        rules: &ReadRules,
        [backlog, again]: &mut [Pace; 2],
        max: usize,
    ) -> (Vec<Pending>, Option<tokio::time::Instant>) {
        let now = tokio::time::Instant::now();
        let mut taken = Vec::new();
        let mut wait = None;
        while taken.len() < max {
            let live_is_next = match (self.live.front(), self.waited.front()) {
                (Some(live), Some(waited)) => rules.live_first || live.position < waited.position,
                (live, _) => live.is_some(),
            };
            let next = if live_is_next {
                self.live.pop_front()
            } else if !self.waited.is_empty() {
                match backlog.admit(rules.backlog_rate, now) {
                    Ok(()) => self.waited.pop_front(),
                    Err(at) => {
                        wait = Some(at);
                        None
                    }
                }
            } else if !self.again.is_empty() {
                match again.admit(self.again_rate, now) {
                    Ok(()) => self.again.pop_front(),
                    Err(at) => {
                        wait = Some(at);
                        None
                    }
                }
            } else {
                None
            };
            match next {
                Some(message) => taken.push(message),
                None => break,
            }
        }
        (taken, wait)
    }
}

// === impl Pace ===

impl Pace {
    /// Whether one more message may be read now; else when.
    fn admit(&mut self, rate: Option<f64>, now: tokio::time::Instant) -> Result<(), tokio::time::Instant> {
        let Some(rate) = rate.filter(|rate| *rate > 0.0) else { return Ok(()) };
        let next = self.next.unwrap_or(now);
        if next > now {
            return Err(next);
        }
        // Timers are late by some milliseconds: what was missed is made up for.
        let late = now.duration_since(next).min(Duration::from_millis(100));
        self.next = Some(now - late + Duration::from_secs_f64(1.0 / rate));
        Ok(())
    }
}

// === impl Writer ===

impl Writer {
    fn run(mut self) {
        loop {
            let (work, tickets, commands, closing) = self.wait_for_work();
            if self.store.is_none() {
                // Closed before it could be opened again: the tickets fail.
                break;
            }
            match self.step(&work, commands, closing) {
                Ok(()) => tickets.into_iter().for_each(|ticket| {
                    // Nobody listens any more when the connection has gone.
                    let _ = ticket.send(Ok(()));
                }),
                Err(error) => {
                    let reason = error.to_string();
                    // Before anybody is told, for more may be there by then.
                    work.batches.iter().for_each(|batch| batch.sequence.end());
                    for ticket in tickets {
                        let _ = ticket.send(Err(JournalError(reason.clone())));
                    }
                    self.open_again(error, work.settlements);
                }
            }
            if closing {
                break;
            }
        }
        // Closes the files before anybody is told.
        self.store = None;
        let mut inner = self.front.lock();
        inner.index = None;
        inner.closed = true;
        inner.appends.clear();
        inner.commands.clear();
        self.front.work.notify_all();
    }

    fn wait_for_work(&self) -> (Work, Vec<Answer<()>>, VecDeque<Command>, bool) {
        let mut inner = self.front.lock();
        loop {
            let now = Instant::now();
            let tick = self.last_tick + TICK;
            let due = policy::due(self.last_commit, inner.waits(), now);
            // Whoever waits for room has the writer look for some.
            let look = self.last_look + LOOK;
            let starved = inner.waiting > 0 && look <= now;
            if inner.closing
                || starved
                || self.reads_on
                || !inner.commands.is_empty()
                || tick <= now
                || due.is_some_and(|d| d <= now)
            {
                break;
            }
            let mut until = due.map_or(tick, |due| due.min(tick));
            if inner.waiting > 0 {
                until = until.min(look);
            }
            let waited = self.front.work.wait_timeout(inner, until.saturating_duration_since(now));
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let (mut batches, mut tickets) = (Vec::new(), Vec::new());
        for (batch, ticket) in std::mem::take(&mut inner.appends) {
            if batch.sequence.has_ended() {
                let _ = ticket.send(Err(JournalError("what came before it has failed".to_owned())));
            } else {
                batches.push(batch);
                tickets.push(ticket);
            }
        }
        inner.append_messages = 0;
        inner.append_bytes = 0;
        inner.first_settlement = None;
        let settlements = std::mem::take(&mut inner.settlements);
        let commands = std::mem::take(&mut inner.commands);
        (Work { batches, settlements, drop_letters: Vec::new() }, tickets, commands, inner.closing)
    }

    fn step(&mut self, work: &Work, commands: VecDeque<Command>, closing: bool) -> Result<(), StoreError> {
        let Some(mut store) = self.store.take() else { return Ok(()) };
        let done = self.work(&mut store, work, commands, closing);
        if done.is_ok() {
            self.publish(&store);
        }
        self.store = Some(store);
        done
    }

    fn work(
        &mut self,
        store: &mut Store,
        work: &Work,
        commands: VecDeque<Command>,
        closing: bool,
    ) -> Result<(), StoreError> {
        let now = Instant::now();
        let tick = self.last_tick + TICK <= now;
        let durable = self.sync == SyncMode::Always || closing || (tick && self.unsynced);
        if !work.is_empty() || (durable && self.unsynced) {
            self.last_commit = Some(now);
            let handed = store.commit(work, durable)?;
            self.unsynced = !durable;
            self.hand_over(handed);
        }
        for command in commands {
            let handed = command(store)?;
            self.hand_over(handed);
        }
        let (starved, wanted) = {
            let inner = self.front.lock();
            (inner.waiting > 0, inner.wanted)
        };
        let little = LITTLE_ROOM.min(self.options.max_size / LITTLE_SHARE).max(wanted);
        if starved {
            self.last_look = now;
        }
        if store.room() < little {
            store.make_room(little)?;
        }
        if tick {
            self.last_tick = now;
            store.sweep()?;
        }
        let handed = store.read_on()?;
        self.hand_over(handed);
        self.reads_on = store.is_hungry();
        Ok(())
    }

    fn hand_over(&self, handed: Vec<Handed>) {
        if handed.is_empty() {
            return;
        }
        let mut inner = self.front.lock();
        handed.into_iter().for_each(|handed| inner.put(handed));
    }

    /// Shows what is durable now.
    fn publish(&self, store: &Store) {
        let mut inner = self.front.lock();
        for (index, stream) in &mut inner.streams {
            stream.show(store, StreamIndex(*index));
            let backlog = stream.backlog;
            let alarm = alarm(backlog, stream.quota.max_backlog);
            if alarm > stream.alarm {
                let (limit, stream) = (stream.quota.max_backlog, Some(&*stream.name));
                event::BacklogAlarm { stream, percent: alarm, bytes: backlog, limit }.emit();
            }
            stream.alarm = alarm;
        }
        inner.show_orphans(store);
        inner.used = store.used();
        inner.room = store.room();
        let unsettled =
            inner.settlements.iter().flat_map(|(_, s)| &s.dead_letters).map(letter_size).sum::<u64>();
        inner.letters = store.letter_bytes() + unsettled;
        let alarm = alarm(inner.used, inner.max_size);
        if alarm > inner.alarm {
            let (bytes, limit) = (inner.used, inner.max_size);
            event::BacklogAlarm { stream: None, percent: alarm, bytes, limit }.emit();
        }
        inner.alarm = alarm;
        if inner.waiting > 0 {
            self.front.room.notify_waiters();
        }
    }

    /// After an error: lets go of all files and looks at the disk anew, until
    /// it works again. Settlements are kept; appends were refused.
    fn open_again(&mut self, error: StoreError, settlements: Vec<(StreamIndex, Settlement)>) {
        event::JournalBroken { reason: &error }.emit();
        let mut full = error.is_full();
        let memory = self.store.take().map(Store::into_memory);
        {
            let mut inner = self.front.lock();
            inner.broken = Some(error.to_string());
            inner.index = None;
        }
        loop {
            let with_file = self.front.lock().with_file.clone();
            match Store::open(self.disk.clone(), self.options.clone(), &with_file) {
                Ok(mut store) => {
                    self.front.follow(&store);
                    let resumed = match &memory {
                        Some(before) => store.resume(before, &settlements),
                        None => Ok(Vec::new()),
                    };
                    // Or the next commit would meet the same disk.
                    let evicted = if full { store.evict_half() } else { Ok(()) };
                    match evicted.and(resumed) {
                        Ok(handed) => {
                            self.hand_over(handed);
                            let mut inner = self.front.lock();
                            inner.settlements.splice(0..0, settlements);
                            inner.first_settlement = Some(Instant::now());
                            inner.broken = None;
                            inner.index = Some(store.index());
                            drop(inner);
                            self.publish(&store);
                            self.store = Some(store);
                            self.front.room.notify_waiters();
                            tracing::info!("the journal is open again");
                            return;
                        }
                        Err(error) => {
                            full |= error.is_full();
                            self.still_broken(error.to_string());
                        }
                    }
                }
                Err(error) => self.still_broken(error.to_string()),
            }
            let inner = self.front.lock();
            if inner.closing {
                return;
            }
            drop(self.front.work.wait_timeout(inner, TICK));
        }
    }

    fn still_broken(&self, reason: String) {
        self.front.lock().broken = Some(reason);
    }
}

impl Work {
    fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.settlements.is_empty() && self.drop_letters.is_empty()
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

/// The highest alarm that so much of a limit sets off, in percent; 0: none.
fn alarm(bytes: u64, limit: u64) -> u64 {
    ALARMS
        .into_iter()
        .find(|percent| u128::from(bytes) * 100 >= u128::from(limit) * u128::from(*percent))
        .unwrap_or(0)
}

fn letter_size(letter: &super::DeadLetter) -> u64 {
    letter.size() as u64
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
