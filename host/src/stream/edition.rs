//! The script that a stream's lanes run: exchanged while they run, each lane at
//! its own batch boundary, and taken back while it is on trial.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{RwLock, RwLockReadGuard, watch};
use tokio::time::Instant;

use crate::script::{Script, ScriptFault};

/// How long a new script is on trial: whatever is over first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardWindow {
    /// Since its lanes may run it (default 60 s).
    pub time: Duration,
    /// Messages that it has mapped (default 1,000).
    pub messages: u64,
}

impl Default for GuardWindow {
    fn default() -> Self {
        Self { time: Duration::from_secs(60), messages: 1_000 }
    }
}

/// A script in its place. Another place of the same script is another edition.
#[derive(Debug)]
pub(super) struct Edition {
    pub script: Script,
    trial: Option<Trial>,
    /// The script on trial before this one, and how it failed.
    pub instead_of: Option<(Script, String)>,
}

#[derive(Debug)]
struct Trial {
    /// What the lanes go back to.
    before: Script,
    until: Instant,
    messages: u64,
    mapped: AtomicU64,
}

/// What a stream's lanes run.
#[derive(Debug)]
pub(super) struct Slot {
    current: watch::Sender<Arc<Edition>>,
    /// Read while a lane maps. Whoever writes knows that no lane is in the
    /// middle of a call.
    mapping: RwLock<()>,
}

// === impl Edition ===

impl Edition {
    fn new(script: Script) -> Self {
        Self { script, trial: None, instead_of: None }
    }

    /// So many messages were mapped.
    pub(super) fn mapped(&self, messages: usize) {
        if let Some(trial) = &self.trial {
            trial.mapped.fetch_add(messages as u64, Ordering::Relaxed);
        }
    }

    /// What the lanes go back to, should the script fail now.
    pub(super) fn fallback(&self, now: Instant) -> Option<&Script> {
        let trial = self.trial.as_ref()?;
        let on = now < trial.until && trial.mapped.load(Ordering::Relaxed) < trial.messages;
        on.then_some(&trial.before)
    }
}

// === impl Slot ===

impl Slot {
    pub(super) fn new(script: Script) -> Self {
        Self { current: watch::Sender::new(Arc::new(Edition::new(script))), mapping: RwLock::new(()) }
    }

    pub(super) fn current(&self) -> Arc<Edition> {
        self.current.borrow().clone()
    }

    /// Follows the editions; the current one counts as seen.
    pub(super) fn follow(&self) -> watch::Receiver<Arc<Edition>> {
        self.current.subscribe()
    }

    /// Holds the current edition in place while a lane maps.
    pub(super) async fn in_use(&self) -> RwLockReadGuard<'_, ()> {
        self.mapping.read().await
    }

    /// Puts a new script in place, on trial. `between` runs when no lane maps:
    /// the old script has mapped its last message then, the new one none. Its
    /// error leaves everything as it is.
    pub(super) async fn swap<E>(
        &self,
        script: Script,
        window: GuardWindow,
        between: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let nobody_maps = self.mapping.write().await;
        between.await?;
        let trial = Trial {
            before: self.current().script.clone(),
            until: Instant::now() + window.time,
            messages: window.messages,
            mapped: AtomicU64::new(0),
        };
        self.current.send_replace(Arc::new(Edition { script, trial: Some(trial), instead_of: None }));
        drop(nobody_maps);
        Ok(())
    }

    /// Puts a script in place that has been there before, without a trial.
    pub(super) async fn restore<E>(
        &self,
        script: Script,
        between: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let nobody_maps = self.mapping.write().await;
        between.await?;
        self.current.send_replace(Arc::new(Edition::new(script)));
        drop(nobody_maps);
        Ok(())
    }

    /// A lane has seen `failed`, which is on trial, fail: the script before it
    /// is in place again. Only the first lane changes anything. The caller must
    /// not be mapping.
    pub(super) async fn give_up<E>(
        &self,
        failed: &Arc<Edition>,
        fault: &ScriptFault,
        between: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let Some(trial) = &failed.trial else { return Ok(()) };
        let nobody_maps = self.mapping.write().await;
        if Arc::ptr_eq(&self.current(), failed) {
            between.await?;
            self.current.send_replace(Arc::new(Edition {
                script: trial.before.clone(),
                trial: None,
                instead_of: Some((failed.script.clone(), fault.to_string())),
            }));
        }
        drop(nobody_maps);
        Ok(())
    }
}
