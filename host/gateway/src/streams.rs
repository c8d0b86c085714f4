//! The streams of a running gateway: each is started, stopped and restarted
//! with other settings without touching the others.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use admin_api::answer;
use bus::{Router, Routes};
use journal::{Journal, JournalError};
use script::compile::Compilation;
use script::{Engine, EngineError};
use settings::{self, Accepted, AcceptedError, Config, Note, StreamEntry, StreamSettings};
use settings_reader::ConfigErrors;
use stream::{self, ReloadHandle, StreamStatus};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::apply::{Candidate, Change, Plan, too_many_lanes};
use crate::operate::{self, Operated};
use crate::wiring::{self, RateLimitGroups, Scripts};

/// Lanes that a gateway has room for beside those that it was started with, if
/// those were few: a slot for an instance costs nothing but address space.
const ROOM: u32 = 512;
/// How long an apply waits for the broker's answers to new subscriptions.
const SUBACKS: Duration = Duration::from_secs(5);
/// How soon the journal is asked again after its disk has failed.
const AGAIN: Duration = Duration::from_millis(500);

/// Every stream that has a file.
pub struct Streams {
    /// As the gateway was started; of the streams only the first ones.
    config: Config,
    engine: Engine,
    /// Lanes that the engine has room for.
    room: u32,
    journal: Journal,
    groups: RateLimitGroups,
    scripts: Scripts,
    routes: Routes,
    /// Stops all of them.
    stop: CancellationToken,
    running: Mutex<BTreeMap<String, Running>>,
    /// Locked while the set of streams changes.
    changing: tokio::sync::Mutex<()>,
}

/// A stream that has a file.
struct Running {
    /// What it runs with, or why it does not run.
    entry: StreamEntry,
    status: Arc<StreamStatus>,
    /// A note for the operator about its file.
    note: Option<String>,
    /// None: it does not run.
    lanes: Option<Lanes>,
}

struct Lanes {
    /// Gives orders about the script.
    reloads: ReloadHandle,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Why nothing, or not all, was applied.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The files.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// What is to be kept cannot be.
    #[error("nothing changed: {0}")]
    Accepted(#[from] AcceptedError),
    /// The gateway was told to end before.
    #[error("nothing changed: the gateway is shutting down")]
    Ending,
    /// The change ended unexpectedly.
    #[error("the change failed: {0}")]
    Failed(String),
    /// It was told to end while its journal could not take it.
    #[error("the gateway is shutting down; the next start uses the applied files: {0}")]
    Ended(#[from] JournalError),
}

impl Streams {
    /// An engine for the streams of a configuration, and how many lanes it has
    /// room for.
    pub fn engine(config: &Config, compilation: Compilation) -> Result<(Engine, u32), EngineError> {
        let lanes: u32 = ready(&config.streams).map(|settings| settings.delivery.lanes.max(1)).sum();
        let room = lanes.max(ROOM);
        // Twice the lanes: splitting a refused delivery needs an instance of its own.
        Ok((Engine::with(room.saturating_mul(2), compilation)?, room))
    }

    /// Starts the streams of a configuration. The journal was opened for them.
    pub fn start(
        config: Config,
        (engine, room): (Engine, u32),
        scripts: Scripts,
        journal: Journal,
        routes: Routes,
        notes: Vec<Note>,
    ) -> Self {
        let streams = Self {
            groups: wiring::rate_limit_groups(&config.rate_limit_groups),
            scripts,
            config,
            engine,
            room,
            journal,
            routes,
            stop: CancellationToken::new(),
            running: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
        };
        for entry in &streams.config.streams {
            streams.begin(entry.clone());
        }
        let mut running = streams.lock();
        for Note { stream, text } in notes {
            if let Some(stream) = running.get_mut(&stream) {
                stream.note = Some(text);
            }
        }
        drop(running);
        streams.route();
        streams
    }

    /// How they are doing, in the order of the names.
    pub fn statuses(&self) -> Vec<Arc<StreamStatus>> {
        self.lock().values().map(|running| running.status.clone()).collect()
    }

    /// The files with certificates that the bus and the streams name.
    pub fn certificates(&self) -> Vec<PathBuf> {
        settings::certificates(&self.config.bus, self.lock().values().map(|running| &running.entry))
    }

    /// Where the stream files are.
    pub fn folder(&self) -> PathBuf {
        self.config.stream_folder()
    }

    /// A note for the operator about a stream's file.
    pub fn note(&self, name: &str) -> Option<String> {
        self.lock().get(name)?.note.clone()
    }

    /// For [`crate::operate::Operations`].
    pub fn operated(&self) -> Vec<Operated> {
        let operated = |running: &Running| match &running.entry {
            StreamEntry::Ready(settings) => {
                let status = running.status.clone();
                let runs = running.lanes.as_ref();
                let runs = runs.map(|lanes| operate::Running { status, orders: lanes.reloads.clone() });
                Some(Operated::new(running.status.index()?, settings, runs))
            }
            StreamEntry::Unusable { name, errors } => Some(Operated::unusable(name, errors)),
        };
        self.lock().values().filter_map(operated).collect()
    }

    /// Forgets what streams have run that the journal has forgotten.
    pub async fn forget_scripts(&self) {
        // None of them comes back meanwhile.
        let _changing = self.changing.lock().await;
        wiring::forget_scripts(self.scripts.versions.as_ref(), &self.journal).await;
    }

    /// What an apply would change.
    pub async fn plan(&self) -> Result<answer::Plan, ConfigErrors> {
        let candidate = self.candidate().await?;
        Ok(self.compare(&candidate).answer(&candidate))
    }

    /// Takes over the stream files as they are: all of them, or nothing.
    /// `changed` is called when other streams have a file than before. Not to
    /// be dropped half-way.
    pub async fn apply(&self, changed: impl FnOnce()) -> Result<answer::Plan, ChangeError> {
        let _changing = self.changing.lock().await;
        if self.stop.is_cancelled() {
            return Err(ChangeError::Ending);
        }
        let candidate = self.candidate().await?;
        let plan = self.compare(&candidate);
        let accepted = Accepted::of(&candidate.files);
        let data = self.config.data.clone();
        // From here on a restart goes by it, so the rest is done, too.
        match tokio::task::spawn_blocking(move || accepted.save(&data)).await {
            Ok(saved) => saved?,
            Err(failed) => return Err(ChangeError::Failed(failed.to_string())),
        }
        let carried_out = self.carry_out(&plan, &candidate.files).await;
        changed();
        carried_out?;
        let mut answer = answer::Plan { applied: true, ..plan.answer(&candidate) };
        if timeout(SUBACKS, self.routes.subscribed()).await.is_err() {
            let waiting = "the bus is not there: what is new is subscribed as soon as it is";
            answer.waiting = Some(waiting.to_owned());
        }
        Ok(answer)
    }

    /// Lets all of them settle what is in flight, for good.
    pub async fn shut_down(&self) {
        self.stop.cancel();
        let _changing = self.changing.lock().await;
        let lanes: Vec<Lanes> = self.lock().values_mut().filter_map(|running| running.lanes.take()).collect();
        end(lanes).await;
    }

    async fn candidate(&self) -> Result<Candidate, ConfigErrors> {
        let had_streams = !self.lock().is_empty();
        let candidate = Candidate::read(&self.config, had_streams, &self.engine, &self.scripts).await?;
        let lanes = candidate.files.iter().map(|file| u64::from(file.delivery.lanes.max(1))).sum();
        if lanes > self.room.into() {
            return Err(too_many_lanes(&self.config, lanes, self.room.into()));
        }
        Ok(candidate)
    }

    fn compare(&self, candidate: &Candidate) -> Plan {
        Plan::new(self.lock().values().map(|running| &running.entry), &candidate.files)
    }

    /// Stops what is gone or changed, has the journal follow, starts what is
    /// new or changed, and routes.
    async fn carry_out(&self, plan: &Plan, files: &[Arc<StreamSettings>]) -> Result<(), JournalError> {
        let mut stopping = Vec::new();
        let mut again = Vec::new();
        {
            let mut running = self.lock();
            for (name, change) in &plan.0 {
                match change {
                    Change::Gone => stopping.extend(running.remove(name).and_then(|gone| gone.lanes)),
                    Change::Script(_) | Change::Other(_) => {
                        let Some(known) = running.get_mut(name) else { continue };
                        stopping.extend(known.lanes.take());
                        again.extend(known.status.index());
                    }
                    Change::New | Change::Unchanged => {}
                }
            }
        }
        end(stopping).await;
        wiring::forget_scripts(self.scripts.versions.as_ref(), &self.journal).await;
        let entries: Vec<StreamEntry> = files.iter().cloned().map(StreamEntry::Ready).collect();
        self.until_done(|| self.journal.set_streams(wiring::quotas(&entries))).await?;
        for index in again {
            self.until_done(|| self.journal.take_back(index)).await?;
        }
        for entry in entries {
            match plan.0.get(entry.name()) {
                Some(Change::New | Change::Script(_) | Change::Other(_)) => self.begin(entry),
                Some(Change::Unchanged | Change::Gone) | None => {
                    if let Some(running) = self.lock().get_mut(entry.name()) {
                        running.note = None;
                        running.entry = entry;
                    }
                }
            }
        }
        self.route();
        for (name, change) in &plan.0 {
            match change {
                Change::New => info!(stream = name, "applied: stream added"),
                Change::Gone => info!(stream = name, "applied: stream removed"),
                Change::Script(keys) | Change::Other(keys) => {
                    info!(stream = name, keys = keys.join(", "), "applied: stream settings changed");
                }
                Change::Unchanged => {}
            }
        }
        Ok(())
    }

    /// Asks the journal until it has done it: its disk may fail and come back.
    async fn until_done<F: Future<Output = Result<(), JournalError>>>(
        &self,
        ask: impl Fn() -> F,
    ) -> Result<(), JournalError> {
        loop {
            let Err(error) = ask().await else { return Ok(()) };
            warn!(%error, "the journal did not accept the new set of streams; retrying");
            if self.stop.run_until_cancelled(sleep(AGAIN)).await.is_none() {
                return Err(error);
            }
        }
    }

    /// Lists a stream and, if it can run, starts it. One that is listed already
    /// keeps its status, and with it what was counted.
    fn begin(&self, entry: StreamEntry) {
        let name = entry.name().to_owned();
        let mut running = self.lock();
        let running_now = match &entry {
            StreamEntry::Ready(settings) => {
                // Every stream that is ready was named to the journal.
                let Some(index) = self.journal.stream(&name) else { return };
                let known = running.get(&name).map(|r| r.status.clone());
                let known = known.filter(|status| status.index() == Some(index));
                let status = known.unwrap_or_else(|| Arc::new(StreamStatus::new(&name, index)));
                let stop = self.stop.child_token();
                let (stream, reloads) =
                    wiring::stream(index, settings, &self.groups, &self.scripts, status.clone());
                let lanes = stream::run(stream, self.engine.clone(), self.journal.clone(), stop.clone());
                let lanes = Some(Lanes { reloads, stop, task: tokio::spawn(lanes) });
                Running { entry, status, note: None, lanes }
            }
            StreamEntry::Unusable { name, errors } => {
                let reasons: Vec<String> = errors.iter().map(|e| e.summary()).collect();
                let status = Arc::new(StreamStatus::unusable(name, reasons.join("; ")));
                Running { entry, status, note: None, lanes: None }
            }
        };
        running.insert(name, running_now);
    }

    /// Routes messages to the streams that there are.
    fn route(&self) {
        let route = |running: &Running| match &running.entry {
            StreamEntry::Ready(settings) => Some(wiring::route(running.status.index()?, settings)),
            StreamEntry::Unusable { .. } => None,
        };
        let routes = self.lock().values().filter_map(route).collect();
        self.routes.replace(Router::new(routes));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        // Nothing under the lock panics half-way.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ready(streams: &[StreamEntry]) -> impl Iterator<Item = &Arc<StreamSettings>> {
    streams.iter().filter_map(|entry| match entry {
        StreamEntry::Ready(settings) => Some(settings),
        StreamEntry::Unusable { .. } => None,
    })
}

/// Stops lanes, all at the same time, and waits until what was in flight has
/// settled.
async fn end(lanes: Vec<Lanes>) {
    lanes.iter().for_each(|lanes| lanes.stop.cancel());
    for lanes in lanes {
        // An error is a panic, which has been reported.
        let _ = lanes.task.await;
    }
}

#[cfg(test)]
use {stream::ReloadRules, watch::Watch};

#[cfg(test)]
impl Streams {
    /// Streams that only stand in the list.
    #[allow(clippy::unwrap_used)]
    pub fn listed(config: Config, journal: Journal, statuses: Vec<Arc<StreamStatus>>) -> Self {
        let engine = (Engine::new(1).unwrap(), ROOM);
        let routes = Routes::new(Router::new(Vec::new()));
        let entries = std::mem::take(&mut config.clone().streams);
        let config = Config { streams: Vec::new(), ..config };
        let scripts = Scripts { versions: None, rules: ReloadRules::default(), watch: Watch::looking_only() };
        let streams = Self::start(config, engine, scripts, journal, routes, Vec::new());
        let running = entries.into_iter().zip(statuses);
        let running = running.map(|(entry, status)| Running { entry, status, note: None, lanes: None });
        *streams.lock() = running.map(|r| (r.status.name().to_owned(), r)).collect();
        streams
    }
}

#[cfg(test)]
#[path = "streams_tests.rs"]
mod tests;
