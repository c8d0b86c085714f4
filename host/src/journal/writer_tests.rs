#![allow(clippy::unwrap_used)]

use super::*;
use crate::bus::{Message, unix_millis};
use crate::journal::chunk::Item;
use crate::journal::disk::Folder;
use crate::journal::store::sim::SimDisk;
use crate::journal::{Outcome, Settlement};

fn batch(bytes: usize) -> Batch {
    let message = Message { topic: "t".into(), payload: vec![7; bytes].into(), received_at: unix_millis() };
    let item = Item { message, as_is: None, reread: false };
    Batch { items: vec![(item, vec![StreamIndex(0)])], reread: false }
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
