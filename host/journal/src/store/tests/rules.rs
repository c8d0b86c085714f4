//! The promises of the store while the disk works.

use super::*;
use crate::index::Writes;
use crate::types::{DeadLetterFilter, Rewind, StoredDelivery};

#[test]
fn message_is_handed_out_once_per_run() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.append(&["1", "2", "3"], &[0, 1]);
    bench.append(&["4"], &[1]);
    assert_eq!(bench.texts(0), ["1", "2", "3"]);
    assert_eq!(bench.texts(1), ["1", "2", "3", "4"]);
    let second = bench.given[1].1.position;
    bench.settle(0, ended(second, Outcome::Delivered));
    bench.settle(0, ended(second, Outcome::Delivered));
    assert_eq!((bench.counters(0).delivered, bench.counters(0).queued), (1, 2));
    bench.restart(&["a", "b"]);
    assert_eq!(bench.texts(0), ["1", "3"]);
    assert_eq!(bench.texts(1), ["1", "2", "3", "4"]);
    bench.settle_all(0, Outcome::Delivered);
    bench.settle_all(1, Outcome::Filtered);
    bench.restart(&["a", "b"]);
    assert!(bench.given.is_empty());
    let counters = bench.counters(1);
    assert_eq!((counters.read, counters.filtered, counters.queued, counters.oldest), (4, 4, 0, None));
}

#[test]
fn stream_behind_reads_from_the_disk_in_order() {
    let mut bench = Bench::new(&["a"]);
    let texts: Vec<String> = (0..20_000).map(|n| n.to_string()).collect();
    for part in texts.chunks(50) {
        let part: Vec<&str> = part.iter().map(String::as_str).collect();
        let work = Work { batches: vec![for_streams(&part, &[0])], ..Work::default() };
        let ready = bench.store.commit(&work, true).unwrap();
        bench.take(ready);
    }
    assert!(bench.given.len() < 10_000, "memory follows what is handed out");
    assert!(bench.counters(0).oldest.is_some());
    let mut seen = Vec::new();
    while !bench.given.is_empty() {
        seen.extend(bench.texts(0));
        let ended = bench.given.drain(..).map(|(_, p)| (p.position, Outcome::Delivered)).collect();
        bench.settle(0, Settlement { ended, ..Settlement::default() });
    }
    assert_eq!(seen, texts);
    assert_eq!((bench.counters(0).queued, bench.counters(0).delivered), (0, 20_000));
}

#[test]
fn settled_segments_are_removed_after_keep_or_for_space() {
    let mut bench = Bench::new(&["a"]);
    let large = "x".repeat(3000);
    for _ in 0..5 {
        bench.append(&[&large], &[0]);
    }
    let segments = |bench: &Bench| bench.disk.names().iter().filter(|n| n.ends_with(".seg")).count();
    assert_eq!(segments(&bench), 5);
    bench.settle_all(0, Outcome::Delivered);
    bench.store.sweep().unwrap();
    assert_eq!(segments(&bench), 5, "kept for a rewind");
    bench.store.make_room(u64::MAX).unwrap();
    assert_eq!(segments(&bench), 1, "evicted");
    // The newest message is that old in a moment.
    bench.store.options.keep = Duration::ZERO;
    let now = message::unix_millis();
    while message::unix_millis() <= now {
        std::hint::spin_loop();
    }
    bench.store.sweep().unwrap();
    assert_eq!(segments(&bench), 0);
    bench.check();
}

#[test]
fn mostly_settled_segment_is_rewritten_for_space() {
    let mut bench = Bench::new(&["a"]);
    let large = "x".repeat(1200);
    for _ in 0..6 {
        bench.append(&[&large], &[0]);
    }
    bench.append(&["last"], &[0]);
    let kept: Vec<_> = [0, 3].map(|i| bench.given[i].1.clone()).to_vec();
    let rest: Vec<_> = bench.given.iter().map(|(_, p)| p.position).collect();
    for position in rest.into_iter().filter(|p| kept.iter().all(|k| k.position != *p)) {
        bench.settle(0, ended(position, Outcome::Delivered));
    }
    bench.store.make_room(u64::MAX).unwrap();
    bench.check();
    bench.restart(&["a"]);
    let again: Vec<_> = bench.given.iter().map(|(_, p)| (p.position, p.message.clone())).collect();
    assert_eq!(again, kept.into_iter().map(|p| (p.position, p.message)).collect::<Vec<_>>());
}

#[test]
fn full_quota_expires_the_oldest_on_the_disk() {
    let mut bench = Bench::new(&["a", "b"]);
    let quota = Quota { max_backlog: 4000, on_full: OnFull::ExpireOldest };
    bench.store.streams.get_mut(&StreamIndex(0)).unwrap().options.as_mut().unwrap().quota = quota;
    let texts: Vec<String> = (0..40).map(|n| format!("{n:0>200}")).collect();
    for text in &texts {
        let work = Work { batches: vec![for_streams(&[text], &[0, 1])], ..Work::default() };
        let ready = bench.store.commit(&work, true).unwrap();
        bench.take(ready);
        bench.check();
    }
    let (counters, backlog) = bench.store.counters(StreamIndex(0));
    assert!(backlog <= 4000, "{backlog}");
    assert!(counters.expired > 10, "{counters:?}");
    assert_eq!(bench.counters(1).expired, 0, "the other stream keeps all");
    let mut seen = Vec::new();
    while bench.given.iter().any(|(s, _)| *s == 0) {
        seen.extend(bench.texts(0));
        bench.settle_all(0, Outcome::Delivered);
    }
    assert!(seen.ends_with(&texts[35..]), "the newest are there");
    assert_eq!(seen.len() as u64, bench.counters(0).delivered);
}

#[test]
fn rewind_repeats_settled_messages_only() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.append(&["1", "2", "3"], &[0, 1]);
    bench.append(&["4", "5"], &[0]);
    let open = bench.given[0].1.position;
    for (stream, pending) in std::mem::take(&mut bench.given) {
        if stream == 0 && pending.position != open {
            bench.settle(0, ended(pending.position, Outcome::Delivered));
        }
    }
    let rewind = |dry_run| Rewind {
        stream: StreamIndex(0),
        from: 0,
        until: u64::MAX,
        rate: None,
        keep_state: false,
        dry_run,
    };
    let wanted = |m: &Message| m.topic.as_ref() != "t/3";
    let dry = bench.store.rewind_slice(&rewind(true), 0, &wanted).unwrap();
    assert_eq!((dry.found.messages, dry.next), (3, None));
    assert_eq!(bench.counters(0).queued, 1, "only counted");
    let state = vec![("k".to_owned(), Some("v".into()))];
    bench.settle(0, Settlement { state, ..Settlement::default() });
    bench.store.begin_rewind(&rewind(false)).unwrap();
    assert_eq!(bench.store.state(StreamIndex(0)).unwrap(), []);
    let slice = bench.store.rewind_slice(&rewind(false), 0, &wanted).unwrap();
    bench.take(slice.ready);
    let ready = bench.store.read_on().unwrap();
    bench.take(ready);
    bench.check();
    assert_eq!(bench.texts(0), ["2", "4", "5"]);
    let counters = bench.counters(0);
    assert_eq!((counters.read, counters.reread, counters.queued), (8, 3, 4));
    let again = bench.store.rewind_slice(&rewind(false), 0, &wanted).unwrap();
    assert_eq!(again.found.messages, 0, "they are queued already");
    bench.restart(&["a", "b"]);
    bench.settle_all(0, Outcome::Delivered);
    assert_eq!((bench.counters(0).queued, bench.counters(0).delivered), (0, 8));
}

#[test]
fn rewind_finds_messages_in_a_chunk_of_hours() {
    let mut bench = Bench::new(&["a"]);
    const HOUR: u64 = 3_600_000;
    let start = message::unix_millis() - 5 * HOUR;
    // In a full journal the messages of hours share a chunk.
    let mut batch = for_streams(&["early", "late"], &[0]);
    batch.items[0].0.message.received_at = start;
    batch.items[1].0.message.received_at = start + 3 * HOUR;
    bench.commit(Work { batches: vec![batch], ..Work::default() });
    bench.settle_all(0, Outcome::Delivered);
    let mut found = |from, until| {
        let rewind =
            Rewind { stream: StreamIndex(0), from, until, rate: None, keep_state: true, dry_run: true };
        bench.store.rewind_slice(&rewind, 0, &|_| true).unwrap().found
    };
    let late = found(start + 2 * HOUR, u64::MAX);
    assert_eq!((late.messages, late.oldest), (1, Some(start + 3 * HOUR)));
    assert_eq!(found(0, start + 1).messages, 1);
    assert_eq!(found(start + 1, start + HOUR).messages, 0);
    assert_eq!(found(start + 4 * HOUR, u64::MAX).messages, 0);
}

#[test]
fn dead_letters_are_kept_found_replayed_and_dropped() {
    let mut bench = Bench::new(&["a"]);
    bench.append(&["1", "2"], &[0]);
    let positions: Vec<_> = bench.given.drain(..).map(|(_, p)| p.position).collect();
    let delivery = StoredDelivery {
        target: Some("x".to_owned()),
        headers: vec![("h".to_owned(), "v".to_owned())],
        body: "body".into(),
    };
    let first = DeadLetter { delivery: Some(delivery.clone()), ..letter(positions[0], "refused") };
    let settlement = Settlement {
        ended: vec![(positions[0], Outcome::DeadLettered)],
        dead_letters: vec![first.clone()],
        ..Settlement::default()
    };
    bench.settle(0, settlement);
    bench.settle(0, ended(positions[1], Outcome::DeadLettered));
    bench.restart(&["a"]);
    let find = |bench: &Bench, reason: &str| {
        let filter = DeadLetterFilter { reason: Some(reason.to_owned()), ..DeadLetterFilter::default() };
        find_letters(&bench.store.index(), &filter).unwrap()
    };
    let found = find(&bench, "refused");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].2, first);
    let bytes = bench.store.letter_bytes();
    let (work, count) = replay_work(&bench.store, found, true);
    assert_eq!(count, 1);
    bench.commit(work);
    assert!(bench.store.letter_bytes() < bytes);
    assert_eq!(bench.given[0].1.as_is.as_deref(), Some(&delivery));
    let counters = bench.counters(0);
    assert_eq!((counters.read, counters.reread, counters.dead_lettered, counters.queued), (3, 1, 2, 1));
    let drop_letters = find(&bench, "400").into_iter().map(|(id, _, _)| id).collect();
    bench.commit(Work { drop_letters, ..Work::default() });
    assert_eq!(bench.store.letter_bytes(), 0);
    bench.restart(&["a"]);
    assert_eq!(bench.given[0].1.as_is.as_deref(), Some(&delivery), "it is stored as it is");
}

#[test]
fn stream_without_a_file_is_detached_until_it_is_forgotten() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.append(&["1"], &[0, 1]);
    let position = bench.given[0].1.position;
    bench.settle(0, ended(position, Outcome::DeadLettered));
    bench.restart(&["b"]);
    assert_eq!(bench.store.detached().map(|(name, _, _)| name.to_owned()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(bench.texts(1), ["1"]);
    bench.restart(&["a", "b"]);
    assert_eq!(bench.store.detached().count(), 0, "its file is back");
    assert_eq!(bench.counters(0).dead_lettered, 1);
    bench.restart(&["b"]);
    bench.store.forget(StreamIndex(0)).unwrap();
    bench.check();
    assert_eq!(bench.store.letter_bytes(), 0);
    bench.restart(&["a", "b"]);
    assert_eq!(bench.counters(2), Counters::default(), "a new stream of the same name starts anew");
}

#[test]
fn state_is_committed_with_the_settlement() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.append(&["1"], &[0]);
    let set = |key: &str, value: Option<&'static str>| (key.to_owned(), value.map(Into::into));
    let position = bench.given[0].1.position;
    let state = vec![set("k", Some("1")), set("gone", Some("x")), set("gone", None), set("k", Some("2"))];
    bench.settle(0, Settlement { state, ..ended(position, Outcome::Delivered) });
    bench.settle(1, Settlement { state: vec![set("k", Some("other"))], ..Settlement::default() });
    bench.restart(&["a", "b"]);
    assert_eq!(bench.store.state(StreamIndex(0)).unwrap(), [("k".to_owned(), "2".into())]);
    assert_eq!(bench.store.state(StreamIndex(1)).unwrap(), [("k".to_owned(), "other".into())]);
}

#[test]
fn paused_stream_stays_paused_after_a_restart() {
    let mut bench = Bench::new(&["a"]);
    bench.store.pause(StreamIndex(0), true).unwrap();
    bench.restart(&["a"]);
    assert!(bench.store.record(StreamIndex(0)).unwrap().paused);
}

#[test]
fn newer_format_is_refused() {
    let bench = Bench::new(&["a"]);
    let index = bench.store.index();
    index.write(redb::Durability::Immediate, |t| t.set_number("format", 2)).unwrap();
    drop((index, bench.store));
    let error = Store::open(Arc::new(bench.disk), options(), &[]).err().unwrap();
    assert_eq!(
        error.to_string(),
        "sim/index.redb has format 2, which is newer than this version knows (1): use the version that wrote it"
    );
}

#[test]
fn check_finds_wrong_counters_and_records() {
    let mut bench = Bench::new(&["a"]);
    bench.append(&["1", "2"], &[0]);
    let index = bench.store.index();
    let wrong = |change: &dyn Fn(&mut Writes<'_>)| {
        let change = |tables: &mut Writes<'_>| {
            change(tables);
            Ok(())
        };
        index.write(redb::Durability::Immediate, change).unwrap();
        check(&index).unwrap().into_iter().map(|d| d.what).collect::<Vec<_>>()
    };
    let counts = |read| {
        let mut counts = Counts::default();
        counts.begin(read, false);
        counts
    };
    assert_eq!(
        wrong(&|t| t.set_counts(StreamIndex(0), &counts(3)).unwrap()),
        ["stream a: 3 messages are queued by its counters, 2 have a pending bit"]
    );
    let one = |t: &mut Writes<'_>| {
        t.set_counts(StreamIndex(0), &counts(1)).unwrap();
        t.set_row(Queue::Live, StreamIndex(0), 0, &[0, 0, 0, 0, 1]).unwrap();
    };
    assert_eq!(wrong(&one), Vec::<String>::new());
    let none = |t: &mut Writes<'_>| {
        t.set_counts(StreamIndex(0), &counts(0)).unwrap();
        t.forget_row(Queue::Live, StreamIndex(0), 0).unwrap();
    };
    assert_eq!(wrong(&none), ["chunk 0 counts 1 rows, but 0 rows name it"]);
}

#[test]
fn queue_is_counted_from_pending_bits_after_a_restart() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.append(&["1", "2", "3"], &[0, 1]);
    bench.settle(0, ended(bench.given[0].1.position, Outcome::Delivered));
    let lost = |tables: &mut Writes<'_>| {
        let mut counts = Counts::default();
        counts.begin(3, false);
        counts.count(Outcome::Delivered, 2);
        tables.set_counts(StreamIndex(0), &counts)
    };
    bench.store.index().write(redb::Durability::Immediate, lost).unwrap();
    drop(bench.store);
    let store = open(&bench.disk, &["a", "b"]);
    let counters = |stream| store.counters(StreamIndex(stream)).0;
    assert_eq!((counters(0).queued, counters(0).balance()), (2, false), "{:?}", counters(0));
    assert_eq!((counters(1).queued, counters(1).balance()), (3, true));
}

#[test]
fn stream_counts_only_its_own_bytes() {
    let mut bench = Bench::new(&["a", "b"]);
    let large = "x".repeat(5000);
    let mut both = for_streams(&["1", "2"], &[0]);
    both.items.extend(for_streams(&[&large], &[1]).items);
    bench.commit(Work { batches: vec![both], ..Work::default() });
    let backlog = |bench: &Bench, stream| bench.store.counters(StreamIndex(stream)).1;
    assert_eq!(backlog(&bench, 0), 2 * "t/1".len() as u64 + 2);
    assert_eq!(backlog(&bench, 1), 5002 + 5000);
    bench.settle_all(0, Outcome::Delivered);
    bench.settle_all(1, Outcome::Delivered);
    assert_eq!((backlog(&bench, 0), backlog(&bench, 1)), (0, 0));
}

#[test]
fn returning_stream_continues_where_it_was() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.append(&["1", "2", "3"], &[0, 1]);
    let first = bench.given[0].1.position;
    bench.settle(0, ended(first, Outcome::Delivered));
    bench.store.set_streams(&streams(&["b", "c"])).unwrap();
    bench.given.retain(|(stream, _)| *stream != 0);
    assert_eq!(bench.store.detached().map(|(name, _, _)| name).collect::<Vec<_>>(), ["a"]);
    assert!(bench.store.running().eq([("b", StreamIndex(1)), ("c", StreamIndex(2))]));
    // Messages that are still routed to it wait with the rest.
    bench.append(&["4"], &[0, 1, 2]);
    assert_eq!((bench.texts(0).len(), bench.texts(2)), (0, vec!["4".to_owned()]));
    // A late settlement of its lanes still counts.
    bench.settle(0, ended(Position { index: 1, ..first }, Outcome::Filtered));
    bench.store.set_streams(&streams(&["a", "b", "c"])).unwrap();
    assert_eq!(bench.store.detached().count(), 0);
    bench.read_on();
    assert_eq!(bench.texts(0), ["3", "4"]);
    assert_eq!(bench.texts(1), ["1", "2", "3", "4"], "no other stream gets a message again");
    let counters = bench.counters(0);
    assert_eq!((counters.read, counters.delivered, counters.filtered, counters.queued), (4, 1, 1, 2));
    bench.restart(&["a", "b"]);
    assert_eq!(bench.texts(0), ["3", "4"]);
    assert_eq!(bench.store.detached().map(|(name, _, _)| name).collect::<Vec<_>>(), ["c"]);
}

#[test]
fn stream_that_returns_too_late_is_new() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.append(&["1"], &[0, 1]);
    bench.store.set_streams(&streams(&["b"])).unwrap();
    let day = 24 * 60 * 60 * 1000;
    bench.store.forget_detached(message::unix_millis() + day / 2).unwrap();
    assert_eq!(bench.store.detached().count(), 1);
    bench.store.forget_detached(message::unix_millis() + day).unwrap();
    assert_eq!(bench.store.detached().count(), 0);
    bench.store.set_streams(&streams(&["a", "b"])).unwrap();
    assert!(bench.store.running().eq([("b", StreamIndex(1)), ("a", StreamIndex(2))]));
    bench.check();
}

#[test]
fn next_reader_gets_unsettled_messages_in_order() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.append(&["1", "2", "3"], &[0, 1]);
    let second = bench.given[1].1.position;
    bench.settle(0, ended(second, Outcome::Delivered));
    bench.store.take_back(StreamIndex(0));
    bench.given.retain(|(stream, _)| *stream != 0);
    bench.append(&["4"], &[0]);
    assert_eq!(bench.texts(0), ["1", "3", "4"]);
    assert_eq!(bench.texts(1), ["1", "2", "3"]);
    bench.settle_all(0, Outcome::Delivered);
    assert_eq!((bench.counters(0).delivered, bench.counters(0).queued), (4, 0));
}

#[test]
fn quota_changes_while_the_store_is_open() {
    let mut bench = Bench::new(&["a"]);
    bench.append(&[&"x".repeat(500)], &[0]);
    let mut small = streams(&["a"]);
    small[0].quota.max_backlog = 2000;
    bench.store.set_streams(&small).unwrap();
    assert_eq!(bench.store.quota(StreamIndex(0)).map(|q| q.max_backlog), Some(2000));
    for _ in 0..10 {
        bench.append(&[&"x".repeat(500)], &[0]);
    }
    assert!(bench.counters(0).expired > 0, "{:?}", bench.counters(0));
}
