//! A journal in memory that resolves tickets when everything has settled: tests
//! of the bus and of streams drive it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use message::Message;
use tokio::sync::{Notify, oneshot, watch};

use super::{
    Append, Counters, DeadLetter, DeadLetterFilter, DeadLetterId, Holding, JournalError, Outcome, Pending,
    Position, Reading, Settlement, StreamIndex,
};

pub(super) struct Memory {
    max_messages: usize,
    max_bytes: usize,
    inner: Mutex<Inner>,
    /// Woken when room was made.
    room: Notify,
    /// One a stream, woken when something was appended for it.
    arrivals: Vec<Notify>,
    paused: Vec<watch::Sender<bool>>,
    /// Bytes of dead letters that there is room for.
    dead_letter_room: AtomicUsize,
}

struct Inner {
    next_chunk: u64,
    chunks: BTreeMap<u64, Chunk>,
    streams: Vec<StreamRows>,
    dead_letters: Vec<(DeadLetterId, StreamIndex, DeadLetter)>,
    messages: usize,
    bytes: usize,
    /// Appends that wait for room.
    waiting: usize,
}

/// One commit.
struct Chunk {
    messages: Vec<Message>,
    /// For each message the streams that have not settled it.
    pending: Vec<Vec<StreamIndex>>,
    /// Messages with at least one such stream.
    open: usize,
    ticket: oneshot::Sender<Result<(), JournalError>>,
}

#[derive(Default)]
struct StreamRows {
    counters: Counters,
    /// Pending and not handed out yet.
    unread: VecDeque<Position>,
    /// Every pending position.
    pending: BTreeSet<Position>,
}

impl Memory {
    pub(super) fn new(streams: usize, max_messages: usize, max_bytes: usize) -> Self {
        Self {
            max_messages,
            max_bytes,
            inner: Mutex::new(Inner {
                next_chunk: 0,
                chunks: BTreeMap::new(),
                streams: (0..streams).map(|_| StreamRows::default()).collect(),
                dead_letters: Vec::new(),
                messages: 0,
                bytes: 0,
                waiting: 0,
            }),
            room: Notify::new(),
            arrivals: (0..streams).map(|_| Notify::new()).collect(),
            paused: (0..streams).map(|_| watch::Sender::new(false)).collect(),
            dead_letter_room: AtomicUsize::new(usize::MAX),
        }
    }

    /// Of the messages that have not settled.
    pub(super) fn latest(&self, most: usize, wanted: impl Fn(&Message) -> bool) -> Vec<Message> {
        let inner = self.lock();
        let all = inner.chunks.values().flat_map(|chunk| &chunk.messages);
        let mut found: Vec<_> = all.filter(|message| wanted(message)).cloned().collect();
        found.split_off(found.len().saturating_sub(most))
    }

    pub(super) async fn append(&self, batch: Vec<Append>) -> oneshot::Receiver<Result<(), JournalError>> {
        let (ticket, resolved) = oneshot::channel();
        if batch.is_empty() {
            let _ = ticket.send(Ok(()));
            return resolved;
        }
        let bytes: usize = batch.iter().map(|a| a.message.size()).sum();
        let mut waiting = Waiting { store: self, counted: false };
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            {
                let mut inner = self.lock();
                // A batch larger than the whole journal is let in alone.
                let fits = inner.messages + batch.len() <= self.max_messages
                    && inner.bytes + bytes <= self.max_bytes;
                if fits || inner.messages == 0 {
                    waiting.done(&mut inner);
                    inner.insert(batch, bytes, ticket, &self.arrivals);
                    return resolved;
                }
                waiting.count(&mut inner);
            }
            room.await;
        }
    }

    pub(super) async fn read(&self, stream: StreamIndex, max: usize) -> Vec<Pending> {
        let Some(arrivals) = self.arrivals.get(stream.0 as usize) else {
            return std::future::pending().await;
        };
        loop {
            let mut arrived = std::pin::pin!(arrivals.notified());
            arrived.as_mut().enable();
            let taken = self.lock().take(stream, max);
            if !taken.is_empty() {
                return taken;
            }
            arrived.await;
        }
    }

    pub(super) fn settle(&self, stream: StreamIndex, settlement: Settlement) {
        let mut inner = self.lock();
        let before = inner.messages;
        for (position, outcome) in settlement.ended {
            inner.settle(stream, position, outcome);
        }
        for letter in settlement.dead_letters {
            let id = DeadLetterId(inner.dead_letters.len() as u64);
            inner.dead_letters.push((id, stream, letter));
        }
        let made_room = inner.messages < before;
        drop(inner);
        if made_room {
            self.room.notify_waiters();
        }
    }

    pub(super) fn counters(&self, stream: StreamIndex) -> Counters {
        let inner = self.lock();
        let Some(rows) = inner.streams.get(stream.0 as usize) else { return Counters::default() };
        let oldest = rows.pending.first().and_then(|p| inner.message(*p)).map(|m| m.received_at);
        Counters { queued: rows.pending.len() as u64, oldest, ..rows.counters }
    }

    pub(super) fn holding(&self) -> Holding {
        let inner = self.lock();
        let holder = inner.chunks.values().find_map(|c| c.pending.iter().flatten().next().copied());
        Holding {
            messages: inner.messages as u64,
            bytes: (inner.bytes as u64, self.max_bytes as u64),
            full: inner.waiting > 0,
            dead_letters: (0, u64::MAX),
            holder,
            broken: None,
        }
    }

    pub(super) fn paused(&self, stream: StreamIndex) -> watch::Receiver<bool> {
        self.paused[stream.0 as usize].subscribe()
    }

    pub(super) fn pause(&self, stream: StreamIndex, paused: bool) {
        self.paused[stream.0 as usize].send_replace(paused);
    }

    pub(super) fn has_room_for_dead_letter(&self, bytes: usize) -> bool {
        bytes <= self.dead_letter_room.load(Ordering::Relaxed)
    }

    #[cfg(any(test, feature = "test-support"))]
    pub(super) fn make_room_for_dead_letters(&self, bytes: usize) {
        self.dead_letter_room.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
    ) -> Vec<(DeadLetterId, StreamIndex, DeadLetter)> {
        let letters = self.lock().dead_letters.clone();
        letters.into_iter().filter(|(id, stream, letter)| filter.admits(*id, *stream, letter)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under the lock panics half-way; a poisoned lock still holds
        // consistent rows.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn insert(
        &mut self,
        batch: Vec<Append>,
        bytes: usize,
        ticket: oneshot::Sender<Result<(), JournalError>>,
        arrivals: &[Notify],
    ) {
        let chunk = self.next_chunk;
        self.next_chunk += 1;
        self.messages += batch.len();
        self.bytes += bytes;
        let mut messages = Vec::with_capacity(batch.len());
        let mut pending = Vec::with_capacity(batch.len());
        for (index, append) in batch.into_iter().enumerate() {
            let position = Position { chunk, index: u32::try_from(index).unwrap_or(u32::MAX) };
            for stream in &append.streams {
                if let Some(rows) = self.streams.get_mut(stream.0 as usize) {
                    rows.counters.read += 1;
                    rows.unread.push_back(position);
                    rows.pending.insert(position);
                }
                if let Some(arrived) = arrivals.get(stream.0 as usize) {
                    arrived.notify_one();
                }
            }
            messages.push(append.message);
            pending.push(append.streams);
        }
        let open = messages.len();
        self.chunks.insert(chunk, Chunk { messages, pending, open, ticket });
    }

    fn take(&mut self, stream: StreamIndex, max: usize) -> Vec<Pending> {
        let Some(rows) = self.streams.get_mut(stream.0 as usize) else { return Vec::new() };
        let count = rows.unread.len().min(max);
        let positions: Vec<Position> = rows.unread.drain(..count).collect();
        positions
            .into_iter()
            .filter_map(|position| {
                self.message(position).map(|message| Pending {
                    position,
                    message: message.clone(),
                    as_is: None,
                    reading: Reading::First,
                })
            })
            .collect()
    }

    fn message(&self, position: Position) -> Option<&Message> {
        self.chunks.get(&position.chunk)?.messages.get(position.index as usize)
    }

    fn settle(&mut self, stream: StreamIndex, position: Position, outcome: Outcome) {
        let Some(rows) = self.streams.get_mut(stream.0 as usize) else { return };
        if !rows.pending.remove(&position) {
            return;
        }
        let counters = &mut rows.counters;
        *match outcome {
            Outcome::Delivered => &mut counters.delivered,
            Outcome::Filtered => &mut counters.filtered,
            Outcome::Expired => &mut counters.expired,
            Outcome::Superseded => &mut counters.superseded,
            Outcome::DeadLettered => &mut counters.dead_lettered,
        } += 1;
        let Some(chunk) = self.chunks.get_mut(&position.chunk) else { return };
        let Some(row) = chunk.pending.get_mut(position.index as usize) else { return };
        row.retain(|s| *s != stream);
        if !row.is_empty() {
            return;
        }
        chunk.open -= 1;
        self.messages -= 1;
        self.bytes -= chunk.messages[position.index as usize].size();
        if chunk.open == 0
            && let Some(chunk) = self.chunks.remove(&position.chunk)
        {
            // Nobody listens any more when the connection has gone.
            let _ = chunk.ticket.send(Ok(()));
        }
    }
}

/// Counts an append as waiting, also when its future is dropped meanwhile.
struct Waiting<'a> {
    store: &'a Memory,
    counted: bool,
}

impl Waiting<'_> {
    fn count(&mut self, inner: &mut Inner) {
        if !self.counted {
            inner.waiting += 1;
            self.counted = true;
        }
    }

    fn done(&mut self, inner: &mut Inner) {
        if self.counted {
            inner.waiting -= 1;
            self.counted = false;
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.counted {
            let mut inner = self.store.lock();
            self.done(&mut inner);
        }
    }
}
