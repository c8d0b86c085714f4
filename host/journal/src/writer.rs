//! The one thread that writes.
//!
//! Appends and settlements wait in [`Front`] until [`policy`] decides that a
//! commit is due. The thread takes all of them, commits, gives the messages to
//! the readers, publishes the new state and resolves the tickets. After an I/O
//! error nothing is acknowledged until the store has been opened again: only a
//! fresh look at the disk shows what a failed sync has left there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use telemetry::event;

use crate::disk::Disk;
use crate::front::{Command, Demand, Done, Front, Next, Taken};
use crate::policy;
use crate::settings::SyncMode;
use crate::store::{OpenError, Options, Store, StoreError, Work};
use crate::types::{JournalError, Settlement, StreamIndex, StreamQuota};

/// How often the writer looks for expired data when it has no other work.
const TICK: Duration = Duration::from_secs(1);
/// How often it looks for room while an append waits for it.
const LOOK: Duration = Duration::from_millis(50);
/// It looks for more room when less than this is left, or less than this share
/// of the journal.
const LITTLE_ROOM: u64 = 8 * 1024 * 1024;
const LITTLE_SHARE: u64 = 16;

struct Writer {
    store: Option<Store>,
    disk: Arc<dyn Disk>,
    options: Options,
    sync: SyncMode,
    last_commit: Option<Instant>,
    last_tick: Instant,
    last_look: Instant,
    /// A commit was made without a sync.
    unsynced: bool,
    /// Streams have room for more of their backlog on the disk.
    reads_on: bool,
}

type Answers = Vec<Box<dyn FnOnce() + Send>>;

/// Opens the store and starts the thread.
pub(crate) fn start(
    disk: Arc<dyn Disk>,
    options: Options,
    streams: Vec<StreamQuota>,
    sync: SyncMode,
) -> Result<Arc<Front>, OpenError> {
    let store = Store::open(disk.clone(), options.clone(), &streams)?;
    let front = Arc::new(Front::new(&store, streams));
    let writer = Writer::new(Some(store), disk, options, sync);
    let shared = front.clone();
    std::thread::Builder::new()
        .name("journal".to_owned())
        .spawn(move || writer.run(&shared))
        .map_err(|e| OpenError::Failed(format!("cannot start its thread: {e}")))?;
    Ok(front)
}

/// Opens the store for tests; the thread of each caller does the work.
#[cfg(any(test, feature = "test-support"))]
pub(crate) fn start_without_thread(
    disk: Arc<dyn Disk>,
    options: Options,
    streams: Vec<StreamQuota>,
) -> Arc<Front> {
    let store = Store::open(disk.clone(), options.clone(), &streams);
    let store = store.unwrap_or_else(|error| panic!("the simulated disk does not fail: {error}"));
    let front = Arc::new(Front::new(&store, streams));
    front.set_stepper(Box::new(Writer::new(Some(store), disk, options, SyncMode::Always)));
    front
}

#[cfg(any(test, feature = "test-support"))]
impl crate::front::Stepper for Writer {
    fn step(&mut self, front: &Front) {
        loop {
            let taken = front.take_work_now();
            let closing = taken.closing;
            if self.store.is_none() {
                return;
            }
            self.turn(front, taken);
            if closing {
                self.store = None;
                front.set_closed();
                return;
            }
            if !self.reads_on {
                return;
            }
        }
    }
}

impl Writer {
    fn new(store: Option<Store>, disk: Arc<dyn Disk>, options: Options, sync: SyncMode) -> Self {
        let now = Instant::now();
        Self {
            store,
            disk,
            options,
            sync,
            last_commit: None,
            last_tick: now,
            last_look: now,
            unsynced: false,
            reads_on: true,
        }
    }

    fn run(mut self, front: &Front) {
        loop {
            let taken = front.take_work(|demand, now| self.next_turn(demand, now));
            if self.store.is_none() {
                // Closed before the store could be opened again: the tickets fail.
                break;
            }
            let closing = taken.closing;
            self.turn(front, taken);
            if closing {
                break;
            }
        }
        // Closes the files before the caller of `close` continues.
        self.store = None;
        front.set_closed();
    }

    fn next_turn(&self, demand: Demand, now: Instant) -> Next {
        if self.reads_on {
            return Next::Now;
        }
        let tick = self.last_tick + TICK;
        let due = policy::due(self.last_commit, demand.waiting, now);
        let look = demand.starving.then_some(self.last_look + LOOK);
        let until = due.into_iter().chain(look).fold(tick, Instant::min);
        if until <= now { Next::Now } else { Next::At(until) }
    }

    /// Does all of the work and answers all of its callers.
    fn turn(&mut self, front: &Front, taken: Taken) {
        let Taken { work, tickets, mut commands, closing } = taken;
        let Some(mut store) = self.store.take() else { return };
        let mut answers = Answers::new();
        let done = self.work(front, &mut store, &work, &mut commands, closing, &mut answers);
        if done.is_ok() {
            front.publish(&store);
        }
        self.store = Some(store);
        let resolved = match &done {
            Ok(()) => Ok(()),
            Err(error) => {
                // Before any caller continues: it may append more at once.
                work.batches.iter().for_each(|batch| batch.sequence.end());
                front.set_broken(error.to_string());
                Err(JournalError::Broken(error.to_string()))
            }
        };
        // Commands that did not run fail.
        drop(commands);
        answers.into_iter().for_each(|answer| answer());
        for ticket in tickets {
            // Its connection may have ended.
            let _ = ticket.send(resolved.clone());
        }
        if let Err(error) = done {
            self.open_again(front, error, work.settlements);
        }
    }

    fn work(
        &mut self,
        front: &Front,
        store: &mut Store,
        work: &Work,
        commands: &mut VecDeque<Command>,
        closing: bool,
        answers: &mut Answers,
    ) -> Result<(), StoreError> {
        let now = Instant::now();
        let tick = self.last_tick + TICK <= now;
        let durable = self.sync == SyncMode::Always || closing || (tick && self.unsynced);
        if !work.is_empty() || (durable && self.unsynced) {
            self.last_commit = Some(now);
            let ready = store.commit(work, durable)?;
            self.unsynced = !durable;
            front.hand_out(ready);
        }
        while let Some(command) = commands.pop_front() {
            let Done { ready, answer } = command(store);
            answers.push(answer);
            front.hand_out(ready?);
        }
        let wanted = front.wanted();
        if wanted.is_some() {
            self.last_look = now;
        }
        let little = LITTLE_ROOM.min(self.options.max_size / LITTLE_SHARE).max(wanted.unwrap_or(0));
        if store.room() < little {
            store.make_room(little)?;
        }
        if tick {
            self.last_tick = now;
            store.sweep()?;
        }
        front.hand_out(store.read_on()?);
        self.reads_on = store.is_hungry();
        Ok(())
    }

    /// Closes all files after an error and opens the store until that works.
    /// Settlements are kept; appends were refused.
    fn open_again(&mut self, front: &Front, error: StoreError, settlements: Vec<(StreamIndex, Settlement)>) {
        event::JournalBroken { reason: &error }.emit();
        let mut full = error.is_full();
        let before = self.store.take().map(Store::into_given);
        loop {
            match Store::open(self.disk.clone(), self.options.clone(), &front.reopen_for()) {
                Ok(mut store) => {
                    front.follow(&store);
                    let resumed = match &before {
                        Some(before) => store.resume(before, &settlements),
                        None => Ok(Vec::new()),
                    };
                    // Else the next commit would find the same full disk.
                    let evicted = if full { store.evict_half() } else { Ok(()) };
                    match evicted.and(resumed) {
                        Ok(ready) => {
                            front.hand_out(ready);
                            front.repaired(&store, settlements);
                            self.store = Some(store);
                            tracing::info!("the journal is open again");
                            return;
                        }
                        Err(error) => {
                            full |= error.is_full();
                            front.set_broken(error.to_string());
                        }
                    }
                }
                Err(error) => front.set_broken(error.to_string()),
            }
            if front.wait_for_disk(TICK) {
                return;
            }
        }
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
