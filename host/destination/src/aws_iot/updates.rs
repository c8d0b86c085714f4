//! The fate of what is in flight to AWS IoT. A plain publish is settled by its
//! PUBACK. A shadow update is settled by a `rejected` with its client token,
//! or when none has come within a window after the PUBACK: the service answers
//! on topics, in no order that could be relied on. Plain state; the clock is
//! handed in.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use message::text::{SAID, one_line};
use tokio::time::Instant;

use crate::{Cause, DeliveryId, Fault, Reply, Verdict};

/// One publish; a delivery that is sent again is another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Attempt(u64);

/// What a rejection is recognised by: topic of the update, and client token.
type Answer = (String, String);

#[derive(Debug)]
pub(super) struct Updates {
    window: Duration,
    last: u64,
    open: HashMap<Attempt, Open>,
    by_answer: HashMap<Answer, Attempt>,
    /// Acknowledged, in the order of the ends of their windows. Settled ones
    /// stay until their time.
    windows: VecDeque<(Instant, Attempt)>,
    verdicts: VecDeque<(DeliveryId, Verdict)>,
}

#[derive(Debug)]
struct Open {
    id: DeliveryId,
    answer: Option<Answer>,
}

impl Updates {
    pub(super) fn new(window: Duration) -> Self {
        Self {
            window,
            last: 0,
            open: HashMap::new(),
            by_answer: HashMap::new(),
            windows: VecDeque::new(),
            verdicts: VecDeque::new(),
        }
    }

    /// A delivery is about to go out; `answer` for a shadow update.
    pub(super) fn begin(&mut self, id: DeliveryId, answer: Option<Answer>) -> Attempt {
        self.last += 1;
        let attempt = Attempt(self.last);
        if let Some(answer) = &answer {
            self.by_answer.insert(answer.clone(), attempt);
        }
        self.open.insert(attempt, Open { id, answer });
        attempt
    }

    /// It did not go out, or its PUBACK has come.
    pub(super) fn acked(&mut self, attempt: Attempt, verdict: Verdict, now: Instant) {
        let Some(open) = self.open.get(&attempt) else { return }; // rejected before its PUBACK came
        if verdict == Verdict::Delivered && open.answer.is_some() {
            self.windows.push_back((now + self.window, attempt));
        } else {
            self.settle(attempt, verdict);
        }
    }

    /// The service has rejected an update. One that is not ours, or long
    /// settled, changes nothing.
    pub(super) fn rejected(&mut self, topic: &str, token: &str, verdict: Verdict) {
        if let Some(attempt) = self.by_answer.get(&(topic.to_owned(), token.to_owned())) {
            self.settle(*attempt, verdict);
        }
    }

    /// Time has passed: updates whose window is over are delivered.
    pub(super) fn elapsed(&mut self, now: Instant) {
        while let Some((end, attempt)) = self.windows.front().copied() {
            if self.open.contains_key(&attempt) {
                if end > now {
                    return;
                }
                self.settle(attempt, Verdict::Delivered);
            }
            self.windows.pop_front();
        }
    }

    /// When [`Self::elapsed`] is to be called next.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.windows.front().map(|(end, _)| *end)
    }

    /// What has been settled, oldest first.
    pub(super) fn next_verdict(&mut self) -> Option<(DeliveryId, Verdict)> {
        self.verdicts.pop_front()
    }

    fn settle(&mut self, attempt: Attempt, verdict: Verdict) {
        let Some(open) = self.open.remove(&attempt) else { return };
        if let Some(answer) = open.answer
            && self.by_answer.get(&answer) == Some(&attempt)
        {
            self.by_answer.remove(&answer);
        }
        self.verdicts.push_back((open.id, verdict));
    }
}

/// What a `rejected` with this code means (AWS IoT developer guide, "Device
/// Shadow error messages"; 503 from the service's API model).
pub(super) fn of_rejection(code: u64, message: &str) -> Verdict {
    let text = format!("shadow update rejected: {code} {}", one_line(message, SAID));
    match code {
        400 | 413 | 415 => Verdict::Refused(Reply(text)),
        // 409: another client changed the shadow; it passes with the next version.
        409 | 429 | 500 | 503 => Verdict::Deferred(Fault::transient(text)),
        // 401, 403, 404, and what is not known yet: never throw data away for it.
        401 | 403 => Verdict::Deferred(Fault::persistent(Cause::Credentials, text)),
        404 => Verdict::Deferred(Fault::persistent(Cause::NotFound, text)),
        _ => Verdict::Deferred(Fault::persistent(Cause::UnexpectedAnswer, text)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::FaultKind;

    const WINDOW: Duration = Duration::from_secs(1);

    fn answer(token: &str) -> Option<Answer> {
        Some(("topic".to_owned(), token.to_owned()))
    }

    fn all(updates: &mut Updates) -> Vec<(DeliveryId, Verdict)> {
        std::iter::from_fn(|| updates.next_verdict()).collect()
    }

    #[test]
    fn a_plain_publish_is_settled_by_its_puback() {
        let mut updates = Updates::new(WINDOW);
        let attempt = updates.begin(DeliveryId(1), None);
        assert_eq!(updates.next_end(), None);
        updates.acked(attempt, Verdict::Delivered, Instant::now());
        assert_eq!(all(&mut updates), [(DeliveryId(1), Verdict::Delivered)]);
        assert_eq!(updates.next_end(), None);
    }

    #[test]
    fn an_update_is_delivered_when_its_window_is_over() {
        let now = Instant::now();
        let mut updates = Updates::new(WINDOW);
        let attempt = updates.begin(DeliveryId(1), answer("a"));
        updates.elapsed(now + 100 * WINDOW);
        assert_eq!(all(&mut updates), []);
        updates.acked(attempt, Verdict::Delivered, now);
        assert_eq!(updates.next_end(), Some(now + WINDOW));
        updates.elapsed(now + WINDOW - Duration::from_nanos(1));
        assert_eq!(all(&mut updates), []);
        updates.elapsed(now + WINDOW);
        assert_eq!(all(&mut updates), [(DeliveryId(1), Verdict::Delivered)]);
        assert_eq!(updates.next_end(), None);
    }

    #[test]
    fn a_rejection_within_the_window_decides() {
        let now = Instant::now();
        let mut updates = Updates::new(WINDOW);
        let [a, b] = ["a", "b"].map(|t| updates.begin(DeliveryId(u64::from(t == "b")), answer(t)));
        updates.acked(a, Verdict::Delivered, now);
        updates.acked(b, Verdict::Delivered, now);
        updates.rejected("topic", "a", of_rejection(400, "no"));
        updates.elapsed(now + WINDOW);
        let refusal = Verdict::Refused(Reply("shadow update rejected: 400 no".to_owned()));
        assert_eq!(all(&mut updates), [(DeliveryId(0), refusal), (DeliveryId(1), Verdict::Delivered)]);
    }

    #[test]
    fn a_rejection_may_come_before_the_puback() {
        let now = Instant::now();
        let mut updates = Updates::new(WINDOW);
        let first = updates.begin(DeliveryId(1), answer("a"));
        updates.rejected("topic", "a", of_rejection(429, "slow down"));
        assert!(matches!(&all(&mut updates)[..], [(DeliveryId(1), Verdict::Deferred(_))]));
        // Sent again at once; the PUBACK of the first attempt says nothing about the second.
        let second = updates.begin(DeliveryId(1), answer("a"));
        updates.acked(first, Verdict::Delivered, now);
        assert_eq!(updates.next_end(), None);
        updates.acked(second, Verdict::Delivered, now);
        updates.elapsed(now + WINDOW);
        assert_eq!(all(&mut updates), [(DeliveryId(1), Verdict::Delivered)]);
    }

    #[test]
    fn unknown_and_late_rejections_change_nothing() {
        let now = Instant::now();
        let mut updates = Updates::new(WINDOW);
        let attempt = updates.begin(DeliveryId(1), answer("a"));
        updates.rejected("topic", "b", of_rejection(400, ""));
        updates.rejected("other topic", "a", of_rejection(400, ""));
        updates.acked(attempt, Verdict::Delivered, now);
        updates.elapsed(now + WINDOW);
        updates.rejected("topic", "a", of_rejection(400, ""));
        assert_eq!(all(&mut updates), [(DeliveryId(1), Verdict::Delivered)]);
    }

    #[test]
    fn the_codes() {
        for code in [400, 413, 415] {
            assert!(matches!(of_rejection(code, ""), Verdict::Refused(_)), "{code}");
        }
        for (codes, kind) in [
            (&[409, 429, 500, 503][..], FaultKind::Transient),
            (&[401, 403, 404, 418][..], FaultKind::Persistent),
        ] {
            for code in codes {
                assert!(matches!(of_rejection(*code, ""), Verdict::Deferred(f) if f.kind == kind), "{code}");
            }
        }
    }

    proptest! {
        /// Whatever comes in whatever order, each attempt is settled once, and
        /// delivered only after PUBACK, a whole window and no rejection.
        #[test]
        fn each_attempt_is_settled_once(steps in proptest::collection::vec((0_u8..4, 0_usize..6, 1_u64..900), 1..120)) {
            #[derive(Default, Clone)]
            struct Expected { attempt: Option<Attempt>, acked: Option<Instant>, settled: bool }
            let mut now = Instant::now();
            let mut updates = Updates::new(WINDOW);
            let mut expected: Vec<Expected> = vec![Expected::default(); 6];
            for (step, n, pause) in steps {
                now += Duration::from_millis(pause);
                updates.elapsed(now);
                match (step, expected[n].attempt) {
                    (0, None) => {
                        let attempt = updates.begin(DeliveryId(n as u64), answer(&n.to_string()));
                        expected[n].attempt = Some(attempt);
                    }
                    (1, Some(attempt)) if expected[n].acked.is_none() => {
                        updates.acked(attempt, Verdict::Delivered, now);
                        expected[n].acked = Some(now);
                    }
                    (2, _) => updates.rejected("topic", &n.to_string(), of_rejection(413, "")),
                    _ => {}
                }
                while let Some((id, verdict)) = updates.next_verdict() {
                    let e = &mut expected[usize::try_from(id.0).unwrap_or_default()];
                    prop_assert!(!e.settled);
                    e.settled = true;
                    match verdict {
                        Verdict::Delivered => prop_assert!(e.acked.is_some_and(|at| at + WINDOW <= now)),
                        other => prop_assert!(matches!(other, Verdict::Refused(_)) && step == 2),
                    }
                }
            }
            updates.elapsed(now + WINDOW);
            while let Some((id, _)) = updates.next_verdict() {
                expected[usize::try_from(id.0).unwrap_or_default()].settled = true;
            }
            for e in expected {
                prop_assert_eq!(e.settled || e.attempt.is_none(), e.acked.is_some() || e.settled || e.attempt.is_none());
            }
            prop_assert_eq!(updates.next_end(), None);
            prop_assert!(updates.by_answer.len() == updates.open.len());
        }
    }
}
