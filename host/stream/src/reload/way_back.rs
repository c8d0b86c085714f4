//! What a restart has to know when a stream goes back to an earlier version.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use script::Tables;

use super::verdict::Refusal;
use super::versions::{Accepted, Versions};

/// From one version to an earlier one: to be kept by whoever puts that one in
/// place, before it maps its first message.
#[derive(Clone, Debug)]
pub(crate) struct WayBack {
    pub(super) versions: Option<Versions>,
    pub(super) stream: String,
    pub(super) from: String,
    pub(super) to: Accepted,
    /// What it runs with.
    pub(super) tables: Tables,
    pub(super) kept: Arc<AtomicBool>,
}

impl WayBack {
    /// Keeps it, unless that is done.
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

/// Asks the folder of the accepted versions.
pub(super) async fn ask<T: Send + 'static>(
    versions: Versions,
    ask: impl FnOnce(&Versions) -> io::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(move || ask(&versions)).await {
        Ok(done) => done.map_err(|error| Refusal::Disk(error.to_string())),
        Err(failed) => Err(Refusal::Disk(failed.to_string())),
    }
}
