//! The journal on its simulated disk, without a thread.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::FutureExt;
use message::Message;
use proptest::prelude::*;
use tokio::time::timeout;

use super::*;

const A: StreamIndex = StreamIndex(0);
const B: StreamIndex = StreamIndex(1);

fn for_streams(text: &str, streams: &[StreamIndex]) -> Append {
    let message = Message { topic: "t".into(), payload: text.to_owned().into(), received_at: 7 };
    Append { message, streams: streams.to_vec() }
}

fn ended(ended: &[(Position, Outcome)]) -> Settlement {
    Settlement { ended: ended.to_vec(), ..Settlement::default() }
}

async fn read(journal: &Journal, stream: StreamIndex) -> Vec<Pending> {
    journal.reader(stream, ReadRules::default()).next(9).await
}

/// A journal that makes the bus wait for one message of four bytes.
fn small(streams: usize) -> Journal {
    Journal::simulated(Simulated { max_backlog: 4, ..Simulated::new(streams) })
}

#[tokio::test]
async fn ticket_resolves_with_the_commit() {
    let journal = Journal::simulated(Simulated::new(2));
    journal.hold_commits(true);
    let mut ticket = journal.append(vec![for_streams("a", &[A, B]), for_streams("b", &[B])]).await;
    assert!((&mut ticket).now_or_never().is_none());
    assert_eq!(journal.counters(B).queued, 0);
    journal.hold_commits(false);
    assert_eq!(ticket.now_or_never(), Some(Ok(())));
    assert_eq!((journal.counters(A).queued, journal.counters(B).queued), (1, 2));
    let first = read(&journal, A).await.remove(0).position;
    assert_eq!(read(&journal, B).await.len(), 2);
    journal.settle(A, ended(&[(first, Outcome::Delivered), (first, Outcome::Filtered)]));
    let counters = journal.counters(A);
    assert_eq!((counters.delivered, counters.filtered, counters.queued), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn full_stream_blocks_append_and_is_named() {
    let journal = small(2);
    journal.append(vec![for_streams("one", &[B])]).await.await.unwrap();
    let second = {
        let journal = journal.clone();
        tokio::spawn(async move { journal.append(vec![for_streams("c", &[B])]).await.await })
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(journal.holding().full);
    assert_eq!(journal.holding().holder, Some(B));
    let one = read(&journal, B).await.remove(0).position;
    journal.settle(B, ended(&[(one, Outcome::Delivered)]));
    assert_eq!(second.await.unwrap(), Ok(()));
    assert!(!journal.holding().full);
}

#[tokio::test(start_paused = true)]
async fn cancelled_append_stops_waiting() {
    let journal = small(1);
    journal.append(vec![for_streams("one", &[A])]).await.await.unwrap();
    let gave_up = timeout(Duration::from_secs(1), journal.append(vec![for_streams("b", &[A])])).await;
    assert!(gave_up.is_err());
    assert!(!journal.holding().full);
}

#[tokio::test]
async fn dropped_journal_does_not_acknowledge() {
    let journal = Journal::simulated(Simulated::new(1));
    journal.hold_commits(true);
    let ticket = journal.append(vec![for_streams("a", &[A])]).await;
    drop(journal);
    assert_eq!(ticket.await, Err(JournalError::Closed));
}

#[tokio::test]
async fn closed_journal_has_committed_everything_and_refuses_more() {
    let journal = Journal::simulated(Simulated::new(1));
    journal.hold_commits(true);
    let ticket = journal.append(vec![for_streams("a", &[A])]).await;
    journal.close().await;
    assert_eq!(ticket.await, Ok(()));
    assert_eq!(journal.append(vec![for_streams("b", &[A])]).await.await, Err(JournalError::Closed));
    assert_eq!(journal.pause(A, true).await, Err(JournalError::Closed));
    assert_eq!(journal.check().await, Err(JournalError::Closed));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Messages are settled in any order, twice or never.
    #[test]
    fn counters_balance(
        appends in prop::collection::vec(prop::collection::btree_set(0u32..3, 1..=3), 1..20),
        settles in prop::collection::vec((0u32..3, 0u64..20, 0usize..5), 0..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let journal = Journal::simulated(Simulated::new(3));
            for streams in &appends {
                let streams: Vec<_> = streams.iter().copied().map(StreamIndex).collect();
                journal.append(vec![for_streams("x", &streams)]).await.await.unwrap();
            }
            let mut left: Vec<BTreeSet<u32>> = appends;
            for (stream, chunk, outcome) in settles {
                let position = Position { chunk, index: 0 };
                journal.settle(StreamIndex(stream), ended(&[(position, Outcome::ALL[outcome])]));
                if let Some(row) = left.get_mut(chunk as usize) {
                    row.remove(&stream);
                }
            }
            for stream in 0..3 {
                let counters = journal.counters(StreamIndex(stream));
                assert!(counters.balance(), "{counters:?}");
                assert_eq!(counters.queued, left.iter().filter(|r| r.contains(&stream)).count() as u64);
            }
            assert_eq!(journal.check().await, Ok(Vec::new()));
        });
    }
}
