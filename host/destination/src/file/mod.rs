//! A local file, one line per delivery: for trying out, and for audits.
//!
//! `delivered` means that the line is synced to the disk. Lines that a lane
//! hands over together share one sync. A delivery that is sent again may be in
//! the file twice; no line is ever torn.

mod line;
mod settings;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

use async_trait::async_trait;
use tokio::task::JoinHandle;

use crate::{Cause, Connection, Delivery, DeliveryId, Destination, Fault, Reply, Verdict};

pub use settings::{FileSettings, Format, KIND};
use writer::{SyncFile, Writer};

/// Appends to a file.
pub struct FileDestination {
    settings: FileSettings,
    sync: SyncFile,
}

struct FileConnection {
    settings: FileSettings,
    /// None while a batch is being written.
    writer: Option<Writer>,
    /// Lines that no batch has yet.
    waiting: Vec<(DeliveryId, Vec<u8>)>,
    /// Kept here and not inside `next`, so that cancelling `next` loses nothing.
    batch: Option<JoinHandle<Written>>,
    verdicts: VecDeque<(DeliveryId, Verdict)>,
}

/// A batch that has been written, or has failed.
struct Written {
    writer: Writer,
    ids: Vec<DeliveryId>,
    result: io::Result<()>,
}

// === impl FileDestination ===

impl FileDestination {
    /// A destination; nothing is opened yet.
    pub fn new(settings: FileSettings) -> Self {
        Self { settings, sync: Arc::new(fs::File::sync_data) }
    }
}

/// A fault of the file or its folder.
fn fault(path: &Path, doing: &str, error: &io::Error) -> Fault {
    use io::ErrorKind::{
        IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem, WouldBlock,
    };
    let path = path.display();
    match error.kind() {
        WouldBlock => Fault::persistent(
            Cause::Configuration,
            format!(
                "{path} is in use by another stream or another gateway; each stream needs a file of its own"
            ),
        ),
        IsADirectory | NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem => {
            Fault::persistent(Cause::Configuration, format!("cannot {doing} {path}: {error}"))
        }
        _ => Fault::transient(format!("cannot {doing} {path}: {error}")),
    }
}

/// Runs blocking work on a thread for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await.map_err(|error| interrupted(&error))
}

fn interrupted(error: &tokio::task::JoinError) -> Fault {
    Fault::transient(format!("work on the file was interrupted: {error}"))
}

#[async_trait]
impl Destination for FileDestination {
    fn window(&self) -> usize {
        self.settings.in_flight.max(1)
    }

    fn check(&self, delivery: &Delivery) -> Result<(), String> {
        if self.settings.format == Format::Lines && delivery.body.contains(&b'\n') {
            return Err("the body contains a line end, and `format = \"lines\"` has one line per delivery; \
                        `format = \"json\"` takes any body"
                .to_owned());
        }
        Ok(())
    }

    fn wants_identity(&self) -> bool {
        self.settings.format == Format::Json
    }

    /// Opens neither the file for good nor creates it: a lane may have it open.
    async fn prove(&self, _lane: u32) -> Result<(), Fault> {
        let path = self.settings.path.clone();
        blocking(move || writer::probe(&path).map_err(|error| fault(&path, "open", &error))).await?
    }

    async fn connect(&self, _lane: u32) -> Result<Box<dyn Connection>, Fault> {
        let (settings, sync) = (self.settings.clone(), self.sync.clone());
        let path = settings.path.clone();
        let opened = blocking(move || Writer::open(&settings, sync)).await?;
        let writer = opened.map_err(|error| fault(&path, "open", &error))?;
        Ok(Box::new(FileConnection {
            settings: self.settings.clone(),
            writer: Some(writer),
            waiting: Vec::new(),
            batch: None,
            verdicts: VecDeque::new(),
        }))
    }
}

// === impl FileConnection ===

#[async_trait]
impl Connection for FileConnection {
    async fn send(&mut self, id: DeliveryId, delivery: &Delivery) -> Result<(), Fault> {
        match line::of(self.settings.format, delivery) {
            Ok(line) if line.len() as u64 <= self.settings.max_size => self.waiting.push((id, line)),
            Ok(line) => {
                let reason = format!(
                    "a line of {} bytes is larger than `max_size`, {} bytes",
                    line.len(),
                    self.settings.max_size
                );
                self.verdicts.push_back((id, Verdict::Refused(Reply(reason))));
            }
            Err(error) => self.verdicts.push_back((id, Verdict::Refused(Reply(error.to_string())))),
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<(DeliveryId, Verdict), Fault> {
        loop {
            if let Some(verdict) = self.verdicts.pop_front() {
                return Ok(verdict);
            }
            if self.batch.is_none() {
                self.begin();
            }
            let Some(batch) = &mut self.batch else { return std::future::pending().await };
            let written = batch.await;
            self.batch = None;
            let written = written.map_err(|error| interrupted(&error))?;
            written.result.map_err(|error| fault(&self.settings.path, "write to", &error))?;
            self.writer = Some(written.writer);
            self.verdicts.extend(written.ids.into_iter().map(|id| (id, Verdict::Delivered)));
        }
    }

    async fn close(mut self: Box<Self>) {
        // The lane has given up what is unsettled; the file must be free when
        // the next connection opens it.
        if let Some(batch) = self.batch.take() {
            let _ = batch.await;
        }
    }
}

impl FileConnection {
    /// Begins to write all that waits.
    fn begin(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let Some(mut writer) = self.writer.take() else { return };
        let (ids, lines): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting).into_iter().unzip();
        self.batch = Some(tokio::task::spawn_blocking(move || {
            let result = writer.append(&lines);
            Written { writer, ids, result }
        }));
    }
}
