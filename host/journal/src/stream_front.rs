//! A stream as its reader and the admin listener see it: what was handed to it
//! and not read yet, what may be read next, and its counters.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::store::Store;
use super::{Counters, OnFull, Pending, Quota, ReadRules, StreamIndex};

/// What the threads share of one stream.
pub(super) struct StreamFront {
    pub(super) name: String,
    pub(super) live: VecDeque<Pending>,
    pub(super) waited: VecDeque<Pending>,
    pub(super) again: VecDeque<Pending>,
    again_rate: Option<f64>,
    pub(super) arrived: Arc<Notify>,
    pub(super) counters: Counters,
    pub(super) backlog: u64,
    pub(super) quota: Quota,
    pub(super) alarm: u64,
    pub(super) generation: u64,
    pub(super) paused: watch::Sender<bool>,
}

/// When how many messages may be read, for a rate.
#[derive(Debug, Default)]
pub(super) struct Pace {
    next: Option<Instant>,
}

// === impl StreamFront ===

impl StreamFront {
    pub(super) fn new(name: &str, quota: Quota) -> Self {
        Self {
            name: name.to_owned(),
            live: VecDeque::new(),
            waited: VecDeque::new(),
            again: VecDeque::new(),
            again_rate: None,
            arrived: Arc::default(),
            counters: Counters::default(),
            backlog: 0,
            quota,
            alarm: 0,
            generation: 0,
            paused: watch::Sender::new(false),
        }
    }

    /// Shows what is durable now.
    pub(super) fn show(&mut self, store: &Store, index: StreamIndex) {
        (self.counters, self.backlog) = store.counters(index);
        if let Some(record) = store.record(index) {
            self.generation = record.generation;
            self.again_rate = record.again_rate;
            self.paused.send_if_modified(|paused| std::mem::replace(paused, record.paused) != record.paused);
        }
    }

    /// Whether its quota keeps the bus waiting.
    pub(super) fn blocks(&self) -> bool {
        self.quota.on_full == OnFull::Block && self.backlog >= self.quota.max_backlog
    }

    /// The next messages, and when to look again if a rate is the reason that
    /// there are none.
    pub(super) fn take(
        &mut self,
        rules: &ReadRules,
        [backlog, again]: &mut [Pace; 2],
        max: usize,
    ) -> (Vec<Pending>, Option<Instant>) {
        let now = Instant::now();
        let mut taken = Vec::new();
        while taken.len() < max {
            let live_is_next = match (self.live.front(), self.waited.front()) {
                (Some(live), Some(waited)) => rules.live_first || live.position < waited.position,
                (live, _) => live.is_some(),
            };
            let next = if live_is_next {
                self.live.pop_front()
            } else {
                let (queue, pace, rate) = if self.waited.is_empty() {
                    (&mut self.again, &mut *again, self.again_rate)
                } else {
                    (&mut self.waited, &mut *backlog, rules.backlog_rate)
                };
                // Only for a message that is there: asking counts as reading it.
                if !queue.is_empty()
                    && let Err(at) = pace.admit(rate, now)
                {
                    return (taken, Some(at));
                }
                queue.pop_front()
            };
            let Some(next) = next else { break };
            taken.push(next);
        }
        (taken, None)
    }
}

// === impl Pace ===

impl Pace {
    /// Whether one more message may be read now; else when.
    fn admit(&mut self, rate: Option<f64>, now: Instant) -> Result<(), Instant> {
        let Some(rate) = rate.filter(|rate| *rate > 0.0) else { return Ok(()) };
        let next = self.next.unwrap_or(now);
        if next > now {
            return Err(next);
        }
        // Timers are late by some milliseconds: what was missed is made up for.
        let late = now.duration_since(next).min(Duration::from_millis(100));
        self.next = Some(now - late + Duration::from_secs_f64(1.0 / rate));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use message::Message;

    use super::*;
    use crate::Position;

    fn pending(chunk: u64) -> Pending {
        let message = Message { topic: "t".into(), payload: "x".into(), received_at: 0 };
        let position = Position { chunk, index: 0 };
        Pending { position, message, as_is: None, reading: Default::default() }
    }

    #[tokio::test]
    async fn live_messages_go_first_only_where_that_is_asked_for() {
        let quota = Quota { max_backlog: 1 << 20, on_full: OnFull::ExpireOldest };
        let order = |live_first| {
            let mut front = StreamFront::new("a", quota);
            front.live.extend([pending(3), pending(6)]);
            front.waited.extend([pending(1), pending(2), pending(4)]);
            front.again.push_back(pending(0));
            let rules = ReadRules { live_first, backlog_rate: None };
            let mut paces = Default::default();
            let mut chunks = Vec::new();
            while let Some(next) = front.take(&rules, &mut paces, 1).0.pop() {
                chunks.push(next.position.chunk);
            }
            chunks
        };
        assert_eq!(order(false), [1, 2, 3, 4, 6, 0]);
        assert_eq!(order(true), [3, 6, 1, 2, 4, 0]);
    }
}
