//! Refusals and proof of life: which delivery is at fault, and when the
//! destination itself is. No I/O.
//!
//! A refusal alone proves nothing: a destination that is misconfigured refuses
//! everything. A delivery is at fault only when the destination refuses it,
//! accepts another one that was sent later, and refuses it again.

use std::sync::Arc;
use std::time::Duration;

use destination::{DeliveryId, Fault, Reply};
use tokio::time::Instant;

use super::proof_of_life::{ProofOfLife, Stamp};

/// Unexplained ends with only this delivery in flight that count as a refusal.
const LONE_ENDS: u32 = 3;
/// Refusals after which a probe may be of the suspect's own key, if there is
/// no other: a stream of one key must not wait for ever.
const PATIENCE: u32 = 3;
/// The time after a refusal in which the destination is expected to refuse
/// still.
const RIGHT_BEHIND: Duration = Duration::from_secs(1);

/// What a lane knows about its destination.
#[derive(Debug)]
pub(super) struct Suspicion {
    life: Arc<ProofOfLife>,
    own_key: OwnKey,
    /// One at a time until everything up to this delivery has settled.
    narrow_until: Option<DeliveryId>,
}

/// What speaks against one delivery, and for it.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// The first refusal. Proof of life must be later.
    first_refusal: Option<Stamp>,
    refusals: u32,
    reply: Option<Reply>,
    last_sent: Option<Stamp>,
    /// The destination accepted a delivery that was sent behind this one on the
    /// same connection, after it had refused this one. It answers in order
    /// there, so that is proof of life as well.
    outlived: bool,
    /// Unexplained ends of a connection with only this delivery in flight.
    lone_ends: u32,
    /// Splitting it was tried and is not possible.
    pub indivisible: bool,
}

/// Whether a later delivery of a suspect's own key may be the probe. Only right
/// behind a refusal of the suspect: had the destination recovered in between,
/// the later one would be accepted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnKey {
    No,
    Until(Instant),
    Reconnected,
}

/// The place of a probe of the suspect's own key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnKeyProbe {
    /// No such probe may go out now.
    Forbidden,
    /// It goes out where nothing else does.
    Last,
    /// It goes out before everything else.
    First,
}

// === impl Suspicion ===

impl Suspicion {
    pub(super) fn new(life: Arc<ProofOfLife>) -> Self {
        Self { life, own_key: OwnKey::No, narrow_until: None }
    }

    /// The delivery is on its way.
    pub(super) fn sent(&mut self, evidence: Option<&mut Evidence>) -> Stamp {
        let stamp = self.life.now();
        self.own_key = OwnKey::No;
        if let Some(evidence) = evidence {
            evidence.last_sent = Some(stamp);
        }
        stamp
    }

    /// The destination has accepted a delivery that was sent then. `all` is the
    /// evidence about the deliveries of the lane.
    pub(super) fn accepted<'e>(&self, sent: Stamp, all: impl Iterator<Item = &'e mut Evidence>) {
        self.life.accepted(sent);
        for evidence in all.filter(|e| e.first_refusal.is_some()) {
            evidence.outlived |= evidence.last_sent.is_some_and(|earlier| earlier < sent);
        }
    }

    /// One more refusal without proof of life; the number of them.
    pub(super) fn refused(&self, evidence: &mut Evidence) -> u32 {
        evidence.first_refusal.get_or_insert_with(|| self.life.now());
        evidence.refusals = evidence.refusals.saturating_add(1);
        evidence.refusals
    }

    /// Whether the destination has accepted another delivery since it first
    /// refused this one.
    pub(super) fn has_proof_of_life(&self, evidence: &Evidence) -> bool {
        evidence.outlived || evidence.first_refusal.is_some_and(|at| self.life.since(at))
    }

    /// Whether the delivery was refused, without proof of life since.
    pub(super) fn is_suspect(&self, evidence: &Evidence) -> bool {
        evidence.was_refused() && !self.has_proof_of_life(evidence)
    }

    /// The oldest suspect has been refused now: a probe of its own key may follow
    /// right behind, if it was refused often enough.
    pub(super) fn oldest_refused(&mut self, evidence_of_oldest: &Evidence, now: Instant) {
        if evidence_of_oldest.refusals >= PATIENCE {
            self.own_key = OwnKey::Until(now + RIGHT_BEHIND);
        }
    }

    /// The connection has ended with nothing in flight. Where the refusal was the
    /// end of the connection, or brought it about, the probe can only go out on
    /// the next one.
    pub(super) fn idle_end(&mut self, now: Instant) {
        if matches!(self.own_key, OwnKey::Until(until) if now <= until) {
            self.own_key = OwnKey::Reconnected;
        }
    }

    /// A lone end of the connection has counted as a refusal.
    pub(super) fn lone_end_refused(&mut self) {
        if self.own_key != OwnKey::No {
            self.own_key = OwnKey::Reconnected;
        }
    }

    /// One delivery at a time until everything up to this one has settled.
    pub(super) fn narrow(&mut self, until: Option<DeliveryId>) {
        self.narrow_until = until;
    }

    /// The delivery takes the place of an older one.
    pub(super) fn replaced_by(&mut self, id: DeliveryId) {
        if self.narrow_until.is_some() {
            self.narrow_until = Some(id);
        }
    }

    /// Whether one delivery at a time goes out.
    pub(super) fn is_narrow(&self) -> bool {
        self.narrow_until.is_some()
    }

    /// A delivery has settled, these are left.
    pub(super) fn settled(&mut self, mut left: impl Iterator<Item = DeliveryId>) {
        if let Some(until) = self.narrow_until
            && !left.any(|id| id <= until)
        {
            self.narrow_until = None;
        }
    }

    /// Whether a later delivery of a suspect's own key may be the probe now.
    pub(super) fn own_key_probe(&self, now: Instant) -> OwnKeyProbe {
        match self.own_key {
            OwnKey::Until(until) if now <= until => OwnKeyProbe::Last,
            OwnKey::Reconnected => OwnKeyProbe::First,
            OwnKey::No | OwnKey::Until(_) => OwnKeyProbe::Forbidden,
        }
    }
}

// === impl Evidence ===

impl Evidence {
    /// Notes the last answer of the destination.
    pub(super) fn note(&mut self, reply: &Reply) {
        self.reply = Some(reply.clone());
    }

    /// The last answer of the destination.
    pub(super) fn reply(&self) -> Option<&Reply> {
        self.reply.as_ref()
    }

    /// Whether it was ever refused.
    pub(super) fn was_refused(&self) -> bool {
        self.first_refusal.is_some()
    }

    /// Refusals without proof of life.
    pub(super) fn refusals(&self) -> u32 {
        self.refusals
    }

    /// The connection has ended without a reason and with only this delivery in
    /// flight. After several such ends: the refusal that they count as.
    pub(super) fn lone_end(&mut self, fault: &Fault) -> Option<Reply> {
        self.lone_ends += 1;
        (self.lone_ends >= LONE_ENDS)
            .then(|| Reply(format!("{fault} ({} times with only this delivery in flight)", self.lone_ends)))
    }
}
