//! From messages to deliveries: one call of the script a batch; after a fault
//! one message at a time, so that one bad message takes no other along.

use std::collections::VecDeque;
use std::sync::Arc;

use destination::Delivery;
use journal::{JournalError, Position};
use script::{BeforeImage, MappedDelivery, Mapper, Mapping, Script, ScriptFault, Written};
use telemetry::event;
use tokio::sync::watch;
use tokio::time::Instant;

use super::code::Code;
use super::edition::Edition;
use super::entry::{Entry, Origin, Parcel, Way};
use super::identity::ordinals;
use super::lane::Shared;

/// Different messages in a row that may fail before the script itself is held
/// to be broken. The messages before them are dead letters, the last one waits.
const FAILING_IN_A_ROW: u32 = 10;

/// What a batch became.
#[derive(Debug, Default)]
pub(super) struct Mapped {
    /// To transmit, in order.
    pub parcels: Vec<Parcel>,
    /// Left out by the script.
    pub filtered: Vec<Arc<Entry>>,
    /// Cannot be mapped, with the reason and the script that says so.
    pub rejected: Vec<(Arc<Entry>, String, Script)>,
    /// Deliveries that the destination's rules forbid, with the reason.
    pub forbidden: Vec<(Parcel, String)>,
    /// What calls of the script wrote to the state, with their messages.
    pub wrote: Vec<(Vec<Position>, Written)>,
    /// The script cannot go on: why, and what was not mapped.
    pub stuck: Option<(Code, String, Vec<Arc<Entry>>)>,
}

/// Deliveries, told apart by the destination's rules.
#[derive(Debug, Default)]
pub(super) struct Sifted {
    /// To transmit, in order.
    pub allowed: Vec<Parcel>,
    /// Never to be transmitted, with the reason.
    pub forbidden: Vec<(Parcel, String)>,
}

/// What a refused delivery of several messages came apart into.
#[derive(Debug)]
pub(super) enum Split {
    /// Deliveries to the same target, each half's messages all covered.
    Halves(Vec<Parcel>),
    /// The script does not deliver half of the messages there.
    Indivisible,
    /// Nothing is known: the script did not answer. To be tried again.
    Faulted(ScriptFault),
}

/// Maps batches of one lane.
pub(super) struct MapStep {
    lane: u32,
    shared: Arc<Shared>,
    /// What the mapper runs; a newer one is taken up between two calls.
    edition: Arc<Edition>,
    editions: watch::Receiver<Arc<Edition>>,
    mapper: Mapper,
    failing: u32,
}

impl MapStep {
    pub(super) fn new(lane: u32, shared: &Arc<Shared>) -> Self {
        let mut editions = shared.slot.follow();
        let edition = editions.borrow_and_update().clone();
        let mapper = shared.mapper(lane, &edition.script);
        Self { lane, shared: shared.clone(), edition, editions, mapper, failing: 0 }
    }

    /// Resolves when there is a newer script than the one that mapped last.
    pub(super) async fn replaced(&mut self) {
        if self.editions.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        // Seen, but not taken up yet.
        self.editions.mark_changed();
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
                let stored = rest.iter().filter_map(|e| Parcel::as_is(e, generation)).collect();
                self.take_in(stored, rest.len(), &mut mapped).await;
            } else {
                self.map_run(rest, generation, &mut mapped).await;
                if let Some((_, _, waiting)) = &mut mapped.stuck {
                    waiting.extend(after);
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
                        mapped.stuck = Some((Code::from(&fault), reason, rest.into()));
                        return;
                    }
                    let [entry] = alone;
                    mapped.rejected.push((entry, fault.to_string(), self.edition.script.clone()));
                }
            }
            rest.pop_front();
        }
    }

    async fn mapped(&mut self, mapping: Mapping, batch: &[Arc<Entry>], generation: u64, mapped: &mut Mapped) {
        self.failing = 0;
        self.edition.mapped(batch.len());
        let parcels = mapped.add(mapping, batch, &self.edition.script, generation);
        self.take_in(parcels, batch.len(), mapped).await;
    }

    /// Adds the deliveries of so many messages.
    async fn take_in(&mut self, parcels: Vec<Parcel>, messages: usize, mapped: &mut Mapped) {
        let identities = self.shared.identities.as_ref();
        let parcels = parcels.into_iter().map(|p| p.identified(identities)).collect();
        let Sifted { allowed, forbidden } = self.sift(parcels, messages).await;
        mapped.parcels.extend(allowed);
        mapped.forbidden.extend(forbidden);
    }

    /// Tells apart what the destination's rules allow and what they forbid of
    /// the deliveries of so many messages. One of several messages that they
    /// forbid is split, as one is that the destination refuses, so that a
    /// message takes no other along.
    pub(super) async fn sift(&mut self, parcels: Vec<Parcel>, messages: usize) -> Sifted {
        let mut sifted = Sifted::default();
        // Enough to have each message alone, and twice that. Without an end a
        // script that makes more deliveries of fewer messages had none.
        let mut splits = 2 * messages;
        let mut rest = VecDeque::from(parcels);
        while let Some(parcel) = rest.pop_front() {
            let Err(reason) = self.shared.destination.check(&parcel.delivery) else {
                sifted.allowed.push(parcel);
                continue;
            };
            if parcel.carries.len() > 1 && splits > 0 {
                splits -= 1;
                match self.split(&parcel).await {
                    Split::Halves(halves) => {
                        halves.into_iter().rev().for_each(|half| rest.push_front(half));
                        continue;
                    }
                    Split::Indivisible => {}
                    // It mapped the whole and is pure: there is no better time.
                    Split::Faulted(fault) => self.report(parcel.carries.len(), &fault),
                }
            }
            sifted.forbidden.push((parcel, reason));
        }
        sifted
    }

    fn report(&self, messages: usize, fault: &ScriptFault) {
        event::ScriptFaulted { stream: &self.shared.name, messages, fault }.emit();
    }

    /// Whether the script, being on trial, has to make place for the one before
    /// it, which maps this message where the new one does not.
    async fn goes_back(&mut self, message: &[Arc<Entry>; 1], fault: &ScriptFault) -> bool {
        let edition = self.edition.clone();
        let Some(before) = edition.fallback(Instant::now()) else { return false };
        if !fault.is_batch_wide() {
            // A message that the old one fails on as well is itself to blame.
            let [entry] = message;
            let state = &self.shared.status.memory.state;
            let alone = [entry.message.clone()];
            if before.script.transform_isolated(state, &alone, &BeforeImage::default()).await.is_err() {
                return false;
            }
        }
        let Shared { status, journal, .. } = &*self.shared;
        let between = async {
            status.clear_state_between(&edition.script, &before.script, journal).await?;
            // Now: a restart would run what has failed, and on the state that the
            // other one writes from here on. Should the disk fail, the reloader
            // tries again and says so.
            let _ = before.way_back.keep().await;
            Ok::<(), JournalError>(())
        };
        match self.shared.slot.give_up(&edition, fault, between).await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(stream = self.shared.name, %error, "the script before cannot be put back in place");
                false
            }
        }
    }

    /// Maps the messages of a refused delivery in two halves, apart from the
    /// running instance and its state.
    pub(super) async fn split(&mut self, refused: &Parcel) -> Split {
        let (first, second) = refused.carries.split_at(refused.carries.len() / 2);
        let mut halves = Vec::new();
        for half in [first, second] {
            let mut parcels = match self.map_apart(half, refused).await {
                Ok(parcels) => parcels,
                Err(fault) => return Split::Faulted(fault),
            };
            parcels.retain(|p| p.delivery.target == refused.delivery.target);
            let covered =
                |e: &Arc<Entry>| parcels.iter().flat_map(|p| &p.carries).any(|c| c.position == e.position);
            if !half.iter().all(covered) {
                return Split::Indivisible;
            }
            halves.extend(parcels);
        }
        Split::Halves(halves)
    }

    /// What a part of a refused delivery's messages becomes by itself, with the
    /// script that mapped the whole.
    async fn map_apart(&mut self, half: &[Arc<Entry>], refused: &Parcel) -> Result<Vec<Parcel>, ScriptFault> {
        let identities = self.shared.identities.as_ref();
        let origin = &refused.origin;
        let script = origin.script.as_ref().unwrap_or(&self.edition.script);
        let mut parcels = Vec::new();
        for run in half.chunk_by(|a, b| a.way() == b.way()) {
            let stored: Vec<_> = run.iter().filter_map(|e| Parcel::as_is(e, origin.generation)).collect();
            if stored.is_empty() {
                let messages: Vec<_> = run.iter().map(|e| e.message.clone()).collect();
                let state = &self.shared.status.memory.state;
                let mapping = script.transform_isolated(state, &messages, &origin.before).await?;
                parcels.extend(self::parcels(mapping.deliveries, run, origin));
            } else {
                parcels.extend(stored);
            }
        }
        Ok(parcels.into_iter().map(|p| p.identified(identities)).collect())
    }

    /// One call of the newest script.
    async fn call(&mut self, batch: &[Arc<Entry>]) -> Result<Mapping, ScriptFault> {
        let shared = self.shared.clone();
        let asked = Instant::now();
        let _in_use = shared.slot.in_use().await;
        if self.editions.has_changed().unwrap_or(false) {
            self.edition = self.editions.borrow_and_update().clone();
            self.mapper = shared.mapper(self.lane, &self.edition.script);
            self.mapper.begin().await;
            self.failing = 0;
            let script = self.edition.script.label();
            event::ScriptTakenUp { stream: &shared.name, lane: self.lane, script, paused: asked.elapsed() }
                .emit();
        }
        let messages: Vec<_> = batch.iter().map(|e| e.message.clone()).collect();
        match batch.first().map(|e| e.way()) {
            Some(Way::Apart) => {
                let state = &shared.status.memory.state;
                self.edition.script.transform_isolated(state, &messages, &BeforeImage::default()).await
            }
            _ => self.mapper.transform(&messages).await,
        }
    }
}

impl Mapped {
    /// Adds what a batch became, except the deliveries, which it returns.
    fn add(
        &mut self,
        mapping: Mapping,
        batch: &[Arc<Entry>],
        script: &Script,
        generation: u64,
    ) -> Vec<Parcel> {
        if !mapping.written.values.is_empty() {
            self.wrote.push((batch.iter().map(|e| e.position).collect(), mapping.written));
        }
        let origin = Arc::new(Origin { script: Some(script.clone()), before: mapping.before, generation });
        let entry = |index: u32| batch.get(index as usize).cloned();
        self.filtered.extend(mapping.filtered.into_iter().filter_map(entry));
        let rejections = mapping.rejections.into_iter();
        self.rejected.extend(rejections.filter_map(|(m, why)| Some((entry(m)?, why, script.clone()))));
        parcels(mapping.deliveries, batch, &origin).collect()
    }
}

/// The script's deliveries with what their batch indexes stand for (they are
/// in range: the mapping was checked against the contract).
fn parcels(
    deliveries: Vec<MappedDelivery>,
    batch: &[Arc<Entry>],
    origin: &Arc<Origin>,
) -> impl Iterator<Item = Parcel> {
    let ordinals = ordinals(&deliveries);
    deliveries.into_iter().zip(ordinals).map(move |(delivery, ordinal)| {
        let MappedDelivery { messages, target, headers, body } = delivery;
        Parcel {
            carries: messages.iter().filter_map(|m| batch.get(*m as usize).cloned()).collect(),
            delivery: Delivery { target, headers, body, identity: None },
            origin: origin.clone(),
            ordinal,
        }
    })
}
