//! What the lanes of a stream share.

use std::sync::Arc;

use destination::Destination;
use journal::{Journal, StreamIndex};

use super::clock::Clock;
use super::credentials::Current;
use super::endings::Endings;
use super::identity::Identities;
use super::intake::Intake;
use super::map::{MapStep, Parts};
use super::pressure::Pressure;
use super::proof_of_life::ProofOfLife;
use super::reload::generation::Slot;
use super::status::StreamStatus;

/// What the lanes of a stream share.
pub(super) struct Shared {
    pub name: String,
    pub index: StreamIndex,
    pub journal: Journal,
    /// The destination whose rules hold. They do not depend on its files.
    pub destination: Arc<dyn Destination>,
    /// The destination to connect with.
    pub current: Current,
    pub status: Arc<StreamStatus>,
    pub intake: Arc<Intake>,
    pub pressure: Pressure,
    pub clock: Clock,
    pub life: Arc<ProofOfLife>,
    /// `None` where the destination does not send identities.
    pub identities: Option<Identities>,
    /// The script that the lanes run.
    pub slot: Arc<Slot>,
}

impl Shared {
    /// The mapping step of a lane.
    pub(super) fn map_step(&self, lane: u32) -> MapStep {
        let parts = Parts {
            stream: self.name.clone(),
            journal: self.journal.clone(),
            destination: self.destination.clone(),
            identities: self.identities.clone(),
            status: self.status.clone(),
            slot: self.slot.clone(),
        };
        MapStep::new(lane, parts)
    }

    /// The endings of a lane.
    pub(super) fn endings(&self) -> Endings {
        Endings::new(self.journal.clone(), self.index, self.status.clone(), self.clock)
    }

    /// Messages received before this time are too old to be sent, Unix
    /// milliseconds.
    pub(super) fn horizon(&self) -> Option<u64> {
        self.pressure.horizon(self.clock)
    }
}
