#![allow(clippy::unwrap_used)]

use std::time::Duration;

use futures_util::FutureExt;
use proptest::prelude::*;
use tokio::time::timeout;

use super::*;

fn message(text: &str) -> Message {
    Message { topic: "t".into(), payload: text.to_owned().into(), received_at: 7 }
}

fn for_streams(text: &str, streams: &[u32]) -> Append {
    Append { message: message(text), streams: streams.iter().map(|s| StreamIndex(*s)).collect() }
}

fn ended(ended: &[(Position, Outcome)]) -> Settlement {
    Settlement { ended: ended.to_vec(), ..Settlement::default() }
}

fn resolved(ticket: &mut Ticket) -> bool {
    ticket.now_or_never().is_some_and(|r| r.is_ok())
}

#[tokio::test]
async fn a_ticket_resolves_when_every_stream_has_settled() {
    let journal = Journal::in_memory(2, 10, 1000);
    let mut ticket = journal.append(vec![for_streams("a", &[0, 1]), for_streams("b", &[1])]).await;
    let a = journal.reader(StreamIndex(0), ReadRules::default()).next(9).await.remove(0).position;
    let both = journal.reader(StreamIndex(1), ReadRules::default()).next(9).await;
    assert_eq!(both.len(), 2);
    journal.settle(StreamIndex(0), ended(&[(a, Outcome::Delivered)]));
    journal.settle(StreamIndex(1), ended(&[(a, Outcome::Filtered)]));
    assert!(!resolved(&mut ticket));
    assert_eq!(journal.holding().holder, Some(StreamIndex(1)));
    journal.settle(StreamIndex(1), ended(&[(both[1].position, Outcome::DeadLettered)]));
    assert!(resolved(&mut ticket));
    assert_eq!(journal.holding().messages, 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_journal_holds_the_bus_back_and_says_who_holds_it() {
    let journal = Journal::in_memory(2, 2, 1000);
    let _first = journal.append(vec![for_streams("a", &[1]), for_streams("b", &[0])]).await;
    let second = {
        let journal = journal.clone();
        tokio::spawn(async move { drop(journal.append(vec![for_streams("c", &[0])]).await) })
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(journal.holding().full);
    assert_eq!(journal.holding().holder, Some(StreamIndex(1)));
    let b = journal.reader(StreamIndex(0), ReadRules::default()).next(1).await.remove(0).position;
    journal.settle(StreamIndex(0), ended(&[(b, Outcome::Delivered)]));
    second.await.unwrap();
    assert!(!journal.holding().full);
}

#[tokio::test(start_paused = true)]
async fn an_append_that_is_given_up_is_no_longer_waiting() {
    let journal = Journal::in_memory(1, 1, 1000);
    let _held = journal.append(vec![for_streams("a", &[0])]).await;
    let gave_up = timeout(Duration::from_secs(1), journal.append(vec![for_streams("b", &[0])])).await;
    assert!(gave_up.is_err());
    assert!(!journal.holding().full);
}

#[tokio::test]
async fn a_dropped_journal_does_not_acknowledge() {
    let journal = Journal::in_memory(1, 1, 1000);
    let ticket = journal.append(vec![for_streams("a", &[0])]).await;
    drop(journal);
    assert_eq!(ticket.await, Err(JournalError("it was closed".to_owned())));
}

proptest! {
    /// Whatever is appended and settled in whatever order, twice or never: the
    /// counters balance and a ticket resolves exactly when nothing is left of it.
    #[test]
    fn the_counters_balance(
        appends in prop::collection::vec(prop::collection::btree_set(0u32..3, 1..=3), 1..20),
        settles in prop::collection::vec((0u32..3, 0u64..20, 0usize..5), 0..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let journal = Journal::in_memory(3, 1000, 100_000);
            let mut tickets = Vec::new();
            for streams in &appends {
                let streams: Vec<u32> = streams.iter().copied().collect();
                tickets.push(journal.append(vec![for_streams("x", &streams)]).await);
            }
            let outcomes = [
                Outcome::Delivered, Outcome::Filtered, Outcome::Expired,
                Outcome::Superseded, Outcome::DeadLettered,
            ];
            let mut left: Vec<Vec<u32>> = appends.iter().map(|s| s.iter().copied().collect()).collect();
            for (stream, chunk, outcome) in settles {
                journal.settle(StreamIndex(stream), ended(&[(Position { chunk, index: 0 }, outcomes[outcome])]));
                if let Some(row) = left.get_mut(chunk as usize) {
                    row.retain(|s| *s != stream);
                }
            }
            for stream in 0..3 {
                let counters = journal.counters(StreamIndex(stream));
                assert!(counters.balance(), "{counters:?}");
                assert_eq!(counters.queued, left.iter().filter(|r| r.contains(&stream)).count() as u64);
            }
            for (ticket, row) in tickets.iter_mut().zip(&left) {
                assert_eq!(resolved(ticket), row.is_empty());
            }
        });
    }
}
