//! Scripts change while traffic flows.
//!
//! A new version is made ready beside the one that runs: loaded, configured,
//! mapped with in the [`shadow`] of the old one. Only then it is kept on the
//! disk ([`versions`]) and put in place, where each lane takes it up between
//! two batches. What is refused ([`verdict`]) changes nothing.

pub mod first;
mod order;
pub mod shadow;
mod source;
pub mod verdict;
pub mod versions;
mod way_back;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use journal::{Amount, Journal};
use message::{Message, unix_millis};
use order::{Answer, Order, What, answer};
use script::{Engine, Limits, Package, Recipe, Script, Version, cases, one_line};
use shadow::Comparison;
use telemetry::event;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use verdict::judge;
use versions::{Accepted, AcceptedTable, Versions};
use watch::Changes;

use super::edition::{Edition, Failed, Fallback, GuardWindow, Hold, Slot};
use super::status::StreamStatus;

pub use order::{Orders, ReloadHandle, Reloaded};
pub use source::{ReloadRules, ScriptSource};
pub use verdict::Refusal;
pub(super) use way_back::WayBack;

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

/// Until what a restart has to know is written again, after the disk failed.
const KEEP_AGAIN: Duration = Duration::from_secs(10);

/// Takes care of the script of one stream.
pub(super) struct Reloader {
    pub stream: String,
    pub engine: Engine,
    pub journal: Journal,
    pub status: Arc<StreamStatus>,
    /// Which messages are the stream's.
    pub takes: Takes,
    pub source: Arc<ScriptSource>,
    pub orders: Orders,
    /// Of the source's files.
    pub changes: Option<Changes>,
    pub noted: Noted,
}

/// What is known, and told, of what the lanes run.
#[derive(Default)]
pub(super) struct Noted {
    edition: Option<Arc<Edition>>,
    /// The lanes have gone back, and a restart does not know yet.
    unkept: Option<WayBack>,
    /// When a restart need not go on with the trial any more.
    trial_ends: Option<Instant>,
}

/// Says which messages are a stream's.
pub type Takes = Arc<dyn Fn(&Message) -> bool + Send + Sync>;

// === impl Reloader ===

impl Reloader {
    /// Where the lanes begin: with the script on trial, if the last run ended
    /// during its trial.
    pub(super) async fn slot(&self, script: Script) -> Slot {
        match self.interrupted_trial(&script).await {
            Some(fallback) => Slot::on_trial(script, self.source.rules.guard, fallback),
            None => Slot::new(script),
        }
    }

    async fn interrupted_trial(&self, script: &Script) -> Option<Fallback> {
        let (stream, version) = (self.stream.clone(), script.version().full());
        let kept = self.source.versions(None, move |versions| versions.fallback_of(&stream, &version));
        let loaded = async {
            let Some((accepted, wasm)) = kept.await? else { return Ok(None) };
            let recipe = self.source.recipe(Some(wasm), Some(script.tables().clone())).await;
            let before = Script::load(&self.engine, recipe.map_err(|(_, refusal)| refusal)?).await?;
            let way_back = self.way_back(script, accepted, &before);
            Ok::<_, Refusal>(Some(Fallback { script: before, way_back }))
        };
        loaded.await.unwrap_or_else(|error| {
            tracing::warn!(stream = self.stream, %error, "the script goes on without its trial: the one before is lost");
            None
        })
    }

    /// Keeps the script of the lanes up to date, for ever.
    pub(super) async fn run(mut self, slot: Arc<Slot>) {
        let mut editions = slot.follow();
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
                Ok(()) = editions.changed() => drop(self.note(&slot).await),
                () = sleep(KEEP_AGAIN), if self.noted.unkept.is_some() => drop(self.keep_way_back().await),
                () = at(self.noted.trial_ends) => self.end_trial().await,
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
            let edition = self.note(slot).await;
            let unreadable = |why| Refused { version: None, why };
            let recipe = self.offered(&edition, reason).await.map_err(unreadable)?;
            let version = Version::of(&recipe.wasm);
            let taken = self.take(recipe, &version, &edition, slot, reason).await;
            // Where the lanes have gone back meanwhile, all of it was found out
            // about a script that does not run any more. They do so once at most.
            if let Some(done) = taken.map_err(|why| Refused { version: Some(version), why })? {
                return Ok(done);
            }
        }
    }

    /// What is there to be taken.
    async fn offered(&self, edition: &Edition, reason: Reason) -> Result<Recipe, Refusal> {
        let from_source = match reason {
            Reason::Changed | Reason::Reload => self.source.follow,
            Reason::Tables => false,
            Reason::Update => true,
        };
        let running = edition.script.version().full();
        let bytes = if from_source { None } else { self.bytes_of(running).await? };
        self.source.recipe(bytes, None).await.map_err(|(_, refusal)| refusal)
    }

    /// Proves a version beside the edition that runs, and puts it in place. None:
    /// another edition is in place by now.
    async fn take(
        &mut self,
        recipe: Recipe,
        version: &Version,
        edition: &Arc<Edition>,
        slot: &Slot,
        reason: Reason,
    ) -> Result<Option<Reloaded>, Refusal> {
        let old = &edition.script;
        if old.version() == version && old.is_of(&recipe) {
            let is_current = Arc::ptr_eq(&slot.current(), edition);
            return Ok(is_current.then(|| Reloaded::unchanged(old)));
        }
        self.keep_way_back().await?;
        // Whoever orders it wants it all the same.
        if reason == Reason::Changed && self.is_put_aside(version).await? {
            return Err(Refusal::PutAside { version: version.to_string(), stream: self.stream.clone() });
        }
        let (offered, wasm) = (recipe.clone(), recipe.wasm.clone());
        let new = Script::load(&self.engine, recipe).await?;
        let proof = async {
            self.check_cases(wasm.clone(), &offered.limits).await?;
            self.shadow(old, &new).await
        };
        let comparison = tokio::select! {
            comparison = proof => comparison?,
            () = slot.left(edition) => return Ok(None),
        };
        let verdict = judge(&comparison, old.label(), self.source.rules.max_new_rejections);
        let Some(hold) = slot.hold(edition).await else { return Ok(None) };
        verdict?;
        // What was on trial until now was never proven to the end.
        let proven = edition.proven(Instant::now());
        let is_proven = proven.version() == version && proven.is_of(&offered);
        let trial = (!is_proven).then(|| {
            let way_back = self.way_back(&new, self.accepted(proven), proven);
            (self.source.rules.guard, Fallback { script: proven.clone(), way_back })
        });
        let record = async {
            if let Some((_, fallback)) = &trial {
                self.keep_trial(Some((&new, &fallback.script))).await?;
            }
            self.accept(&new, wasm).await
        };
        self.place(hold, &new, trial.clone(), record).await?;
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
        trial: Option<(GuardWindow, Fallback)>,
        record: impl Future<Output = Result<(), Refusal>>,
    ) -> Result<(), Refusal> {
        let old = hold.edition.script.clone();
        if old.state_version() == new.state_version() {
            // Before the pause, which the disk would make longer.
            record.await?;
            return hold.swap(new.clone(), trial, std::future::ready(Ok(()))).await;
        }
        let between = async {
            self.status.clear_state_between(&old, new, &self.journal).await?;
            // Not before: a restart in between would run it on a state that it
            // cannot read.
            record.await
        };
        hold.swap(new.clone(), trial, between).await
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
        let mut edition = began.clone();
        loop {
            if let Some(done) = self.restore(&edition, slot, to.as_deref()).await? {
                return Ok(done);
            }
            // The lanes have gone back by themselves.
            edition = self.note(slot).await;
            let version = edition.script.version().full();
            if to.as_deref().is_none_or(|to| version.starts_with(to)) {
                return Ok(Reloaded::replaced(&began.script, &edition.script));
            }
        }
    }

    /// Puts an earlier version in the place of this edition. None: another one is
    /// in place by now.
    async fn restore(
        &mut self,
        edition: &Arc<Edition>,
        slot: &Slot,
        to: Option<&str>,
    ) -> Result<Option<Reloaded>, Refusal> {
        let old = &edition.script;
        self.keep_way_back().await?;
        let wanted = self.earlier(Some(old.version().full()), to).await?;
        let wasm = self.bytes_of(wanted.version.clone()).await?;
        // The tables that have stood the proof, not what may be on the disk now.
        let tables = Some(old.tables().clone());
        let recipe = self.source.recipe(wasm, tables).await.map_err(|(_, refusal)| refusal)?;
        let new = Script::load(&self.engine, recipe).await?;
        let Some(hold) = slot.hold(edition).await else { return Ok(None) };
        let way_back = self.way_back(old, wanted, &new);
        self.place(hold, &new, None, way_back.keep()).await?;
        event::ScriptRolledBack { stream: &self.stream, from: old.label(), to: new.label(), because: None }
            .emit();
        self.note(slot).await;
        Ok(Some(Reloaded::replaced(old, &new)))
    }

    /// The version to go back to from the one that runs, if one does: the one
    /// that begins like `to`, or the last one from which nobody has gone back.
    async fn earlier(&self, running: Option<String>, to: Option<&str>) -> Result<Accepted, Refusal> {
        let (stream, other_than, begins) = (self.stream.clone(), running.clone(), to.map(str::to_owned));
        let find = move |versions: &Versions| {
            let mut known = versions.of(&stream)?;
            known.retain(|accepted| other_than.as_ref() != Some(&accepted.version));
            while let Some(accepted) = known.pop() {
                let wanted = match &begins {
                    Some(begins) => accepted.version.starts_with(begins),
                    None => !versions.is_put_aside(&stream, &accepted.version)?,
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

    /// The edition in place, and what there is to be told and to be kept of it.
    async fn note(&mut self, slot: &Slot) -> Arc<Edition> {
        let edition = slot.current();
        if self.noted.edition.as_ref().is_some_and(|noted| Arc::ptr_eq(noted, &edition)) {
            return edition;
        }
        self.noted.edition = Some(edition.clone());
        self.noted.trial_ends = edition.trial_ends();
        self.status.set_script(edition.script.name(), &edition.script.version().to_string());
        match &edition.instead_of {
            None => {
                // Whoever put it in place has kept it.
                self.noted.unkept = None;
                self.status.set_refused(None);
            }
            Some(Failed { script, fault, way_back }) => {
                let (from, to) = (script.label(), edition.script.label());
                event::ScriptRolledBack { stream: &self.stream, from, to, because: Some(fault) }.emit();
                self.status.set_refused(Some(one_line(&format!("{from} was taken back: {fault}"))));
                self.noted.unkept = Some(way_back.clone());
                let _ = self.keep_way_back().await;
            }
        }
        edition
    }

    /// Keeps it that the lanes have gone back, if that is not kept yet.
    async fn keep_way_back(&mut self) -> Result<(), Refusal> {
        let Some(way_back) = &self.noted.unkept else { return Ok(()) };
        if let Err(error) = way_back.keep().await {
            tracing::error!(stream = self.stream, %error, "a restart would run the script that was taken back");
            return Err(error);
        }
        self.noted.unkept = None;
        Ok(())
    }

    /// A restart need not go on with the trial.
    async fn end_trial(&mut self) {
        self.noted.trial_ends = None;
        if let Err(error) = self.keep_trial(None).await {
            tracing::warn!(stream = self.stream, %error, "a restart would begin the script's trial anew");
        }
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

    async fn is_put_aside(&self, version: &Version) -> Result<bool, Refusal> {
        let (stream, version) = (self.stream.clone(), version.full());
        self.source.versions(false, move |versions| versions.is_put_aside(&stream, &version)).await
    }

    /// The bytes of an accepted version; none where nothing is kept.
    async fn bytes_of(&self, version: String) -> Result<Option<Bytes>, Refusal> {
        self.source.versions(None, move |versions| versions.read(&version).map(Some)).await
    }

    async fn shadow(&self, old: &Script, new: &Script) -> Result<Comparison, Refusal> {
        let takes = self.takes.clone();
        let (messages, bytes) = self.source.rules.compared;
        let compared = Amount { messages, bytes };
        let messages = self.journal.latest(compared, move |message| takes(message)).await?;
        Ok(shadow::compare(old, new, &messages, &self.status.memory.state.copy()).await)
    }

    async fn accept(&self, script: &Script, wasm: Bytes) -> Result<(), Refusal> {
        let (stream, accepted, tables) =
            (self.stream.clone(), self.accepted(script), script.tables().clone());
        self.source.versions((), move |versions| versions.accept(&stream, accepted, &wasm, &tables)).await
    }

    /// The script on trial, and what it makes place for; none: none is.
    async fn keep_trial(&self, trial: Option<(&Script, &Script)>) -> Result<(), Refusal> {
        let stream = self.stream.clone();
        let trial = trial.map(|(new, before)| (new.version().full(), before.version().full()));
        // With other tables only: a restart knows but one set of them.
        let trial = trial.filter(|(new, before)| new != before);
        self.source.versions((), move |versions| versions.keep_trial(&stream, trial)).await
    }

    /// `script` is what is loaded of `to`, with the tables that it runs with.
    fn way_back(&self, from: &Script, to: Accepted, script: &Script) -> WayBack {
        WayBack {
            versions: self.source.versions.clone(),
            stream: self.stream.clone(),
            from: from.version().full(),
            to: Accepted { tables: self.accepted(script).tables, ..to },
            tables: script.tables().clone(),
            kept: Arc::default(),
        }
    }

    fn accepted(&self, script: &Script) -> Accepted {
        let tables = script.tables().iter().filter_map(|(name, table)| {
            let source = self.source.tables.get(name)?.clone();
            Some((name.to_owned(), AcceptedTable { source, version: table.version().full() }))
        });
        Accepted {
            version: script.version().full(),
            name: script.name().to_owned(),
            source: self.source.origin.clone(),
            accepted_at: unix_millis(),
            state_version: script.state_version(),
            tables: tables.collect(),
        }
    }
}

/// Resolves when files have changed; never where nobody looks.
async fn changed(changes: &mut Option<Changes>) {
    match changes {
        Some(changes) => drop(changes.next().await),
        None => std::future::pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
