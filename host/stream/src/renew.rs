//! The files of a destination are renewed while it is in use: what they say is
//! proven by a connection beside those of the lanes, then each lane lets what
//! is in flight settle, closes, and connects anew.

use std::sync::Arc;

use ::watch::renew::{self, Refused};
use ::watch::{Changes, Watch};
use destination::{Destination, Fault, FaultKind};
use telemetry::event;
use tokio::sync::watch;

use super::status::StreamStatus;

/// What the lanes connect with.
pub(super) type Current = watch::Receiver<Arc<dyn Destination>>;

/// Keeps what the lanes connect with up to date.
pub(super) struct Renewal {
    changes: Changes,
    current: watch::Sender<Arc<dyn Destination>>,
    /// The lane after the last.
    lane: u32,
    status: Arc<StreamStatus>,
}

/// From here on changes of the destination's files are noticed. No renewal for
/// one that has no files.
pub(super) async fn begin(
    destination: Arc<dyn Destination>,
    watch: &Watch,
    lanes: u32,
    status: &Arc<StreamStatus>,
) -> (Current, Option<Renewal>) {
    let files = destination.files();
    let (sender, current) = watch::channel(destination.clone());
    if files.is_empty() {
        return (current, None);
    }
    let mut changes = watch.paths(files);
    changes.ready().await;
    // They may have changed since the settings were read.
    if let Ok(Some(renewed)) = read_again(&destination).await {
        sender.send_replace(renewed);
    }
    (current, Some(Renewal { changes, current: sender, lane: lanes, status: status.clone() }))
}

impl Renewal {
    /// Goes on for ever.
    pub(super) async fn run(mut self) {
        loop {
            let before = self.current.borrow().clone();
            let attempt = || attempt(before.clone(), self.lane);
            let refused = |why: &Refused| {
                let stream = self.status.name();
                self.status.set_last_error(format!("not renewed: {}", why.reason));
                event::RenewalRefused { of: stream, reason: &why.reason }.emit();
            };
            let renewed = renew::next(&mut self.changes, attempt, refused).await;
            event::Renewed { of: self.status.name() }.emit();
            self.current.send_replace(renewed);
        }
    }
}

/// The destination with what its files say now, once it has let us in.
async fn attempt(before: Arc<dyn Destination>, lane: u32) -> Result<Arc<dyn Destination>, Refused> {
    let renewed = read_again(&before).await.map_err(refused)?.unwrap_or(before);
    renewed.prove(lane).await.map_err(refused)?;
    Ok(renewed)
}

async fn read_again(destination: &Arc<dyn Destination>) -> Result<Option<Arc<dyn Destination>>, Fault> {
    let destination = destination.clone();
    match tokio::task::spawn_blocking(move || destination.renewed()).await {
        Ok(renewed) => renewed,
        Err(failed) => Err(Fault::transient(format!("reading its files was interrupted: {failed}"))),
    }
}

fn refused(fault: Fault) -> Refused {
    Refused { for_good: fault.kind == FaultKind::Persistent, reason: fault.reason }
}
