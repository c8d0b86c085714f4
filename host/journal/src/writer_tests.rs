#![allow(clippy::unwrap_used)]

use message::{Message, unix_millis};

use super::*;
use crate::chunk::Item;
use crate::counters::Outcome;
use crate::disk::Folder;
use crate::store::Batch;
use crate::store::sim::SimDisk;
use crate::types::{Backlog, OnFull, Quota, ReadRules, Sequence};

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

fn one_stream() -> Vec<StreamQuota> {
    let quota = Quota { max_backlog: u64::MAX, on_full: OnFull::Block };
    vec![StreamQuota { name: "a".to_owned(), quota, live_first: false, conflates: false }]
}

/// The disk never came back: the queued messages are not in the journal and must
/// not be acknowledged.
#[tokio::test]
async fn broken_journal_acknowledges_nothing_when_it_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(Folder::make(folder.path().to_owned()).unwrap());
    let store = Store::open(disk.clone(), options(64 << 20), &one_stream()).unwrap();
    let front = Arc::new(Front::new(&store, one_stream()));
    let writer = Writer::new(None, disk, options(64 << 20), SyncMode::Always);
    drop(store);
    let ticket = front.append(batch(1)).await;
    front.begin_close();
    writer.run(&front);
    assert!(!matches!(ticket.await, Ok(Ok(()))), "acknowledged and lost");
}

#[tokio::test]
async fn large_batch_takes_room_that_is_kept_for_rewinds() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Folder::make(folder.path().to_owned()).unwrap());
    let front = start(disk, options(16 << 20), one_stream(), SyncMode::None).unwrap();
    let mut paces = Default::default();
    for _ in 0..14 {
        front.append(batch(1 << 20)).await.await.unwrap().unwrap();
        let taken = front.read(StreamIndex(0), &ReadRules::default(), &mut paces, 10).await;
        let ended = taken.into_iter().map(|p| (p.position, Outcome::Delivered)).collect();
        front.settle(StreamIndex(0), Settlement { ended, ..Settlement::default() }, 0);
    }
    let appended = tokio::time::timeout(Duration::from_secs(20), front.append(batch(6 << 20)));
    appended.await.expect("the append waits for ever").await.unwrap().unwrap();
    tokio::task::spawn_blocking(move || front.close()).await.unwrap();
}

/// `max_size` is larger than the disk: no append asks for room before the disk is
/// full.
#[tokio::test]
async fn full_disk_frees_room_that_is_kept_for_rewinds() {
    let disk = SimDisk::new();
    disk.set_capacity(24 << 20);
    let options = Options { segment: 1 << 20, ..options(1 << 40) };
    let front = start(Arc::new(disk), options, one_stream(), SyncMode::Always).unwrap();
    let mut paces = Default::default();
    let mut refused = 0;
    for _ in 0..60 {
        // As the bus does: a refused message is sent again.
        while front.append(batch(1 << 20)).await.await.unwrap().is_err() {
            refused += 1;
            assert!(refused < 20, "settled segments stay on the disk");
        }
        let taken = front.read(StreamIndex(0), &ReadRules::default(), &mut paces, 10).await;
        let ended = taken.into_iter().map(|p| (p.position, Outcome::Delivered)).collect();
        front.settle(StreamIndex(0), Settlement { ended, ..Settlement::default() }, 0);
    }
    assert!(refused > 0, "the disk was never full");
    tokio::task::spawn_blocking(move || front.close()).await.unwrap();
}

/// Later messages of the bus arrive before it sees the failure, and it sends the
/// failed ones again.
#[tokio::test]
async fn append_behind_a_failed_one_fails() {
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
    assert!(!append(&sequence).await, "it would end up before the one that failed");
    assert!(append(&other).await);
    assert!(append(&Sequence::default()).await, "the bus has connected again");
    tokio::task::spawn_blocking(move || front.close()).await.unwrap();
}

#[tokio::test]
async fn stream_alarms_at_50_and_80_percent_of_its_quota() {
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
        front.settle(StreamIndex(0), Settlement { ended, ..Settlement::default() }, 0);
    }
    // The settlements were published before this is answered.
    front.run(|_| Ok(())).await.unwrap();
    assert_eq!(front.backlog(StreamIndex(0)), Backlog { bytes: 0, max_bytes: 10 << 20, alarm: 0 });
    tokio::task::spawn_blocking(move || front.close()).await.unwrap();
}

#[tokio::test]
async fn sync_none_syncs_once_per_second() {
    let disk = SimDisk::new();
    let front = start(Arc::new(disk.clone()), options(64 << 20), one_stream(), SyncMode::None).unwrap();
    front.append(batch(1)).await.await.unwrap().unwrap();
    // The power cut loses all unsynced data.
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
