//! What a lane has mapped and not settled yet, in order, and what may be sent
//! when. No I/O: the lane asks, sends, and reports back.
//!
//! The rules:
//!  - Deliveries go out in order, at most `window` of them unsettled. What a
//!    connection forgets when it ends goes out again, in the original order.
//!  - Deliveries with the same slot never overlap; those that wait for a slot
//!    are merged where the destination can.
//!  - A refused delivery of several messages is split, in order. One of a
//!    single message becomes a *suspect*: it is set aside, one probe at a time
//!    goes out, of other keys if there are any, and only when the destination
//!    has accepted one and then refuses the suspect *again* is it rejected.
//!    (The second refusal makes the difference to a destination that recovers
//!    between the suspect and the probe. What was on the wire behind the
//!    suspect already serves as a probe, too.) Ten suspects and no probe accepted:
//!    the destination refuses everything, nothing new goes out, the suspects
//!    are tried again for ever.
//!  - When a connection ends without a word, one delivery at a time goes out
//!    until those that were in flight have settled; one that was alone in
//!    flight at three such ends is treated as refused.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use destination::{DeliveryId, Fault, FaultKind, Reply, Verdict};
use message::Backoff;
use tokio::time::Instant;

use super::code::Code;
use super::entry::OutgoingDelivery;
use super::proof_of_life::{ProofOfLife, Stamp};
use super::suspicion::{Evidence, OwnKeyProbe, Suspicion};

/// Maximum deliveries that are set aside without proof of life.
const SUSPECTS: usize = 10;
/// Maximum messages that a lane's deliveries carry before it maps no more.
const CARRIED: usize = 4096;

/// Unsettled deliveries of one lane.
#[derive(Debug)]
pub(super) struct Outbox {
    items: VecDeque<Item>,
    next_id: u64,
    window: usize,
    /// Messages in all deliveries.
    carried: usize,
    suspicion: Suspicion,
    backoff: Backoff,
}

#[derive(Debug)]
struct Item {
    id: DeliveryId,
    outgoing: OutgoingDelivery,
    /// When the youngest message in it was received, Unix milliseconds.
    youngest: u64,
    slot: Option<String>,
    stage: Stage,
    /// Times it was sent.
    sends: u32,
    /// Times it was deferred, and the last reason.
    deferrals: u32,
    deferred: Option<Fault>,
    evidence: Evidence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Ready,
    InFlight {
        sent: Stamp,
    },
    /// Put off by the destination; holds back what comes after it.
    Deferred {
        until: Instant,
    },
    /// Refused, waiting for proof of life or its next try.
    Suspect {
        until: Instant,
    },
    /// Refused; the lane is mapping its messages apart.
    Splitting,
}

/// Which delivery may go out next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pick {
    /// The oldest that is ready.
    InOrder,
    /// One that is no suspect, and of other keys than the suspects.
    Probe,
    /// One that was never refused, of whatever key.
    ProbeOfAnyKey,
}

/// What became of a delivery.
#[derive(Debug)]
pub(super) enum Ended {
    /// The destination has it.
    Delivered(OutgoingDelivery),
    /// The destination will never take it.
    Rejected(OutgoingDelivery, Reply),
    /// It carries several messages and was refused: map them in two halves and
    /// hand the result to [`Outbox::replace`], or call [`Outbox::indivisible`].
    Split(DeliveryId, OutgoingDelivery),
}

/// Why a lane does not just send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Passes by itself, or is being looked into.
    Retrying(String),
    /// Somebody should look.
    Blocked(Code, String),
}

// === impl Outbox ===

impl Outbox {
    pub(super) fn new(window: usize, life: Arc<ProofOfLife>, seed: u64) -> Self {
        Self {
            items: VecDeque::new(),
            next_id: 0,
            window: window.max(1),
            carried: 0,
            suspicion: Suspicion::new(life),
            backoff: Backoff::new(seed),
        }
    }

    /// Takes a mapped delivery in. `merge` makes one of two that wait for the
    /// same slot; the older one keeps the place.
    pub(super) fn push(
        &mut self,
        outgoing: OutgoingDelivery,
        slot: Option<String>,
        merge: impl FnOnce(&OutgoingDelivery, &OutgoingDelivery) -> Option<OutgoingDelivery>,
    ) {
        self.carried += outgoing.carries.len();
        if let Some(slot) = &slot {
            // Only the last one of the slot: an earlier one would overtake it.
            let waiting = self.items.iter_mut().rev().find(|i| i.slot.as_deref() == Some(slot));
            if let Some(item) = waiting
                && item.stage == Stage::Ready
                && item.sends == 0
                && let Some(merged) = merge(&item.outgoing, &outgoing)
            {
                item.youngest = merged.youngest();
                item.outgoing = merged;
                return;
            }
        }
        let item = self.item(outgoing, slot);
        self.items.push_back(item);
    }

    /// Whether the lane should map more: what waits for being sent would not
    /// fill another window. Suspects do not count: where all that is left are
    /// suspects, only what is mapped next can be their proof of life.
    pub(super) fn wants_more(&self) -> bool {
        let waiting = self.items.iter().filter(|i| !i.in_flight() && !self.is_suspect(i)).count();
        waiting < self.window && self.carried < CARRIED
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.items.iter().filter(|i| i.in_flight()).count()
    }

    /// What to send now, if anything. The caller sends it and says so with
    /// [`Outbox::sent`] before it asks again.
    pub(super) fn next(&mut self, now: Instant) -> Option<(DeliveryId, &OutgoingDelivery)> {
        self.wake(now);
        let index = self.next_index(now)?;
        let item = &self.items[index];
        Some((item.id, &item.outgoing))
    }

    /// The delivery is on its way.
    pub(super) fn sent(&mut self, id: DeliveryId) {
        let mut item = self.items.iter_mut().find(|i| i.id == id);
        let stamp = self.suspicion.sent(item.as_mut().map(|i| &mut i.evidence));
        if let Some(item) = item {
            item.stage = Stage::InFlight { sent: stamp };
            item.sends += 1;
        }
    }

    /// When to ask again although nothing was reported.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.items.iter().filter_map(Item::until).min()
    }

    /// Whether somebody else's acceptance would change anything here.
    pub(super) fn has_suspects(&self) -> bool {
        self.items.iter().any(|i| matches!(i.stage, Stage::Suspect { .. }))
    }

    /// The destination's answer to a delivery. An answer to a delivery that is
    /// not in flight (any more) is ignored.
    pub(super) fn verdict(&mut self, id: DeliveryId, verdict: Verdict, now: Instant) -> Option<Ended> {
        let index = self.items.iter().position(|i| i.id == id)?;
        let Stage::InFlight { sent } = self.items[index].stage else { return None };
        match verdict {
            Verdict::Delivered => {
                self.suspicion.accepted(sent, self.items.iter_mut().map(|i| &mut i.evidence));
                self.remove(index).map(Ended::Delivered)
            }
            Verdict::Refused(reply) => self.refused(index, reply, now),
            Verdict::Deferred(fault) => {
                let item = &mut self.items[index];
                item.deferrals = item.deferrals.saturating_add(1);
                let pause = self.backoff.pause(item.deferrals, fault.retry_after);
                item.deferred = Some(fault);
                item.stage = Stage::Deferred { until: now + pause };
                None
            }
        }
    }

    /// The connection has ended: everything in flight goes out again. The
    /// number of deliveries that this concerns, and what became of a delivery
    /// that has ended connections too often.
    pub(super) fn down(&mut self, fault: &Fault, now: Instant) -> (usize, Option<Ended>) {
        let in_flight: Vec<usize> =
            self.items.iter().enumerate().filter(|(_, i)| i.in_flight()).map(|(n, _)| n).collect();
        for index in &in_flight {
            self.items[*index].stage = Stage::Ready;
        }
        if in_flight.is_empty() {
            self.suspicion.idle_end(now);
        }
        if fault.kind != FaultKind::Unexplained {
            return (in_flight.len(), None);
        }
        let ended = match in_flight.as_slice() {
            [] => None,
            [alone] => self.items[*alone].evidence.lone_end(fault).and_then(|reply| {
                let ended = self.refused(*alone, reply, now);
                self.suspicion.lone_end_refused();
                ended
            }),
            several => {
                // Not the last one's: halves are newer than what is behind them.
                self.suspicion.narrow(several.iter().map(|n| self.items[*n].id).max());
                None
            }
        };
        (in_flight.len(), ended)
    }

    /// Takes out what waits and whose youngest message was received before
    /// `horizon` (Unix milliseconds). What is in flight may still arrive.
    pub(super) fn expire(&mut self, horizon: u64) -> Vec<OutgoingDelivery> {
        let mut expired = Vec::new();
        while let Some(index) = self.items.iter().position(|i| i.waits() && i.youngest < horizon) {
            expired.extend(self.remove(index));
        }
        expired
    }

    /// When the youngest message of the delivery was received that would be
    /// the first to expire.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.items.iter().filter(|i| i.waits()).map(|i| i.youngest).min()
    }

    /// Puts the halves in the place of a delivery that was to be split.
    pub(super) fn replace(&mut self, id: DeliveryId, halves: Vec<(OutgoingDelivery, Option<String>)>) {
        let Some(index) = self.items.iter().position(|i| i.id == id) else { return };
        if let Some(old) = self.items.remove(index) {
            self.carried -= old.outgoing.carries.len();
        }
        for (place, (outgoing, slot)) in (index..).zip(halves) {
            self.carried += outgoing.carries.len();
            let item = self.item(outgoing, slot);
            self.suspicion.replaced_by(item.id);
            self.items.insert(place, item);
        }
    }

    /// The delivery could not be split now: it is sent again later, and split
    /// if it is refused again.
    pub(super) fn postpone(&mut self, id: DeliveryId, reason: String, now: Instant) {
        let Some(index) = self.items.iter().position(|i| i.id == id) else { return };
        let item = &mut self.items[index];
        item.deferrals = item.deferrals.saturating_add(1);
        item.deferred = Some(Fault::transient(format!("a refused delivery could not be split: {reason}")));
        item.stage = Stage::Deferred { until: now + self.backoff.pause(item.deferrals, None) };
    }

    /// The delivery cannot be split: it is judged as a whole.
    pub(super) fn indivisible(&mut self, id: DeliveryId, now: Instant) -> Option<Ended> {
        let index = self.items.iter().position(|i| i.id == id)?;
        let evidence = &mut self.items[index].evidence;
        evidence.indivisible = true;
        let reply = evidence.reply()?.clone();
        self.refused(index, reply, now)
    }

    /// What keeps the lane from just sending, if anything.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        if let Some(first) = self.suspects().next() {
            let reply = first.evidence.reply().map(ToString::to_string).unwrap_or_default();
            let count = self.suspects().count();
            return Some(if count >= SUSPECTS {
                Trouble::Blocked(Code::RefusesEverything, format!("refuses everything: {reply}"))
            } else if self.suspects().all(|i| i.evidence.refusals() >= 2) {
                Trouble::Blocked(Code::Refused, format!("refused, and nothing accepted since: {reply}"))
            } else {
                Trouble::Retrying(format!("refused one, trying others: {reply}"))
            });
        }
        let put_off = self.items.iter().filter(|i| matches!(i.stage, Stage::Deferred { .. }));
        let fault = put_off.filter_map(|i| i.deferred.as_ref()).next()?;
        Some(match fault.kind {
            FaultKind::Persistent => Trouble::Blocked(fault.into(), fault.reason.clone()),
            FaultKind::Transient | FaultKind::Unexplained => Trouble::Retrying(fault.reason.clone()),
        })
    }

    fn item(&mut self, outgoing: OutgoingDelivery, slot: Option<String>) -> Item {
        self.next_id += 1;
        Item {
            id: DeliveryId(self.next_id),
            youngest: outgoing.youngest(),
            outgoing,
            slot,
            stage: Stage::Ready,
            sends: 0,
            deferrals: 0,
            deferred: None,
            evidence: Evidence::default(),
        }
    }

    fn remove(&mut self, index: usize) -> Option<OutgoingDelivery> {
        let item = self.items.remove(index)?;
        self.carried -= item.outgoing.carries.len();
        self.suspicion.settled(self.items.iter().map(|i| i.id));
        Some(item.outgoing)
    }

    /// Refused deliveries without proof of life.
    fn suspects(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|i| self.is_suspect(i))
    }

    fn is_suspect(&self, item: &Item) -> bool {
        self.suspicion.is_suspect(&item.evidence)
    }

    fn refused(&mut self, index: usize, reply: Reply, now: Instant) -> Option<Ended> {
        let item = &mut self.items[index];
        item.evidence.note(&reply);
        if item.outgoing.carries.len() > 1 && !item.evidence.indivisible {
            item.stage = Stage::Splitting;
            return Some(Ended::Split(item.id, item.outgoing.clone()));
        }
        if self.suspicion.has_proof_of_life(&item.evidence) {
            return self.remove(index).map(|outgoing| Ended::Rejected(outgoing, reply));
        }
        let refusals = self.suspicion.refused(&mut item.evidence);
        item.stage = Stage::Suspect { until: now + self.backoff.pause(refusals, None) };
        // Not of all suspects: those behind the oldest may be waiting for it.
        let oldest = self.items.iter().position(|i| self.suspicion.is_suspect(&i.evidence));
        if oldest == Some(index) {
            self.suspicion.oldest_refused(&self.items[index].evidence, now);
        }
        None
    }

    /// Makes ready what has waited long enough or has been has_proof_of_life.
    fn wake(&mut self, now: Instant) {
        for item in &mut self.items {
            let due = match item.stage {
                Stage::Deferred { until } => until <= now,
                Stage::Suspect { until } => until <= now || self.suspicion.has_proof_of_life(&item.evidence),
                Stage::Ready | Stage::InFlight { .. } | Stage::Splitting => false,
            };
            if due {
                item.stage = Stage::Ready;
            }
        }
    }

    fn next_index(&self, now: Instant) -> Option<usize> {
        let suspects = self.suspects().count();
        let window = if suspects > 0 || self.suspicion.is_narrow() { 1 } else { self.window };
        if self.in_flight() >= window {
            return None;
        }
        if suspects == 0 {
            return self.scan(suspects, Pick::InOrder);
        }
        // A probe before a suspect whose time has come again: where each
        // refusal ends the connection, and connecting takes longer than the
        // suspect's pause, no probe would ever go out.
        if let Some(probe) = self.scan(suspects, Pick::Probe) {
            return Some(probe);
        }
        // Nothing of another key: one of a suspect's own key will have to do,
        // right behind a refusal.
        let in_order = || self.scan(suspects, Pick::InOrder);
        let own_key = || self.scan(suspects, Pick::ProbeOfAnyKey);
        match self.suspicion.own_key_probe(now) {
            OwnKeyProbe::Last => in_order().or_else(own_key),
            OwnKeyProbe::First => own_key().or_else(in_order),
            OwnKeyProbe::Forbidden => in_order(),
        }
    }

    /// The first delivery of that kind that nothing before it holds back.
    fn scan(&self, suspects: usize, pick: Pick) -> Option<usize> {
        let keep_keys = pick != Pick::ProbeOfAnyKey;
        let mut slots: HashSet<&str> = HashSet::new();
        let mut keys: HashSet<u64> = HashSet::new();
        for (index, item) in self.items.iter().enumerate() {
            let wanted = match pick {
                Pick::InOrder => true,
                Pick::Probe => !self.is_suspect(item),
                // Suspects never overtake each other.
                Pick::ProbeOfAnyKey => !item.evidence.was_refused(),
            };
            let free = item.stage == Stage::Ready
                && wanted
                && item.slot.as_deref().is_none_or(|slot| !slots.contains(slot))
                && (keys.is_empty() || item.outgoing.carries.iter().all(|e| !keys.contains(&e.key())))
                // With too many suspects only they themselves are tried again.
                && (suspects < SUSPECTS || item.evidence.was_refused());
            if free {
                return Some(index);
            }
            match (&item.slot, item.stage) {
                (None, Stage::Deferred { .. } | Stage::Splitting) => return None,
                (Some(slot), _) => {
                    slots.insert(slot);
                }
                (None, _) => {}
            }
            let holds_its_keys = !item.in_flight() && item.stage != Stage::Splitting;
            if keep_keys && suspects > 0 && holds_its_keys {
                keys.extend(item.outgoing.carries.iter().map(|e| e.key()));
            }
        }
        None
    }
}

// === impl Item ===

impl Item {
    fn in_flight(&self) -> bool {
        matches!(self.stage, Stage::InFlight { .. })
    }

    fn waits(&self) -> bool {
        !matches!(self.stage, Stage::InFlight { .. } | Stage::Splitting)
    }

    fn until(&self) -> Option<Instant> {
        match self.stage {
            Stage::Deferred { until } | Stage::Suspect { until } => Some(until),
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "outbox_model.rs"]
mod model;

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
