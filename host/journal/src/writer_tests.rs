#![allow(clippy::unwrap_used)]

use message::{Message, unix_millis};

use super::*;
use crate::chunk::Item;
use crate::disk::Folder;
use crate::store::Batch;
use crate::store::sim::SimDisk;
use crate::{Backlog, OnFull, Outcome, Quota, ReadRules, Sequence};

fn batch(bytes: usize) -> Batch {
    let message = Message { topic: "t".into(), payload: vec![7; bytes].into(), received_at: unix_millis() };
    let item = Item { message, as_is: None, reread: false };
    Batch { items: vec![(item, vec![StreamIndex(0)])], ..Batch::default() }
}

fn options(max_size: u64) -> Options {
    Options {
        max_size,
        keep: Duration::from_secs(3600),
        max_dead_letters: 1 << 20,
        segment: max_size / 16,
        loaded_messages: 8192,
        loaded_bytes: 4 << 20,
    }
}

fn one_stream() -> Vec<StreamOptions> {
    let quota = Quota { max_backlog: u64::MAX, on_full: OnFull::Block };
    vec![StreamOptions { name: "a".to_owned(), quota, live_first: false, conflates: false }]
}

/// A disk that never came back: what was left for the writer is not in the
/// journal, and must not be acknowledged.
#[tokio::test]
async fn a_journal_that_is_closed_while_it_is_broken_acknowledges_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(Folder::make(folder.path().to_owned()).unwrap());
    let store = Store::open(disk.clone(), options(64 << 20), &one_stream()).unwrap();
    let front = Arc::new(Front::new(&store, one_stream()));
    let writer = Writer {
        front: front.clone(),
        store: None,
        disk,
        options: options(64 << 20),
        sync: SyncMode::Always,
        last_commit: None,
        last_tick: Instant::now(),
        last_look: Instant::now(),
        unsynced: false,
        reads_on: false,
    };
    writer.publish(&store);
    drop(store);
    let ticket = front.append(batch(1)).await;
    front.lock().closing = true;
    writer.run();
    assert!(!matches!(ticket.await, Ok(Ok(()))), "acknowledged and lost");
}

#[tokio::test]
async fn a_large_batch_gets_the_room_that_is_only_kept_for_rewinds() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Folder::make(folder.path().to_owned()).unwrap());
    let front = start(disk, options(16 << 20), one_stream(), SyncMode::None).unwrap();
    let mut paces = Default::default();
    for _ in 0..14 {
        front.append(batch(1 << 20)).await.await.unwrap().unwrap();
        let taken = front.read(StreamIndex(0), &ReadRules::default(), &mut paces, 10).await;
        let ended = taken.into_iter().map(|p| (p.position, Outcome::Delivered)).collect();
        front.settle(StreamIndex(0), Settlement { ended, ..Settlement::default() });
    }
    let appended = tokio::time::timeout(Duration::from_secs(20), front.append(batch(6 << 20)));
    appended.await.expect("it waits for room that nobody makes").await.unwrap().unwrap();
    tokio::task::spawn_blocking(move || front.close()).await.unwrap();
}

/// `max_size` says more than the disk has: nobody asks for room before it is
/// gone.
#[tokio::test]
async fn a_full_disk_gets_the_room_that_is_only_kept_for_rewinds() {
    let disk = SimDisk::new();
    disk.set_capacity(24 << 20);
    let options = Options { segment: 1 << 20, ..options(1 << 40) };
    let front = start(Arc::new(disk), options, one_stream(), SyncMode::Always).unwrap();
    let mut paces = Default::default();
    let mut refused = 0;
    for _ in 0..60 {
        // As the bus does: what was refused is sent again.
        while front.append(batch(1 << 20)).await.await.unwrap().is_err() {
            refused += 1;
            assert!(refused < 20, "what is settled stays on the disk");
        }
        let taken = front.read(StreamIndex(0), &ReadRules::default(), &mut paces, 10).await;
        let ended = taken.into_iter().map(|p| (p.position, Outcome::Delivered)).collect();
        front.settle(StreamIndex(0), Settlement { ended, ..Settlement::default() });
    }
    assert!(refused > 0, "the disk was never full");
    tokio::task::spawn_blocking(move || front.close()).await.unwrap();
}

/// What the bus has sent since is there before the bus has been told, and what
/// failed comes again.
#[tokio::test]
async fn what_comes_behind_a_failed_append_is_not_taken() {
    let disk = SimDisk::new();
    let front = start(Arc::new(disk.clone()), options(64 << 20), one_stream(), SyncMode::Always).unwrap();
    let (sequence, other) = (Sequence::default(), Sequence::default());
    let append = async |sequence: &Sequence| {
        let batch = Batch { sequence: sequence.clone(), ..batch(1) };
        front.append(batch).await.await.unwrap().is_ok()
    };
    assert!(append(&sequence).await);
    disk.set_full(true);
    assert!(!append(&sequence).await);
    disk.repair();
    assert!(!append(&sequence).await, "it would lie before the one that failed");
    assert!(append(&other).await);
    assert!(append(&Sequence::default()).await, "the bus has connected again");
    tokio::task::spawn_blocking(move || front.close()).await.unwrap();
}

#[tokio::test]
async fn a_stream_alarms_at_half_and_at_four_fifths_of_its_quota_until_it_has_less() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Folder::make(folder.path().to_owned()).unwrap());
    let mut streams = one_stream();
    streams[0].quota.max_backlog = 10 << 20;
    let front = start(disk, options(1 << 30), streams, SyncMode::None).unwrap();
    let mut alarms = Vec::new();
    for _ in 0..9 {
        front.append(batch(1 << 20)).await.await.unwrap().unwrap();
        alarms.push(front.backlog(StreamIndex(0)).alarm);
    }
    assert_eq!(alarms, [0, 0, 0, 0, 50, 50, 50, 80, 80]);
    let mut paces = Default::default();
    let mut left = 9;
    while left > 0 {
        let taken = front.read(StreamIndex(0), &ReadRules::default(), &mut paces, 1).await;
        left -= taken.len();
        let ended = taken.into_iter().map(|p| (p.position, Outcome::Delivered)).collect();
        front.settle(StreamIndex(0), Settlement { ended, ..Settlement::default() });
    }
    // The second answer comes after what the first one came with was shown.
    for _ in 0..2 {
        front.run(|_| Ok(((), Vec::new()))).await.unwrap();
    }
    assert_eq!(front.backlog(StreamIndex(0)), Backlog { bytes: 0, max_bytes: 10 << 20, alarm: 0 });
    tokio::task::spawn_blocking(move || front.close()).await.unwrap();
}

#[tokio::test]
async fn without_a_sync_for_each_commit_there_is_one_a_second() {
    let disk = SimDisk::new();
    let front = start(Arc::new(disk.clone()), options(64 << 20), one_stream(), SyncMode::None).unwrap();
    front.append(batch(1)).await.await.unwrap().unwrap();
    // Whatever a cut of the power may lose, it loses.
    let queued = || {
        let after = Store::open(Arc::new(disk.crash(|| false)), options(64 << 20), &one_stream()).unwrap();
        after.counters(StreamIndex(0)).0.queued
    };
    let deadline = Instant::now() + TICK * 20;
    while queued() < 1 {
        assert!(Instant::now() < deadline, "it is never durable");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::task::spawn_blocking(move || front.close()).await.unwrap();
}
