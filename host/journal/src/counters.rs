//! The counters of a stream, and the one list of the ways in which a message
//! can end.

use telemetry::event;

/// How a message ended in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The destination accepted every delivery of it.
    Delivered,
    /// The script did not want it.
    Filtered,
    /// It waited longer than `queue_ttl`, or the stream's quota pushed it out.
    Expired,
    /// A newer message of the same key replaced it.
    Superseded,
    /// The script rejected it, or the destination refused a delivery of it.
    DeadLettered,
}

/// The counters of a stream. They balance:
/// `read = delivered + filtered + expired + superseded + dead_lettered + queued`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages appended for the stream, and messages that it reads again.
    pub read: u64,
    /// Those of them that it reads again (replay, rewind).
    pub reread: u64,
    /// Settled as [`Outcome::Delivered`].
    pub delivered: u64,
    /// Settled as [`Outcome::Filtered`].
    pub filtered: u64,
    /// Settled as [`Outcome::Expired`].
    pub expired: u64,
    /// Settled as [`Outcome::Superseded`].
    pub superseded: u64,
    /// Settled as [`Outcome::DeadLettered`].
    pub dead_lettered: u64,
    /// Not settled yet. Counted from the pending bits when the journal opens,
    /// and with each bit since; not computed from the other counters.
    pub queued: u64,
    /// When the oldest queued message was received, Unix milliseconds.
    pub oldest: Option<u64>,
}

impl Outcome {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 5] =
        [Self::Delivered, Self::Filtered, Self::Expired, Self::Superseded, Self::DeadLettered];

    /// Its name in metrics and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Filtered => "filtered",
            Self::Expired => "expired",
            Self::Superseded => "superseded",
            Self::DeadLettered => "dead_lettered",
        }
    }
}

impl Counters {
    /// How many messages ended like this.
    pub fn ended(&self, outcome: Outcome) -> u64 {
        *self.clone().ended_mut(outcome)
    }

    /// The counter of an outcome.
    pub fn ended_mut(&mut self, outcome: Outcome) -> &mut u64 {
        match outcome {
            Outcome::Delivered => &mut self.delivered,
            Outcome::Filtered => &mut self.filtered,
            Outcome::Expired => &mut self.expired,
            Outcome::Superseded => &mut self.superseded,
            Outcome::DeadLettered => &mut self.dead_lettered,
        }
    }

    /// The outcomes with their names and numbers.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        let counters = *self;
        Outcome::ALL.into_iter().map(move |outcome| (outcome.name(), counters.ended(outcome)))
    }

    /// All counters with their names: read, each outcome, queued, reread.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        let (read, rest) = (("read", self.read), [("queued", self.queued), ("reread", self.reread)]);
        std::iter::once(read).chain(self.outcomes()).chain(rest)
    }

    /// Messages that have ended.
    pub fn settled(&self) -> u64 {
        self.outcomes().map(|(_, messages)| messages).sum()
    }

    /// Whether every message that was read is accounted for.
    pub fn balance(&self) -> bool {
        self.read == self.settled() + self.queued
    }
}

/// Takes `amount` from an exact counter. A counter that has less shows a fault
/// of the gateway: debug builds panic, release builds raise an alarm and
/// continue with 0.
pub(crate) fn take(value: &mut u64, amount: u64, counter: &'static str) {
    let left = checked_take(value, amount, counter);
    debug_assert!(left, "the counter {counter} would fall below 0");
}

/// The part of [`take`] that release builds run. False: the counter had less.
fn checked_take(value: &mut u64, amount: u64, counter: &'static str) -> bool {
    let left = value.checked_sub(amount);
    if left.is_none() {
        event::CounterFault { counter, value: *value, amount }.emit();
    }
    *value = left.unwrap_or(0);
    left.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_name_each_outcome_once_and_balance() {
        let mut counters = Counters { read: 20, queued: 5, reread: 1, ..Counters::default() };
        for (outcome, messages) in Outcome::ALL.into_iter().zip(1..) {
            *counters.ended_mut(outcome) += messages;
        }
        assert!(counters.balance());
        let named: Vec<_> = counters.named().collect();
        let expected = [
            ("read", 20),
            ("delivered", 1),
            ("filtered", 2),
            ("expired", 3),
            ("superseded", 4),
            ("dead_lettered", 5),
            ("queued", 5),
            ("reread", 1),
        ];
        assert_eq!(named, expected);
    }

    #[test]
    fn underflow_is_reported_and_leaves_zero() {
        let mut value = 5;
        assert!(checked_take(&mut value, 2, "queued"));
        assert_eq!(value, 3);
        assert!(!checked_take(&mut value, 4, "queued"));
        assert_eq!(value, 0);
    }

    #[test]
    #[should_panic(expected = "the counter queued would fall below 0")]
    #[cfg(debug_assertions)]
    fn underflow_stops_a_debug_build() {
        take(&mut 1, 2, "queued");
    }
}
