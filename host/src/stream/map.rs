//! From messages to deliveries: one call of the script a batch; after a fault
//! one message at a time, so that one bad message takes no other along.

use std::sync::Arc;

use super::code::Code;
use super::entry::{Entry, Parcel, Way};
use super::identity::ordinals;
use super::lane::Shared;
use crate::destination::Delivery;
use crate::journal::Position;
use crate::script::{BeforeImage, MappedDelivery, Mapper, Mapping, ScriptFault, Written};
use crate::telemetry::event;

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
    /// Cannot be mapped, with the reason.
    pub rejected: Vec<(Arc<Entry>, String)>,
    /// Deliveries that the destination's rules forbid, with the reason.
    pub forbidden: Vec<(Parcel, String)>,
    /// What calls of the script wrote to the state, with their messages.
    pub wrote: Vec<(Vec<Position>, Written)>,
    /// The script cannot go on: why, and what was not mapped.
    pub stuck: Option<(Code, String, Vec<Arc<Entry>>)>,
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
    pub mapper: Mapper,
    shared: Arc<Shared>,
    failing: u32,
}

impl MapStep {
    pub(super) fn new(mapper: Mapper, shared: &Arc<Shared>) -> Self {
        Self { mapper, shared: shared.clone(), failing: 0 }
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
                for parcel in rest.iter().filter_map(|e| Parcel::as_is(e, generation)) {
                    mapped.take_in(parcel, &self.shared);
                }
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
        let stream = &self.shared.name.clone();
        match self.call(&batch).await {
            Ok(mapping) => {
                self.failing = 0;
                mapped.add(mapping, &batch, generation, &self.shared);
                return;
            }
            Err(fault) if fault.is_batch_wide() => {
                mapped.stuck = Some(((&fault).into(), fault.to_string(), batch));
                return;
            }
            Err(fault) if batch.len() > 1 => {
                event::ScriptFaulted { stream, messages: batch.len(), fault: &fault }.emit();
            }
            // A batch of one is mapped again below: the fault may have been of
            // the used instance, and a pure script answers the same.
            Err(_) => {}
        }
        let mut entries = batch.into_iter();
        while let Some(entry) = entries.next() {
            let alone = [entry];
            match self.call(&alone).await {
                Ok(mapping) => {
                    self.failing = 0;
                    mapped.add(mapping, &alone, generation, &self.shared);
                    continue;
                }
                Err(fault) => {
                    let [entry] = alone;
                    let wide = fault.is_batch_wide();
                    if !wide {
                        event::ScriptFaulted { stream, messages: 1, fault: &fault }.emit();
                        self.failing += 1;
                    }
                    if wide || self.failing >= FAILING_IN_A_ROW {
                        // The one that failed last is tried again, not lost.
                        self.failing = self.failing.min(FAILING_IN_A_ROW - 1);
                        let reason = if wide {
                            fault.to_string()
                        } else {
                            format!("{FAILING_IN_A_ROW} messages in a row failed, the last: {fault}")
                        };
                        let code = Code::from(&fault);
                        mapped.stuck = Some((code, reason, std::iter::once(entry).chain(entries).collect()));
                        return;
                    }
                    mapped.rejected.push((entry, fault.to_string()));
                }
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

    /// What a part of a refused delivery's messages becomes by itself.
    async fn map_apart(&mut self, half: &[Arc<Entry>], refused: &Parcel) -> Result<Vec<Parcel>, ScriptFault> {
        let identities = self.shared.identities.as_ref();
        let mut parcels = Vec::new();
        for run in half.chunk_by(|a, b| a.way() == b.way()) {
            let stored: Vec<_> = run.iter().filter_map(|e| Parcel::as_is(e, refused.generation)).collect();
            if stored.is_empty() {
                let messages: Vec<_> = run.iter().map(|e| e.message.clone()).collect();
                let mapping = self.mapper.transform_apart(&messages, &refused.before).await?;
                parcels.extend(self::parcels(mapping.deliveries, run, &refused.before, refused.generation));
            } else {
                parcels.extend(stored);
            }
        }
        Ok(parcels.into_iter().map(|p| p.identified(identities)).collect())
    }

    async fn call(&mut self, batch: &[Arc<Entry>]) -> Result<Mapping, ScriptFault> {
        let messages: Vec<_> = batch.iter().map(|e| e.message.clone()).collect();
        match batch.first().map(|e| e.way()) {
            Some(Way::Apart) => self.mapper.transform_apart(&messages, &BeforeImage::default()).await,
            _ => self.mapper.transform(&messages).await,
        }
    }
}

impl Mapped {
    fn add(&mut self, mapping: Mapping, batch: &[Arc<Entry>], generation: u64, shared: &Shared) {
        if !mapping.written.values.is_empty() {
            self.wrote.push((batch.iter().map(|e| e.position).collect(), mapping.written));
        }
        let before = Arc::new(mapping.before);
        let entry = |index: u32| batch.get(index as usize).cloned();
        self.filtered.extend(mapping.filtered.into_iter().filter_map(entry));
        self.rejected.extend(mapping.rejections.into_iter().filter_map(|(m, why)| Some((entry(m)?, why))));
        for parcel in parcels(mapping.deliveries, batch, &before, generation) {
            self.take_in(parcel, shared);
        }
    }

    fn take_in(&mut self, parcel: Parcel, shared: &Shared) {
        match shared.destination.check(&parcel.delivery) {
            Ok(()) => self.parcels.push(parcel.identified(shared.identities.as_ref())),
            Err(reason) => self.forbidden.push((parcel, reason)),
        }
    }
}

/// The script's deliveries with what their batch indexes stand for (they are
/// in range: the mapping was checked against the contract).
fn parcels(
    deliveries: Vec<MappedDelivery>,
    batch: &[Arc<Entry>],
    before: &Arc<BeforeImage>,
    generation: u64,
) -> impl Iterator<Item = Parcel> {
    let ordinals = ordinals(&deliveries);
    deliveries.into_iter().zip(ordinals).map(move |(delivery, ordinal)| {
        let MappedDelivery { messages, target, headers, body } = delivery;
        Parcel {
            carries: messages.iter().filter_map(|m| batch.get(*m as usize).cloned()).collect(),
            delivery: Delivery { target, headers, body, identity: None },
            before: before.clone(),
            generation,
            ordinal,
        }
    })
}
