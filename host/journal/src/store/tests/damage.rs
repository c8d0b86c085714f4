//! A disk that has lost or changed data.

use super::*;
use crate::types::DeadLetterFilter;

fn letters(bench: &Bench) -> Vec<String> {
    let found = find_letters(&bench.store.index(), &DeadLetterFilter::default()).unwrap();
    found.into_iter().map(|(_, _, letter)| letter.reason).collect()
}

/// Three chunks, each in a segment of its own, and one that was delivered.
fn three() -> Bench {
    let mut bench = Bench::new(&["a"]);
    for text in ["one", "two", "three"] {
        let long = format!("{text}{}", "-".repeat(3000));
        bench.append(&[&long], &[0]);
    }
    bench
}

fn reopen(bench: Bench) -> Bench {
    let Bench { disk, store, .. } = bench;
    drop(store);
    let store = open(&disk, &["a"]);
    let mut bench = Bench { disk, store, given: Vec::new() };
    bench.read_on();
    bench.check();
    bench
}

fn first_words(bench: &Bench) -> Vec<String> {
    bench.texts(0).into_iter().map(|t| t.trim_end_matches('-').to_owned()).collect()
}

#[test]
fn flipped_bit_damages_only_its_chunk() {
    let bench = three();
    bench.disk.damage("00000001.seg", |bytes| bytes[1000] ^= 4);
    let bench = reopen(bench);
    assert_eq!(first_words(&bench), ["one", "three"]);
    let reasons = letters(&bench);
    assert_eq!(reasons.len(), 1);
    assert!(
        reasons[0].starts_with(
            "1 messages are lost: the journal is damaged: chunk 1 in sim/00000001.seg at 0 (6041 bytes): its checksum is wrong; its remains are in sim/quarantine/chunk-1"
        ),
        "{}",
        reasons[0]
    );
    assert!(bench.disk.names().contains(&"quarantine/chunk-1".to_owned()));
    assert_eq!((bench.counters(0).dead_lettered, bench.counters(0).queued), (1, 2));
}

#[test]
fn truncated_segment_loses_its_end() {
    let bench = three();
    bench.disk.damage("00000002.seg", |bytes| bytes.truncate(100));
    let mut bench = reopen(bench);
    assert_eq!(first_words(&bench), ["one", "two"]);
    assert_eq!(letters(&bench).len(), 1);
    bench.append(&["four"], &[0]);
    let bench = reopen(bench);
    assert_eq!(first_words(&bench), ["one", "two", "four"]);
}

#[test]
fn missing_segment_loses_its_chunks() {
    let bench = three();
    bench.disk.remove("00000000.seg").unwrap();
    let bench = reopen(bench);
    assert_eq!(first_words(&bench), ["two", "three"]);
    assert!(letters(&bench)[0].contains("chunk 0 in sim/00000000.seg"), "{:?}", letters(&bench));
    let bench = reopen(bench);
    assert_eq!(letters(&bench).len(), 1, "it is said once");
}

#[test]
fn damaged_index_is_quarantined() {
    let bench = three();
    let Bench { disk, store, .. } = bench;
    drop(store);
    disk.damage("index.redb", |bytes| bytes.iter_mut().take(512).for_each(|b| *b = 0x55));
    let store = open(&disk, &["a"]);
    let aside = disk.names().into_iter().filter(|n| n.starts_with("quarantine/")).count();
    assert_eq!(aside, 4, "the index and three segments: {:?}", disk.names());
    let mut bench = Bench { disk, store, given: Vec::new() };
    bench.append(&["new"], &[0]);
    assert_eq!(bench.texts(0), ["new"]);
}

#[test]
fn segments_without_an_index_are_quarantined() {
    let Bench { disk, store, .. } = three();
    drop(store);
    disk.remove("index.redb").unwrap();
    drop(open(&disk, &["a"]));
    let aside = disk.names().into_iter().filter(|n| n.starts_with("quarantine/")).count();
    assert_eq!(aside, 3, "{:?}", disk.names());
}

#[test]
fn letter_about_damage_is_not_replayed() {
    let bench = three();
    bench.disk.damage("00000001.seg", |bytes| bytes[1000] ^= 4);
    let bench = reopen(bench);
    let found = find_letters(&bench.store.index(), &DeadLetterFilter::default()).unwrap();
    assert_eq!(found.len(), 1);
    let (work, count) = replay_work(&bench.store, found, false);
    assert_eq!((count, work.drop_letters.len(), work.batches[0].items.len()), (0, 0, 0));
}
