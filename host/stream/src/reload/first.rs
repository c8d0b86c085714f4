//! The script that a stream begins with: what was accepted last, else what the
//! source has.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use message::Backoff;
use script::{Engine, LoadError, Script, ScriptFault, Tables};
use telemetry::event;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::order::{Answer, Reloaded, What, answer};
use super::reloader::{Reloader, changed};
use super::source::ScriptSource;
use super::verdict::Refusal;
use super::versions::{Accepted, Versions};
use crate::code::Code;
use crate::status::State;

/// What was accepted last, as it is kept.
pub struct Kept {
    /// What is known of it.
    pub accepted: Accepted,
    /// Its bytes.
    pub wasm: Bytes,
    /// Its tables, without those that are read from elsewhere now.
    pub tables: Tables,
}

/// Why a script cannot be run.
#[derive(Debug, thiserror::Error)]
#[error("{refusal}")]
pub struct Unfit {
    /// The word for it.
    pub code: Code,
    /// In words.
    pub refusal: Refusal,
    /// Whether it does not go with what the stream's file says, settings, limits
    /// and tables, and so stays unfit until that says something else.
    pub with_the_file: bool,
}

// === impl ScriptSource ===

impl ScriptSource {
    /// What was accepted last of a stream, if it came from this source. None,
    /// too, where it cannot be had, which is logged: the source may still do.
    pub async fn kept(self: &Arc<Self>, stream: &str) -> Option<Kept> {
        let (name, source) = (stream.to_owned(), self.clone());
        let read = self.versions(None, move |versions| {
            let last = versions.of(&name)?.pop().filter(|last| last.source == source.origin);
            let Some(accepted) = last else { return Ok(None) };
            let wasm = versions.read(&accepted.version)?;
            let (tables, lost) = versions.tables(&accepted, &source.tables);
            for error in lost {
                tracing::error!(stream = name, %error, "an accepted table is lost: it is read from its file");
            }
            Ok(Some(Kept { accepted, wasm, tables }))
        });
        read.await.unwrap_or_else(|error| {
            tracing::error!(stream, %error, "the accepted version of the script is lost");
            None
        })
    }

    /// Loads these bytes, or what the source has, with these tables and what
    /// else there are. What was loaded comes with it.
    pub async fn load(
        self: &Arc<Self>,
        engine: &Engine,
        wasm: Option<Bytes>,
        tables: Tables,
    ) -> Result<(Script, Bytes), Unfit> {
        let recipe = self.recipe(wasm, Some(tables)).await;
        let recipe = recipe.map_err(|(code, refusal)| Unfit { code, refusal, with_the_file: true })?;
        let wasm = recipe.wasm.clone();
        match Script::load(engine, recipe).await {
            Ok(script) => Ok((script, wasm)),
            // The compiler, or the machine, may do better the next time.
            Err(error) => Err(Unfit {
                code: Code::ScriptInvalid,
                with_the_file: match &error {
                    LoadError::Settings(_) => true,
                    LoadError::Start(fault) => !matches!(fault, ScriptFault::Time(_)),
                    _ => false,
                },
                refusal: error.into(),
            }),
        }
    }
}

// === impl Unfit ===

impl From<Refusal> for Unfit {
    fn from(refusal: Refusal) -> Self {
        Self { code: Code::ScriptInvalid, refusal, with_the_file: false }
    }
}

// === impl Reloader ===

impl Reloader {
    /// The script to begin with. Tries for ever: a stream without a script
    /// holds its messages, and a file that is put in place later is found.
    pub(crate) async fn first(&mut self) -> Script {
        let mut backoff = Backoff::new(fastrand::u64(..));
        let mut failures = 0;
        let mut waiting: Option<oneshot::Sender<Answer>> = None;
        let mut from_source = false;
        if let Some(changes) = &mut self.changes {
            // What changes from here on is noticed.
            changes.ready().await;
        }
        loop {
            match self.begin(from_source).await {
                Ok(script) => {
                    let after = script.label().to_owned();
                    answer(waiting, Ok(Reloaded::alone(after)));
                    return script;
                }
                Err(Unfit { code, refusal, .. }) => {
                    self.status.set_stream(State::Blocked(code, format!("script: {refusal}")));
                    answer(waiting.take(), Err(refusal));
                }
            }
            from_source = false;
            failures += 1;
            let again = Instant::now() + backoff.pause(failures, None);
            loop {
                tokio::select! {
                    () = sleep_until(again) => break,
                    () = changed(&mut self.changes) => break,
                    Some(order) = self.orders.0.recv() => match order.what {
                        What::Reload | What::Update => {
                            from_source = self.source.follow || matches!(order.what, What::Update);
                            waiting = Some(order.answer);
                            break;
                        }
                        What::RollBack(to) => match self.begin_with(to).await {
                            Ok(script) => {
                                let after = script.label().to_owned();
                                answer(Some(order.answer), Ok(Reloaded::alone(after)));
                                return script;
                            }
                            Err(refusal) => answer(Some(order.answer), Err(refusal)),
                        },
                        _ => answer(Some(order.answer), Err(Refusal::NoScript)),
                    },
                }
            }
        }
    }

    /// What was accepted last. What the source has, where nothing was, or where
    /// that does not go with what the stream's file says now: whoever changed
    /// the file has seen that the two go together. With `from_source`, because
    /// an operator says so, wherever what was accepted cannot be run.
    async fn begin(&self, from_source: bool) -> Result<Script, Unfit> {
        let mut unfit = None;
        let mut tables = Tables::default();
        if let Some(kept) = self.source.kept(&self.stream).await {
            tables = kept.tables.clone();
            match self.source.load(&self.engine, Some(kept.wasm), kept.tables).await {
                Ok((script, wasm)) => {
                    let all = tables.iter().count() == script.tables().iter().count();
                    if !all || self.accepted(&script).tables != kept.accepted.tables {
                        self.keep_tables(&script, wasm).await;
                    }
                    self.tell_of_ended_probation(&kept.accepted).await;
                    return Ok(script);
                }
                Err(error) if error.with_the_file || from_source => unfit = Some((kept.accepted, error)),
                Err(error) => return Err(error),
            }
        }
        let (script, wasm) = match (self.source.load(&self.engine, None, tables).await, &unfit) {
            (Ok(loaded), _) => loaded,
            (Err(error), None) => return Err(error),
            (Err(error), Some((accepted, because))) => {
                let text =
                    format!("{because} ({} was accepted last; what there is now: {error})", called(accepted));
                return Err(Unfit { refusal: Refusal::Unreadable(text), ..error });
            }
        };
        if let Some((accepted, because)) = &unfit {
            tracing::warn!(
                stream = self.stream,
                accepted = called(accepted),
                %because,
                instead = script.label(),
                "the script that was accepted last cannot be run: what there is now runs instead, unvalidated"
            );
        }
        self.forget_other_state(&script).await?;
        self.accept(&script, wasm, None).await?;
        Ok(script)
    }

    /// A version that the stream has run: the one whose hash begins like this,
    /// or the one before the one that cannot be run.
    async fn begin_with(&self, to: Option<String>) -> Result<Script, Refusal> {
        let stream = self.stream.clone();
        let last = self.source.versions(None, move |versions| Ok(versions.of(&stream)?.pop())).await?;
        let last = last.filter(|last| last.source == self.source.origin);
        let unfit = last.as_ref().filter(|_| to.is_none()).map(|last| last.version.clone());
        let version = self.earlier(unfit, to.as_deref()).await?.version;
        let wasm = self.bytes_of(version.clone()).await?;
        let tables = self.source.kept(&self.stream).await.map(|kept| kept.tables).unwrap_or_default();
        let loaded = self.source.load(&self.engine, wasm, tables).await;
        let (script, wasm) = loaded.map_err(|unfit| unfit.refusal)?;
        self.forget_other_state(&script).await?;
        match last.filter(|last| last.version != version) {
            Some(last) => {
                let (stream, accepted, tables) =
                    (self.stream.clone(), self.accepted(&script), script.tables().clone());
                let from = called(&last);
                let go_back =
                    move |versions: &Versions| versions.go_back(&stream, &last.version, accepted, &tables);
                self.source.versions((), go_back).await?;
                event::ScriptRolledBack {
                    stream: &self.stream,
                    from: &from,
                    to: script.label(),
                    because: None,
                }
                .emit();
            }
            None => self.accept(&script, wasm, None).await?,
        }
        Ok(script)
    }

    /// Logs that a restart has ended the probation of the version that runs. Its guard
    /// window is not on the disk; the time of its acceptance is.
    async fn tell_of_ended_probation(&self, accepted: &Accepted) {
        let (stream, guard) = (self.stream.clone(), self.source.rules.guard);
        let age = Duration::from_millis(self.clock.now().saturating_sub(accepted.accepted_at));
        if age >= guard.time || guard.messages == 0 {
            return;
        }
        let ended = self.source.versions(false, move |versions| {
            // The first version has no probation, and a rollback target neither: the
            // version before it in the list is the quarantined one.
            let known = versions.of(&stream)?;
            match known.as_slice() {
                [.., before, _] => Ok(!versions.is_quarantined(&stream, &before.version)?),
                _ => Ok(false),
            }
        });
        if ended.await.unwrap_or(false) {
            let (stream, script) = (&self.stream, called(accepted));
            tracing::warn!(
                stream,
                script,
                "the restart ended probation: the script version has no guard window"
            );
        }
    }

    /// Keeps other tables than were accepted with the script: it has them from
    /// another file now, or is kept without them.
    async fn keep_tables(&self, script: &Script, wasm: Bytes) {
        if let Err(error) = self.accept(script, wasm, None).await {
            tracing::error!(stream = self.stream, %error, "a restart reads the tables from their files");
        }
    }

    /// Lets the state go that a script with another form of it has left: the
    /// stream has another source now.
    async fn forget_other_state(&self, script: &Script) -> Result<(), Refusal> {
        let stream = self.stream.clone();
        let last = self.source.versions(None, move |versions| Ok(versions.of(&stream)?.pop())).await?;
        match (last, self.status.index()) {
            (Some(last), Some(index)) if last.state_version != script.state_version() => {
                Ok(self.status.clear_state_with(self.journal.clear_state(index)).await?)
            }
            _ => Ok(()),
        }
    }
}

/// As [`Script::label`] says it.
pub fn called(accepted: &Accepted) -> String {
    format!("{} {}", accepted.name, accepted.version.get(..12).unwrap_or(&accepted.version))
}
