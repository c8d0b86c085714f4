//! Handing out while there is a large backlog, and after a failure.

use super::*;
use crate::types::Rewind;

/// A store whose streams have at most eight messages in memory.
fn small(names: &[&str], change: impl Fn(&mut StreamQuota)) -> Bench {
    let disk = SimDisk::new();
    let options = Options { loaded_messages: 8, ..options() };
    let mut streams = streams(names);
    streams.iter_mut().for_each(change);
    let store = Store::open(Arc::new(disk.clone()), options, &streams).unwrap();
    Bench { disk, store, given: Vec::new() }
}

fn numbers(count: u32) -> Vec<String> {
    (0..count).map(|n| format!("{n:0>100}")).collect()
}

fn append_each(bench: &mut Bench, texts: &[String]) {
    texts.iter().for_each(|text| bench.append(&[text], &[0]));
}

fn settle_everything(bench: &mut Bench) {
    while !bench.given.is_empty() {
        bench.settle_all(0, Outcome::Delivered);
    }
}

fn rewind_all(bench: &mut Bench) {
    let rewind = Rewind {
        stream: StreamIndex(0),
        from: 0,
        until: u64::MAX,
        rate: None,
        keep_state: true,
        dry_run: false,
    };
    bench.store.begin_rewind(&rewind).unwrap();
    let mut next = Some(0);
    while let Some(from) = next {
        let slice = bench.store.rewind_slice(&rewind, from, &|_| true).unwrap();
        bench.take(slice.ready);
        next = slice.next;
    }
    bench.read_on();
}

/// A failure as the writer handles it: closes the files and opens them again.
fn fail_and_resume(bench: Bench, names: &[&str]) -> Bench {
    let Bench { disk, store, given } = bench;
    disk.fail_at(0);
    let memory = store.into_given();
    disk.repair();
    let mut store = open(&disk, names);
    let ready = store.resume(&memory, &[]).unwrap();
    let mut bench = Bench { disk, store, given };
    bench.take(ready);
    bench.read_on();
    bench
}

#[test]
fn live_messages_do_not_wait_for_a_slow_rewind() {
    let mut bench = small(&["a"], |_| ());
    append_each(&mut bench, &numbers(40));
    settle_everything(&mut bench);
    rewind_all(&mut bench);
    assert!(!bench.given.is_empty() && bench.given.len() < 8, "{}", bench.given.len());
    bench.given.clear();
    for n in 0..5 {
        let text = format!("live {n}");
        bench.append(&[&text], &[0]);
        assert_eq!(bench.texts(0), [text], "the unread rewind must not block it");
        bench.given.clear();
    }
}

#[test]
fn backlog_leaves_room_where_live_goes_first() {
    let mut bench = small(&["a"], |o| o.live_first = true);
    append_each(&mut bench, &numbers(40));
    bench.restart_small();
    assert!(!bench.given.is_empty());
    bench.given.clear();
    bench.append(&["live"], &[0]);
    assert_eq!(bench.texts(0), ["live"], "the unread backlog must not block it");
}

#[test]
fn rewind_larger_than_the_quota_expires_no_unsent_message() {
    let quota = Quota { max_backlog: 3000, on_full: OnFull::ExpireOldest };
    let mut bench = small(&["a"], |o| o.quota = quota);
    for text in numbers(40) {
        bench.append(&[&text], &[0]);
        settle_everything(&mut bench);
    }
    // They are not settled: most of them wait on the disk.
    append_each(&mut bench, &(0..20).map(|n| format!("new {n}")).collect::<Vec<_>>());
    rewind_all(&mut bench);
    bench.append(&["last"], &[0]);
    let mut seen = Vec::new();
    while !bench.given.is_empty() {
        seen.extend(bench.texts(0));
        bench.settle_all(0, Outcome::Delivered);
    }
    for n in 0..20 {
        assert!(seen.contains(&format!("new {n}")), "new {n} has expired: {seen:?}");
    }
    assert!(bench.counters(0).expired > 0, "the rewind gave way");
}

#[test]
fn conflating_stream_is_handed_more_but_not_all() {
    let mut bench = small(&["a"], |o| o.conflates = true);
    append_each(&mut bench, &numbers(200));
    assert_eq!(bench.given.len(), 8 * 16);
    settle_everything(&mut bench);
    assert_eq!(bench.counters(0).delivered, 200);
}

#[test]
fn many_streams_share_the_memory_limit() {
    let names: Vec<String> = (0..200).map(|n| format!("stream {n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let rooms = |conflating: &[&str]| {
        let bench = small(&names, |o| o.conflates = conflating.contains(&o.name.as_str()));
        assert_eq!(bench.store.shares, 200 + 15 * conflating.len() as u64);
        (bench.store.room_of_one(1), bench.store.room_of_one(SHARE_OF_CONFLATING))
    };
    let all = LOADED_BYTES_OF_ALL;
    assert_eq!(rooms(&[]).0, all / 200);
    let (one, conflating) = rooms(&names[..20]);
    assert_eq!((one, conflating), (all / 500, all * 16 / 500));
    assert!(180 * one + 20 * conflating <= all);
}

#[test]
fn lost_settlement_is_handed_out_again_under_new_numbers() {
    let mut bench = Bench::new(&["a"]);
    bench.append(&["1", "2"], &[0]);
    let ended = std::mem::take(&mut bench.given).into_iter().map(|(_, p)| (p.position, Outcome::Delivered));
    let settlement = Settlement { ended: ended.collect(), ..Settlement::default() };
    let work = Work {
        batches: vec![for_streams(&["lost"], &[0])],
        settlements: vec![(StreamIndex(0), settlement)],
        ..Work::default()
    };
    let ready = bench.store.commit(&work, false).unwrap();
    bench.take(ready);
    let lost = bench.given.remove(0).1.position;
    let mut bench = fail_and_resume(bench, &["a"]);
    assert_eq!(bench.texts(0), ["1", "2"], "their settlement was lost");
    bench.append(&["3"], &[0]);
    assert_eq!(bench.texts(0), ["1", "2", "3"]);
    bench.settle(0, super::ended(lost, Outcome::Delivered));
    assert_eq!(bench.counters(0).queued, 3, "a message that is gone settles no other");
}

#[test]
fn messages_of_a_failed_expiry_are_handed_out() {
    let mut bench = small(&["a"], |_| ());
    append_each(&mut bench, &numbers(20));
    let quota = Quota { max_backlog: 1200, on_full: OnFull::ExpireOldest };
    bench.store.streams.get_mut(&StreamIndex(0)).unwrap().options.as_mut().unwrap().quota = quota;
    let work = Work { batches: vec![for_streams(&["refused"], &[0])], ..Work::default() };
    // The segment's write, then the index: the expired messages are known by
    // then.
    let mut store_fails = false;
    for at in 1..40 {
        bench.disk.fail_at(at);
        if bench.store.commit(&work, true).is_err() {
            store_fails = true;
            break;
        }
    }
    assert!(store_fails);
    let mut bench = fail_and_resume(bench, &["a"]);
    let mut seen = Vec::new();
    while !bench.given.is_empty() {
        seen.extend(bench.texts(0));
        bench.settle_all(0, Outcome::Delivered);
    }
    assert_eq!(bench.counters(0).queued, 0, "all that is queued was given");
    assert_eq!(seen, numbers(20));
}

impl Bench {
    fn restart_small(&mut self) {
        let mut streams = streams(&["a"]);
        streams.iter_mut().for_each(|o| o.live_first = true);
        self.disk = self.disk.crash(|| false);
        let options = Options { loaded_messages: 8, ..options() };
        self.store = Store::open(Arc::new(self.disk.clone()), options, &streams).unwrap();
        self.given.clear();
        self.read_on();
    }
}
