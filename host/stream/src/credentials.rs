//! Reloads the credentials of a destination while it is in use: a connection
//! beside those of the lanes validates them, then each lane lets its deliveries
//! in flight settle, closes, and connects again.

use std::path::PathBuf;
use std::sync::Arc;

use ::watch::credentials::{CredentialReload, Refused, Renewable};
use destination::{Destination, Fault, FaultKind};
use telemetry::event;
use tokio::sync::watch;

use super::status::StreamStatus;

/// The destination that the lanes connect to.
pub(super) type Current = watch::Receiver<Target>;

/// A destination with its present credentials.
#[derive(Clone)]
pub(super) struct Target {
    pub destination: Arc<dyn Destination>,
    /// The lane after the last, which validates credentials.
    pub spare_lane: u32,
}

// === impl Target ===

impl Renewable for Target {
    fn files(&self) -> Vec<PathBuf> {
        self.destination.files()
    }

    fn renewed(&self) -> Result<Option<Self>, Refused> {
        let renewed = self.destination.renewed().map_err(refused)?;
        Ok(renewed.map(|destination| Self { destination, ..self.clone() }))
    }

    async fn prove(&self) -> Result<(), Refused> {
        self.destination.prove(self.spare_lane).await.map_err(refused)
    }
}

fn refused(fault: Fault) -> Refused {
    Refused { for_good: fault.kind == FaultKind::Persistent, reason: fault.reason }
}

/// Keeps the credentials of a stream up to date, for ever.
pub(super) async fn keep_up(reload: CredentialReload<Target>, status: Arc<StreamStatus>) {
    let reloaded = || event::Renewed { of: status.name() }.emit();
    let refused = |why: &Refused| {
        status.set_last_error(format!("credentials not reloaded: {}", why.reason));
        event::RenewalRefused { of: status.name(), reason: &why.reason }.emit();
    };
    reload.run(reloaded, refused).await;
}
