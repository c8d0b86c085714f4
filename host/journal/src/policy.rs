//! When the writer commits, and when a fill level raises an alarm; pure.
//!
//! A commit of one message costs as much as one of a hundred (170 us CPU and
//! three disk barriers). So messages wait for each other a little under load;
//! the first one after a pause goes at once.

use std::time::{Duration, Instant};

use crate::types::Fill;

/// Minimum time between the starts of two commits with new messages.
const PACE: Duration = Duration::from_millis(5);
/// Maximum time that a settlement waits for a commit.
const SETTLE_WITHIN: Duration = Duration::from_millis(50);
/// So many messages or bytes are committed at once.
pub(crate) const ENOUGH_MESSAGES: usize = 1000;
pub(crate) const ENOUGH_BYTES: usize = 240 * 1024;

/// The work that waits for a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub messages: usize,
    pub bytes: usize,
    /// When its first settlement came.
    pub settlement: Option<Instant>,
}

/// When the next commit is due; none if nothing waits.
pub(crate) fn due(last_commit: Option<Instant>, waiting: Waiting, now: Instant) -> Option<Instant> {
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

/// Shares of a limit that raise an alarm, in percent.
const ALARMS: [u64; 2] = [80, 50];

/// The highest alarm for this fill level, in percent; 0: none.
pub(crate) fn alarm(fill: Fill) -> u64 {
    ALARMS
        .into_iter()
        .find(|percent| u128::from(fill.used) * 100 >= u128::from(fill.limit) * u128::from(*percent))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_append_commits_at_once_and_later_ones_keep_pace() {
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
