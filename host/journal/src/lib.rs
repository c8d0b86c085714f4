//! The log that every message enters before the bus is acknowledged.
//!
//! `append` gives a [`Ticket`] that resolves once the messages may be
//! acknowledged; a [`Reader`] hands each stream what is pending for it, in
//! order; `settle` is the only way out. Nothing above this folder knows how
//! the messages are kept.

mod chunk;
mod disk;
mod front;
mod index;
#[cfg(any(test, feature = "test-support"))]
mod memory;
mod policy;
mod rows;
mod settings;
mod store;
mod stream_front;
mod types;
mod writer;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use chunk::Item;
use front::Front;
#[cfg(any(test, feature = "test-support"))]
use memory::Memory;
use message::Message;
use store::{Batch, Options, Store, StreamOptions, TOGETHER};
use stream_front::Pace;
use tokio::sync::{oneshot, watch};

pub use settings::{JournalSettings, SyncMode};
pub use store::{Difference, OpenError};
pub use types::*;

/// How much the journal holds, and who holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Unsettled messages of all streams; a message counts once a stream.
    pub messages: u64,
    /// Bytes that the journal takes on the disk, and how many it may.
    pub bytes: (u64, u64),
    /// Bytes of dead letters, and how many there may be.
    pub dead_letters: (u64, u64),
    /// An append is waiting for room: the bus is being held back.
    pub full: bool,
    /// The stream with the largest backlog, while `full`.
    pub holder: Option<StreamIndex>,
    /// Why nothing can be appended now, where the disk is the reason.
    pub broken: Option<String>,
}

/// How much a stream has queued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Bytes of its messages (topic and payload).
    pub bytes: u64,
    /// How many it may have.
    pub max_bytes: u64,
    /// The share of it that was passed and should worry somebody: 0, 50 or 80
    /// percent.
    pub alarm: u64,
}

/// Why a ticket will not resolve: the messages must not be acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the journal could not keep the message: {0}")]
pub struct JournalError(pub String);

/// The journal. Cloning gives another handle.
#[derive(Clone)]
pub struct Journal(Backend);

#[derive(Clone)]
enum Backend {
    Disk(Arc<Front>),
    #[cfg(any(test, feature = "test-support"))]
    Memory(Arc<Memory>),
}

/// Resolves when what was appended may be acknowledged to the bus.
#[derive(Debug)]
pub struct Ticket(oneshot::Receiver<Result<(), JournalError>>);

/// Hands one stream its pending messages, each once, in order.
pub struct Reader {
    journal: Journal,
    stream: StreamIndex,
    rules: ReadRules,
    paces: [Pace; 2],
}

/// A rewind that has begun and has marked nothing yet.
#[must_use = "nothing is read again before it is marked"]
pub struct Rewinding {
    front: Arc<Front>,
    rewind: Rewind,
}

/// A stream that has a file: its name, and how the journal treats it.
#[derive(Clone, Debug)]
pub struct StreamQuota {
    /// Its name, which it keeps its messages under.
    pub name: String,
    /// How much it may hold.
    pub quota: Quota,
    /// As in [`ReadRules`].
    pub live_first: bool,
    /// It keeps only the newest message of each key that it has read, and is
    /// handed more than others: what is older is found by reading on.
    pub conflates: bool,
}

/// A segment file is about so large.
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Messages, and bytes of them, that a stream may have in memory.
const LOADED_MESSAGES: u64 = 8192;
const LOADED_BYTES: u64 = 4 * 1024 * 1024;

// === impl Journal ===

impl Journal {
    /// Opens the journal, or makes it, for the streams that have a file;
    /// blocks. Its thread works until [`Journal::close`].
    pub fn open(settings: &JournalSettings, streams: Vec<StreamQuota>) -> Result<Self, OpenError> {
        let folder = disk::Folder::make(settings.path.clone())
            .map_err(|e| OpenError::Failed(format!("{}: {e}", settings.path.display())))?;
        let options = Options {
            max_size: settings.max_size,
            keep: settings.keep,
            max_dead_letters: settings.dead_letters_max_size,
            segment: SEGMENT_BYTES.min(settings.max_size / 16),
            loaded_messages: LOADED_MESSAGES,
            loaded_bytes: LOADED_BYTES,
        };
        let streams = streams.into_iter().map(StreamOptions::from).collect();
        Ok(Self(Backend::Disk(writer::start(Arc::new(folder), options, streams, settings.sync)?)))
    }

    /// A journal in memory whose tickets resolve when every stream has settled
    /// the messages, so that tests can tell when the bus is acknowledged. It
    /// keeps dead letters, and nothing of scripts' state.
    #[cfg(any(test, feature = "test-support"))]
    pub fn in_memory(streams: usize, max_messages: usize, max_bytes: usize) -> Self {
        Self(Backend::Memory(Arc::new(Memory::new(streams, max_messages, max_bytes))))
    }

    /// Makes durable what has been settled, and ends. What comes later fails.
    pub async fn close(&self) {
        match &self.0 {
            Backend::Disk(front) => {
                let front = front.clone();
                // An error is a panic of the task, which has been reported.
                let _ = tokio::task::spawn_blocking(move || front.close()).await;
            }
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(_) => {}
        }
    }

    /// From now on these streams have a file, with these quotas; durable when
    /// it returns. One that is new gets a number, one whose file is gone is kept
    /// for 24 hours as at a start, and goes on where it was if it comes back
    /// within them. A stream that is no longer among them must not be read any
    /// more. After an error some of it may have been done: it is to be said again.
    pub async fn set_streams(&self, streams: Vec<StreamQuota>) -> Result<(), JournalError> {
        match &self.0 {
            Backend::Disk(front) => {
                front.set_streams(streams.into_iter().map(StreamOptions::from).collect()).await
            }
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(_) => {
                Err(JournalError(format!("the streams stay the same in memory: {streams:?}")))
            }
        }
    }

    /// Hands out anew what a stream has read and not settled: its reader has
    /// gone, and another one comes. What was settled before is settled.
    pub async fn take_back(&self, stream: StreamIndex) -> Result<(), JournalError> {
        match &self.0 {
            Backend::Disk(front) => front.take_back(stream).await,
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(_) => Err(JournalError(format!("nothing is taken back in memory: {stream:?}"))),
        }
    }

    /// The number of a stream that has a file.
    pub fn stream(&self, name: &str) -> Option<StreamIndex> {
        match &self.0 {
            Backend::Disk(front) => front.stream(name),
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(_) => None,
        }
    }

    /// The name of a stream, also of one that has no file any more.
    pub fn name(&self, stream: StreamIndex) -> Option<String> {
        match &self.0 {
            Backend::Disk(front) => front.name(stream),
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(_) => None,
        }
    }

    /// Appends the messages in one commit. Waits while the journal is full;
    /// nothing was appended if it is dropped while it waits. An empty batch
    /// resolves at once.
    pub async fn append(&self, batch: Vec<Append>) -> Ticket {
        self.append_in(&Sequence::default(), batch).await
    }

    /// The same as one of several appends, whose tickets fail once one of them
    /// has: what failed comes again and must not lie behind what came later.
    pub async fn append_in(&self, sequence: &Sequence, batch: Vec<Append>) -> Ticket {
        match &self.0 {
            Backend::Disk(front) => {
                let item = |append: Append| {
                    (Item { message: append.message, as_is: None, reread: false }, append.streams)
                };
                let items = batch.into_iter().map(item).collect();
                let sequence = sequence.clone();
                Ticket(front.append(Batch { items, reread: false, sequence }).await)
            }
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(memory) => Ticket(memory.append(batch).await),
        }
    }

    /// The reader of a stream. A second one would share the work with the first.
    pub fn reader(&self, stream: StreamIndex, rules: ReadRules) -> Reader {
        Reader { journal: self.clone(), stream, rules, paces: Default::default() }
    }

    /// Ends messages of a stream. What is not pending (any more) is ignored:
    /// a message is counted once.
    pub fn settle(&self, stream: StreamIndex, settlement: Settlement) {
        match &self.0 {
            Backend::Disk(front) => front.settle(stream, settlement),
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(memory) => memory.settle(stream, settlement),
        }
    }

    /// Whether a dead letter of so many bytes may be settled now. If not, the
    /// stream has to hold it until somebody replays or drops some.
    pub fn has_room_for_dead_letter(&self, bytes: usize) -> bool {
        match &self.0 {
            Backend::Disk(front) => front.has_room_for_dead_letter(bytes),
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(memory) => memory.has_room_for_dead_letter(bytes),
        }
    }

    /// Bytes of dead letters that a journal in memory has room for.
    #[cfg(any(test, feature = "test-support"))]
    pub fn make_room_for_dead_letters(&self, bytes: usize) {
        match &self.0 {
            Backend::Memory(memory) => memory.make_room_for_dead_letters(bytes),
            Backend::Disk(_) => {}
        }
    }

    /// The counters of a stream as they are durable.
    pub fn counters(&self, stream: StreamIndex) -> Counters {
        match &self.0 {
            Backend::Disk(front) => front.counters(stream),
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(memory) => memory.counters(stream),
        }
    }

    /// How much a stream has queued.
    pub fn backlog(&self, stream: StreamIndex) -> Backlog {
        match &self.0 {
            Backend::Disk(front) => front.backlog(stream),
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(_) => Backlog::default(),
        }
    }

    /// What is held, and by whom.
    pub fn holding(&self) -> Holding {
        match &self.0 {
            Backend::Disk(front) => front.holding(),
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(memory) => memory.holding(),
        }
    }

    /// Drawn at random when the journal was made: tells its positions from
    /// those of every other journal.
    pub fn id(&self) -> [u8; 16] {
        match &self.0 {
            Backend::Disk(front) => front.id(),
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(_) => [7; 16],
        }
    }

    /// How often the stream has been rewound.
    pub fn generation(&self, stream: StreamIndex) -> u64 {
        match &self.0 {
            Backend::Disk(front) => front.generation(stream),
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(_) => 0,
        }
    }

    /// Whether the stream is paused, now and from now on.
    pub fn paused(&self, stream: StreamIndex) -> watch::Receiver<bool> {
        match &self.0 {
            Backend::Disk(front) => front.paused(stream),
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(memory) => memory.paused(stream),
        }
    }

    /// Pauses or resumes a stream, across restarts.
    pub async fn pause(&self, stream: StreamIndex, paused: bool) -> Result<(), JournalError> {
        match &self.0 {
            Backend::Disk(front) => {
                front.run(move |store| store.pause(stream, paused).map(|()| ((), Vec::new()))).await
            }
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(memory) => {
                memory.pause(stream, paused);
                Ok(())
            }
        }
    }

    /// The dead letters that the filter lets through, the oldest first.
    pub async fn dead_letters(
        &self,
        filter: DeadLetterFilter,
    ) -> Result<Vec<(DeadLetterId, StreamIndex, DeadLetter)>, JournalError> {
        match &self.0 {
            Backend::Disk(front) => {
                let index = front.index()?;
                blocking(move || store::find_letters(&index, &filter)).await
            }
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(memory) => Ok(memory.dead_letters(&filter)),
        }
    }

    /// Lets the streams of these dead letters read their messages again; with
    /// `as_is` what was refused is sent as it was. How many.
    pub async fn replay(&self, filter: DeadLetterFilter, as_is: bool) -> Result<u64, JournalError> {
        match &self.0 {
            Backend::Disk(front) => {
                // A part at a time: they are in memory meanwhile.
                let most = filter.limit.unwrap_or(usize::MAX);
                // Those that come back dead meanwhile are left alone.
                let end = front.run(|store| Ok((store.next_letter(), Vec::new()))).await?;
                let mut ids = 0..end;
                let mut replayed = 0;
                let mut taken = 0;
                while taken < most {
                    let filter =
                        DeadLetterFilter { limit: Some(TOGETHER.min(most - taken)), ..filter.clone() };
                    let range = ids.clone();
                    let part = front.run(move |store| {
                        let letters = store::find_letters_in(&store.index(), &filter, range)?;
                        let last = letters.last().map(|(id, _, _)| *id);
                        let part = letters.len();
                        let (work, count) = Store::replay_work(letters, as_is);
                        let handed = store.commit(&work, true)?;
                        Ok(((last, part, count), handed))
                    });
                    let (Some(last), part, count) = part.await? else { break };
                    ids.start = last.0 + 1;
                    taken += part;
                    replayed += count;
                }
                Ok(replayed)
            }
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(_) => Err(JournalError(format!("no replay in memory: {filter:?} {as_is}"))),
        }
    }

    /// Forgets these dead letters. How many.
    pub async fn drop_dead_letters(&self, filter: DeadLetterFilter) -> Result<u64, JournalError> {
        match &self.0 {
            Backend::Disk(front) => {
                let mut left = filter.limit.unwrap_or(usize::MAX);
                // Those that come meanwhile are left alone.
                let end = front.run(|store| Ok((store.next_letter(), Vec::new()))).await?;
                let mut ids = 0..end;
                let mut dropped = 0;
                while left > 0 {
                    let filter = DeadLetterFilter { limit: Some(TOGETHER.min(left)), ..filter.clone() };
                    let (index, range) = (front.index()?, ids.clone());
                    // Looked for beside the writer: there may be a lot to read.
                    let part = blocking(move || store::find_ids_in(&index, &filter, range)).await?;
                    let Some(last) = part.last() else { break };
                    ids.start = last.0 + 1;
                    left -= part.len();
                    dropped += front.run(move |store| store.drop_letters(part)).await?;
                }
                Ok(dropped)
            }
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(_) => Err(JournalError(format!("nothing is dropped in memory: {filter:?}"))),
        }
    }

    /// Begins to let a stream read again what it has settled: the scripts'
    /// state is cleared (unless it is kept, or nothing is to be done) when this
    /// returns, and no message is handed out before [`Rewinding::mark`].
    pub async fn begin_rewind(&self, rewind: Rewind) -> Result<Rewinding, JournalError> {
        match &self.0 {
            Backend::Disk(front) => {
                if !rewind.dry_run {
                    let rewind = rewind.clone();
                    front.run(move |store| store.begin_rewind(&rewind).map(|()| ((), Vec::new()))).await?;
                }
                Ok(Rewinding { front: front.clone(), rewind })
            }
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(_) => Err(JournalError(format!("no rewind in memory: {rewind:?}"))),
        }
    }

    /// The newest messages that `wanted` lets through, the oldest of them first:
    /// at most so many messages and bytes of them, and none that is further back
    /// than the last [`LOOK_BACK`] bytes of the journal.
    pub async fn latest(
        &self,
        most: (usize, usize),
        wanted: impl Fn(&Message) -> bool + Send + Sync + 'static,
    ) -> Result<Vec<Message>, JournalError> {
        match &self.0 {
            Backend::Disk(front) => {
                let wanted = Arc::new(wanted);
                let mut search = store::Latest::new(most, LOOK_BACK);
                while !search.done() {
                    let wanted = wanted.clone();
                    // In slices: no commit waits for all of it.
                    let slice = front.run(move |store| {
                        store.latest_slice(&mut search, &*wanted)?;
                        Ok((search, Vec::new()))
                    });
                    search = slice.await?;
                }
                Ok(search.into_messages())
            }
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(memory) => Ok(memory.latest(most.0, wanted)),
        }
    }

    /// Forgets what the scripts of a stream have left in the state.
    pub async fn clear_state(&self, stream: StreamIndex) -> Result<(), JournalError> {
        match &self.0 {
            Backend::Disk(front) => {
                front.run(move |store| store.forget_state(stream).map(|()| ((), Vec::new()))).await
            }
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(_) => Ok(()),
        }
    }

    /// Forgets a stream that has no file any more, with all that is queued for
    /// it. False: there is no such stream, or it has a file.
    pub async fn forget(&self, name: &str) -> Result<bool, JournalError> {
        match &self.0 {
            Backend::Disk(front) => {
                let Some(index) = self.detached_stream(name) else { return Ok(false) };
                // Its letters a part at a time, so that no commit waits for all.
                let mut letters = Some(0);
                while let Some(from) = letters {
                    let part = move |store: &mut Store| {
                        store.forget_letters(index, from).map(|next| (next, Vec::new()))
                    };
                    letters = front.run(part).await?;
                }
                let gone = front.run(move |store| store.forget(index).map(|gone| (gone, Vec::new()))).await?;
                // What a command has done is shown before the next one: whoever
                // asks then does not find the stream among the detached streams.
                let _ = front.run(|_| Ok(((), Vec::new()))).await;
                Ok(gone)
            }
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(_) => Err(JournalError(format!("nothing is forgotten in memory: {name}"))),
        }
    }

    /// Streams that have rows in the journal and no file: name, and Unix
    /// milliseconds since when.
    pub fn detached(&self) -> Vec<(String, u64)> {
        match &self.0 {
            Backend::Disk(front) => {
                front.detached().into_iter().map(|(name, _, since)| (name, since)).collect()
            }
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(_) => Vec::new(),
        }
    }

    /// The number of one of them.
    pub fn detached_stream(&self, name: &str) -> Option<StreamIndex> {
        match &self.0 {
            Backend::Disk(front) => {
                let detached = front.detached().into_iter().find(|(detached, _, _)| detached == name);
                detached.map(|(_, index, _)| index)
            }
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(_) => None,
        }
    }

    /// What the scripts of a stream have left in the state.
    pub async fn state(&self, stream: StreamIndex) -> Result<Vec<(String, Bytes)>, JournalError> {
        match &self.0 {
            Backend::Disk(front) => {
                front.run(move |store| store.state(stream).map(|state| (state, Vec::new()))).await
            }
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(_) => Ok(Vec::new()),
        }
    }

    /// Counts every mark and compares with the counters; what differs.
    pub async fn check(&self) -> Result<Vec<Difference>, JournalError> {
        match &self.0 {
            Backend::Disk(front) => {
                let index = front.index()?;
                blocking(move || store::check(&index)).await
            }
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(_) => Ok(Vec::new()),
        }
    }
}

/// How far back [`Journal::latest`] looks: bytes of messages of all streams.
pub const LOOK_BACK: u64 = 64 * 1024 * 1024;

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> index::Result<T> + Send + 'static,
) -> Result<T, JournalError> {
    let failed = |error: &dyn fmt::Display| JournalError(error.to_string());
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|e| failed(&e)),
        Err(error) => Err(failed(&error)),
    }
}

impl From<StreamQuota> for StreamOptions {
    fn from(stream: StreamQuota) -> Self {
        let StreamQuota { name, quota, live_first, conflates } = stream;
        Self { name, quota, live_first, conflates }
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Journal").field(&self.holding()).finish()
    }
}

// === impl Ticket ===

impl Future for Ticket {
    type Output = Result<(), JournalError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|resolved| match resolved {
            Ok(result) => result,
            Err(_) => Err(JournalError("it was closed".to_owned())),
        })
    }
}

// === impl Rewinding ===

impl Rewinding {
    /// Marks what the stream reads again, where `wanted` says so. A part at a
    /// time, and each is handed out as soon as it is marked; what is marked
    /// stays so if the future is dropped half-way.
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
            let slice = front.run(move |store| {
                let mut slice = store.rewind_slice(&rewind, from, &*wanted)?;
                let handed = std::mem::take(&mut slice.handed);
                Ok((slice, handed))
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

// === impl Reader ===

impl Reader {
    /// What is pending and was not handed out yet: at least one message (waits
    /// for it), at most `max_messages`. Safe to cancel.
    pub async fn next(&mut self, max_messages: usize) -> Vec<Pending> {
        match &self.journal.0 {
            Backend::Disk(front) => front.read(self.stream, &self.rules, &mut self.paces, max_messages).await,
            #[cfg(any(test, feature = "test-support"))]
            Backend::Memory(memory) => memory.read(self.stream, max_messages).await,
        }
    }
}

#[cfg(test)]
mod disk_tests;
#[cfg(test)]
mod tests;
