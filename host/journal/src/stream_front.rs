//! A stream as its reader and the admin API see it: messages that are ready to
//! be read, and the published counters.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use telemetry::event;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::counters::Counters;
use crate::policy;
use crate::store::{Source, Store};
use crate::types::{Backlog, Fill, OnFull, Pending, Quota, ReadRules, StreamIndex};

/// The shared state of one stream.
pub(crate) struct StreamFront {
    name: String,
    live: VecDeque<Pending>,
    backlog: VecDeque<Pending>,
    rewind: VecDeque<Pending>,
    rewind_rate: Option<f64>,
    arrived: Arc<Notify>,
    counters: Counters,
    /// Bytes that are queued.
    queued: u64,
    quota: Quota,
    alarm: u64,
    generation: u64,
    paused: watch::Sender<bool>,
}

/// When the next message may be read, for a rate.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    next: Option<Instant>,
}

impl StreamFront {
    pub(crate) fn new(name: &str, quota: Quota) -> Self {
        Self {
            name: name.to_owned(),
            live: VecDeque::new(),
            backlog: VecDeque::new(),
            rewind: VecDeque::new(),
            rewind_rate: None,
            arrived: Arc::default(),
            counters: Counters::default(),
            queued: 0,
            quota,
            alarm: 0,
            generation: 0,
            paused: watch::Sender::new(false),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    pub(crate) fn backlog(&self) -> Backlog {
        Backlog { bytes: self.queued, max_bytes: self.quota.max_backlog, alarm: self.alarm }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn paused(&self) -> watch::Receiver<bool> {
        self.paused.subscribe()
    }

    /// Notified when messages arrive.
    pub(crate) fn arrivals(&self) -> Arc<Notify> {
        self.arrived.clone()
    }

    pub(crate) fn set_quota(&mut self, quota: Quota) {
        self.quota = quota;
    }

    /// Publishes the durable state.
    pub(crate) fn show(&mut self, store: &Store, index: StreamIndex) {
        (self.counters, self.queued) = store.counters(index);
        if let Some(record) = store.record(index) {
            self.generation = record.generation;
            self.rewind_rate = record.rewind_rate;
            self.paused.send_if_modified(|paused| std::mem::replace(paused, record.paused) != record.paused);
        }
    }

    /// Raises an alarm when the backlog has passed a share of the quota.
    pub(crate) fn check_alarm(&mut self) {
        let (bytes, limit) = (self.queued, self.quota.max_backlog);
        let alarm = policy::alarm(Fill { used: bytes, limit });
        if alarm > self.alarm {
            event::BacklogAlarm { stream: Some(&self.name), percent: alarm, bytes, limit }.emit();
        }
        self.alarm = alarm;
    }

    /// Whether its quota makes the bus wait.
    pub(crate) fn blocks(&self) -> bool {
        self.quota.on_full == OnFull::Block && self.queued >= self.quota.max_backlog
    }

    /// Gives messages to the reader.
    pub(crate) fn put(&mut self, source: Source, messages: Vec<Pending>) {
        let queue = match source {
            Source::Live => &mut self.live,
            Source::Backlog => &mut self.backlog,
            Source::Rewind => &mut self.rewind,
        };
        queue.extend(messages);
        self.arrived.notify_one();
    }

    /// Drops all messages that the reader has not taken.
    pub(crate) fn clear(&mut self) {
        self.live.clear();
        self.backlog.clear();
        self.rewind.clear();
    }

    /// The next messages. If a rate is the reason that there are none: when to
    /// look again.
    pub(crate) fn take(
        &mut self,
        rules: &ReadRules,
        [backlog_pace, rewind_pace]: &mut [Pace; 2],
        max: usize,
    ) -> (Vec<Pending>, Option<Instant>) {
        let now = Instant::now();
        let mut taken = Vec::new();
        while taken.len() < max {
            let live_is_next = match (self.live.front(), self.backlog.front()) {
                (Some(live), Some(backlog)) => rules.live_first || live.position < backlog.position,
                (live, _) => live.is_some(),
            };
            let next = if live_is_next {
                self.live.pop_front()
            } else {
                let (queue, pace, rate) = if self.backlog.is_empty() {
                    (&mut self.rewind, &mut *rewind_pace, self.rewind_rate)
                } else {
                    (&mut self.backlog, &mut *backlog_pace, rules.backlog_rate)
                };
                // Only if there is a message: `admit` counts it as read.
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

impl Pace {
    /// Whether one more message may be read now; if not, when.
    fn admit(&mut self, rate: Option<f64>, now: Instant) -> Result<(), Instant> {
        let Some(rate) = rate.filter(|rate| *rate > 0.0) else { return Ok(()) };
        let next = self.next.unwrap_or(now);
        if next > now {
            return Err(next);
        }
        // Timers are some milliseconds late: the delay is made up for.
        let late = now.duration_since(next).min(Duration::from_millis(100));
        self.next = Some(now - late + Duration::from_secs_f64(1.0 / rate));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use message::Message;

    use super::*;
    use crate::types::Position;

    fn pending(chunk: u64) -> Pending {
        let message = Message { topic: "t".into(), payload: "x".into(), received_at: 0 };
        let position = Position { chunk, index: 0 };
        Pending { position, message, as_is: None, reading: Default::default() }
    }

    #[tokio::test]
    async fn live_messages_go_first_only_with_live_first() {
        let quota = Quota { max_backlog: 1 << 20, on_full: OnFull::ExpireOldest };
        let order = |live_first| {
            let mut front = StreamFront::new("a", quota);
            front.live.extend([pending(3), pending(6)]);
            front.backlog.extend([pending(1), pending(2), pending(4)]);
            front.rewind.push_back(pending(0));
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
