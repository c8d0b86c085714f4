//! Certificates, key and password of the bus are renewed while it is read:
//! proven by a login under another client id, then the connection is replaced.

use std::sync::Arc;

use ::watch::renew::{self, Refused};
use ::watch::{Changes, Watch};
use settings_reader::tls;
use telemetry::event;
use tokio::sync::watch;
use tokio::task::{JoinError, spawn_blocking};

use super::connection::try_login;
use super::status::BusStatus;
use crate::{BusSettings, BusSource};

/// What the bus is called in logs and metrics beside the streams.
const BUS: &str = "bus";

/// Keeps what the bus connects with up to date.
pub(super) struct Renewal {
    changes: Changes,
    current: watch::Sender<BusSettings>,
    status: Arc<BusStatus>,
}

/// From here on changes of the files are noticed. No renewal where there are
/// none.
pub(super) async fn begin(
    settings: BusSettings,
    watch: &Watch,
    status: Arc<BusStatus>,
) -> (watch::Receiver<BusSettings>, Option<Renewal>) {
    let files = settings.files();
    let (sender, current) = watch::channel(settings.clone());
    if files.is_empty() {
        return (current, None);
    }
    let mut changes = watch.paths(files);
    changes.ready().await;
    // They may have changed since the settings were read.
    if let Ok(Ok(renewed)) = read_again(settings).await {
        sender.send_replace(renewed);
    }
    (current, Some(Renewal { changes, current: sender, status }))
}

impl Renewal {
    /// Goes on for ever.
    pub(super) async fn run(mut self) {
        loop {
            let before = self.current.borrow().clone();
            let attempt = || attempt(before.clone());
            let refused = |why: &Refused| {
                self.status.set_last_error(format!("not renewed: {}", why.reason));
                event::RenewalRefused { of: BUS, reason: &why.reason }.emit();
            };
            let renewed = renew::next(&mut self.changes, attempt, refused).await;
            event::Renewed { of: BUS }.emit();
            self.current.send_replace(renewed);
        }
    }
}

/// The settings with what their files say now, once they have let us in.
async fn attempt(before: BusSettings) -> Result<BusSettings, Refused> {
    let interrupted = |reason: String| Refused { reason, for_good: false };
    let renewed = read_again(before).await.map_err(|failed| interrupted(failed.to_string()))?;
    let renewed = renewed.map_err(|reason| Refused { reason, for_good: true })?;
    // A broker that is away and one that refuses say it in words only.
    try_login(&renewed).await.map_err(interrupted)?;
    Ok(renewed)
}

/// An error says what is wrong with the files.
async fn read_again(settings: BusSettings) -> Result<Result<BusSettings, String>, JoinError> {
    spawn_blocking(move || {
        let renewed = settings.renewed().map_err(|error| error.to_string())?;
        // Here, where waiting is allowed.
        if matches!(&renewed.source, BusSource::Mqtt(url) if url.tls) {
            tls::client_config(&renewed.tls).map_err(|error| error.to_string())?;
        }
        Ok(renewed)
    })
    .await
}
