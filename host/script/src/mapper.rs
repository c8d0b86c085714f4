//! The script in one lane: an instance that is reused, and replaced after a
//! fault.

use message::Message;
use telemetry::event;

use super::fault::ScriptFault;
use super::instance::{Instance, StartError};
use super::load::Script;
use super::log::{Log, LogSink};
use super::mapping::{self, Mapping};
use super::state::{BeforeImage, State, StateCall};

/// Maps the batches of one lane, one after the other.
pub struct Mapper {
    script: Script,
    lane: u32,
    state: State,
    log: Log,
    /// Absent before the first batch, after [`Mapper::rest`], after a fault
    /// that may have broken it and after it was recycled.
    instance: Option<Instance>,
}

impl Mapper {
    pub(super) fn new(script: Script, lane: u32, state: &State, sink: LogSink) -> Self {
        let log = Log::to(sink, script.limits().log_lines_per_second);
        Self { script, lane, state: state.clone(), log, instance: None }
    }

    /// The script that this mapper runs.
    pub fn script(&self) -> &Script {
        &self.script
    }

    /// Maps a batch. On success what the script wrote to the state is
    /// committed, otherwise discarded. Dropping the future discards, too.
    pub async fn transform(&mut self, batch: &[Message]) -> Result<Mapping, ScriptFault> {
        if batch.is_empty() {
            return Ok(Mapping::default());
        }
        // Taken out while it runs: should this future be dropped half-way,
        // the instance, which is then stuck in a call, goes with it.
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => start(&self.script, self.log.clone()).await?,
        };
        let state = StateCall::in_lane(&self.state, self.lane, self.script.limits().state_bytes);
        let outcome = run(&self.script, &mut instance, batch, state).await;
        if outcome.as_ref().err().is_none_or(ScriptFault::spares_the_instance) {
            match instance.recycle_reason() {
                None => self.instance = Some(instance),
                Some(reason) => {
                    event::InstanceRecycled { script: self.script.name(), reason: reason.word() }.emit()
                }
            }
        }
        outcome
    }

    /// Makes the instance, so that the first batch need not wait for it. What
    /// goes wrong shows again with that batch.
    pub async fn begin(&mut self) {
        if self.instance.is_none() {
            self.instance = start(&self.script, self.log.clone()).await.ok();
        }
    }

    /// Gives the memory of the instance back. The next batch makes a new one.
    pub fn rest(&mut self) {
        self.instance = None;
    }
}

impl Script {
    /// A mapper for lane number `lane`, which takes part in the stream's
    /// `state` and logs to `log`. The instance is made with the first batch.
    pub fn lane(&self, lane: u32, state: &State, log: LogSink) -> Mapper {
        Mapper::new(self.clone(), lane, state, log)
    }

    /// Maps a batch in a fresh instance, with the state as `before` has it
    /// and, for other keys, as it is now. Nothing that it writes stays, and
    /// what it logs is dropped: it has been logged by the first mapping.
    pub async fn transform_isolated(
        &self,
        state: &State,
        batch: &[Message],
        before: &BeforeImage,
    ) -> Result<Mapping, ScriptFault> {
        if batch.is_empty() {
            return Ok(Mapping::default());
        }
        let mut instance = start(self, Log::silent()).await?;
        let state = StateCall::isolated(state, self.limits().state_bytes, before);
        run(self, &mut instance, batch, state).await
    }
}

/// An instance for a mapping, or why none could be had.
pub(super) async fn start(script: &Script, log: Log) -> Result<Instance, ScriptFault> {
    script.start(log).await.map_err(|error| match error {
        StartError::Instantiate(error) => ScriptFault::Start(error.root_cause().to_string()),
        StartError::Fault(fault) => ScriptFault::Start(format!("in `configure`: {fault}")),
        StartError::Refused(text) => ScriptFault::Start(format!("it refused its settings: {text}")),
    })
}

/// One call in this instance.
pub(super) async fn run(
    script: &Script,
    instance: &mut Instance,
    batch: &[Message],
    state: StateCall,
) -> Result<Mapping, ScriptFault> {
    let limits = script.limits();
    let (raw, state) = instance.transform(batch, state, limits).await?;
    let mapping = mapping::check(raw, batch.len(), limits).map_err(ScriptFault::Contract)?;
    let (before, written) = state.map(StateCall::commit).unwrap_or_default();
    Ok(Mapping { before, written, ..mapping })
}
