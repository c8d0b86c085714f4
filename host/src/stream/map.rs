//! From messages to deliveries: one call of the script a batch; after a fault
//! one message at a time, so that one bad message takes no other along.

use std::sync::Arc;

use super::entry::{Entry, Parcel};
use crate::destination::{Delivery, Destination};
use crate::script::{BeforeImage, MappedDelivery, Mapper, Mapping, ScriptFault};
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
    /// The script cannot go on: why, and what was not mapped.
    pub stuck: Option<(String, Vec<Arc<Entry>>)>,
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
    failing: u32,
}

impl MapStep {
    pub(super) fn new(mapper: Mapper) -> Self {
        Self { mapper, failing: 0 }
    }

    pub(super) async fn map(
        &mut self,
        stream: &str,
        destination: &dyn Destination,
        batch: Vec<Arc<Entry>>,
    ) -> Mapped {
        let mut mapped = Mapped::default();
        match self.call(&batch).await {
            Ok(mapping) => {
                self.failing = 0;
                mapped.add(mapping, &batch, destination);
                return mapped;
            }
            Err(fault) if fault.is_batch_wide() => {
                mapped.stuck = Some((fault.to_string(), batch));
                return mapped;
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
                    mapped.add(mapping, &alone, destination);
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
                        mapped.stuck = Some((reason, std::iter::once(entry).chain(entries).collect()));
                        return mapped;
                    }
                    mapped.rejected.push((entry, fault.to_string()));
                }
            }
        }
        mapped
    }

    /// Maps the messages of a refused delivery in two halves, apart from the
    /// running instance and its state.
    pub(super) async fn split(&mut self, refused: &Parcel) -> Split {
        let (first, second) = refused.carries.split_at(refused.carries.len() / 2);
        let mut halves = Vec::new();
        for half in [first, second] {
            let messages: Vec<_> = half.iter().map(|e| e.message.clone()).collect();
            let mapping = match self.mapper.transform_apart(&messages, &refused.before).await {
                Ok(mapping) => mapping,
                Err(fault) => return Split::Faulted(fault),
            };
            let before = refused.before.clone();
            let same_target = mapping.deliveries.into_iter().filter(|d| d.target == refused.delivery.target);
            let parcels: Vec<_> = same_target.map(|d| parcel(d, half, &before)).collect();
            let covered =
                |e: &Arc<Entry>| parcels.iter().flat_map(|p| &p.carries).any(|c| c.position == e.position);
            if !half.iter().all(covered) {
                return Split::Indivisible;
            }
            halves.extend(parcels);
        }
        Split::Halves(halves)
    }

    async fn call(&mut self, batch: &[Arc<Entry>]) -> Result<Mapping, ScriptFault> {
        let messages: Vec<_> = batch.iter().map(|e| e.message.clone()).collect();
        self.mapper.transform(&messages).await
    }
}

impl Mapped {
    fn add(&mut self, mapping: Mapping, batch: &[Arc<Entry>], destination: &dyn Destination) {
        let before = Arc::new(mapping.before);
        let entry = |index: u32| batch.get(index as usize).cloned();
        self.filtered.extend(mapping.filtered.into_iter().filter_map(entry));
        self.rejected.extend(mapping.rejections.into_iter().filter_map(|(m, why)| Some((entry(m)?, why))));
        for delivery in mapping.deliveries {
            let parcel = parcel(delivery, batch, &before);
            match destination.check(&parcel.delivery) {
                Ok(()) => self.parcels.push(parcel),
                Err(reason) => self.forbidden.push((parcel, reason)),
            }
        }
    }
}

/// The script's delivery with what its batch indexes stand for (they are in
/// range: the mapping was checked against the contract).
fn parcel(delivery: MappedDelivery, batch: &[Arc<Entry>], before: &Arc<BeforeImage>) -> Parcel {
    Parcel {
        carries: delivery.messages.iter().filter_map(|m| batch.get(*m as usize).cloned()).collect(),
        delivery: Delivery { target: delivery.target, headers: delivery.headers, body: delivery.body },
        before: before.clone(),
    }
}
