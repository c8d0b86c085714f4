//! Reloads certificates, keys and secrets while they are in use: changed files
//! are validated with the far side until they are accepted, or until they change
//! again. Meanwhile the open connections stay.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use message::Backoff;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::{Changes, Watch};

/// Pause before credentials are tried again that the far side has refused: it
/// may learn of a new certificate later than the gateway.
const REFUSED: Duration = Duration::from_secs(60);

/// Why changed credentials are not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// For the operator.
    pub reason: String,
    /// The files are wrong, or the far side refuses them. Otherwise the far side
    /// could not be asked.
    pub for_good: bool,
}

/// Settings whose certificates, keys and secrets are in files.
pub trait Renewable: Clone + Send + Sync + 'static {
    /// The files to watch.
    fn files(&self) -> Vec<PathBuf>;

    /// The same settings with the present content of the files; `None` where it
    /// is the same. Blocks.
    fn renewed(&self) -> Result<Option<Self>, Refused>;

    /// Validates the credentials by a connection to the far side.
    fn prove(&self) -> impl Future<Output = Result<(), Refused>> + Send;
}

/// Keeps credentials up to date.
pub struct CredentialReload<T> {
    changes: Changes,
    current: watch::Sender<T>,
}

/// Watches the files from now on. `None` where there are no files.
pub async fn begin<T: Renewable>(
    settings: T,
    watch: &Watch,
) -> (watch::Receiver<T>, Option<CredentialReload<T>>) {
    let files = settings.files();
    let (sender, current) = watch::channel(settings.clone());
    if files.is_empty() {
        return (current, None);
    }
    let mut changes = watch.paths(files);
    changes.ready().await;
    // They may have changed since the settings were read.
    if let Ok(Some(renewed)) = read_again(settings).await {
        sender.send_replace(renewed);
    }
    (current, Some(CredentialReload { changes, current: sender }))
}

// === impl CredentialReload ===

impl<T: Renewable> CredentialReload<T> {
    /// Runs for ever. Calls `reloaded` after each reload, and `refused` once for
    /// each reason.
    pub async fn run(mut self, reloaded: impl Fn(), refused: impl Fn(&Refused)) {
        loop {
            let before = self.current.borrow().clone();
            let attempt = || attempt(before.clone());
            let renewed = next(&mut self.changes, attempt, &refused).await;
            reloaded();
            self.current.send_replace(renewed);
        }
    }
}

async fn attempt<T: Renewable>(before: T) -> Result<T, Refused> {
    let renewed = read_again(before.clone()).await?.unwrap_or(before);
    renewed.prove().await?;
    Ok(renewed)
}

async fn read_again<T: Renewable>(settings: T) -> Result<Option<T>, Refused> {
    spawn_blocking(move || settings.renewed()).await.unwrap_or_else(|failed| {
        Err(Refused { reason: format!("reading the files was interrupted: {failed}"), for_good: false })
    })
}

/// Waits until the files have changed and `attempt` accepts them.
async fn next<T, A: Future<Output = Result<T, Refused>>>(
    changes: &mut Changes,
    attempt: impl Fn() -> A,
    refused: impl Fn(&Refused),
) -> T {
    let mut backoff = Backoff::new(fastrand::u64(..));
    let mut last = None;
    changes.next().await;
    let mut failures = 0;
    loop {
        // A change in the middle of an attempt starts the attempt again.
        let outcome = tokio::select! {
            biased;
            _ = changes.next() => {
                failures = 0;
                continue;
            }
            outcome = attempt() => outcome,
        };
        let why = match outcome {
            Ok(good) => return good,
            Err(why) => why,
        };
        if last.as_ref() != Some(&why) {
            refused(&why);
        }
        failures += 1;
        let pause = backoff.pause(failures, why.for_good.then_some(REFUSED));
        last = Some(why);
        tokio::select! {
            _ = changes.next() => failures = 0,
            () = sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::cell::RefCell;

    use tokio::time::Instant;

    use super::*;
    use crate::Watch;

    /// `bad` is refused, and `away` means that the far side cannot be asked.
    #[tokio::test(start_paused = true)]
    async fn refused_credentials_are_retried_and_reported_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        std::fs::write(&file, "old").unwrap();
        let mut changes = Watch::looking_only().paths(vec![file.clone()]);
        changes.ready().await;
        std::fs::write(&file, "bad").unwrap();

        let attempts = RefCell::new(Vec::new());
        let told = RefCell::new(Vec::new());
        let attempt = || async {
            let said = std::fs::read_to_string(&file).unwrap();
            let mut attempts = attempts.borrow_mut();
            attempts.push((said.clone(), Instant::now()));
            let bad = attempts.iter().filter(|(said, _)| said == "bad").count();
            let away = attempts.iter().filter(|(said, _)| said == "away").count();
            match said.as_str() {
                "bad" => {
                    if bad == 3 {
                        std::fs::write(&file, "away").unwrap();
                    }
                    Err(Refused { reason: said, for_good: true })
                }
                "away" if away < 3 => Err(Refused { reason: said, for_good: false }),
                _ => Ok(said),
            }
        };
        let good = next(&mut changes, attempt, |why| told.borrow_mut().push(why.reason.clone())).await;
        assert_eq!(good, "away");
        assert_eq!(told.into_inner(), ["bad", "away"]);
        let attempts = attempts.into_inner();
        let words: Vec<&str> = attempts.iter().map(|(said, _)| said.as_str()).collect();
        assert_eq!(words, ["bad", "bad", "bad", "away", "away", "away"]);
        let pauses: Vec<Duration> = attempts.windows(2).map(|pair| pair[1].1 - pair[0].1).collect();
        assert!(pauses[..2].iter().all(|pause| *pause >= REFUSED), "{pauses:?}");
        assert!(pauses[2..].iter().all(|pause| *pause < REFUSED), "{pauses:?}");
    }
}
