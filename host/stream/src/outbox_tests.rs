#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use destination::{Cause, Delivery};
use journal::{Pending, Position, Reading};
use message::{KeyRule, Message};
use proptest::prelude::*;

use super::*;
use crate::entry::Entry;

/// Message number `number` of key `key`.
pub(super) fn outgoing(numbers: &[u32], key: impl Fn(u32) -> u32) -> OutgoingDelivery {
    let carries = numbers
        .iter()
        .map(|n| {
            let message =
                Message { topic: key(*n).to_string().into(), payload: "x".into(), received_at: (*n).into() };
            let position = Position { chunk: u64::from(*n), index: 0 };
            Entry::new(
                Pending { position, message, as_is: None, reading: Reading::First },
                Arc::new(KeyRule::Topic),
            )
        })
        .collect();
    let delivery = Delivery { target: None, headers: Vec::new(), body: bytes::Bytes::new(), identity: None };
    OutgoingDelivery { delivery, carries, origin: Arc::default(), ordinal: 0 }
}

pub(super) fn numbers(outgoing: &OutgoingDelivery) -> Vec<u32> {
    outgoing.carries.iter().map(|e| u32::try_from(e.position.chunk).unwrap()).collect()
}

/// A lane without I/O: sends, splits, and notes what ended.
struct Bench {
    outbox: Outbox,
    now: Instant,
    keys: u32,
    /// Sent and not answered, oldest first.
    wire: VecDeque<(DeliveryId, Vec<u32>)>,
    delivered: Vec<u32>,
    rejected: BTreeSet<u32>,
}

impl Bench {
    fn new(window: usize, keys: u32) -> Self {
        Self {
            outbox: Outbox::new(window, Arc::default(), 1),
            now: Instant::now(),
            keys,
            wire: VecDeque::new(),
            delivered: Vec::new(),
            rejected: BTreeSet::new(),
        }
    }

    fn push(&mut self, numbers: &[u32]) {
        let keys = self.keys;
        self.outbox.push(outgoing(numbers, |n| n % keys), None, |_, _| None);
    }

    fn send_all(&mut self) {
        while let Some((id, outgoing)) = self.outbox.next(self.now) {
            self.wire.push_back((id, numbers(outgoing)));
            self.outbox.sent(id);
        }
    }

    fn answer(&mut self, verdict: impl FnOnce(&[u32]) -> Verdict) {
        if let Some((id, numbers)) = self.wire.pop_front() {
            let ended = self.outbox.verdict(id, verdict(&numbers), self.now);
            self.end(ended);
        }
    }

    fn cut(&mut self, fault: &Fault) {
        self.wire.clear();
        let (_, ended) = self.outbox.down(fault, self.now);
        self.end(ended);
    }

    fn end(&mut self, ended: Option<Ended>) {
        match ended {
            None => {}
            Some(Ended::Delivered(outgoing)) => self.delivered.extend(numbers(&outgoing)),
            Some(Ended::Rejected(outgoing, _)) => self.rejected.extend(numbers(&outgoing)),
            Some(Ended::Split(id, whole)) => {
                let all = numbers(&whole);
                let (a, b) = all.split_at(all.len() / 2);
                let keys = self.keys;
                let halves = [a, b].map(|half| (outgoing(half, |n| n % keys), None));
                self.outbox.replace(id, halves.into());
            }
        }
    }

    /// Lets time pass where nothing else can happen.
    fn idle(&mut self) {
        if let Some(at) = self.outbox.wake_at() {
            self.now = self.now.max(at);
        }
    }

    /// Runs with a destination that answers by `policy` until nothing is left.
    fn finish(&mut self, mut policy: impl FnMut(&[u32]) -> Verdict) {
        for _ in 0..100_000 {
            self.send_all();
            if self.wire.is_empty() {
                if self.outbox.is_empty() {
                    return;
                }
                self.idle();
            }
            self.answer(&mut policy);
        }
        panic!("never finished: {}", self.stages());
    }

    fn stages(&self) -> String {
        let items = self.outbox.items.iter();
        items
            .map(|i| format!("{:?} {:?} {}; ", numbers(&i.outgoing), i.stage, i.evidence.refusals()))
            .collect()
    }

    fn assert_order_per_key(&self) {
        let mut last: BTreeMap<u32, u32> = BTreeMap::new();
        for number in &self.delivered {
            if let Some(before) = last.insert(number % self.keys, *number) {
                assert!(before < *number, "{number} after {before} in {:?}", self.delivered);
            }
        }
    }
}

fn refuse() -> Verdict {
    Verdict::Refused(Reply("400".into()))
}

#[test]
fn one_bad_message_alone_is_never_rejected_without_proof_of_life() {
    let mut bench = Bench::new(1, 5);
    bench.push(&[1]);
    for _ in 0..50 {
        bench.send_all();
        bench.answer(|_| refuse());
        bench.idle();
    }
    assert!(bench.rejected.is_empty());
    assert!(
        matches!(bench.outbox.trouble(), Some(Trouble::Blocked(Code::Refused, why)) if why == "refused, and nothing accepted since: 400")
    );
    bench.push(&[2]);
    bench.finish(|n| if n == [1] { refuse() } else { Verdict::Delivered });
    assert_eq!(bench.rejected, [1].into());
    assert_eq!(bench.delivered, [2]);
    assert_eq!(bench.outbox.trouble(), None);
}

#[test]
fn a_stream_of_one_key_gets_past_a_bad_message() {
    let mut bench = Bench::new(1, 1);
    (0..5).for_each(|n| bench.push(&[n]));
    bench.finish(|n| if n == [0] { refuse() } else { Verdict::Delivered });
    assert_eq!(bench.rejected, [0].into());
    assert_eq!(bench.delivered, [1, 2, 3, 4]);
}

/// It recovers while nothing is under way: what was refused first goes first.
#[test]
fn a_destination_that_recovers_gets_the_messages_of_a_key_in_order() {
    for rounds in 1..12 {
        let mut bench = Bench::new(1, 1);
        (0..5).for_each(|n| bench.push(&[n]));
        for _ in 0..rounds {
            bench.send_all();
            bench.answer(|_| refuse());
            bench.idle();
        }
        bench.finish(|_| Verdict::Delivered);
        assert_eq!(bench.delivered, [0, 1, 2, 3, 4], "after {rounds} rounds");
    }
}

/// They filled the window, so that nothing was mapped any more that could have
/// proven the destination alive: the stream stayed blocked for ever.
#[test]
fn bad_messages_at_the_end_of_the_traffic_do_not_keep_the_next_good_one_out() {
    let mut bench = Bench::new(1, 5);
    bench.push(&[0]);
    bench.push(&[1]);
    for _ in 0..20 {
        bench.send_all();
        bench.answer(|_| refuse());
        bench.idle();
    }
    assert!(bench.outbox.wants_more());
    bench.push(&[2]);
    bench.finish(|n| if n == [2] { Verdict::Delivered } else { refuse() });
    assert_eq!(bench.rejected, [0, 1].into());
}

#[test]
fn a_destination_that_refuses_everything_and_recovers_loses_nothing() {
    let mut bench = Bench::new(4, 20);
    bench.push(&[0, 1, 2, 3, 4, 5, 6, 7]);
    (8..60).for_each(|n| bench.push(&[n]));
    for _ in 0..200 {
        bench.send_all();
        if bench.wire.is_empty() {
            bench.idle();
        }
        bench.answer(|_| refuse());
    }
    assert!(bench.outbox.suspects().count() <= SUSPECTS + 8, "what it tries stays bounded");
    bench.finish(|_| Verdict::Delivered);
    assert!(bench.rejected.is_empty());
    assert_eq!(bench.delivered.len(), 60);
    bench.assert_order_per_key();
}

/// All of them are on the wire when the first answer comes, and nothing is left
/// to probe with: those behind the bad one are proof enough.
#[test]
fn one_bad_message_in_the_last_window_is_rejected() {
    let mut bench = Bench::new(8, 5);
    (0..6).for_each(|n| bench.push(&[n]));
    bench.finish(|n| if n == [2] { refuse() } else { Verdict::Delivered });
    assert_eq!(bench.rejected, [2].into());
    assert_eq!(bench.delivered, [0, 1, 3, 4, 5]);
}

#[test]
fn what_closes_every_connection_is_found_and_rejected() {
    for window in [1, 8] {
        for keys in [1, 7] {
            find_what_closes_connections(window, keys, Duration::ZERO);
        }
    }
}

/// The suspect's own pause was always over when the next connection stood, so
/// it was the first delivery on it and ended it again, for ever.
#[test]
fn what_closes_every_connection_is_found_also_where_connecting_takes_long() {
    for window in [1, 8] {
        for keys in [1, 7] {
            find_what_closes_connections(window, keys, Duration::from_secs(60));
        }
    }
}

fn find_what_closes_connections(window: usize, keys: u32, connecting: Duration) {
    let mut bench = Bench::new(window, keys);
    (0..30).for_each(|n| bench.push(&[n]));
    for _ in 0..10_000 {
        bench.send_all();
        if bench.wire.is_empty() {
            if bench.outbox.is_empty() {
                break;
            }
            bench.idle();
            continue;
        }
        if bench.wire.front().is_some_and(|(_, n)| n == &[13]) {
            bench.cut(&Fault::unexplained("closed"));
            bench.now += connecting;
        } else {
            bench.answer(|_| Verdict::Delivered);
        }
    }
    assert_eq!(bench.rejected, [13].into(), "window {window}, {keys} keys");
    assert_eq!(bench.delivered.len(), 29);
    bench.assert_order_per_key();
}

#[test]
fn a_deferred_delivery_holds_back_what_comes_after_it_but_not_other_slots() {
    let mut bench = Bench::new(4, 9);
    let push = |bench: &mut Bench, n: u32, slot: &str| {
        bench.outbox.push(outgoing(&[n], |n| n), Some(slot.to_owned()), |_, _| None);
    };
    push(&mut bench, 1, "a");
    push(&mut bench, 2, "a");
    push(&mut bench, 3, "b");
    bench.send_all();
    assert_eq!(bench.wire.iter().map(|(_, n)| n[0]).collect::<Vec<_>>(), [1, 3], "2 waits for the slot of 1");
    bench.answer(|_| Verdict::Deferred(Fault::transient("429")));
    bench.send_all();
    assert_eq!(bench.wire.len(), 1, "2 still waits");
    bench.push(&[4]);
    bench.push(&[5]);
    bench.send_all();
    bench.answer(|_| Verdict::Delivered);
    bench.answer(|_| Verdict::Deferred(Fault::persistent(Cause::Credentials, "401")));
    assert_eq!(bench.outbox.trouble(), Some(Trouble::Retrying("429".into())));
    bench.finish(|_| Verdict::Delivered);
    assert_eq!(bench.delivered.len(), 5);
}

/// Messages are received at their number.
#[test]
fn what_waits_expires_by_its_youngest_message_and_what_is_in_flight_does_not() {
    let expired = |bench: &mut Bench, horizon: u64| -> Vec<Vec<u32>> {
        bench.outbox.expire(horizon).iter().map(numbers).collect()
    };
    let mut bench = Bench::new(3, 9);
    (1..=3).for_each(|n| bench.push(&[n]));
    bench.push(&[4, 9]);
    bench.push(&[5]);
    bench.send_all();
    assert_eq!(bench.outbox.oldest(), Some(5), "1 to 3 are in flight, 9 is younger than 5");
    bench.answer(|_| refuse());
    assert_eq!(bench.outbox.oldest(), Some(1), "a suspect waits");
    bench.answer(|_| Verdict::Deferred(Fault::transient("429")));
    assert_eq!(expired(&mut bench, 5), [[1], [2]]);
    assert_eq!(bench.outbox.trouble(), None);
    assert_eq!(expired(&mut bench, 9), [[5]]);
    assert_eq!(bench.outbox.carried, 3);
    bench.cut(&Fault::transient("reset"));
    assert_eq!(expired(&mut bench, 9), [[3]], "it is not in flight any more");
    bench.finish(|_| Verdict::Delivered);
    assert_eq!((bench.delivered, bench.outbox.oldest(), bench.outbox.carried), (vec![4, 9], None, 0));
}

#[test]
fn waiting_deliveries_of_one_slot_are_merged() {
    let mut bench = Bench::new(4, 9);
    let merge = |a: &OutgoingDelivery, b: &OutgoingDelivery| {
        let carries = a.carries.iter().chain(&b.carries).cloned().collect();
        Some(OutgoingDelivery { carries, ..b.clone() })
    };
    for n in 1..=4 {
        bench.outbox.push(outgoing(&[n], |n| n), Some("thing".into()), merge);
        bench.send_all();
    }
    assert_eq!(bench.wire.len(), 1);
    bench.answer(|_| Verdict::Delivered);
    bench.send_all();
    assert_eq!(bench.wire[0].1, [2, 3, 4]);
}

#[derive(Clone, Debug)]
enum Happening {
    Push(u32),
    Answer,
    Defer,
    Cut,
    CutWithReason,
    Wait,
    /// A late or foreign answer.
    Nonsense(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (1u32..6).prop_map(Happening::Push),
        8 => Just(Happening::Answer),
        1 => Just(Happening::Defer),
        1 => Just(Happening::Cut),
        1 => Just(Happening::CutWithReason),
        2 => Just(Happening::Wait),
        1 => (0u64..50).prop_map(Happening::Nonsense),
    ]
}

proptest! {
    /// Whatever happens on the way: every bad message is rejected and nothing
    /// else, everything good is delivered once, in order of its key. (What was
    /// on the wire behind a refused delivery may be accepted before its good
    /// half: only a window of one keeps order then.)
    #[test]
    fn nothing_good_is_lost_and_nothing_bad_stays(
        window in prop_oneof![Just(1usize), Just(3), Just(64)],
        keys in 1u32..6,
        bad in prop::collection::btree_set(0u32..100, 0..6),
        happenings in prop::collection::vec(happening(), 0..150),
    ) {
        let mut bench = Bench::new(window, keys);
        let mut count = 0;
        let policy = |numbers: &[u32]| {
            if numbers.iter().any(|n| bad.contains(n)) { refuse() } else { Verdict::Delivered }
        };
        for happening in happenings {
            bench.send_all();
            match happening {
                Happening::Push(size) => {
                    bench.push(&(count..count + size).collect::<Vec<_>>());
                    count += size;
                }
                Happening::Answer => bench.answer(policy),
                Happening::Defer if bench.wire.len() > 1 => bench.answer(policy),
                Happening::Defer => bench.answer(|_| Verdict::Deferred(Fault::transient("503"))),
                // Twice at most alone: the third time is held against a message.
                Happening::Cut if bench.wire.len() > 1 => bench.cut(&Fault::unexplained("closed")),
                Happening::Cut | Happening::CutWithReason => bench.cut(&Fault::transient("reset")),
                Happening::Wait => bench.now += Duration::from_millis(700),
                Happening::Nonsense(id) => {
                    if !bench.wire.iter().any(|(i, _)| *i == DeliveryId(id)) {
                        prop_assert!(bench.outbox.verdict(DeliveryId(id), Verdict::Delivered, bench.now).is_none());
                    }
                }
            }
        }
        // Good messages keep coming, so that there is proof of life for the last bad one.
        let mut more = 0;
        while !bench.outbox.is_empty() {
            prop_assert!(more < 200, "stuck: {}", bench.stages());
            bench.push(&[1000 + more]);
            more += 1;
            for _ in 0..20 {
                bench.send_all();
                if bench.wire.is_empty() {
                    bench.idle();
                }
                bench.answer(policy);
            }
        }
        let expected: BTreeSet<u32> = bad.iter().copied().filter(|n| *n < count).collect();
        prop_assert_eq!(&bench.rejected, &expected);
        prop_assert_eq!(bench.delivered.len(), (count + more) as usize - expected.len());
        if window == 1 || expected.is_empty() {
            bench.assert_order_per_key();
        }
        prop_assert_eq!(bench.outbox.carried, 0);
    }
}
