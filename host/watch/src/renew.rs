//! What changed certificates, keys and secrets say is tried until it holds, or
//! until they change again. Meanwhile the connections that are open stay.

use std::time::Duration;

use message::Backoff;
use tokio::time::sleep;

use crate::Changes;

/// Pause before something is tried again that was refused as it is: the far
/// side may learn of a new certificate later than the gateway.
const REFUSED: Duration = Duration::from_secs(60);

/// Why what the files say now is not made use of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// For a person.
    pub reason: String,
    /// The files are at fault, or the far side does not want what is in them;
    /// else it could not be asked.
    pub for_good: bool,
}

/// The next renewal: waits until the files have changed and `attempt` accepts
/// what they say. `refused` hears each reason once. Safe to cancel, except
/// that an attempt is begun anew by the next change only.
pub async fn next<T, A: Future<Output = Result<T, Refused>>>(
    changes: &mut Changes,
    attempt: impl Fn() -> A,
    refused: impl Fn(&Refused),
) -> T {
    let mut backoff = Backoff::new(fastrand::u64(..));
    let mut last = None;
    changes.next().await;
    let mut failures = 0;
    loop {
        // What changes in the middle of an attempt is tried again as a whole.
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

    /// What the file says is good where it says so; `away` cannot be asked.
    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_tried_again_and_told_once_and_a_change_is_tried_at_once() {
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
