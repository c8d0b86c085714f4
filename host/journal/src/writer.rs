//! The one thread that writes.
//!
//! Appends and settlements wait in [`Front`] until [`policy`] says that a
//! commit is due; the thread takes all of them, commits, resolves the tickets
//! and puts the messages where the readers find them. After an I/O error
//! nothing is acknowledged until the store was opened again: what a failed
//! sync has left on the disk is known only to a new look at it.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use telemetry::event;

use super::disk::Disk;
use super::front::{Answer, Command, Front, letter_size};
use super::store::{Handed, OpenError, Options, Store, StoreError, StreamOptions, Work};
use super::{JournalError, Settlement, StreamIndex, policy};
use crate::SyncMode;

/// How often the writer looks for what has grown too old, without work.
const TICK: Duration = Duration::from_secs(1);
/// How often while an append waits for room.
const LOOK: Duration = Duration::from_millis(50);
/// Room below which the writer looks for more, and the share of the journal
/// where that is less.
const LITTLE_ROOM: u64 = 8 * 1024 * 1024;
const LITTLE_SHARE: u64 = 16;
/// Shares of a limit at which somebody should know, in percent.
const ALARMS: [u64; 2] = [80, 50];

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
        inner.show_detached(store);
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

/// The highest alarm that so much of a limit sets off, in percent; 0: none.
fn alarm(bytes: u64, limit: u64) -> u64 {
    ALARMS
        .into_iter()
        .find(|percent| u128::from(bytes) * 100 >= u128::from(limit) * u128::from(*percent))
        .unwrap_or(0)
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
