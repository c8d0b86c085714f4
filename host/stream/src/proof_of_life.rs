//! Proof of life: a message is rejected only after the destination has
//! accepted another one of the stream that was sent later than the refusal.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// A moment in the order of a stream's sends and refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp(u64);

/// What the lanes of a stream know together about the destination's health.
#[derive(Debug, Default)]
pub(super) struct ProofOfLife {
    clock: AtomicU64,
    /// Latest stamp of a send that was accepted, plus one; 0: none.
    accepted: AtomicU64,
    changed: Notify,
}

impl ProofOfLife {
    /// A stamp for something that happens now, later than every earlier one.
    pub(super) fn now(&self) -> Stamp {
        Stamp(self.clock.fetch_add(1, Ordering::SeqCst))
    }

    /// A delivery that was sent at `sent` has been accepted.
    pub(super) fn accepted(&self, sent: Stamp) {
        let before = self.accepted.fetch_max(sent.0 + 1, Ordering::SeqCst);
        if before <= sent.0 {
            self.changed.notify_waiters();
        }
    }

    /// Whether something sent after `refused` was accepted.
    pub(super) fn since(&self, refused: Stamp) -> bool {
        self.accepted.load(Ordering::SeqCst) > refused.0 + 1
    }

    /// Waits for the next acceptance in any lane.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sent_after_the_refusal_is_proof() {
        let life = ProofOfLife::default();
        let early = life.now();
        let refused = life.now();
        life.accepted(early);
        assert!(!life.since(refused));
        let late = life.now();
        life.accepted(late);
        assert!(life.since(refused));
        assert!(!life.since(life.now()));
    }
}
