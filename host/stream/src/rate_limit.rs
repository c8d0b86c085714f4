//! How often a stream may send, and several streams together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What may be sent at once after a pause: what one second allows.
const BURST: Duration = Duration::from_secs(1);

/// Maximum sends in a time, shared by everybody who has it.
#[derive(Debug)]
pub struct RateLimit {
    interval: Duration,
    state: Mutex<Pace>,
}

/// The generic cell rate algorithm: every send moves `full_at` on by one
/// interval, and it may be ahead of the present by the burst.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// When all of the burst is there again.
    full_at: Option<Instant>,
    /// Who was told to ask again later, since there was last a send to spare.
    /// Each is told a time of its own: they would all come for one send else.
    refused: u32,
}

/// The limits that a stream has to keep: all of them at once.
#[derive(Clone, Debug, Default)]
pub struct RateLimits(pub Vec<Arc<RateLimit>>);

// === impl RateLimit ===

impl RateLimit {
    /// One send in `interval` on average.
    pub fn new(interval: Duration) -> Self {
        Self { interval: interval.max(Duration::from_nanos(1)), state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Pace> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Pace ===

impl Pace {
    /// When the next send is free, if that is later than `now`.
    fn free_at(&self, interval: Duration, now: Instant) -> Option<Instant> {
        let ahead = BURST.saturating_sub(interval);
        let full_at = self.full_at?;
        // An instant cannot be moved back beyond the start of the machine.
        (full_at > now + ahead).then(|| full_at - ahead)
    }

    fn take(&mut self, interval: Duration, now: Instant) {
        self.full_at = Some(self.full_at.map_or(now, |at| at.max(now)) + interval);
        self.refused = match self.free_at(interval, now) {
            Some(_) => self.refused.saturating_sub(1),
            None => 0,
        };
    }

    /// Sends one in vain: when to ask again, at the latest a second (or one
    /// interval) after it is free.
    fn refuse(&mut self, interval: Duration, free_at: Instant) -> Instant {
        let turn = interval.saturating_mul(self.refused).min(BURST.max(interval));
        self.refused = self.refused.saturating_add(1);
        free_at + turn
    }
}

// === impl RateLimits ===

impl RateLimits {
    /// Takes one send from each limit, or from none: the error is when to ask
    /// again, later than `now`.
    pub(super) fn take(&self, now: Instant) -> Result<(), Instant> {
        // Always in the same order: a stream's own before the one it shares.
        let mut paces: Vec<_> = self.0.iter().map(|limit| (limit.interval, limit.lock())).collect();
        let mut again = None;
        for (interval, pace) in &mut paces {
            if let Some(free_at) = pace.free_at(*interval, now) {
                again = again.max(Some(pace.refuse(*interval, free_at)));
            }
        }
        match again {
            Some(at) => Err(at),
            None => {
                paces.iter_mut().for_each(|(interval, pace)| pace.take(*interval, now));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn limits(intervals: &[u64]) -> RateLimits {
        RateLimits(intervals.iter().map(|ms| Arc::new(RateLimit::new(Duration::from_millis(*ms)))).collect())
    }

    /// Sends of one that asks again exactly when told, in milliseconds.
    fn sends(limits: &RateLimits, start: Instant, until: u64) -> Vec<u64> {
        let mut now = start;
        let mut sent = Vec::new();
        while now < start + Duration::from_millis(until) {
            match limits.take(now) {
                Ok(()) => sent.push(u64::try_from((now - start).as_millis()).unwrap()),
                Err(again) => {
                    assert!(again > now, "it would spin");
                    now = again;
                }
            }
        }
        sent
    }

    #[test]
    fn a_second_at_once_and_then_one_in_each_interval() {
        let start = Instant::now();
        let limits = limits(&[100]);
        let sent = sends(&limits, start, 3000);
        assert_eq!(sent[..10], [0; 10]);
        assert_eq!(sent[10..], (1..30).map(|n| n * 100).collect::<Vec<_>>());
    }

    #[test]
    fn less_than_one_a_second_has_no_burst() {
        assert_eq!(sends(&limits(&[20_000]), Instant::now(), 100_000), [0, 20_000, 40_000, 60_000, 80_000]);
    }

    #[test]
    fn a_pause_gives_no_more_than_a_second_back() {
        let start = Instant::now();
        let limits = limits(&[500]);
        assert_eq!(sends(&limits, start, 1200).len(), 4);
        let later = start + Duration::from_secs(3600);
        assert_eq!(sends(&limits, later, 600), [0, 0, 500]);
    }

    #[test]
    fn all_limits_hold_and_a_refused_send_costs_nothing() {
        let start = Instant::now();
        let group = limits(&[250]).0.remove(0);
        let own = limits(&[1000]).0.remove(0);
        let slow = RateLimits(vec![own, group.clone()]);
        let quick = RateLimits(vec![group]);
        assert_eq!(slow.take(start), Ok(()));
        assert_eq!(slow.take(start), Err(start + Duration::from_secs(1)));
        assert_eq!(
            (0..10).filter(|_| quick.take(start).is_ok()).count(),
            3,
            "of four, one is the slow one's"
        );
    }

    #[test]
    fn those_who_wait_are_told_times_of_their_own() {
        let start = Instant::now();
        let limits = limits(&[1000]);
        limits.take(start).unwrap();
        let again: Vec<_> = (0..2).map(|_| (limits.take(start).unwrap_err() - start).as_secs()).collect();
        assert_eq!(again, [1, 2]);
        let mut many: Vec<_> = (0..50).map(|_| limits.take(start).unwrap_err()).collect();
        many.dedup();
        assert!(many.iter().all(|at| *at <= start + Duration::from_secs(2)), "and nobody waits for ever");
    }

    proptest! {
        /// Whoever asks when: in no window of time more than it allows and a
        /// second's worth, and those who ask again as told get what there is.
        #[test]
        fn never_too_many_and_hardly_too_few(
            interval in 1u64..2000,
            askers in prop::collection::vec(0u64..5000, 1..20),
        ) {
            let start = Instant::now();
            let limits = limits(&[interval]);
            let at = |ms: u64| start + Duration::from_millis(ms);
            let mut asks: Vec<Instant> = askers.iter().map(|ms| at(*ms)).collect();
            let mut sent = Vec::new();
            while let Some(next) = asks.iter_mut().min() && *next < at(60_000) {
                match limits.take(*next) {
                    Ok(()) => sent.push(*next),
                    Err(again) => {
                        prop_assert!(again > *next);
                        *next = again;
                    }
                }
            }
            let burst = (1000 / interval).max(1) as usize;
            for (first, since) in sent.iter().enumerate().step_by(7) {
                for (count, until) in sent[first..].iter().enumerate().step_by(5) {
                    let allowed = (*until - *since).as_millis() / u128::from(interval);
                    prop_assert!(count as u128 <= allowed + burst as u128, "{count} in {:?}", *until - *since);
                }
            }
            let least = (55_000 / interval) as usize;
            prop_assert!(sent.len() + 2 >= least, "{} of {least}", sent.len());
        }
    }
}
