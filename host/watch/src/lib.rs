//! Notices that files have changed: by the system's events, and by looking now
//! and then, because network file systems and bind mounts have none.
//!
//! A change is reported when the content differs from what was last reported,
//! was the same at two looks in a row, and nothing has happened for 200 ms; so
//! a half-written file is no report, and a file that was written with the same
//! content is none. [`settle`] has the rules, [`content`] reads, [`events`]
//! knows which folders to listen to.

mod content;
pub mod credentials;
mod events;
mod settle;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use content::Hashes;
use events::{Events, Start};
use settle::{Seen, Settle};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// How often the files are looked at although nothing seems to happen.
const EVERY: Duration = Duration::from_secs(10);

/// Watches files. One for the whole process; clones are the same.
#[derive(Clone)]
pub struct Watch {
    shared: Arc<Shared>,
}

struct Shared {
    events: Events,
    hashes: Hashes,
    every: Duration,
}

/// The changes of some files. Dropping it ends the watching.
pub struct Changes {
    shared: Arc<Shared>,
    listener: u64,
    signal: Arc<Notify>,
    settle: Settle,
    /// Kept here and not inside `next`, so that cancelling `next` loses nothing.
    looking: Option<JoinHandle<Seen>>,
    /// To be reported.
    changed: Vec<PathBuf>,
}

// === impl Watch ===

impl Watch {
    /// Nothing is watched yet.
    pub fn new() -> Self {
        Self::with(events::start, EVERY)
    }

    /// A system that has no events.
    #[cfg(any(test, feature = "test-support"))]
    pub fn looking_only() -> Self {
        Self::with(|_| Err(notify::Error::generic("no more watches")), EVERY)
    }

    fn with(start: Start, every: Duration) -> Self {
        // Half of the time: what is looked at after all of it is read anew.
        let hashes = Hashes::new(every / 2);
        Self { shared: Arc::new(Shared { events: Events::new(start), hashes, every }) }
    }

    /// Watches these paths, which need not exist. A folder means its files and
    /// those of the folders in it, without hidden ones and what editors and
    /// build tools leave there. Relative paths are relative to the working
    /// directory.
    ///
    /// What they hold at the first look counts as known: whoever reads them
    /// for himself waits for [`Changes::ready`] before.
    pub fn paths(&self, paths: Vec<PathBuf>) -> Changes {
        let (listener, signal) = self.shared.events.listen();
        let now = Instant::now();
        let mut settle = Settle::new(self.shared.every, now);
        settle.set_paths(paths, now);
        let shared = self.shared.clone();
        Changes { shared, listener, signal, settle, looking: None, changed: Vec::new() }
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

// === impl Changes ===

impl Changes {
    /// Waits until every path has been looked at: what changes from then on is
    /// reported. Safe to cancel.
    pub async fn ready(&mut self) {
        while !self.settle.is_ready() {
            self.step().await;
        }
    }

    /// The paths, of those that are watched, whose content has changed. A file
    /// that has vanished, or that cannot be read any more, has changed too.
    /// Safe to cancel.
    pub async fn next(&mut self) -> Vec<PathBuf> {
        while self.changed.is_empty() {
            self.step().await;
        }
        std::mem::take(&mut self.changed)
    }

    /// Watches these paths from now on. One that was watched before keeps what
    /// was reported of it.
    pub fn set_paths(&mut self, paths: Vec<PathBuf>) {
        self.settle.set_paths(paths, Instant::now());
        let settle = &self.settle;
        self.changed.retain(|changed| settle.paths().any(|path| path == changed));
    }

    /// One look, or one event.
    async fn step(&mut self) {
        let due = self.settle.due();
        match &mut self.looking {
            None if due <= Instant::now() => {
                self.settle.looking(Instant::now());
                let (shared, listener) = (self.shared.clone(), self.listener);
                let paths: Vec<PathBuf> = self.settle.paths().cloned().collect();
                self.looking = Some(tokio::task::spawn_blocking(move || look(&shared, listener, paths)));
            }
            None => {
                tokio::select! {
                    () = sleep_until(due) => {}
                    () = self.signal.notified() => self.settle.touched(Instant::now()),
                }
            }
            Some(looking) => {
                tokio::select! {
                    seen = looking => {
                        self.looking = None;
                        // A look that failed as a whole has seen nothing; the next one is due in time.
                        if let Ok(seen) = seen {
                            self.changed.extend(self.settle.looked(seen, Instant::now()));
                        }
                    }
                    () = self.signal.notified() => self.settle.touched(Instant::now()),
                }
            }
        }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.shared.events.leave(self.listener);
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.settle.paths()).finish()
    }
}

/// Listens first, then reads: what changes in between is heard.
fn look(shared: &Shared, listener: u64, paths: Vec<PathBuf>) -> Seen {
    shared.events.watch(listener, &paths);
    shared.hashes.tidy();
    paths
        .into_iter()
        .map(|path| {
            let print = shared.hashes.print(&path);
            (path, print)
        })
        .collect()
}
