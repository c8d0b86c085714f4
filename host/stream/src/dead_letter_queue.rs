//! Dead letters on their way to the journal: they wait while it has no room.

use std::collections::VecDeque;
use std::time::Duration;

use journal::DeadLetter;
use tokio::time::Instant;

/// How often to look for room.
const LOOK: Duration = Duration::from_secs(1);

/// Dead letters that the journal does not have yet, the oldest first.
#[derive(Debug, Default)]
pub(super) struct DeadLetterQueue {
    waiting: VecDeque<DeadLetter>,
    /// There was no room; when to look again.
    look_at: Option<Instant>,
}

impl DeadLetterQueue {
    pub(super) fn add(&mut self, letter: DeadLetter) {
        self.waiting.push_back(letter);
    }

    /// The letters that can be settled now, all of them together. `reserve` reserves
    /// room for one more letter.
    pub(super) fn take_storable(
        &mut self,
        now: Instant,
        mut reserve: impl FnMut(&DeadLetter) -> bool,
    ) -> Vec<DeadLetter> {
        if self.look_at.is_some_and(|at| at > now) {
            return Vec::new();
        }
        self.look_at = None;
        let mut storable = Vec::new();
        while let Some(letter) = self.waiting.front() {
            if !reserve(letter) {
                self.look_at = Some(now + LOOK);
                break;
            }
            storable.extend(self.waiting.pop_front());
        }
        storable
    }

    /// When to look for room again, while there is none.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// Why the lane cannot go on, while there is no room.
    pub(super) fn reason(&self) -> Option<String> {
        self.look_at?;
        let first = self.waiting.front()?;
        Some(format!(
            "dead letters: no room for {} more ({}); replay or drop some with `sluicegate dead-letters`, \
             or raise `max_size` in [dead_letters]",
            self.waiting.len(),
            first.reason
        ))
    }
}

#[cfg(test)]
mod tests {
    use journal::Position;
    use message::Message;

    use super::*;

    fn letter(index: u32) -> DeadLetter {
        DeadLetter {
            position: Position { chunk: 1, index },
            at: 0,
            reason: "no".into(),
            script: String::new(),
            message: Message { topic: "".into(), payload: vec![0; 98].into(), received_at: 0 },
            delivery: None,
            reply: None,
        }
    }

    fn indexes(letters: Vec<DeadLetter>) -> Vec<u32> {
        letters.iter().map(|l| l.position.index).collect()
    }

    #[test]
    fn what_does_not_fit_waits_in_order_and_is_looked_at_each_second() {
        let now = Instant::now();
        let mut dead_letters = DeadLetterQueue::default();
        (0..5).for_each(|n| dead_letters.add(letter(n)));
        let mut room = 2;
        let reserve = |_: &DeadLetter| {
            room -= 1;
            room >= 0
        };
        assert_eq!(indexes(dead_letters.take_storable(now, reserve)), [0, 1]);
        assert_eq!(dead_letters.look_at(), Some(now + LOOK));
        let reason = dead_letters.reason().unwrap_or_default();
        assert!(reason.contains("no room for 3 more (no); replay or drop some"), "{reason}");
        dead_letters.add(letter(5));
        assert!(
            dead_letters.take_storable(now + LOOK / 2, |_| true).is_empty(),
            "not before the second is over"
        );
        assert_eq!(indexes(dead_letters.take_storable(now + LOOK, |_| true)), [2, 3, 4, 5]);
        assert_eq!((dead_letters.look_at(), dead_letters.reason()), (None, None));
    }
}
