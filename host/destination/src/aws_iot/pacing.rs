//! Keeps below a number of publishes a second: AWS silently discards what is
//! above it. Plain state; the clock is handed in.

use std::time::Duration;

use tokio::time::Instant;

/// Spreads publishes evenly, with small bursts, so that no second, wherever it
/// begins, holds more than the limit. (A full bucket emptied at once, and again
/// a second later, would exceed it after the slightest jitter of the network.)
#[derive(Debug)]
pub(super) struct Pacer {
    /// Between two publishes of a long series.
    interval: Duration,
    /// How much earlier than evenly one may go out.
    tolerance: Duration,
    /// When the next one would go out evenly.
    next: Option<Instant>,
}

impl Pacer {
    /// At most `per_second` in any second; 0 counts as 1.
    pub(super) fn new(per_second: u32) -> Self {
        let per_second = per_second.max(1);
        let burst = (per_second / 20).max(1);
        // What a burst brings forward is taken off the steady rate.
        let steady = per_second - (burst - 1);
        let interval = Duration::from_nanos(1_000_000_000_u64.div_ceil(u64::from(steady)));
        Self { interval, tolerance: interval * (burst - 1), next: None }
    }

    /// When the next publish may go out; `now` if at once.
    pub(super) fn ready_at(&self, now: Instant) -> Instant {
        self.next.and_then(|next| next.checked_sub(self.tolerance)).map_or(now, |at| at.max(now))
    }

    /// One goes out.
    pub(super) fn record(&mut self, now: Instant) {
        self.next = Some(self.next.map_or(now, |next| next.max(now)) + self.interval);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// When publishes go out that are wanted after these pauses.
    fn run(per_second: u32, pauses: &[u64]) -> Vec<Instant> {
        let mut pacer = Pacer::new(per_second);
        let mut now = Instant::now();
        let mut sent = Vec::new();
        for pause in pauses {
            now = pacer.ready_at(now + Duration::from_micros(*pause));
            pacer.record(now);
            sent.push(now);
        }
        sent
    }

    #[test]
    fn a_long_series_comes_close_to_the_limit() {
        let sent = run(100, &[0; 1000]);
        let took = sent[999] - sent[0];
        assert!(took < Duration::from_millis(10_500), "{took:?}");
    }

    #[test]
    fn one_a_second() {
        let sent = run(1, &[0; 3]);
        assert_eq!(sent[2] - sent[0], Duration::from_secs(2));
    }

    proptest! {
        #[test]
        fn no_second_holds_more_than_the_limit(
            per_second in 0_u32..300,
            pauses in proptest::collection::vec(prop_oneof![Just(0_u64), 0_u64..2_000, 0_u64..3_000_000], 1..900),
        ) {
            let sent = run(per_second, &pauses);
            let limit = per_second.max(1) as usize;
            for (first, over) in sent.iter().zip(sent.iter().skip(limit)) {
                prop_assert!(*over - *first >= Duration::from_secs(1));
            }
        }
    }
}
