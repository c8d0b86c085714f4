//! The pauses between retries.

use std::time::Duration;

/// First pause.
const FIRST: Duration = Duration::from_millis(250);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(30);

/// Exponential back-off with jitter: 250 ms doubling to 30 s, each pause
/// between half of that and all of it, so that a thousand streams, or all
/// gateways of a broker, do not return to a recovering far side at the same
/// moment.
#[derive(Debug)]
pub struct Backoff {
    random: fastrand::Rng,
}

impl Backoff {
    /// Starts without failures; `seed` decides the jitter.
    pub fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed) }
    }

    /// The pause after failure number `failures` (from 1). It is at least
    /// `wished`, which the far side asks for (`Retry-After`).
    pub fn pause(&mut self, failures: u32, wished: Option<Duration>) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        let full = FIRST.saturating_mul(1 << doublings).min(LONGEST);
        let jittered = full.mul_f64(0.5 + self.random.f64() / 2.0);
        jittered.max(wished.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pauses_double_up_to_thirty_seconds() {
        const FULL: [u64; 8] = [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000];
        let mut backoff = Backoff::new(7);
        for failures in (1..100).chain([u32::MAX]) {
            let place = usize::try_from(failures).unwrap_or(usize::MAX).min(FULL.len()) - 1;
            let full = Duration::from_millis(FULL[place]);
            let pause = backoff.pause(failures, None);
            assert!(pause >= full / 2 && pause <= full, "{failures}: {pause:?} of {full:?}");
            let wished = Duration::from_secs(90);
            assert_eq!(backoff.pause(failures, Some(wished)), wished);
        }
    }

    proptest! {
        #[test]
        fn pauses_of_different_seeds_are_spread(first in any::<u64>()) {
            let pause = |n| Backoff::new(first.wrapping_add(n)).pause(5, None).as_millis();
            let pauses: Vec<u128> = (0..200).map(pause).collect();
            // Each quarter of 2,000 to 4,000 ms has its share.
            for from in [2_000, 2_500, 3_000, 3_500] {
                let share = pauses.iter().filter(|p| (from..from + 500).contains(*p)).count();
                prop_assert!(share >= 10, "{} of 200 pauses in {}..{} ms", share, from, from + 500);
            }
        }
    }
}
