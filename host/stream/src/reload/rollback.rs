//! The record of a rollback: a restart runs the earlier version, and the failed
//! one stays quarantined.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use script::Tables;

use super::verdict::Refusal;
use super::versions::{Accepted, Versions};

/// A rollback from one version to an earlier one. Store it before the earlier
/// version maps its first message.
#[derive(Clone, Debug)]
pub(crate) struct RollbackRecord {
    pub(super) versions: Option<Versions>,
    pub(super) stream: String,
    pub(super) from: String,
    pub(super) to: Accepted,
    /// The tables that `to` runs with.
    pub(super) tables: Tables,
    pub(super) kept: Arc<AtomicBool>,
}

impl RollbackRecord {
    /// Writes the record to the disk, once.
    pub(crate) async fn keep(&self) -> Result<(), Refusal> {
        let Self { versions, stream, from, to, tables, kept } = self.clone();
        if let Some(versions) = versions
            && !kept.load(Ordering::Relaxed)
        {
            ask(versions, move |versions| versions.go_back(&stream, &from, to, &tables)).await?;
            kept.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Reads or changes the folder of the accepted versions on a blocking thread.
pub(super) async fn ask<T: Send + 'static>(
    versions: Versions,
    ask: impl FnOnce(&Versions) -> io::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(move || ask(&versions)).await {
        Ok(done) => done.map_err(|error| Refusal::Disk(error.to_string())),
        Err(failed) => Err(Refusal::Disk(failed.to_string())),
    }
}
