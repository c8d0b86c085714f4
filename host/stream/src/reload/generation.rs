//! The script that a stream's lanes run: exchanged while they run, each lane at
//! its own batch boundary, and taken back while it is on probation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use script::{Script, ScriptFault};
use tokio::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, watch};
use tokio::time::Instant;

use super::rollback::RollbackRecord;

/// How long a new script is on probation: whatever is over first.
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

/// A script in its place. Another place of the same script is another script generation.
#[derive(Debug)]
pub(crate) struct ScriptGeneration {
    pub script: Script,
    probation: Option<Probation>,
    /// The script on probation before this one.
    pub instead_of: Option<Failed>,
}

/// What a script on probation makes place for when it fails.
#[derive(Clone, Debug)]
pub(crate) struct RollbackTarget {
    pub script: Script,
    /// What a restart has to know then.
    pub rollback_record: RollbackRecord,
}

/// A script that has not stood its probation.
#[derive(Debug)]
pub(crate) struct Failed {
    pub script: Script,
    /// How it failed.
    pub fault: String,
    pub rollback_record: RollbackRecord,
}

#[derive(Debug)]
struct Probation {
    rollback_target: RollbackTarget,
    until: Instant,
    messages: u64,
    mapped: AtomicU64,
}

/// What a stream's lanes run.
#[derive(Debug)]
pub(crate) struct Slot {
    current: watch::Sender<Arc<ScriptGeneration>>,
    /// Held by whoever is about to put another script generation in place.
    exchange: Mutex<()>,
    /// Read while a lane maps. Whoever writes knows that no lane is in the
    /// middle of a call.
    mapping: RwLock<()>,
}

/// An script generation that stays in place until this is dropped.
#[derive(Debug)]
pub(crate) struct Hold<'s> {
    slot: &'s Slot,
    pub script_generation: Arc<ScriptGeneration>,
    _alone: MutexGuard<'s, ()>,
}

// === impl ScriptGeneration ===

impl ScriptGeneration {
    fn new(script: Script) -> Self {
        Self { script, probation: None, instead_of: None }
    }

    /// So many messages were mapped.
    pub(crate) fn mapped(&self, messages: usize) {
        if let Some(probation) = &self.probation {
            probation.mapped.fetch_add(messages as u64, Ordering::Relaxed);
        }
    }

    /// What the lanes go back to, should the script fail now.
    pub(crate) fn rollback_target(&self, now: Instant) -> Option<&RollbackTarget> {
        let probation = self.probation.as_ref()?;
        let on = now < probation.until && probation.mapped.load(Ordering::Relaxed) < probation.messages;
        on.then_some(&probation.rollback_target)
    }

    /// The newest script that has stood its probation, or never had one.
    pub(crate) fn validated(&self, now: Instant) -> &Script {
        self.rollback_target(now).map_or(&self.script, |rollback_target| &rollback_target.script)
    }
}

// === impl Probation ===

impl Probation {
    fn new(window: GuardWindow, rollback_target: RollbackTarget) -> Self {
        Self {
            rollback_target,
            until: Instant::now() + window.time,
            messages: window.messages,
            mapped: AtomicU64::new(0),
        }
    }
}

// === impl Slot ===

impl Slot {
    pub(crate) fn new(script: Script) -> Self {
        Self {
            current: watch::Sender::new(Arc::new(ScriptGeneration::new(script))),
            exchange: Mutex::new(()),
            mapping: RwLock::new(()),
        }
    }

    pub(crate) fn current(&self) -> Arc<ScriptGeneration> {
        self.current.borrow().clone()
    }

    /// Follows the script generations; the current one counts as seen.
    pub(crate) fn follow(&self) -> watch::Receiver<Arc<ScriptGeneration>> {
        self.current.subscribe()
    }

    /// Resolves when another script generation is in place.
    pub(crate) async fn left(&self, script_generation: &Arc<ScriptGeneration>) {
        // The sender is ours: this cannot fail.
        let _ = self.follow().wait_for(|current| !Arc::ptr_eq(current, script_generation)).await;
    }

    /// Holds the current script generation in place while a lane maps.
    pub(crate) async fn in_use(&self) -> RwLockReadGuard<'_, ()> {
        self.mapping.read().await
    }

    /// Holds this script generation in place, so that what was found out about it stays
    /// true. None: another one is in place by now.
    pub(crate) async fn hold(&self, script_generation: &Arc<ScriptGeneration>) -> Option<Hold<'_>> {
        let alone = self.exchange.lock().await;
        let script_generation =
            Some(self.current()).filter(|current| Arc::ptr_eq(current, script_generation))?;
        Some(Hold { slot: self, script_generation, _alone: alone })
    }

    /// A lane has seen `failed`, which is on probation, fail: the script before it
    /// is in place again. Only the first lane changes anything. The caller must
    /// not be mapping. `between` runs when no lane maps; its error leaves
    /// everything as it is.
    pub(crate) async fn give_up<E>(
        &self,
        failed: &Arc<ScriptGeneration>,
        fault: &ScriptFault,
        between: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let Some(probation) = &failed.probation else { return Ok(()) };
        let Some(hold) = self.hold(failed).await else { return Ok(()) };
        let RollbackTarget { script, rollback_record } = probation.rollback_target.clone();
        let instead_of = Failed { script: failed.script.clone(), fault: fault.to_string(), rollback_record };
        hold.replace(
            || ScriptGeneration { instead_of: Some(instead_of), ..ScriptGeneration::new(script) },
            between,
        )
        .await
    }
}

// === impl Hold ===

impl Hold<'_> {
    /// Puts a new script in place, on probation. `between` runs when no lane maps:
    /// the old script has mapped its last message then, the new one none. Its
    /// error leaves everything as it is.
    pub(crate) async fn swap<E>(
        self,
        script: Script,
        probation: Option<(GuardWindow, RollbackTarget)>,
        between: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let probation = || probation.map(|(window, rollback_target)| Probation::new(window, rollback_target));
        self.replace(|| ScriptGeneration { probation: probation(), ..ScriptGeneration::new(script) }, between)
            .await
    }

    async fn replace<E>(
        self,
        script_generation: impl FnOnce() -> ScriptGeneration,
        between: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let nobody_maps = self.slot.mapping.write().await;
        between.await?;
        self.slot.current.send_replace(Arc::new(script_generation()));
        drop(nobody_maps);
        Ok(())
    }
}
