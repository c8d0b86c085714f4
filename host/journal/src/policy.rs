//! When the writer commits. A commit of one message costs as much as one of a
//! hundred (170 us CPU and three disk barriers), so that under load messages
//! wait for each other a little; after a pause the first goes at once.

use std::time::{Duration, Instant};

/// Least time between the starts of two commits with new messages.
const PACE: Duration = Duration::from_millis(5);
/// Longest time that a settlement waits for a commit to ride on.
const SETTLE_WITHIN: Duration = Duration::from_millis(50);
/// So many messages or bytes do not wait.
pub(super) const ENOUGH_MESSAGES: usize = 1000;
pub(super) const ENOUGH_BYTES: usize = 240 * 1024;

/// What waits for a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    pub messages: usize,
    pub bytes: usize,
    /// When the first settlement among it came.
    pub settlement: Option<Instant>,
}

/// When the next commit is due; none while nothing waits.
pub(super) fn due(last_commit: Option<Instant>, waiting: Waiting, now: Instant) -> Option<Instant> {
    let for_messages = (waiting.messages > 0).then(|| {
        let enough = waiting.messages >= ENOUGH_MESSAGES || waiting.bytes >= ENOUGH_BYTES;
        match last_commit {
            Some(last) if !enough => now.max(last + PACE),
            Some(_) | None => now,
        }
    });
    let for_settlements = waiting.settlement.map(|since| since + SETTLE_WITHIN);
    for_messages.into_iter().chain(for_settlements).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_goes_at_once_the_next_keep_pace_and_settlements_ride_along() {
        let start = Instant::now();
        let one = Waiting { messages: 1, bytes: 500, settlement: None };
        assert_eq!(due(None, one, start), Some(start));
        assert_eq!(due(Some(start), one, start), Some(start + PACE));
        assert_eq!(due(Some(start), one, start + PACE * 9), Some(start + PACE * 9));
        let many = Waiting { messages: ENOUGH_MESSAGES, ..one };
        assert_eq!(due(Some(start), many, start), Some(start));
        let large = Waiting { bytes: ENOUGH_BYTES, ..one };
        assert_eq!(due(Some(start), large, start), Some(start));
        let settled = Waiting { settlement: Some(start), ..Waiting::default() };
        assert_eq!(due(Some(start), settled, start + PACE), Some(start + SETTLE_WITHIN));
        let both = Waiting { settlement: Some(start), ..one };
        assert_eq!(due(Some(start), both, start), Some(start + PACE));
        assert_eq!(due(None, Waiting::default(), start), None);
    }
}
