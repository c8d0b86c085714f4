//! The limits of a stream: ages, rates and conflation.

use std::time::Duration;

use journal::ReadRules;

use super::clock::Clock;
use super::rate_limit::RateLimits;

/// The limits that slow a stream down, or drop messages so that it keeps up.
#[derive(Clone, Debug, Default)]
pub struct Pressure {
    /// The maximum age of a message that is sent.
    pub queue_ttl: Option<Duration>,
    /// The rates of sending.
    pub rate_limits: RateLimits,
    /// The rules of reading the backlog.
    pub read: ReadRules,
    /// The stream sends only the newest message of each key, at most one in
    /// this time.
    pub conflate: Option<Duration>,
}

impl Pressure {
    /// Messages received before this time are too old to be sent, Unix
    /// milliseconds.
    pub(super) fn horizon(&self, clock: Clock) -> Option<u64> {
        let ttl = u64::try_from(self.queue_ttl?.as_millis()).unwrap_or(u64::MAX);
        Some(clock.now().saturating_sub(ttl))
    }
}
