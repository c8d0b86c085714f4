//! The journal as the other crates use it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use message::Message;
use tokio::sync::{oneshot, watch};

use crate::chunk::Item;
use crate::counters::Counters;
use crate::disk::Folder;
use crate::front::Front;
use crate::index;
use crate::settings::JournalSettings;
use crate::store::{self, Batch, Difference, DropLetters, Latest, OpenError, Options, Replay};
use crate::stream_front::Pace;
use crate::types::{
    Amount, Append, Backlog, DeadLetter, DeadLetterFilter, DeadLetterId, Holding, JournalError, Pending,
    ReadRules, Rewind, Rewound, Sequence, Settlement, StreamIndex, StreamQuota,
};
use crate::writer;

/// The journal. A clone is another handle to the same journal.
#[derive(Clone)]
pub struct Journal(Arc<Front>);

/// Resolves when the appended messages may be acknowledged to the bus.
#[derive(Debug)]
pub struct Ticket(oneshot::Receiver<Result<(), JournalError>>);

/// Gives one stream its pending messages, each once, in order.
pub struct Reader {
    front: Arc<Front>,
    stream: StreamIndex,
    rules: ReadRules,
    paces: [Pace; 2],
}

/// A rewind that has begun and has not set any pending bit yet.
#[must_use = "the stream reads nothing again before `mark`"]
pub struct Rewinding {
    front: Arc<Front>,
    rewind: Rewind,
}

/// Room that is reserved for the dead letters of one settlement. Dropping it
/// releases what [`Journal::settle_reserved`] did not consume.
pub struct DeadLetterRoom {
    front: Arc<Front>,
    bytes: u64,
}

/// Target size of a segment file.
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// How much of a stream may be in memory: messages, and bytes of messages.
const LOADED_MESSAGES: u64 = 8192;
const LOADED_BYTES: u64 = 4 * 1024 * 1024;
/// How far [`Journal::latest`] looks back: bytes of messages of all streams.
pub const LOOK_BACK: u64 = 64 * 1024 * 1024;

impl Journal {
    /// Opens or creates the journal for the streams that have a file. Blocks.
    /// Its thread runs until [`Journal::close`].
    pub fn open(settings: &JournalSettings, streams: Vec<StreamQuota>) -> Result<Self, OpenError> {
        let folder = Folder::make(settings.path.clone())
            .map_err(|e| OpenError::Failed(format!("{}: {e}", settings.path.display())))?;
        let options = Options {
            max_size: settings.max_size,
            keep: settings.keep,
            max_dead_letters: settings.dead_letters_max_size,
            segment: SEGMENT_BYTES.min(settings.max_size / 16),
            loaded_messages: LOADED_MESSAGES,
            loaded_bytes: LOADED_BYTES,
        };
        Ok(Self(writer::start(Arc::new(folder), options, streams, settings.sync)?))
    }

    /// The real store on a simulated disk, for tests. It has no thread: each
    /// call commits before it returns, so that it works under a paused clock.
    #[cfg(any(test, feature = "test-support"))]
    pub fn simulated(with: store::Simulated) -> Self {
        let options = Options {
            max_size: 1 << 32,
            keep: std::time::Duration::from_secs(3600),
            max_dead_letters: with.max_dead_letters,
            segment: 1 << 20,
            loaded_messages: LOADED_MESSAGES,
            loaded_bytes: LOADED_BYTES,
        };
        Self(writer::start_without_thread(with.disk(), options, with.quotas()))
    }

    /// Delays commits (`true`), or commits everything that waits and commits
    /// at each call again (`false`). Only for a [`Journal::simulated`] one.
    #[cfg(any(test, feature = "test-support"))]
    pub fn hold_commits(&self, hold: bool) {
        self.0.hold_commits(hold);
    }

    /// Commits all settlements and closes the journal. Later calls fail.
    pub async fn close(&self) {
        let front = self.0.clone();
        // An error is a panic of the task, which has been reported.
        let _ = tokio::task::spawn_blocking(move || front.close()).await;
    }

    /// Replaces the set of streams that have a file; durable on return. A new
    /// stream gets a number. A stream whose file is gone becomes detached: it is
    /// kept for 24 hours and continues where it was if its file comes back. The
    /// caller must not read a detached stream. After an error a part of the
    /// change may have been made: call again.
    pub async fn set_streams(&self, streams: Vec<StreamQuota>) -> Result<(), JournalError> {
        self.0.set_streams(streams).await
    }

    /// Hands out again all messages that the stream has read and not settled,
    /// for a new reader that replaces the old one. Settled messages stay settled.
    pub async fn take_back(&self, stream: StreamIndex) -> Result<(), JournalError> {
        self.0.take_back(stream).await
    }

    /// The number of a stream that has a file.
    pub fn stream(&self, name: &str) -> Option<StreamIndex> {
        self.0.stream(name)
    }

    /// The name of a stream, detached streams included.
    pub fn name(&self, stream: StreamIndex) -> Option<String> {
        self.0.name(stream)
    }

    /// Appends the messages in one commit. Waits while the journal is full; a
    /// future that is dropped while it waits has appended nothing. An empty
    /// batch resolves at once.
    pub async fn append(&self, batch: Vec<Append>) -> Ticket {
        self.append_in(&Sequence::default(), batch).await
    }

    /// Like [`Journal::append`], as part of a sequence: after one append of the
    /// sequence has failed, all later ones fail. The broker sends the failed
    /// messages again, and they must not end up behind later ones.
    pub async fn append_in(&self, sequence: &Sequence, batch: Vec<Append>) -> Ticket {
        let item =
            |append: Append| (Item { message: append.message, as_is: None, reread: false }, append.streams);
        let items = batch.into_iter().map(item).collect();
        let batch = Batch { items, reread: false, sequence: sequence.clone() };
        Ticket(self.0.append(batch).await)
    }

    /// A reader for the stream. Two readers of a stream share its messages.
    pub fn reader(&self, stream: StreamIndex, rules: ReadRules) -> Reader {
        Reader { front: self.0.clone(), stream, rules, paces: Default::default() }
    }

    /// Ends messages of a stream. Positions that are not pending are ignored, so
    /// each message is counted once.
    pub fn settle(&self, stream: StreamIndex, settlement: Settlement) {
        self.0.settle(stream, settlement, 0);
    }

    /// Like [`Journal::settle`]; the dead letters take the reserved room.
    pub fn settle_reserved(&self, stream: StreamIndex, settlement: Settlement, mut room: DeadLetterRoom) {
        self.0.settle(stream, settlement, std::mem::take(&mut room.bytes));
    }

    /// A reservation for dead letters, empty at first. A letter for which it has
    /// no room must wait until the operator replays or drops others.
    pub fn dead_letter_room(&self) -> DeadLetterRoom {
        DeadLetterRoom { front: self.0.clone(), bytes: 0 }
    }

    /// The durable counters of a stream.
    pub fn counters(&self, stream: StreamIndex) -> Counters {
        self.0.counters(stream)
    }

    /// How much a stream has queued.
    pub fn backlog(&self, stream: StreamIndex) -> Backlog {
        self.0.backlog(stream)
    }

    /// How full the journal is, and which stream fills it.
    pub fn holding(&self) -> Holding {
        self.0.holding()
    }

    /// A random number from the creation of the journal. It tells its positions
    /// from those of any other journal.
    pub fn id(&self) -> [u8; 16] {
        self.0.id()
    }

    /// How many times the stream was rewound.
    pub fn generation(&self, stream: StreamIndex) -> u64 {
        self.0.generation(stream)
    }

    /// Whether the stream is paused, and each change of that.
    pub fn paused(&self, stream: StreamIndex) -> watch::Receiver<bool> {
        self.0.paused(stream)
    }

    /// Pauses or resumes a stream. Survives a restart.
    pub async fn pause(&self, stream: StreamIndex, paused: bool) -> Result<(), JournalError> {
        self.0.run(move |store| store.pause(stream, paused)).await
    }

    /// The dead letters that match the filter, oldest first.
    pub async fn dead_letters(
        &self,
        filter: DeadLetterFilter,
    ) -> Result<Vec<(DeadLetterId, StreamIndex, DeadLetter)>, JournalError> {
        let index = self.0.index()?;
        blocking(move || store::find_letters(&index, &filter)).await
    }

    /// Makes streams read the messages of these dead letters again. With `as_is`
    /// the refused delivery is sent unchanged. Returns the number of messages.
    pub async fn replay(&self, filter: DeadLetterFilter, as_is: bool) -> Result<u64, JournalError> {
        let mut replay = self.0.run(move |store| Ok(Replay::begin(store, filter, as_is))).await?;
        while !replay.is_done() {
            let page = self.0.run_handing(move |store| {
                let ready = replay.page(store)?;
                Ok((replay, ready))
            });
            replay = page.await?;
        }
        Ok(replay.replayed())
    }

    /// Deletes the dead letters that match the filter. Returns their number.
    pub async fn drop_dead_letters(&self, filter: DeadLetterFilter) -> Result<u64, JournalError> {
        let mut drop = self.0.run(move |store| Ok(DropLetters::begin(store, filter))).await?;
        while !drop.is_done() {
            let index = self.0.index()?;
            // The search runs beside the writer: it may read a lot.
            drop = blocking(move || drop.find(&index)).await?;
            let page = self.0.run_handing(move |store| {
                let ready = drop.page(store)?;
                Ok((drop, ready))
            });
            drop = page.await?;
        }
        Ok(drop.dropped())
    }

    /// Begins a rewind. On return the scripts' state is cleared, unless the
    /// rewind keeps it or is a dry run. No message is handed out before
    /// [`Rewinding::mark`].
    pub async fn begin_rewind(&self, rewind: Rewind) -> Result<Rewinding, JournalError> {
        if !rewind.dry_run {
            let rewind = rewind.clone();
            self.0.run(move |store| store.begin_rewind(&rewind)).await?;
        }
        Ok(Rewinding { front: self.0.clone(), rewind })
    }

    /// The newest messages that `wanted` accepts, oldest first: at most this
    /// amount, from the last [`LOOK_BACK`] bytes of the journal.
    pub async fn latest(
        &self,
        max: Amount,
        wanted: impl Fn(&Message) -> bool + Send + Sync + 'static,
    ) -> Result<Vec<Message>, JournalError> {
        let wanted = Arc::new(wanted);
        let mut search = Latest::new(max, LOOK_BACK);
        while !search.is_done() {
            let wanted = wanted.clone();
            // In slices, so that no commit waits for the whole search.
            let slice = self.0.run(move |store| {
                store.latest_slice(&mut search, &*wanted)?;
                Ok(search)
            });
            search = slice.await?;
        }
        Ok(search.into_messages())
    }

    /// Deletes the state that the scripts of a stream have written.
    pub async fn clear_state(&self, stream: StreamIndex) -> Result<(), JournalError> {
        self.0.run(move |store| store.forget_state(stream)).await
    }

    /// Deletes a detached stream and everything that is queued for it. False: no
    /// such stream exists, or it has a file.
    pub async fn forget(&self, name: &str) -> Result<bool, JournalError> {
        let Some(stream) = self.0.detached_stream(name) else { return Ok(false) };
        // The dead letters in pages, so that no commit waits for all of them.
        let mut page = Some(0);
        while let Some(from) = page {
            page = self.0.run(move |store| store.forget_letters(stream, from)).await?;
        }
        self.0.run(move |store| store.forget(stream)).await
    }

    /// The number of a detached stream.
    pub fn detached_stream(&self, name: &str) -> Option<StreamIndex> {
        self.0.detached_stream(name)
    }

    /// The detached streams: name, and since when in Unix milliseconds.
    pub fn detached(&self) -> Vec<(String, u64)> {
        self.0.detached().into_iter().map(|(name, _, since)| (name, since)).collect()
    }

    /// The state that the scripts of a stream have written.
    pub async fn state(&self, stream: StreamIndex) -> Result<Vec<(String, Bytes)>, JournalError> {
        self.0.run(move |store| store.state(stream)).await
    }

    /// Counts every pending bit and returns where the counters differ.
    pub async fn check(&self) -> Result<Vec<Difference>, JournalError> {
        let index = self.0.index()?;
        blocking(move || store::check(&index)).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> index::Result<T> + Send + 'static,
) -> Result<T, JournalError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| JournalError::Broken(error.to_string())),
        Err(error) => Err(JournalError::Interrupted(error.to_string())),
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Journal").field(&self.holding()).finish()
    }
}

impl Future for Ticket {
    type Output = Result<(), JournalError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|resolved| resolved.unwrap_or(Err(JournalError::Closed)))
    }
}

impl Rewinding {
    /// Sets the pending bits of the messages that `wanted` accepts. Works in
    /// slices; each slice is handed out as soon as it is durable. A future that
    /// is dropped half-way leaves the slices that are done.
    pub async fn mark(
        self,
        wanted: impl Fn(&Message) -> bool + Send + Sync + 'static,
    ) -> Result<Rewound, JournalError> {
        let Self { front, rewind } = self;
        let wanted = Arc::new(wanted);
        let mut sum = Rewound::default();
        let mut next = Some(0);
        while let Some(from) = next {
            let (rewind, wanted) = (rewind.clone(), wanted.clone());
            let slice = front.run_handing(move |store| {
                let mut slice = store.rewind_slice(&rewind, from, &*wanted)?;
                let ready = std::mem::take(&mut slice.ready);
                Ok((slice, ready))
            });
            let slice = slice.await?;
            sum.add(&slice.found);
            next = slice.next;
        }
        Ok(sum)
    }
}

impl fmt::Debug for Rewinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rewinding").field(&self.rewind).finish()
    }
}

impl Reader {
    /// Pending messages that were not handed out yet: waits for at least one,
    /// returns at most `max_messages`. Cancel safe.
    pub async fn next(&mut self, max_messages: usize) -> Vec<Pending> {
        self.front.read(self.stream, &self.rules, &mut self.paces, max_messages).await
    }
}

impl DeadLetterRoom {
    /// Reserves room for one more letter. False: the journal has no room for it.
    pub fn reserve(&mut self, letter: &DeadLetter) -> bool {
        let bytes = letter.size();
        let reserved = self.front.reserve_letters(bytes);
        if reserved {
            self.bytes += bytes;
        }
        reserved
    }
}

impl Drop for DeadLetterRoom {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.front.release_letters(self.bytes);
        }
    }
}

impl fmt::Debug for DeadLetterRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetterRoom").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
