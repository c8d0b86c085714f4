//! The script that a stream's lanes run: exchanged while they run, each lane at
//! its own batch boundary, and taken back while it is on trial.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use script::{Script, ScriptFault};
use tokio::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, watch};
use tokio::time::Instant;

use super::reload::WayBack;

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
    /// The script on trial before this one.
    pub instead_of: Option<Failed>,
}

/// What a script on trial makes place for when it fails.
#[derive(Clone, Debug)]
pub(super) struct Fallback {
    pub script: Script,
    /// What a restart has to know then.
    pub way_back: WayBack,
}

/// A script that has not stood its trial.
#[derive(Debug)]
pub(super) struct Failed {
    pub script: Script,
    /// How it failed.
    pub fault: String,
    pub way_back: WayBack,
}

#[derive(Debug)]
struct Trial {
    fallback: Fallback,
    until: Instant,
    messages: u64,
    mapped: AtomicU64,
}

/// What a stream's lanes run.
#[derive(Debug)]
pub(super) struct Slot {
    current: watch::Sender<Arc<Edition>>,
    /// Held by whoever is about to put another edition in place.
    exchange: Mutex<()>,
    /// Read while a lane maps. Whoever writes knows that no lane is in the
    /// middle of a call.
    mapping: RwLock<()>,
}

/// An edition that stays in place until this is dropped.
#[derive(Debug)]
pub(super) struct Hold<'s> {
    slot: &'s Slot,
    pub edition: Arc<Edition>,
    _alone: MutexGuard<'s, ()>,
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
    pub(super) fn fallback(&self, now: Instant) -> Option<&Fallback> {
        let trial = self.trial.as_ref()?;
        let on = now < trial.until && trial.mapped.load(Ordering::Relaxed) < trial.messages;
        on.then_some(&trial.fallback)
    }

    /// The newest script that has stood its trial, or never had one.
    pub(super) fn proven(&self, now: Instant) -> &Script {
        self.fallback(now).map_or(&self.script, |fallback| &fallback.script)
    }

    /// When its trial is over, however little it has mapped by then.
    pub(super) fn trial_ends(&self) -> Option<Instant> {
        self.trial.as_ref().map(|trial| trial.until)
    }
}

// === impl Trial ===

impl Trial {
    fn new(window: GuardWindow, fallback: Fallback) -> Self {
        Self {
            fallback,
            until: Instant::now() + window.time,
            messages: window.messages,
            mapped: AtomicU64::new(0),
        }
    }
}

// === impl Slot ===

impl Slot {
    pub(super) fn new(script: Script) -> Self {
        Self::of(Edition::new(script))
    }

    /// With a script that a restart has interrupted in its trial.
    pub(super) fn on_trial(script: Script, window: GuardWindow, fallback: Fallback) -> Self {
        Self::of(Edition { trial: Some(Trial::new(window, fallback)), ..Edition::new(script) })
    }

    fn of(edition: Edition) -> Self {
        Self {
            current: watch::Sender::new(Arc::new(edition)),
            exchange: Mutex::new(()),
            mapping: RwLock::new(()),
        }
    }

    pub(super) fn current(&self) -> Arc<Edition> {
        self.current.borrow().clone()
    }

    /// Follows the editions; the current one counts as seen.
    pub(super) fn follow(&self) -> watch::Receiver<Arc<Edition>> {
        self.current.subscribe()
    }

    /// Resolves when another edition is in place.
    pub(super) async fn left(&self, edition: &Arc<Edition>) {
        // The sender is ours: this cannot fail.
        let _ = self.follow().wait_for(|current| !Arc::ptr_eq(current, edition)).await;
    }

    /// Holds the current edition in place while a lane maps.
    pub(super) async fn in_use(&self) -> RwLockReadGuard<'_, ()> {
        self.mapping.read().await
    }

    /// Holds this edition in place, so that what was found out about it stays
    /// true. None: another one is in place by now.
    pub(super) async fn hold(&self, edition: &Arc<Edition>) -> Option<Hold<'_>> {
        let alone = self.exchange.lock().await;
        let edition = Some(self.current()).filter(|current| Arc::ptr_eq(current, edition))?;
        Some(Hold { slot: self, edition, _alone: alone })
    }

    /// A lane has seen `failed`, which is on trial, fail: the script before it
    /// is in place again. Only the first lane changes anything. The caller must
    /// not be mapping. `between` runs when no lane maps; its error leaves
    /// everything as it is.
    pub(super) async fn give_up<E>(
        &self,
        failed: &Arc<Edition>,
        fault: &ScriptFault,
        between: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let Some(trial) = &failed.trial else { return Ok(()) };
        let Some(hold) = self.hold(failed).await else { return Ok(()) };
        let Fallback { script, way_back } = trial.fallback.clone();
        let instead_of = Failed { script: failed.script.clone(), fault: fault.to_string(), way_back };
        hold.replace(|| Edition { instead_of: Some(instead_of), ..Edition::new(script) }, between).await
    }
}

// === impl Hold ===

impl Hold<'_> {
    /// Puts a new script in place, on trial. `between` runs when no lane maps:
    /// the old script has mapped its last message then, the new one none. Its
    /// error leaves everything as it is.
    pub(super) async fn swap<E>(
        self,
        script: Script,
        trial: Option<(GuardWindow, Fallback)>,
        between: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let trial = || trial.map(|(window, fallback)| Trial::new(window, fallback));
        self.replace(|| Edition { trial: trial(), ..Edition::new(script) }, between).await
    }

    async fn replace<E>(
        self,
        edition: impl FnOnce() -> Edition,
        between: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let nobody_maps = self.slot.mapping.write().await;
        between.await?;
        self.slot.current.send_replace(Arc::new(edition()));
        drop(nobody_maps);
        Ok(())
    }
}
