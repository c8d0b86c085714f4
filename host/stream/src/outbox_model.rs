//! [`Outbox`] between a lane that pushes and a far side that does anything it
//! may. Both keep plain lists of what happened, and every step is held against
//! them.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use super::tests::{numbers, outgoing};
use super::*;

/// Half of the full pauses after a first, second, ... failure, in milliseconds.
const LEAST: [u64; 8] = [125, 250, 500, 1_000, 2_000, 4_000, 8_000, 15_000];
const KEYS: u32 = 4;

/// What kind of destination it is.
#[derive(Clone, Debug)]
struct Kind {
    window: usize,
    /// One delivery of a key at a time, answers in any order, waiting ones
    /// merged (AWS shadows); else answers in the order of sending.
    slots: bool,
    seed: u64,
}

#[derive(Clone, Debug)]
enum Step {
    /// One delivery; a message for each key (with slots all are of the first).
    Push(Vec<u32>),
    /// At most so many.
    Send(usize),
    /// The answer to one of those on the wire.
    Answer(usize, Answer),
    /// The connection ends.
    Down(FaultKind, Mapping),
    Wait(u64),
    /// Another lane of the stream has delivered something that it sent now.
    OtherLane,
    /// An answer that nothing waits for.
    Nonsense(u64),
}

#[derive(Clone, Debug)]
enum Answer {
    Accept,
    Refuse(Mapping),
    /// With a wish in milliseconds.
    Defer(Option<u64>),
}

/// What mapping a refused delivery apart gives.
#[derive(Clone, Debug)]
enum Mapping {
    /// Two deliveries, cut there.
    Halves(usize),
    /// The second one breaks a rule of the destination.
    HalfForbidden(usize),
    NothingElse,
    Fault,
}

impl ReferenceStateMachine for Kind {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        (prop_oneof![Just(1usize), Just(3), Just(64)], any::<bool>(), any::<u64>())
            .prop_map(|(window, slots, seed)| Self { window, slots, seed })
            .boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Step> {
        let mapping = || {
            prop_oneof![
                5 => any::<usize>().prop_map(Mapping::Halves),
                1 => any::<usize>().prop_map(Mapping::HalfForbidden),
                1 => Just(Mapping::NothingElse),
                1 => Just(Mapping::Fault),
            ]
        };
        let answer = prop_oneof![
            5 => Just(Answer::Accept),
            4 => mapping().prop_map(Answer::Refuse),
            1 => prop::option::of(0u64..5_000).prop_map(Answer::Defer),
        ];
        let kind = prop_oneof![
            1 => Just(FaultKind::Transient),
            1 => Just(FaultKind::Persistent),
            4 => Just(FaultKind::Unexplained),
        ];
        prop_oneof![
            4 => prop::collection::vec(0..KEYS, 1..6).prop_map(Step::Push),
            6 => (1usize..80).prop_map(Step::Send),
            8 => (any::<usize>(), answer).prop_map(|(which, answer)| Step::Answer(which, answer)),
            2 => (kind, mapping()).prop_map(|(kind, mapping)| Step::Down(kind, mapping)),
            3 => (0u64..3_000).prop_map(Step::Wait),
            1 => Just(Step::OtherLane),
            1 => (0u64..200).prop_map(Step::Nonsense),
        ]
        .boxed()
    }

    fn apply(kind: Self, _: &Step) -> Self {
        kind
    }
}

/// What passed between the lanes and the far side, in order. No messages: of
/// another lane.
#[derive(Clone, Debug, PartialEq)]
enum Event {
    Sent(Vec<u32>),
    Accepted(Vec<u32>),
    Refused(Vec<u32>),
}

struct World {
    outbox: Outbox,
    life: Arc<ProofOfLife>,
    now: Instant,
    kind: Kind,
    /// The key of every message that was pushed, by number.
    keys: Vec<u32>,
    /// Sent and neither answered nor lost, in the order of sending.
    wire: Vec<(DeliveryId, Vec<u32>)>,
    /// Messages by how they ended, in order.
    delivered: Vec<u32>,
    dead: Vec<u32>,
    events: Vec<Event>,
    /// Messages that were in a delivery that was refused, or was put off while
    /// others were behind it: the order of these is not promised.
    out_of_order: Vec<u32>,
    /// Deliveries that were put off: how often, and until when at least.
    put_off: Vec<(Vec<u32>, usize, Instant)>,
    /// Ends of connections with only this delivery on the wire.
    lone_ends: Vec<Vec<u32>>,
    /// On the wire at an unexplained end: until they have ended, one at a time.
    suspicious: Vec<u32>,
}

impl World {
    fn outgoing(&self, numbers: &[u32]) -> OutgoingDelivery {
        outgoing(numbers, |number| self.keys[number as usize])
    }

    fn slot(&self, numbers: &[u32]) -> Option<String> {
        self.kind.slots.then(|| self.keys[numbers[0] as usize].to_string())
    }

    fn ended(&self, number: u32) -> bool {
        self.delivered.contains(&number) || self.dead.contains(&number)
    }

    fn push(&mut self, keys: &[u32]) {
        let first = u32::try_from(self.keys.len()).unwrap();
        let keys = keys.iter().map(|key| if self.kind.slots { keys[0] } else { *key });
        self.keys.extend(keys);
        let numbers: Vec<u32> = (first..u32::try_from(self.keys.len()).unwrap()).collect();
        let (outgoing, slot) = (self.outgoing(&numbers), self.slot(&numbers));
        self.outbox.push(outgoing, slot, |older, newer| {
            let carries = older.carries.iter().chain(&newer.carries).cloned().collect();
            Some(OutgoingDelivery { carries, ..newer.clone() })
        });
    }

    fn send(&mut self, most: usize) {
        for _ in 0..most {
            let Some((id, outgoing)) = self.outbox.next(self.now) else {
                self.check_that_it_goes_on();
                return;
            };
            let numbers = numbers(outgoing);
            self.outbox.sent(id);
            self.check_send(&numbers);
            self.events.push(Event::Sent(numbers.clone()));
            self.wire.push((id, numbers));
        }
    }

    fn check_send(&self, numbers: &[u32]) {
        assert!(!numbers.is_empty());
        assert!(self.wire.len() < self.kind.window, "more than the window: {:?} and {numbers:?}", self.wire);
        for number in numbers {
            assert!(!self.ended(*number), "{number} is sent after it has ended");
            assert!(!self.wire.iter().any(|(_, n)| n.contains(number)), "{number} is on the wire twice");
        }
        let slot = self.slot(numbers);
        if slot.is_some() {
            let taken = self.wire.iter().any(|(_, other)| self.slot(other) == slot);
            assert!(!taken, "{numbers:?} overlaps another of its slot: {:?}", self.wire);
        }
        if self.suspicious.iter().any(|n| !self.ended(*n)) {
            assert!(self.wire.is_empty(), "one at a time after an unexplained end");
        }
        if let Some((_, times, until)) = self.put_off.iter().rfind(|(n, ..)| n == numbers) {
            assert!(*until <= self.now, "{numbers:?} was put off {times} times and comes too early");
        }
        for number in numbers.iter().filter(|n| !self.out_of_order.contains(n)) {
            let overtaken = (0..*number).find(|earlier| {
                self.keys[*earlier as usize] == self.keys[*number as usize]
                    && !self.ended(*earlier)
                    && !self.out_of_order.contains(earlier)
                    && !numbers.contains(earlier)
                    && !self.wire.iter().any(|(_, n)| n.contains(earlier))
            });
            assert_eq!(overtaken, None, "{number} overtakes one of its key that waits");
        }
    }

    /// Nothing may be sent now: something must change that.
    fn check_that_it_goes_on(&self) {
        if !self.wire.is_empty() || self.outbox.is_empty() {
            return;
        }
        let wake_at = self.outbox.wake_at();
        assert!(wake_at.is_some_and(|at| at > self.now), "it would wait for ever, or spin: {:?}", wake_at);
        // All that it has are refused: only more messages can be proof of life.
        let waiting: Vec<&Item> = self.outbox.items.iter().collect();
        if waiting.len() < SUSPECTS && waiting.iter().all(|i| matches!(i.stage, Stage::Suspect { .. })) {
            assert!(self.outbox.wants_more(), "{} suspects, and no probe is asked for", waiting.len());
        }
    }

    fn answer(&mut self, which: usize, answer: &Answer) {
        if self.wire.is_empty() {
            return;
        }
        let which = if self.kind.slots { which % self.wire.len() } else { 0 };
        let (id, numbers) = self.wire.remove(which);
        let verdict = match answer {
            Answer::Accept => {
                self.events.push(Event::Accepted(numbers.clone()));
                Verdict::Delivered
            }
            Answer::Refuse(_) => {
                self.events.push(Event::Refused(numbers.clone()));
                self.out_of_order.extend(&numbers);
                Verdict::Refused(Reply("400".into()))
            }
            Answer::Defer(wish) => {
                let wish = wish.map(Duration::from_millis);
                let times = self.put_off.iter().rfind(|(n, ..)| *n == numbers).map_or(0, |(_, t, _)| *t);
                let least = Duration::from_millis(LEAST[times.min(LEAST.len() - 1)]);
                let until = self.now + least.max(wish.unwrap_or_default());
                self.put_off.push((numbers.clone(), times + 1, until));
                if !self.wire.is_empty() {
                    self.out_of_order.extend(&numbers);
                }
                Verdict::Deferred(Fault::transient("503").after(wish))
            }
        };
        let mapping = if let Answer::Refuse(mapping) = answer { mapping } else { &Mapping::NothingElse };
        let ended = self.outbox.verdict(id, verdict, self.now);
        self.end(ended, mapping);
    }

    fn down(&mut self, kind: FaultKind, mapping: &Mapping) {
        let wire = std::mem::take(&mut self.wire);
        if kind == FaultKind::Unexplained {
            if let [(_, alone)] = wire.as_slice() {
                self.lone_ends.push(alone.clone());
                let times = self.lone_ends.iter().filter(|n| *n == alone).count();
                if times >= 3 {
                    self.events.push(Event::Refused(alone.clone()));
                    self.out_of_order.extend(alone);
                }
            } else {
                self.suspicious.extend(wire.iter().flat_map(|(_, n)| n));
            }
        }
        let fault = Fault { kind, cause: None, reason: "closed".into(), retry_after: None };
        let (again, ended) = self.outbox.down(&fault, self.now);
        assert_eq!(again, wire.len());
        self.end(ended, mapping);
    }

    fn end(&mut self, ended: Option<Ended>, mapping: &Mapping) {
        let mut ended = ended;
        while let Some(now) = ended.take() {
            match now {
                Ended::Delivered(outgoing) => {
                    let numbers = numbers(&outgoing);
                    assert_eq!(self.events.last(), Some(&Event::Accepted(numbers.clone())));
                    self.settle(&numbers, true);
                }
                Ended::Rejected(outgoing, _) => {
                    let numbers = numbers(&outgoing);
                    self.check_proof(&numbers);
                    self.settle(&numbers, false);
                }
                Ended::Split(id, outgoing) => {
                    let all = numbers(&outgoing);
                    assert_eq!(self.events.last(), Some(&Event::Refused(all.clone())));
                    assert!(all.len() > 1);
                    match mapping {
                        Mapping::Halves(cut) | Mapping::HalfForbidden(cut) => {
                            let (first, second) = all.split_at(1 + cut % (all.len() - 1));
                            let mut halves = vec![(self.outgoing(first), self.slot(first))];
                            if matches!(mapping, Mapping::Halves(_)) {
                                halves.push((self.outgoing(second), self.slot(second)));
                            } else {
                                self.settle(second, false);
                            }
                            self.outbox.replace(id, halves);
                        }
                        Mapping::NothingElse => ended = self.outbox.indivisible(id, self.now),
                        Mapping::Fault => self.outbox.postpone(id, "trap".into(), self.now),
                    }
                }
            }
        }
    }

    /// It was refused, then something was accepted that had been sent behind
    /// it, then it was refused again.
    fn check_proof(&self, numbers: &[u32]) {
        let of_it = |event: &Event| matches!(event, Event::Sent(n) if n == numbers);
        let refused = |event: &Event| matches!(event, Event::Refused(n) if n == numbers);
        let sent = self.events.iter().position(of_it).unwrap();
        let first = self.events.iter().position(refused).unwrap();
        let last = self.events.iter().rposition(refused).unwrap();
        assert_eq!(last, self.events.len() - 1, "{numbers:?} is rejected without being refused now");
        let proof = (first..last).any(|at| match &self.events[at] {
            Event::Accepted(other) => {
                let sends = self.events[..at].iter().rposition(|e| *e == Event::Sent(other.clone()));
                other != numbers && sends.unwrap() > sent
            }
            Event::Sent(_) | Event::Refused(_) => false,
        });
        assert!(proof, "{numbers:?} is rejected without proof of life: {:?}", self.events);
    }

    fn settle(&mut self, numbers: &[u32], delivered: bool) {
        for number in numbers {
            assert!(!self.ended(*number), "{number} ends twice");
            if !delivered {
                self.dead.push(*number);
                continue;
            }
            if !self.out_of_order.contains(number) {
                let later = self.delivered.iter().find(|later| {
                    *later > number
                        && self.keys[**later as usize] == self.keys[*number as usize]
                        && !self.out_of_order.contains(later)
                });
                assert_eq!(later, None, "{number} is delivered after a later one of its key");
            }
            self.delivered.push(*number);
        }
    }
}

struct Lane;

impl StateMachineTest for Lane {
    type SystemUnderTest = World;
    type Reference = Kind;

    fn init_test(kind: &Kind) -> World {
        let life = Arc::<ProofOfLife>::default();
        World {
            outbox: Outbox::new(kind.window, life.clone(), kind.seed),
            life,
            now: Instant::now(),
            kind: kind.clone(),
            keys: Vec::new(),
            wire: Vec::new(),
            delivered: Vec::new(),
            dead: Vec::new(),
            events: Vec::new(),
            out_of_order: Vec::new(),
            put_off: Vec::new(),
            lone_ends: Vec::new(),
            suspicious: Vec::new(),
        }
    }

    fn apply(mut world: World, _: &Kind, step: Step) -> World {
        match step {
            Step::Push(keys) => world.push(&keys),
            Step::Send(most) => world.send(most),
            Step::Answer(which, answer) => world.answer(which, &answer),
            Step::Down(kind, mapping) => world.down(kind, &mapping),
            Step::Wait(millis) => world.now += Duration::from_millis(millis),
            Step::OtherLane => {
                let sent = world.life.now();
                world.life.accepted(sent);
                world.events.extend([Event::Sent(Vec::new()), Event::Accepted(Vec::new())]);
            }
            Step::Nonsense(id) => {
                let id = DeliveryId(id);
                if !world.wire.iter().any(|(sent, _)| *sent == id) {
                    let ended = world.outbox.verdict(id, Verdict::Delivered, world.now);
                    assert!(ended.is_none(), "an answer to what is not on the wire ended {ended:?}");
                }
            }
        }
        world
    }

    fn check_invariants(world: &World, _: &Kind) {
        assert_eq!(world.outbox.in_flight(), world.wire.len());
        let ended = world.delivered.len() + world.dead.len();
        assert_eq!(world.outbox.carried, world.keys.len() - ended, "messages are lost, or come from nowhere");
        assert_eq!(world.outbox.is_empty(), ended == world.keys.len());
    }

    /// The destination takes everything from now on.
    fn teardown(mut world: World, _: Kind) {
        let dead = world.dead.clone();
        for _ in 0..10_000 {
            world.send(usize::MAX);
            if world.wire.is_empty() {
                let Some(at) = world.outbox.wake_at() else { break };
                world.now = world.now.max(at);
            }
            world.answer(0, &Answer::Accept);
        }
        assert!(world.outbox.is_empty(), "left although the destination accepts: {:?}", world.outbox.items);
        assert_eq!(world.dead, dead, "nothing is rejected that is not refused");
        let mut ended: Vec<u32> = world.delivered.iter().chain(&world.dead).copied().collect();
        ended.sort_unstable();
        let pushed: Vec<u32> = (0..u32::try_from(world.keys.len()).unwrap()).collect();
        assert_eq!(ended, pushed, "every message ends once");
    }
}

prop_state_machine! {
    #[test]
    fn whatever_happens_each_message_ends_once_and_for_a_reason(sequential 1..120 => Lane);
}
