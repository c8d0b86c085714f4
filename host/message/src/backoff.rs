//! How long to wait before trying again.

use std::time::Duration;

/// First pause.
const FIRST: Duration = Duration::from_millis(250);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(30);

/// Exponential back-off with jitter: 250 ms doubling to 30 s, each pause
/// between half of that and all of it, so that a thousand streams, or all
/// gateways of a broker, do not return to a recovering far side in the same
/// instant.
#[derive(Debug)]
pub struct Backoff {
    random: fastrand::Rng,
}

impl Backoff {
    /// Starts without failures; `seed` decides the jitter.
    pub fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed) }
    }

    /// The pause after failure number `failures` (from 1). A longer wish of
    /// the far side (`Retry-After`) is respected.
    pub fn pause(&mut self, failures: u32, wished: Option<Duration>) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        let full = FIRST.saturating_mul(1 << doublings).min(LONGEST);
        let jittered = full.mul_f64(0.5 + self.random.f64() / 2.0);
        jittered.max(wished.unwrap_or_default())
    }
}

#[cfg(test)]
#[path = "backoff_model.rs"]
mod model;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_thirty_seconds_and_respect_the_far_side() {
        let mut backoff = Backoff::new(7);
        for failures in 1..100 {
            let full = Duration::from_millis(250 * 2_u64.pow(failures.min(20) - 1)).min(LONGEST);
            let pause = backoff.pause(failures, None);
            assert!(pause >= full / 2 && pause <= full, "{failures}: {pause:?} of {full:?}");
        }
        assert!(backoff.pause(1, Some(Duration::from_secs(90))) >= Duration::from_secs(90));
    }
}
