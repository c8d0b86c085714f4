//! The power is cut, or the disk fails, at every step: what was acknowledged
//! is there, what is there is right, and nothing that was settled and made
//! durable comes back.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// What the world outside knows.
#[derive(Default)]
struct World {
    /// Text of every message that was ever given to an append, by stream.
    sent: BTreeMap<u32, BTreeSet<String>>,
    /// Those whose ticket has resolved.
    acknowledged: BTreeMap<u32, BTreeSet<String>>,
    /// Those whose settlement was durable for certain, and those for which it
    /// may be.
    settled: BTreeMap<u32, BTreeSet<String>>,
    perhaps: BTreeMap<u32, BTreeSet<String>>,
}

#[derive(Clone, Debug)]
enum Step {
    Append {
        messages: u8,
        both: bool,
        size: u16,
    },
    /// Settles some of what was given.
    Settle {
        share: u8,
        dead: bool,
    },
    Sweep,
    MakeRoom,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..6, any::<bool>(), 0u16..900).prop_map(|(messages, both, size)| Step::Append { messages, both, size }),
        3 => (1u8..5, prop::bool::weighted(0.1)).prop_map(|(share, dead)| Step::Settle { share, dead }),
        1 => Just(Step::Sweep),
        1 => Just(Step::MakeRoom),
    ]
}

struct Run {
    bench: Bench,
    world: World,
    number: u64,
}

impl Run {
    fn new() -> Self {
        Self { bench: Bench::new(&["a", "b"]), world: World::default(), number: 0 }
    }

    /// False: the disk has failed meanwhile.
    fn step(&mut self, step: &Step) -> bool {
        let Self { bench, world, number } = self;
        let mut work = Work::default();
        let mut now_sent: Vec<(u32, String)> = Vec::new();
        let mut now_settled: Vec<(u32, String)> = Vec::new();
        match step {
            Step::Append { messages, both, size } => {
                let streams: &[u32] = if *both { &[0, 1] } else { &[0] };
                let texts: Vec<String> = (0..*messages)
                    .map(|_| {
                        *number += 1;
                        format!("{number}{}", ".".repeat(usize::from(*size)))
                    })
                    .collect();
                let refs: Vec<&str> = texts.iter().map(String::as_str).collect();
                work.batches.push(for_streams(&refs, streams));
                now_sent = streams.iter().flat_map(|s| texts.iter().map(|t| (*s, t.clone()))).collect();
            }
            Step::Settle { share, dead } => {
                let outcome = if *dead { Outcome::DeadLettered } else { Outcome::Delivered };
                let mut number = 0;
                bench.given.retain(|(stream, pending)| {
                    number += 1;
                    let stays = number % u32::from(*share) != 0;
                    if !stays {
                        work.settlements.push((StreamIndex(*stream), ended(pending.position, outcome)));
                        now_settled
                            .push((*stream, String::from_utf8(pending.message.payload.to_vec()).unwrap()));
                    }
                    stays
                });
            }
            Step::Sweep => return bench.store.sweep().is_ok(),
            Step::MakeRoom => return bench.store.make_room(u64::MAX).is_ok(),
        }
        for (stream, text) in &now_sent {
            world.sent.entry(*stream).or_default().insert(text.clone());
        }
        for (stream, text) in &now_settled {
            world.perhaps.entry(*stream).or_default().insert(text.clone());
        }
        match bench.store.commit(&work, true) {
            Ok(handed) => {
                for (stream, text) in now_sent {
                    world.acknowledged.entry(stream).or_default().insert(text);
                }
                for (stream, text) in now_settled {
                    world.settled.entry(stream).or_default().insert(text);
                }
                bench.take(handed);
                match bench.store.read_on() {
                    Ok(handed) => bench.take(handed),
                    Err(_) => return false,
                }
                true
            }
            Err(_) => false,
        }
    }

    /// After everything: what is on this disk.
    fn judge(&self, disk: &SimDisk) {
        let mut bench = Bench { disk: disk.clone(), store: open(disk, &["a", "b"]), given: Vec::new() };
        bench.check();
        for stream in [0, 1] {
            let mut there = BTreeSet::new();
            loop {
                let handed = bench.store.read_on().unwrap();
                bench.take(handed);
                let before = there.len();
                there.extend(bench.texts(stream));
                bench.settle_all(stream, Outcome::Delivered);
                if there.len() == before {
                    break;
                }
            }
            let none = BTreeSet::new();
            let set = |sets: &BTreeMap<u32, BTreeSet<String>>| sets.get(&stream).unwrap_or(&none).clone();
            let (sent, acknowledged) = (set(&self.world.sent), set(&self.world.acknowledged));
            let (settled, perhaps) = (set(&self.world.settled), set(&self.world.perhaps));
            assert!(there.is_subset(&sent), "something that nobody sent: {:?}", there.difference(&sent));
            let owed: BTreeSet<_> = acknowledged.difference(&perhaps).cloned().collect();
            assert!(owed.is_subset(&there), "lost: {:?}", owed.difference(&there));
            assert!(there.is_disjoint(&settled), "settled and back: {:?}", there.intersection(&settled));
            assert_eq!(bench.books(stream).queued, 0);
        }
        let letters = find_letters(&bench.store.index(), &Default::default()).unwrap();
        let damaged: Vec<_> = letters.iter().filter(|(_, _, l)| l.reason.contains("damaged")).collect();
        assert!(damaged.is_empty(), "a crash is no damage: {damaged:?}");
        bench.append(&["goes on"], &[0, 1]);
        assert_eq!(bench.texts(0), ["goes on"]);
    }
}

/// A chance that is the same in every run of a seed.
fn coin(seed: u64) -> impl FnMut() -> bool {
    let mut random = fastrand::Rng::with_seed(seed);
    move || random.bool()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// The power is cut between two commits.
    #[test]
    fn a_crash_loses_nothing(steps in prop::collection::vec(step(), 1..25), seed in any::<u64>()) {
        let mut run = Run::new();
        for step in &steps {
            prop_assert!(run.step(step));
        }
        run.judge(&run.bench.disk.crash(|| false));
        run.judge(&run.bench.disk.crash(coin(seed)));
    }

    /// The disk fails at some operation inside a step, then the power is cut,
    /// with unsynced sectors kept or lost at random.
    #[test]
    fn a_failure_at_any_operation_loses_nothing(
        steps in prop::collection::vec(step(), 1..14), at in any::<prop::sample::Index>(), seed in any::<u64>(),
    ) {
        let mut whole = Run::new();
        let begin = whole.bench.disk.operations();
        for step in &steps {
            prop_assert!(whole.step(step));
        }
        let operations = whole.bench.disk.operations() - begin;
        let mut run = Run::new();
        run.bench.disk.fail_at(at.index(operations as usize + 1) as u64);
        for step in &steps {
            if !run.step(step) {
                break;
            }
        }
        // What a process finds that opens the same disk again without a crash.
        let Run { bench: Bench { disk, store, given }, world, number } = run;
        drop(store);
        disk.repair();
        let crashed = [disk.crash(|| false), disk.crash(coin(seed)), disk.crash(|| true)];
        let run = Run { bench: Bench { disk: SimDisk::new(), store: open(&SimDisk::new(), &[]), given }, world, number };
        for disk in crashed {
            run.judge(&disk);
        }
    }
}

/// Every operation of one small run fails once, the store is opened again on
/// the same disk as the writer does, and goes on with what its readers have.
#[test]
fn opening_again_after_a_failure_goes_on_without_repeats_and_gaps() {
    for at in 0.. {
        let mut run = Run::new();
        let steps = [
            Step::Append { messages: 3, both: true, size: 10 },
            Step::Settle { share: 2, dead: false },
            Step::Append { messages: 2, both: false, size: 800 },
            Step::Settle { share: 1, dead: true },
            Step::Append { messages: 2, both: true, size: 10 },
        ];
        run.bench.disk.fail_at(at);
        let mut failed = false;
        for step in &steps {
            let given = run.bench.given.clone();
            if run.step(step) {
                continue;
            }
            failed = true;
            let now: BTreeSet<_> = run.bench.given.iter().map(|(s, p)| (*s, p.position)).collect();
            let unsettled: Vec<_> = given
                .iter()
                .filter(|(s, p)| !now.contains(&(*s, p.position)))
                .map(|(s, p)| (StreamIndex(*s), ended(p.position, Outcome::Delivered)))
                .collect();
            let Bench { disk, store, given } = run.bench;
            let memory = store.into_memory();
            disk.repair();
            let mut store = open(&disk, &["a", "b"]);
            let handed = store.resume(&memory, &unsettled).unwrap();
            assert!(handed.is_empty(), "nothing was committed without a sync");
            let mut bench = Bench { disk, store, given };
            bench.commit(Work { settlements: unsettled, ..Work::default() });
            run.bench = bench;
        }
        // Whatever is queued was given exactly once.
        for stream in [0, 1] {
            let texts = run.bench.texts(stream);
            let distinct: BTreeSet<_> = texts.iter().collect();
            assert_eq!(texts.len(), distinct.len(), "given twice when operation {at} failed");
            assert_eq!(run.bench.books(stream).queued, texts.len() as u64, "operation {at}");
        }
        run.judge(&run.bench.disk.crash(|| false));
        if !failed {
            assert!(at > 20, "only {at} operations");
            return;
        }
    }
}

#[test]
fn a_full_disk_refuses_appends_and_lets_settlements_through_once_there_is_space() {
    let mut run = Run::new();
    assert!(run.step(&Step::Append { messages: 5, both: true, size: 10 }));
    run.bench.disk.set_full(true);
    assert!(!run.step(&Step::Append { messages: 5, both: true, size: 900 }));
    let Run { bench: Bench { disk, store, given }, world, number } = run;
    let memory = store.into_memory();
    disk.repair();
    let mut store = open(&disk, &["a", "b"]);
    assert!(store.resume(&memory, &[]).unwrap().is_empty());
    let mut run = Run { bench: Bench { disk, store, given }, world, number };
    assert!(run.step(&Step::Settle { share: 1, dead: false }));
    assert!(run.step(&Step::Append { messages: 5, both: true, size: 900 }));
    run.judge(&run.bench.disk.crash(|| false));
}
