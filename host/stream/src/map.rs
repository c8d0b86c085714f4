//! From messages to deliveries: one call of the script a batch; after a fault
//! one message at a time, so that one bad message takes no other along.

use std::collections::VecDeque;
use std::sync::Arc;

use destination::{Delivery, Destination};
use journal::{Journal, JournalError, Position};
use script::{BeforeImage, LogLevel, LogSink, MappedDelivery, Mapper, Mapping, Script, ScriptFault, Written};
use telemetry::event;
use tokio::sync::watch;
use tokio::time::Instant;

use super::code::Code;
use super::entry::{Entry, Origin, OutgoingDelivery, Way};
use super::identity::{Identities, identified, ordinals};
use super::reload::generation::{ScriptGeneration, Slot};
use super::status::StreamStatus;

/// Different messages in a row that may fail before the script itself is held
/// to be broken. The messages before them are dead letters, the last one waits.
const FAILING_IN_A_ROW: u32 = 10;

/// What a batch became.
#[derive(Debug, Default)]
pub(super) struct Mapped {
    /// To transmit, in order.
    pub outgoing: Vec<OutgoingDelivery>,
    /// Left out by the script.
    pub filtered: Vec<Arc<Entry>>,
    /// Cannot be mapped, with the reason and the script that says so.
    pub rejected: Vec<(Arc<Entry>, String, Script)>,
    /// Deliveries that the destination's rules forbid, with the reason.
    pub forbidden: Vec<(OutgoingDelivery, String)>,
    /// What calls of the script wrote to the state, with their messages.
    pub wrote: Vec<(Vec<Position>, Written)>,
    /// The script cannot continue.
    pub stuck: Option<Stuck>,
}

/// A batch that the script cannot map now.
#[derive(Debug)]
pub(super) struct Stuck {
    pub code: Code,
    pub reason: String,
    /// The messages that were not mapped.
    pub batch: Vec<Arc<Entry>>,
}

/// Deliveries, told apart by the destination's rules.
#[derive(Debug, Default)]
pub(super) struct Sifted {
    /// To transmit, in order.
    pub allowed: Vec<OutgoingDelivery>,
    /// Never to be transmitted, with the reason.
    pub forbidden: Vec<(OutgoingDelivery, String)>,
}

/// What a refused delivery of several messages came apart into.
#[derive(Debug)]
pub(super) enum Split {
    /// Deliveries to the same target, each half's messages all covered.
    Halves(Vec<OutgoingDelivery>),
    /// The script does not deliver half of the messages there.
    Indivisible,
    /// Nothing is known: the script did not answer. To be tried again.
    Faulted(ScriptFault),
}

/// The parts of a stream that mapping needs.
pub(super) struct Parts {
    pub stream: String,
    pub journal: Journal,
    pub destination: Arc<dyn Destination>,
    pub identities: Option<Identities>,
    pub status: Arc<StreamStatus>,
    pub slot: Arc<Slot>,
}

/// Maps batches of one lane.
pub(super) struct MapStep {
    lane: u32,
    parts: Parts,
    /// What the mapper runs; a newer one is taken up between two calls.
    script_generation: Arc<ScriptGeneration>,
    script_generations: watch::Receiver<Arc<ScriptGeneration>>,
    mapper: Mapper,
    failing: u32,
}

// === impl MapStep ===

impl MapStep {
    pub(super) fn new(lane: u32, parts: Parts) -> Self {
        let mut script_generations = parts.slot.follow();
        let script_generation = script_generations.borrow_and_update().clone();
        let mapper = parts.mapper(lane, &script_generation.script);
        Self { lane, parts, script_generation, script_generations, mapper, failing: 0 }
    }

    /// Resolves when there is a newer script than the one that mapped last.
    pub(super) async fn replaced(&mut self) {
        if self.script_generations.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        // Seen, but not taken up yet.
        self.script_generations.mark_changed();
    }

    /// Gives the memory of the instance back.
    pub(super) fn rest(&mut self) {
        self.mapper.rest();
    }

    /// Maps a batch, `generation` being how often the stream has been rewound.
    /// Messages with a stored delivery pass the script by, in their place.
    pub(super) async fn map(&mut self, batch: Vec<Arc<Entry>>, generation: u64) -> Mapped {
        let mut mapped = Mapped::default();
        let mut rest = batch;
        while let Some(first) = rest.first() {
            let way = first.way();
            let run = rest.iter().take_while(|e| e.way() == way).count();
            let after = rest.split_off(run);
            if way == Way::Stored {
                let stored = rest.iter().filter_map(|e| OutgoingDelivery::as_is(e, generation)).collect();
                self.take_in(stored, rest.len(), &mut mapped).await;
            } else {
                self.map_run(rest, generation, &mut mapped).await;
                if let Some(stuck) = &mut mapped.stuck {
                    stuck.batch.extend(after);
                    return mapped;
                }
            }
            rest = after;
        }
        mapped
    }

    async fn map_run(&mut self, batch: Vec<Arc<Entry>>, generation: u64, mapped: &mut Mapped) {
        match self.call(&batch).await {
            Ok(mapping) => {
                self.mapped(mapping, &batch, generation, mapped).await;
                return;
            }
            Err(fault) if batch.len() > 1 && !fault.is_batch_wide() => self.report(batch.len(), &fault),
            // A batch of one is mapped again below: the fault may have been of
            // the used instance, and a pure script answers the same. What is
            // wrong with all of them shows again with the first.
            Err(_) => {}
        }
        let mut rest = VecDeque::from(batch);
        while let Some(entry) = rest.front().cloned() {
            let alone = [entry];
            match self.call(&alone).await {
                Ok(mapping) => self.mapped(mapping, &alone, generation, mapped).await,
                Err(fault) => {
                    let wide = fault.is_batch_wide();
                    if !wide {
                        self.report(1, &fault);
                    }
                    if self.goes_back(&alone, &fault).await {
                        continue;
                    }
                    self.failing += u32::from(!wide);
                    if wide || self.failing >= FAILING_IN_A_ROW {
                        // The one that failed last is tried again, not lost.
                        self.failing = self.failing.min(FAILING_IN_A_ROW - 1);
                        let reason = if wide {
                            fault.to_string()
                        } else {
                            format!("{FAILING_IN_A_ROW} messages in a row failed, the last: {fault}")
                        };
                        mapped.stuck = Some(Stuck { code: Code::from(&fault), reason, batch: rest.into() });
                        return;
                    }
                    let [entry] = alone;
                    mapped.rejected.push((entry, fault.to_string(), self.script_generation.script.clone()));
                }
            }
            rest.pop_front();
        }
    }

    async fn mapped(&mut self, mapping: Mapping, batch: &[Arc<Entry>], generation: u64, mapped: &mut Mapped) {
        self.failing = 0;
        self.script_generation.mapped(batch.len());
        let outgoing = mapped.add(mapping, batch, &self.script_generation.script, generation);
        self.take_in(outgoing, batch.len(), mapped).await;
    }

    /// Adds the deliveries of so many messages.
    async fn take_in(&mut self, outgoing: Vec<OutgoingDelivery>, messages: usize, mapped: &mut Mapped) {
        let identities = self.parts.identities.as_ref();
        let outgoing = outgoing.into_iter().map(|p| identified(p, identities)).collect();
        let Sifted { allowed, forbidden } = self.sift(outgoing, messages).await;
        mapped.outgoing.extend(allowed);
        mapped.forbidden.extend(forbidden);
    }

    /// Tells apart what the destination's rules allow and what they forbid of
    /// the deliveries of so many messages. One of several messages that they
    /// forbid is split, as one is that the destination refuses, so that a
    /// message takes no other along.
    pub(super) async fn sift(&mut self, outgoing: Vec<OutgoingDelivery>, messages: usize) -> Sifted {
        let mut sifted = Sifted::default();
        // Enough to have each message alone, and twice that. Without an end a
        // script that makes more deliveries of fewer messages had none.
        let mut splits = 2 * messages;
        let mut rest = VecDeque::from(outgoing);
        while let Some(outgoing) = rest.pop_front() {
            let Err(reason) = self.parts.destination.check(&outgoing.delivery) else {
                sifted.allowed.push(outgoing);
                continue;
            };
            if outgoing.carries.len() > 1 && splits > 0 {
                splits -= 1;
                match self.split(&outgoing).await {
                    Split::Halves(halves) => {
                        halves.into_iter().rev().for_each(|half| rest.push_front(half));
                        continue;
                    }
                    Split::Indivisible => {}
                    // It mapped the whole and is pure: there is no better time.
                    Split::Faulted(fault) => self.report(outgoing.carries.len(), &fault),
                }
            }
            sifted.forbidden.push((outgoing, reason));
        }
        sifted
    }

    fn report(&self, messages: usize, fault: &ScriptFault) {
        event::ScriptFaulted { stream: &self.parts.stream, messages, fault }.emit();
    }

    /// Whether the script, being on probation, has to make place for the one before
    /// it, which maps this message where the new one does not.
    async fn goes_back(&mut self, message: &[Arc<Entry>; 1], fault: &ScriptFault) -> bool {
        let script_generation = self.script_generation.clone();
        let Some(before) = script_generation.rollback_target(Instant::now()) else { return false };
        if !fault.is_batch_wide() {
            // A message that the old one fails on as well is itself to blame.
            let [entry] = message;
            let state = &self.parts.status.memory.state;
            let alone = [entry.message.clone()];
            if before.script.transform_isolated(state, &alone, &BeforeImage::default()).await.is_err() {
                return false;
            }
        }
        let Parts { status, journal, .. } = &self.parts;
        let between = async {
            status.clear_state_between(&script_generation.script, &before.script, journal).await?;
            // Now: a restart would run what has failed, and on the state that the
            // other one writes from here on. Should the disk fail, the reloader
            // tries again and says so.
            let _ = before.rollback_record.keep().await;
            Ok::<(), JournalError>(())
        };
        match self.parts.slot.give_up(&script_generation, fault, between).await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(stream = self.parts.stream, %error, "the script before cannot be put back in place");
                false
            }
        }
    }

    /// Maps the messages of a refused delivery in two halves, apart from the
    /// running instance and its state.
    pub(super) async fn split(&mut self, refused: &OutgoingDelivery) -> Split {
        let (first, second) = refused.carries.split_at(refused.carries.len() / 2);
        let mut halves = Vec::new();
        for half in [first, second] {
            let mut outgoing = match self.map_isolated(half, refused).await {
                Ok(outgoing) => outgoing,
                Err(fault) => return Split::Faulted(fault),
            };
            outgoing.retain(|p| p.delivery.target == refused.delivery.target);
            let covered =
                |e: &Arc<Entry>| outgoing.iter().flat_map(|p| &p.carries).any(|c| c.position == e.position);
            if !half.iter().all(covered) {
                return Split::Indivisible;
            }
            halves.extend(outgoing);
        }
        Split::Halves(halves)
    }

    /// What a part of a refused delivery's messages becomes by itself, with the
    /// script that mapped the whole.
    async fn map_isolated(
        &mut self,
        half: &[Arc<Entry>],
        refused: &OutgoingDelivery,
    ) -> Result<Vec<OutgoingDelivery>, ScriptFault> {
        let identities = self.parts.identities.as_ref();
        let origin = &refused.origin;
        let script = origin.script.as_ref().unwrap_or(&self.script_generation.script);
        let mut outgoing = Vec::new();
        for run in half.chunk_by(|a, b| a.way() == b.way()) {
            let stored: Vec<_> =
                run.iter().filter_map(|e| OutgoingDelivery::as_is(e, origin.generation)).collect();
            if stored.is_empty() {
                let messages: Vec<_> = run.iter().map(|e| e.message.clone()).collect();
                let state = &self.parts.status.memory.state;
                let mapping = script.transform_isolated(state, &messages, &origin.before).await?;
                outgoing.extend(self::outgoing(mapping.deliveries, run, origin));
            } else {
                outgoing.extend(stored);
            }
        }
        Ok(outgoing.into_iter().map(|p| identified(p, identities)).collect())
    }

    /// One call of the newest script.
    async fn call(&mut self, batch: &[Arc<Entry>]) -> Result<Mapping, ScriptFault> {
        let asked = Instant::now();
        let slot = self.parts.slot.clone();
        let _in_use = slot.in_use().await;
        if self.script_generations.has_changed().unwrap_or(false) {
            self.script_generation = self.script_generations.borrow_and_update().clone();
            self.mapper = self.parts.mapper(self.lane, &self.script_generation.script);
            self.mapper.begin().await;
            self.failing = 0;
            let script = self.script_generation.script.label();
            event::ScriptTakenUp {
                stream: &self.parts.stream,
                lane: self.lane,
                script,
                paused: asked.elapsed(),
            }
            .emit();
        }
        let messages: Vec<_> = batch.iter().map(|e| e.message.clone()).collect();
        match batch.first().map(|e| e.way()) {
            Some(Way::Isolated) => {
                let state = &self.parts.status.memory.state;
                self.script_generation
                    .script
                    .transform_isolated(state, &messages, &BeforeImage::default())
                    .await
            }
            _ => self.mapper.transform(&messages).await,
        }
    }
}

// === impl Parts ===

impl Parts {
    fn mapper(&self, lane: u32, script: &Script) -> Mapper {
        script.lane(lane, &self.status.memory.state, log_sink(&self.stream))
    }
}

// === impl Mapped ===

impl Mapped {
    /// Adds what a batch became, except the deliveries, which it returns.
    fn add(
        &mut self,
        mapping: Mapping,
        batch: &[Arc<Entry>],
        script: &Script,
        generation: u64,
    ) -> Vec<OutgoingDelivery> {
        if !mapping.written.values.is_empty() {
            self.wrote.push((batch.iter().map(|e| e.position).collect(), mapping.written));
        }
        let origin = Arc::new(Origin { script: Some(script.clone()), before: mapping.before, generation });
        let entry = |index: u32| batch.get(index as usize).cloned();
        self.filtered.extend(mapping.filtered.into_iter().filter_map(entry));
        let rejections = mapping.rejections.into_iter();
        self.rejected.extend(rejections.filter_map(|(m, why)| Some((entry(m)?, why, script.clone()))));
        outgoing(mapping.deliveries, batch, &origin).collect()
    }
}

/// The script's deliveries with what their batch indexes stand for (they are
/// in range: the mapping was checked against the contract).
fn outgoing(
    deliveries: Vec<MappedDelivery>,
    batch: &[Arc<Entry>],
    origin: &Arc<Origin>,
) -> impl Iterator<Item = OutgoingDelivery> {
    let ordinals = ordinals(&deliveries);
    deliveries.into_iter().zip(ordinals).map(move |(delivery, ordinal)| {
        let MappedDelivery { messages, target, headers, body } = delivery;
        OutgoingDelivery {
            carries: messages.iter().filter_map(|m| batch.get(*m as usize).cloned()).collect(),
            delivery: Delivery { target, headers, body, identity: None },
            origin: origin.clone(),
            ordinal,
        }
    })
}

fn log_sink(stream: &str) -> LogSink {
    let stream = stream.to_owned();
    Arc::new(move |level, text| match level {
        LogLevel::Debug => tracing::debug!(stream, "script: {text}"),
        LogLevel::Info => tracing::info!(stream, "script: {text}"),
        LogLevel::Warn => tracing::warn!(stream, "script: {text}"),
        LogLevel::Error => tracing::error!(stream, "script: {text}"),
    })
}
