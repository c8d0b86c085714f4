//! Keeps the script of one stream up to date.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use journal::Journal;
use message::Takes;
use script::{Engine, Limits, Package, Recipe, Script, Version, cases, one_line};
use telemetry::event;
use tokio::time::{Instant, sleep, timeout};
use watch::Changes;

use super::generation::{Failed, GuardWindow, Hold, RollbackTarget, ScriptGeneration, Slot};
use super::order::{Answer, Order, Orders, Reloaded, What};
use super::rollback::RollbackRecord;
use super::shadow::{self, Comparison};
use super::source::ScriptSource;
use super::verdict::{Refusal, judge};
use super::versions::{Accepted, AcceptedTable, Versions};
use crate::clock::Clock;
use crate::status::StreamStatus;

/// Why the source is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// Files have changed.
    Changed,
    /// They have, the script is not to be had from them, and the tables of what
    /// runs may be others.
    Tables,
    /// An operator has said so.
    Reload,
    /// And wants what the binary brings along.
    Update,
}

/// A version that is not taken.
struct Refused {
    /// Which; none: there was not even one.
    version: Option<Version>,
    why: Refusal,
}

/// Pause before the record of an automatic rollback is written again, after the
/// disk failed.
const RETRY_RECORD: Duration = Duration::from_secs(10);

/// Keeps the script of one stream up to date.
pub(crate) struct Reloader {
    pub(super) stream: String,
    pub(super) engine: Engine,
    pub(super) journal: Journal,
    pub(super) status: Arc<StreamStatus>,
    pub(super) takes: Takes,
    pub(super) source: Arc<ScriptSource>,
    pub(super) orders: Orders,
    /// Changes of the source's files.
    pub(super) changes: Option<Changes>,
    pub(super) clock: Clock,
    noted: Noted,
}

/// The part of the lanes' state that the reloader has seen and logged.
#[derive(Default)]
struct Noted {
    script_generation: Option<Arc<ScriptGeneration>>,
    /// The lanes have rolled back, and the disk does not have the record yet.
    unkept: Option<RollbackRecord>,
}

// === impl Reloader ===

impl Reloader {
    /// A reloader of the stream with this status.
    pub(crate) fn new(
        status: Arc<StreamStatus>,
        source: ScriptSource,
        takes: Takes,
        orders: Orders,
        engine: Engine,
        journal: Journal,
        clock: Clock,
    ) -> Self {
        Self {
            stream: status.name().to_owned(),
            engine,
            journal,
            changes: source.changes(),
            status,
            takes,
            source: Arc::new(source),
            orders,
            clock,
            noted: Noted::default(),
        }
    }

    /// Keeps the script of the lanes up to date, for ever.
    pub(crate) async fn run(mut self, slot: Arc<Slot>) {
        let mut script_generations = slot.follow();
        self.note(&slot).await;
        if self.source.follow || !self.source.tables.is_empty() {
            // They may have changed while nothing ran.
            self.follow(&slot).await;
        }
        if !self.source.follow {
            self.tell_of_update(&slot).await;
        }
        loop {
            tokio::select! {
                () = changed(&mut self.changes) => self.follow(&slot).await,
                Some(order) = self.orders.0.recv() => self.carry_out(order, &slot).await,
                Ok(()) = script_generations.changed() => drop(self.note(&slot).await),
                () = sleep(RETRY_RECORD), if self.noted.unkept.is_some() => drop(self.keep_rollback().await),
            }
        }
    }

    /// Files have changed: takes what is new, or says why not.
    async fn follow(&mut self, slot: &Slot) {
        let Err(refused) = self.reload(slot, Reason::Changed).await else { return };
        // What runs goes on, and with the tables that there are now.
        let other = refused.version.as_ref() != Some(slot.current().script.version());
        if self.source.follow
            && other
            && let Err(Refused { version: Some(_), why }) = self.reload(slot, Reason::Tables).await
        {
            self.refused(&why);
        }
        self.refused(&refused.why);
    }

    async fn carry_out(&mut self, order: Order, slot: &Slot) {
        let Order { what, answer } = order;
        let outcome = match what {
            What::Reload => self.reload_on_order(slot, Reason::Reload).await,
            What::Update => self.reload_on_order(slot, Reason::Update).await,
            What::RollBack(to) => self.roll_back(slot, to).await,
            What::Compare(wasm) => self.compare(slot, wasm).await,
            #[cfg(test)]
            What::Look => {
                self.follow(slot).await;
                Ok(Reloaded::unchanged(&slot.current().script))
            }
        };
        let _ = answer.send(outcome);
    }

    async fn reload_on_order(&mut self, slot: &Slot, reason: Reason) -> Answer {
        let outcome = self.reload(slot, reason).await.map_err(|refused| refused.why);
        if let Err(refusal) = &outcome {
            self.refused(refusal);
        }
        outcome
    }

    /// Takes what there is now, if it is something else than what runs.
    async fn reload(&mut self, slot: &Slot, reason: Reason) -> Result<Reloaded, Refused> {
        loop {
            let script_generation = self.note(slot).await;
            let unreadable = |why| Refused { version: None, why };
            let recipe = self.offered(&script_generation, reason).await.map_err(unreadable)?;
            let version = Version::of(&recipe.wasm);
            let taken = self.take(recipe, &version, &script_generation, slot, reason).await;
            // Where the lanes have gone back meanwhile, all of it was found out
            // about a script that does not run any more. They do so once at most.
            if let Some(done) = taken.map_err(|why| Refused { version: Some(version), why })? {
                return Ok(done);
            }
        }
    }

    /// What is there to be taken.
    async fn offered(&self, script_generation: &ScriptGeneration, reason: Reason) -> Result<Recipe, Refusal> {
        let from_source = match reason {
            Reason::Changed | Reason::Reload => self.source.follow,
            Reason::Tables => false,
            Reason::Update => true,
        };
        let running = script_generation.script.version().full();
        let bytes = if from_source { None } else { self.bytes_of(running).await? };
        self.source.recipe(bytes, None).await.map_err(|(_, refusal)| refusal)
    }

    /// Proves a version beside the script generation that runs, and puts it in place. None:
    /// another script generation is in place by now.
    async fn take(
        &mut self,
        recipe: Recipe,
        version: &Version,
        script_generation: &Arc<ScriptGeneration>,
        slot: &Slot,
        reason: Reason,
    ) -> Result<Option<Reloaded>, Refusal> {
        let old = &script_generation.script;
        if old.version() == version && old.is_of(&recipe) {
            let is_current = Arc::ptr_eq(&slot.current(), script_generation);
            return Ok(is_current.then(|| Reloaded::unchanged(old)));
        }
        self.keep_rollback().await?;
        // Whoever orders it wants it all the same.
        if reason == Reason::Changed && self.is_quarantined(version).await? {
            return Err(Refusal::Quarantined { version: version.to_string(), stream: self.stream.clone() });
        }
        let (offered, wasm) = (recipe.clone(), recipe.wasm.clone());
        let new = Script::load(&self.engine, recipe).await?;
        let proof = async {
            self.check_cases(wasm.clone(), &offered.limits).await?;
            self.shadow(old, &new).await
        };
        let comparison = tokio::select! {
            comparison = proof => comparison?,
            () = slot.left(script_generation) => return Ok(None),
        };
        let verdict = judge(&comparison, old.label(), self.source.rules.max_new_rejections);
        let Some(hold) = slot.hold(script_generation).await else { return Ok(None) };
        verdict?;
        // What was on probation until now was never validated to the end.
        let validated = script_generation.validated(Instant::now());
        let is_proven = validated.version() == version && validated.is_of(&offered);
        let probation = (!is_proven).then(|| {
            let rollback_record = self.rollback_record(&new, self.accepted(validated), validated);
            (self.source.rules.guard, RollbackTarget { script: validated.clone(), rollback_record })
        });
        // The lanes may go back to it, whatever else was accepted since.
        let keep = probation.as_ref().map(|(_, target)| target.script.version().full());
        let record = self.accept(&new, wasm, keep);
        self.place(hold, &new, probation.clone(), record).await?;
        event::ScriptReplaced {
            stream: &self.stream,
            before: old.label(),
            after: new.label(),
            compared: comparison.messages,
            differing: comparison.differing,
        }
        .emit();
        self.note(slot).await;
        Ok(Some(Reloaded { comparison: Some(comparison), ..Reloaded::replaced(old, &new) }))
    }

    /// Puts a script in the place of the one that is held. `record` keeps it that
    /// it runs, also after a restart.
    async fn place(
        &self,
        hold: Hold<'_>,
        new: &Script,
        probation: Option<(GuardWindow, RollbackTarget)>,
        record: impl Future<Output = Result<(), Refusal>>,
    ) -> Result<(), Refusal> {
        let old = hold.script_generation.script.clone();
        if old.state_version() == new.state_version() {
            // Before the pause, which the disk would make longer.
            record.await?;
            return hold.swap(new.clone(), probation, std::future::ready(Ok(()))).await;
        }
        let between = async {
            self.status.clear_state_between(&old, new, &self.journal).await?;
            // Not before: a restart in between would run it on a state that it
            // cannot read.
            record.await
        };
        hold.swap(new.clone(), probation, between).await
    }

    async fn compare(&self, slot: &Slot, wasm: Option<Bytes>) -> Answer {
        let recipe = self.source.recipe(wasm, None).await.map_err(|(_, refusal)| refusal)?;
        let old = slot.current().script.clone();
        let (wasm, limits) = (recipe.wasm.clone(), recipe.limits.clone());
        let new = Script::load(&self.engine, recipe).await?;
        let comparison = self.shadow(&old, &new).await?;
        let verdict = match self.check_cases(wasm, &limits).await {
            Ok(()) => judge(&comparison, old.label(), self.source.rules.max_new_rejections),
            failed => failed,
        };
        let refusal = verdict.err().map(|refusal| refusal.to_string());
        Ok(Reloaded {
            replaced: false,
            comparison: Some(comparison),
            refusal,
            ..Reloaded::replaced(&old, &new)
        })
    }

    async fn roll_back(&mut self, slot: &Slot, to: Option<String>) -> Answer {
        let began = self.note(slot).await;
        let mut script_generation = began.clone();
        loop {
            if let Some(done) = self.restore(&script_generation, slot, to.as_deref()).await? {
                return Ok(done);
            }
            // The lanes have gone back by themselves.
            script_generation = self.note(slot).await;
            let version = script_generation.script.version().full();
            if to.as_deref().is_none_or(|to| version.starts_with(to)) {
                return Ok(Reloaded::replaced(&began.script, &script_generation.script));
            }
        }
    }

    /// Puts an earlier version in the place of this script generation. None: another one is
    /// in place by now.
    async fn restore(
        &mut self,
        script_generation: &Arc<ScriptGeneration>,
        slot: &Slot,
        to: Option<&str>,
    ) -> Result<Option<Reloaded>, Refusal> {
        let old = &script_generation.script;
        self.keep_rollback().await?;
        let wanted = self.earlier(Some(old.version().full()), to).await?;
        let wasm = self.bytes_of(wanted.version.clone()).await?;
        // The tables that have stood the proof, not what may be on the disk now.
        let tables = Some(old.tables().clone());
        let recipe = self.source.recipe(wasm, tables).await.map_err(|(_, refusal)| refusal)?;
        let new = Script::load(&self.engine, recipe).await?;
        let Some(hold) = slot.hold(script_generation).await else { return Ok(None) };
        let rollback_record = self.rollback_record(old, wanted, &new);
        self.place(hold, &new, None, rollback_record.keep()).await?;
        event::ScriptRolledBack { stream: &self.stream, from: old.label(), to: new.label(), because: None }
            .emit();
        self.note(slot).await;
        Ok(Some(Reloaded::replaced(old, &new)))
    }

    /// The version to go back to from the one that runs, if one does: the one
    /// that begins like `to`, or the last one from which nobody has gone back.
    pub(super) async fn earlier(
        &self,
        running: Option<String>,
        to: Option<&str>,
    ) -> Result<Accepted, Refusal> {
        let (stream, other_than, begins) = (self.stream.clone(), running.clone(), to.map(str::to_owned));
        let find = move |versions: &Versions| {
            let mut known = versions.of(&stream)?;
            known.retain(|accepted| other_than.as_ref() != Some(&accepted.version));
            while let Some(accepted) = known.pop() {
                let wanted = match &begins {
                    Some(begins) => accepted.version.starts_with(begins),
                    None => !versions.is_quarantined(&stream, &accepted.version)?,
                };
                if wanted {
                    return Ok(Some(accepted));
                }
            }
            Ok(None)
        };
        let earlier = self.source.versions(None, find).await?;
        let earlier = earlier.ok_or_else(|| Refusal::no_version(to, running.as_deref()))?;
        // A restart knows by the source whether the stream has another one now.
        Ok(Accepted { source: self.source.origin.clone(), ..earlier })
    }

    /// The script generation in place, and what there is to be told and to be kept of it.
    async fn note(&mut self, slot: &Slot) -> Arc<ScriptGeneration> {
        let script_generation = slot.current();
        if self.noted.script_generation.as_ref().is_some_and(|noted| Arc::ptr_eq(noted, &script_generation)) {
            return script_generation;
        }
        self.noted.script_generation = Some(script_generation.clone());
        self.status
            .set_script(script_generation.script.name(), &script_generation.script.version().to_string());
        match &script_generation.instead_of {
            None => {
                // Whoever put it in place has kept it.
                self.noted.unkept = None;
                self.status.set_refused(None);
            }
            Some(Failed { script, fault, rollback_record }) => {
                let (from, to) = (script.label(), script_generation.script.label());
                event::ScriptRolledBack { stream: &self.stream, from, to, because: Some(fault) }.emit();
                self.status.set_refused(Some(one_line(&format!("{from} was taken back: {fault}"))));
                self.noted.unkept = Some(rollback_record.clone());
                let _ = self.keep_rollback().await;
            }
        }
        script_generation
    }

    /// Keeps it that the lanes have gone back, if that is not kept yet.
    async fn keep_rollback(&mut self) -> Result<(), Refusal> {
        let Some(rollback_record) = &self.noted.unkept else { return Ok(()) };
        if let Err(error) = rollback_record.keep().await {
            tracing::error!(stream = self.stream, %error, "a restart would run the script that was taken back");
            return Err(error);
        }
        self.noted.unkept = None;
        Ok(())
    }

    /// Says what the binary brings along instead of what runs.
    async fn tell_of_update(&self, slot: &Slot) {
        let script = slot.current().script.clone();
        let (stream, running) = (&self.stream, script.label());
        match self.source.recipe(None, Some(script.tables().clone())).await {
            Ok(recipe) => {
                let version = Version::of(&recipe.wasm);
                if *script.version() != version {
                    let waiting = format!("{} {version}", recipe.name);
                    event::ScriptUpdateWaits { stream, running, waiting: &waiting }.emit();
                }
            }
            Err((_, reason)) => tracing::warn!(
                stream,
                running,
                %reason,
                "the version of the adapter that this gateway brings along cannot take its place"
            ),
        }
    }

    fn refused(&self, refusal: &Refusal) {
        let reason = refusal.in_public();
        event::ScriptRefused { stream: &self.stream, reason: &reason }.emit();
        self.status.set_refused(Some(reason));
    }

    /// Whether the script does what its author says of it.
    async fn check_cases(&self, wasm: Bytes, limits: &Limits) -> Result<(), Refusal> {
        let package = Package::parse(wasm).map_err(|error| Refusal::Unreadable(error.to_string()))?;
        let most = self.source.rules.cases;
        // Each call has a limit, and there may be very many of them.
        match timeout(most, cases::check(&self.engine, &package, limits)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(faults)) => Err(Refusal::of_cases(&faults)),
            Err(_) => Err(Refusal::SlowCases(most)),
        }
    }

    async fn is_quarantined(&self, version: &Version) -> Result<bool, Refusal> {
        let (stream, version) = (self.stream.clone(), version.full());
        self.source.versions(false, move |versions| versions.is_quarantined(&stream, &version)).await
    }

    /// The bytes of an accepted version; none where nothing is kept.
    pub(super) async fn bytes_of(&self, version: String) -> Result<Option<Bytes>, Refusal> {
        self.source.versions(None, move |versions| versions.read(&version).map(Some)).await
    }

    async fn shadow(&self, old: &Script, new: &Script) -> Result<Comparison, Refusal> {
        let takes = self.takes.clone();
        let latest = self.journal.latest(self.source.rules.compared, move |message| takes.admits(message));
        let messages = latest.await?;
        Ok(shadow::compare(old, new, &messages, &self.status.memory.state.copy()).await)
    }

    /// Stores that the stream runs this script from now on. `keep` is a version that
    /// must stay on the disk.
    pub(super) async fn accept(
        &self,
        script: &Script,
        wasm: Bytes,
        keep: Option<String>,
    ) -> Result<(), Refusal> {
        let (stream, accepted, tables) =
            (self.stream.clone(), self.accepted(script), script.tables().clone());
        let accept =
            move |versions: &Versions| versions.accept(&stream, accepted, &wasm, &tables, keep.as_deref());
        self.source.versions((), accept).await
    }

    /// `script` is what is loaded of `to`, with the tables that it runs with.
    fn rollback_record(&self, from: &Script, to: Accepted, script: &Script) -> RollbackRecord {
        RollbackRecord {
            versions: self.source.versions.clone(),
            stream: self.stream.clone(),
            from: from.version().full(),
            to: Accepted { tables: self.accepted(script).tables, ..to },
            tables: script.tables().clone(),
            kept: Arc::default(),
        }
    }

    pub(super) fn accepted(&self, script: &Script) -> Accepted {
        let tables = script.tables().iter().filter_map(|(name, table)| {
            let source = self.source.tables.get(name)?.clone();
            Some((name.to_owned(), AcceptedTable { source, version: table.version().full() }))
        });
        Accepted {
            version: script.version().full(),
            name: script.name().to_owned(),
            source: self.source.origin.clone(),
            accepted_at: self.clock.now(),
            state_version: script.state_version(),
            tables: tables.collect(),
        }
    }
}

/// Resolves when files have changed; never where nobody looks.
pub(super) async fn changed(changes: &mut Option<Changes>) {
    match changes {
        Some(changes) => drop(changes.next().await),
        None => std::future::pending().await,
    }
}
