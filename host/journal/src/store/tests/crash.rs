//! The power is cut or the disk fails at any step: acknowledged messages exist,
//! their content is right, and no durably settled message comes back.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::types::{DeadLetterFilter, Rewind};

type Texts = BTreeSet<(u32, String)>;

/// The knowledge of the world outside, by stream and text.
#[derive(Default)]
struct World {
    /// All messages that were ever appended.
    sent: Texts,
    /// Messages whose commit is certainly durable.
    acknowledged: Texts,
    /// Messages whose settlement is certainly durable, and those for which it
    /// may be.
    settled: Texts,
    perhaps: Texts,
    /// Messages that were read again: they may be pending twice.
    rewind: Texts,
    /// Certain dead letters; replayed ones are queued instead.
    buried: Texts,
    /// Commits without a sync since the last durable one.
    later: Vec<Commit>,
    /// Whether the first stream may be found paused, or not.
    paused: BTreeSet<bool>,
    forgotten: bool,
}

/// The content of one commit.
#[derive(Default)]
struct Commit {
    sent: Texts,
    settled: Texts,
    buried: Texts,
}

#[derive(Clone, Debug)]
enum Step {
    Append {
        messages: u8,
        both: bool,
        size: u16,
    },
    /// Settles some messages that readers have.
    Settle {
        share: u8,
        dead: bool,
    },
    /// One of these, committed without a sync.
    Unsynced(Box<Step>),
    Rewind(u32),
    Replay {
        as_is: bool,
    },
    Pause(bool),
    Forget,
    /// Only these of the three streams have a file.
    Streams([bool; 3]),
    /// One stream gets a new reader.
    TakeBack(u32),
    Sweep,
    MakeRoom,
}

fn append_or_settle() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..6, any::<bool>(), 0u16..900).prop_map(|(messages, both, size)| Step::Append { messages, both, size }),
        3 => (1u8..5, prop::bool::weighted(0.2)).prop_map(|(share, dead)| Step::Settle { share, dead }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        7 => append_or_settle(),
        2 => append_or_settle().prop_map(|step| Step::Unsynced(Box::new(step))),
        1 => (0u32..3).prop_map(Step::Rewind),
        1 => any::<bool>().prop_map(|as_is| Step::Replay { as_is }),
        1 => any::<bool>().prop_map(Step::Pause),
        1 => Just(Step::Forget),
        2 => prop::array::uniform3(prop::bool::weighted(0.7)).prop_map(Step::Streams),
        1 => (0u32..3).prop_map(Step::TakeBack),
        1 => Just(Step::Sweep),
        1 => Just(Step::MakeRoom),
    ]
}

/// `a` keeps up, `b` has a small quota, and `c` reads live messages first. Few
/// messages are handed out, so that all are behind at times. Number 3 is a
/// detached stream.
fn open_three(disk: &SimDisk) -> Store {
    let options = Options { loaded_messages: 6, ..options() };
    Store::open(Arc::new(disk.clone()), options, &three()).unwrap()
}

fn three() -> [StreamQuota; 3] {
    let mut three = <[StreamQuota; 3]>::try_from(streams(&["a", "b", "c"])).unwrap();
    three[1].quota.max_backlog = SMALL_QUOTA;
    three[2].live_first = true;
    three
}

const SMALL_QUOTA: u64 = 3000;
const NAMES: [u32; 3] = [0, 1, 2];

struct Run {
    bench: Bench,
    world: World,
    number: u64,
}

fn text(pending: &Pending) -> String {
    String::from_utf8(pending.message.payload.to_vec()).unwrap()
}

impl World {
    fn certain(&mut self, commit: Commit) {
        self.acknowledged.extend(commit.sent);
        self.settled.extend(commit.settled);
        self.buried.extend(commit.buried);
    }
}

impl Run {
    fn new() -> Self {
        let disk = SimDisk::new();
        let mut bench = Bench { store: open(&disk, &["a", "b", "c", "gone"]), disk, given: Vec::new() };
        bench.append(&["without a reader"], &[3]);
        let disk = bench.disk.crash(|| false);
        let world = World { paused: [false].into(), ..World::default() };
        Self { bench: Bench { store: open_three(&disk), disk, given: Vec::new() }, world, number: 0 }
    }

    /// False: the disk has failed.
    fn step(&mut self, step: &Step) -> bool {
        self.store_step(step, true).is_ok()
    }

    fn store_step(&mut self, step: &Step, durable: bool) -> Result<()> {
        let Self { bench, world, number } = self;
        let mut work = Work::default();
        let mut commit = Commit::default();
        match step {
            Step::Unsynced(step) => return self.store_step(step, false),
            Step::Append { messages, both, size } => {
                let streams: &[u32] = if *both { &NAMES } else { &[0] };
                let texts: Vec<String> = (0..*messages)
                    .map(|_| {
                        *number += 1;
                        format!("{number}{}", ".".repeat(usize::from(*size)))
                    })
                    .collect();
                let refs: Vec<&str> = texts.iter().map(String::as_str).collect();
                work.batches.push(for_streams(&refs, streams));
                commit.sent = streams.iter().flat_map(|s| texts.iter().map(|t| (*s, t.clone()))).collect();
            }
            Step::Settle { share, dead } => {
                let outcome = if *dead { Outcome::DeadLettered } else { Outcome::Delivered };
                let mut number = 0;
                bench.given.retain(|(stream, pending)| {
                    number += 1;
                    let stays = number % u32::from(*share) != 0;
                    if !stays {
                        let mut settlement = ended(pending.position, outcome);
                        for letter in &mut settlement.dead_letters {
                            letter.message = pending.message.clone();
                        }
                        work.settlements.push((StreamIndex(*stream), settlement));
                        commit.settled.insert((*stream, text(pending)));
                    }
                    stays
                });
                world.perhaps.extend(commit.settled.iter().cloned());
                if *dead {
                    commit.buried = commit.settled.clone();
                } else {
                    world.buried.retain(|text| !commit.settled.contains(text));
                }
            }
            Step::Rewind(stream) => {
                let sent = world.sent.clone();
                world.rewind.extend(sent.iter().filter(|(s, _)| s == stream).cloned());
                let rewind = Rewind {
                    stream: StreamIndex(*stream),
                    from: 0,
                    until: u64::MAX,
                    rate: None,
                    keep_state: false,
                    dry_run: false,
                };
                let wanted =
                    |m: &Message| sent.contains(&(*stream, String::from_utf8(m.payload.to_vec()).unwrap()));
                bench.store.begin_rewind(&rewind)?;
                let mut next = Some(0);
                while let Some(from) = next {
                    let slice = bench.store.rewind_slice(&rewind, from, &wanted)?;
                    bench.take(slice.ready);
                    next = slice.next;
                }
                return Ok(());
            }
            Step::Replay { as_is } => {
                let letters = find_letters(&bench.store.index(), &DeadLetterFilter::default())?;
                let texts = letters
                    .iter()
                    .map(|(_, s, l)| (s.0, String::from_utf8(l.message.payload.to_vec()).unwrap()));
                world.rewind.extend(texts);
                work = replay_work(&bench.store, letters, *as_is).0;
            }
            Step::Pause(paused) => {
                world.paused.insert(*paused);
                bench.store.pause(StreamIndex(0), *paused)?;
                world.paused = [*paused].into();
                return Ok(());
            }
            Step::Forget => {
                bench.store.forget(StreamIndex(3))?;
                world.forgotten = true;
                return Ok(());
            }
            Step::Streams(with_file) => {
                let there = three().into_iter().zip(with_file).filter(|(_, there)| **there);
                bench.store.set_streams(&there.map(|(options, _)| options).collect::<Vec<_>>())?;
                bench.given.retain(|(stream, _)| with_file.get(*stream as usize) != Some(&false));
                return Ok(());
            }
            Step::TakeBack(stream) => {
                bench.store.take_back(StreamIndex(*stream));
                bench.given.retain(|(given, _)| given != stream);
                return Ok(());
            }
            Step::Sweep => return bench.store.sweep(),
            Step::MakeRoom => return bench.store.make_room(u64::MAX),
        }
        world.sent.extend(commit.sent.iter().cloned());
        let ready = bench.store.commit(&work, durable)?;
        world.later.push(commit);
        if durable {
            for commit in std::mem::take(&mut world.later) {
                world.certain(commit);
            }
        }
        bench.take(ready);
        let ready = bench.store.read_on()?;
        bench.take(ready);
        Ok(())
    }

    /// Checks the content of this disk at the end.
    fn judge(&self, disk: &SimDisk) {
        let world = &self.world;
        let mut bench = Bench { disk: disk.clone(), store: open_three(disk), given: Vec::new() };
        bench.check();
        assert!(world.paused.contains(&bench.store.record(StreamIndex(0)).unwrap().paused));
        assert!(!world.forgotten || bench.store.detached().count() == 0, "it was forgotten");
        let letters = find_letters(&bench.store.index(), &DeadLetterFilter::default()).unwrap();
        let damaged: Vec<_> = letters.iter().filter(|(_, _, l)| l.reason.contains("damaged")).collect();
        assert!(damaged.is_empty(), "a crash is no damage: {damaged:?}");
        let dead: Texts = letters
            .iter()
            .map(|(_, s, l)| (s.0, String::from_utf8(l.message.payload.to_vec()).unwrap()))
            .collect();
        let mut there = Texts::new();
        bench.read_on();
        while !bench.given.is_empty() {
            let mut last = BTreeMap::new();
            let mut work = Work::default();
            for (stream, pending) in std::mem::take(&mut bench.given) {
                let before = last.insert((stream, pending.reading == Reading::Rewound), pending.position);
                assert!(before < Some(pending.position), "out of order: {before:?} {pending:?}");
                there.insert((stream, text(&pending)));
                let delivered = ended(pending.position, Outcome::Delivered);
                work.settlements.push((StreamIndex(stream), delivered));
            }
            bench.commit(work);
        }
        assert!(there.is_subset(&world.sent), "never sent: {:?}", there.difference(&world.sent));
        let owed = world.acknowledged.difference(&world.perhaps).chain(&world.buried);
        let lost: Vec<_> = owed.filter(|text| !there.contains(text) && !dead.contains(text)).collect();
        let expired = lost.iter().filter(|(stream, _)| *stream == 1).count();
        assert_eq!(lost.len(), expired, "lost: {lost:?}");
        assert!(expired as u64 <= bench.counters(1).expired, "lost and not counted: {lost:?}");
        let settled: Texts = world.settled.difference(&world.rewind).cloned().collect();
        assert!(there.is_disjoint(&settled), "back: {:?}", there.intersection(&settled));
        for stream in NAMES {
            assert_eq!(bench.counters(stream).queued, 0);
        }
        bench.append(&["continues"], &[0, 1]);
        assert_eq!(bench.texts(0), ["continues"]);
    }
}

/// Random choices that depend only on the seed.
fn coin(seed: u64) -> impl FnMut() -> bool {
    let mut random = fastrand::Rng::with_seed(seed);
    move || random.bool()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// The power is cut between two commits.
    #[test]
    fn crash_loses_nothing(steps in prop::collection::vec(step(), 1..25), seed in any::<u64>()) {
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
    fn failure_at_any_operation_loses_nothing(
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
        // Then another process opens the same disk without a crash.
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

/// Each operation of a small run fails once. The store is opened again on the
/// same disk, as the writer does, and continues with the messages of its
/// readers.
#[test]
fn reopened_store_continues_without_repeats_and_gaps() {
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
            let memory = store.into_given();
            disk.repair();
            let mut store = open_three(&disk);
            let ready = store.resume(&memory, &unsettled).unwrap();
            assert!(ready.is_empty(), "nothing was committed without a sync");
            let mut bench = Bench { disk, store, given };
            bench.commit(Work { settlements: unsettled, ..Work::default() });
            run.bench = bench;
        }
        // Each queued message was handed out exactly once.
        for stream in NAMES {
            let texts = run.bench.texts(stream);
            let distinct: BTreeSet<_> = texts.iter().collect();
            assert_eq!(texts.len(), distinct.len(), "given twice when operation {at} failed");
            assert_eq!(run.bench.counters(stream).queued, texts.len() as u64, "operation {at}");
        }
        run.judge(&run.bench.disk.crash(|| false));
        if !failed {
            assert!(at > 20, "only {at} operations");
            return;
        }
    }
}

#[test]
fn full_disk_refuses_appends_until_there_is_space() {
    let mut run = Run::new();
    assert!(run.step(&Step::Append { messages: 5, both: true, size: 10 }));
    run.bench.disk.set_full(true);
    assert!(!run.step(&Step::Append { messages: 5, both: true, size: 900 }));
    let Run { bench: Bench { disk, store, given }, world, number } = run;
    let memory = store.into_given();
    disk.repair();
    let mut store = open_three(&disk);
    assert!(store.resume(&memory, &[]).unwrap().is_empty());
    let mut run = Run { bench: Bench { disk, store, given }, world, number };
    assert!(run.step(&Step::Settle { share: 1, dead: false }));
    assert!(run.step(&Step::Append { messages: 5, both: true, size: 900 }));
    run.judge(&run.bench.disk.crash(|| false));
}
