//! Scripts change while traffic flows.
//!
//! A new version is made ready beside the one that runs: loaded, configured,
//! mapped with in the [`shadow`] of the old one. Only then it is kept on the
//! disk ([`versions`]) and put in place, where each lane takes it up between
//! two batches. What is refused ([`verdict`]) changes nothing.

pub mod first;
mod order;
pub mod shadow;
pub mod verdict;
pub mod versions;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::code::Code;
use super::edition::{Edition, GuardWindow, Slot};
use super::status::StreamStatus;
use crate::bus::{Message, unix_millis};
use crate::journal::Journal;
use crate::script::{Engine, Limits, Package, Recipe, Script, Tables, Version, cases, one_line};
use crate::telemetry::event;
use crate::watch::{Changes, Watch};
use order::{Answer, Order, What, answer};
use shadow::Comparison;
use verdict::judge;
use versions::{Accepted, AcceptedTable, Versions};

pub use order::{Orders, ReloadHandle, Reloaded};
pub use verdict::Refusal;

/// How to come by a stream's script.
pub struct ScriptSource {
    /// Where it is read from: a path, or `adapter` and a name. A stream whose
    /// source is another one than before begins anew.
    pub origin: String,
    /// The files that the recipe depends on: the script's own, unless the binary
    /// brings it along, and its tables'.
    pub paths: Vec<PathBuf>,
    /// Where each of its tables is read from, by their names: a file, and which
    /// columns of it. A table that is read from elsewhere than before is another.
    pub tables: BTreeMap<String, String>,
    /// Reads its bytes; an error for a person.
    pub read: Box<dyn Fn() -> Result<Bytes, String> + Send + Sync>,
    /// What is to be loaded, given the bytes. Tables that are not given it reads,
    /// and so blocks. An error for a person.
    pub recipe: Box<dyn Fn(Bytes, Option<Tables>) -> Result<Recipe, String> + Send + Sync>,
    /// Whether new bytes are taken by themselves, or only on order.
    pub follow: bool,
    /// Notices that the files have changed; none: nobody does.
    pub watch: Option<Watch>,
    /// Where accepted versions are kept; none: nowhere.
    pub versions: Option<Versions>,
    /// What a new version has to stand.
    pub rules: ReloadRules,
}

/// What a new version of a script has to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReloadRules {
    /// Messages that it may reject although the old one maps them (default 0).
    pub max_new_rejections: usize,
    /// Latest messages that both map, and bytes of them (default 1,000, 4 MiB).
    pub compared: (usize, usize),
    /// How long its own cases may take (default 30 s).
    pub cases: Duration,
    /// How long it is on trial.
    pub guard: GuardWindow,
}

/// Why the source is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// Files have changed.
    Changed,
    /// An operator has said so.
    Reload,
    /// And wants what the binary brings along.
    Update,
}

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
}

/// Says which messages are a stream's.
pub type Takes = Arc<dyn Fn(&Message) -> bool + Send + Sync>;

// === impl ReloadRules ===

impl Default for ReloadRules {
    fn default() -> Self {
        Self {
            max_new_rejections: 0,
            compared: (1_000, 4 << 20),
            cases: Duration::from_secs(30),
            guard: GuardWindow::default(),
        }
    }
}

// === impl ScriptSource ===

impl ScriptSource {
    /// The changes of its files, if there are any and somebody notices.
    pub(super) fn changes(&self) -> Option<Changes> {
        self.watch.as_ref().filter(|_| !self.paths.is_empty()).map(|watch| watch.paths(self.paths.clone()))
    }

    /// The recipe of these bytes and tables, or of what the source has now. What
    /// is read comes with it.
    async fn recipe(
        self: &Arc<Self>,
        wasm: Option<Bytes>,
        tables: Option<Tables>,
    ) -> Result<Recipe, (Code, Refusal)> {
        let source = self.clone();
        let read = move || {
            let wasm = match wasm {
                Some(wasm) => wasm,
                None => (source.read)().map_err(|error| (Code::ScriptMissing, Refusal::Unreadable(error)))?,
            };
            (source.recipe)(wasm, tables).map_err(|error| (Code::ScriptInvalid, Refusal::Unreadable(error)))
        };
        tokio::task::spawn_blocking(read)
            .await
            .unwrap_or_else(|failed| Err((Code::ScriptMissing, Refusal::Unreadable(failed.to_string()))))
    }

    /// Asks the folder of the accepted versions; `unkept` where there is none.
    async fn versions<T: Send + 'static>(
        self: &Arc<Self>,
        unkept: T,
        ask: impl FnOnce(&Versions) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Refusal> {
        let Some(versions) = self.versions.clone() else { return Ok(unkept) };
        match tokio::task::spawn_blocking(move || ask(&versions)).await {
            Ok(done) => done.map_err(|error| Refusal::Disk(error.to_string())),
            Err(failed) => Err(Refusal::Disk(failed.to_string())),
        }
    }
}

// === impl Reloader ===

impl Reloader {
    /// Keeps the script of the lanes up to date, for ever.
    pub(super) async fn run(mut self, slot: Arc<Slot>) {
        let mut editions = slot.follow();
        editions.mark_unchanged();
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
                Ok(()) = editions.changed() => {
                    let edition = editions.borrow_and_update().clone();
                    self.note(&edition).await;
                }
            }
        }
    }

    /// Files have changed: takes what is new, or says why not.
    async fn follow(&self, slot: &Slot) {
        if let Err(refusal) = self.reload(slot, Reason::Changed).await {
            self.refused(&refusal);
        }
    }

    async fn carry_out(&self, order: Order, slot: &Slot) {
        let Order { what, answer } = order;
        let outcome = match what {
            What::Reload => self.reload_on_order(slot, Reason::Reload).await,
            What::Update => self.reload_on_order(slot, Reason::Update).await,
            What::RollBack(to) => self.roll_back(slot, to).await,
            What::Compare(wasm) => self.compare(slot, wasm).await,
        };
        let _ = answer.send(outcome);
    }

    async fn reload_on_order(&self, slot: &Slot, reason: Reason) -> Answer {
        let outcome = self.reload(slot, reason).await;
        if let Err(refusal) = &outcome {
            self.refused(refusal);
        }
        outcome
    }

    /// Takes what there is now, if it is something else than what runs.
    async fn reload(&self, slot: &Slot, reason: Reason) -> Answer {
        let old = slot.current().script.clone();
        let from_source = self.source.follow || reason == Reason::Update;
        let bytes = if from_source { None } else { self.kept(old.version().full()).await? };
        let recipe = self.source.recipe(bytes, None).await.map_err(|(_, refusal)| refusal)?;
        let wasm = recipe.wasm.clone();
        let version = Version::of(&wasm);
        if *old.version() == version && old.is_of(&recipe) {
            return Ok(Reloaded::unchanged(&old));
        }
        let (stream, full) = (self.stream.clone(), version.full());
        let aside = self.source.versions(false, move |versions| versions.is_put_aside(&stream, &full));
        // Whoever orders it wants it all the same.
        if reason == Reason::Changed && aside.await? {
            return Err(Refusal::PutAside { version: version.to_string(), stream: self.stream.clone() });
        }
        let limits = recipe.limits.clone();
        let new = Script::load(&self.engine, recipe).await?;
        self.check_cases(wasm.clone(), &limits).await?;
        let comparison = self.shadow(&old, &new).await?;
        judge(&comparison, old.label(), self.source.rules.max_new_rejections)?;
        let other_state = old.state_version() != new.state_version();
        if !other_state {
            self.accept(&new, wasm.clone()).await?;
        }
        let between = async {
            self.status.clear_state_between(&old, &new, &self.journal).await?;
            // Not before: a restart in between would run it on a state that it
            // cannot read.
            if other_state { self.accept(&new, wasm).await } else { Ok(()) }
        };
        slot.swap(new.clone(), self.source.rules.guard, between).await?;
        event::ScriptReplaced {
            stream: &self.stream,
            before: old.label(),
            after: new.label(),
            compared: comparison.messages,
            differing: comparison.differing,
        }
        .emit();
        Ok(Reloaded { comparison: Some(comparison), ..Reloaded::replaced(&old, &new) })
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

    async fn roll_back(&self, slot: &Slot, to: Option<String>) -> Answer {
        let old = slot.current().script.clone();
        let running = old.version().full();
        let stream = self.stream.clone();
        let mut known = self.source.versions(Vec::new(), move |versions| versions.of(&stream)).await?;
        known.retain(|accepted| accepted.version != running);
        let wanted = match &to {
            None => known.pop(),
            Some(to) => known.into_iter().rev().find(|accepted| accepted.version.starts_with(to.as_str())),
        };
        let wanted = wanted.ok_or_else(|| Refusal::no_version(to.as_deref(), Some(&running)))?;
        let version = wanted.version.clone();
        let wasm = self.source.versions(Bytes::new(), move |versions| versions.read(&version)).await?;
        // The tables that have stood the proof, not what may be on the disk now.
        let tables = Some(old.tables().clone());
        let recipe = self.source.recipe(Some(wasm), tables).await.map_err(|(_, refusal)| refusal)?;
        let new = Script::load(&self.engine, recipe).await?;
        self.go_back(&old, wanted, &new).await?;
        slot.restore(new.clone(), self.status.clear_state_between(&old, &new, &self.journal)).await?;
        event::ScriptRolledBack { stream: &self.stream, from: old.label(), to: new.label(), because: None }
            .emit();
        Ok(Reloaded::replaced(&old, &new))
    }

    /// Another edition is in place: what is to be told, and to be kept.
    async fn note(&self, edition: &Edition) {
        self.status.set_script(edition.script.name(), &edition.script.version().to_string());
        let Some((failed, fault)) = &edition.instead_of else {
            self.status.set_refused(None);
            return;
        };
        let (from, to) = (failed.label(), edition.script.label());
        event::ScriptRolledBack { stream: &self.stream, from, to, because: Some(fault) }.emit();
        self.status.set_refused(Some(one_line(&format!("{from} was taken back: {fault}"))));
        let restored = self.accepted(&edition.script);
        if let Err(error) = self.go_back(failed, restored, &edition.script).await {
            tracing::error!(stream = self.stream, %error, "a restart would run the script that was taken back");
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

    /// The bytes of an accepted version; none where nothing is kept.
    async fn kept(&self, version: String) -> Result<Option<Bytes>, Refusal> {
        self.source.versions(None, move |versions| versions.read(&version).map(Some)).await
    }

    async fn shadow(&self, old: &Script, new: &Script) -> Result<Comparison, Refusal> {
        let takes = self.takes.clone();
        let messages = self.journal.latest(self.source.rules.compared, move |message| takes(message)).await?;
        Ok(shadow::compare(old, new, &messages, &self.status.memory.state.copy()).await)
    }

    async fn accept(&self, script: &Script, wasm: Bytes) -> Result<(), Refusal> {
        let (stream, accepted, tables) =
            (self.stream.clone(), self.accepted(script), script.tables().clone());
        self.source.versions((), move |versions| versions.accept(&stream, accepted, &wasm, &tables)).await
    }

    /// `script` is what is loaded of `to`, with the tables that it runs with.
    async fn go_back(&self, from: &Script, to: Accepted, script: &Script) -> Result<(), Refusal> {
        let (stream, from, tables) = (self.stream.clone(), from.version().full(), script.tables().clone());
        let to = Accepted { tables: self.accepted(script).tables, ..to };
        self.source.versions((), move |versions| versions.go_back(&stream, &from, to, &tables)).await
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
