//! The whole journal with its thread, in a folder.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use message::{Message, unix_millis};
use tokio::time::Instant;

use super::*;
use crate::store::TOGETHER;

const A: StreamIndex = StreamIndex(0);
const B: StreamIndex = StreamIndex(1);

fn quotas(names: &[&str]) -> Vec<StreamQuota> {
    let quota = Quota { max_backlog: 1 << 29, on_full: OnFull::ExpireOldest };
    let stream =
        |name: &&str| StreamQuota { name: (*name).to_owned(), quota, live_first: false, conflates: false };
    names.iter().map(stream).collect()
}

/// Of streams `a` and `b`.
fn open(folder: &tempfile::TempDir) -> Journal {
    let settings = JournalSettings {
        path: folder.path().to_owned(),
        max_size: 1 << 30,
        keep: Duration::from_secs(3600),
        sync: SyncMode::Always,
        dead_letters_max_size: 16 << 20,
    };
    Journal::open(&settings, quotas(&["a", "b"])).unwrap()
}

async fn append(journal: &Journal, stream: StreamIndex, count: usize) {
    let one = || Append {
        message: Message { topic: "t".into(), payload: "x".into(), received_at: unix_millis() },
        streams: vec![stream],
    };
    journal.append((0..count).map(|_| one()).collect()).await.await.unwrap();
}

async fn read(reader: &mut Reader, count: usize) -> Vec<Pending> {
    let mut read = Vec::new();
    while read.len() < count {
        read.extend(reader.next(count - read.len()).await);
    }
    read
}

fn settle(journal: &Journal, stream: StreamIndex, read: &[Pending], outcome: Outcome) {
    let letter = |pending: &Pending| DeadLetter {
        position: pending.position,
        at: 5,
        reason: "no".to_owned(),
        script: "s".to_owned(),
        message: pending.message.clone(),
        delivery: None,
        reply: None,
    };
    let ended = read.iter().map(|p| (p.position, outcome)).collect();
    let dead = outcome == Outcome::DeadLettered;
    let dead_letters = read.iter().filter(|_| dead).map(letter).collect();
    journal.settle(stream, Settlement { ended, dead_letters, ..Settlement::default() });
}

async fn bury(journal: &Journal, stream: StreamIndex, count: usize) {
    append(journal, stream, count).await;
    let read = read(&mut journal.reader(stream, ReadRules::default()), count).await;
    settle(journal, stream, &read, Outcome::DeadLettered);
}

async fn letters_of(journal: &Journal, stream: StreamIndex) -> usize {
    let filter = DeadLetterFilter { stream: Some(stream), ..DeadLetterFilter::default() };
    // All settlements are committed before this is answered.
    journal.pause(stream, false).await.unwrap();
    journal.dead_letters(filter).await.unwrap().len()
}

/// More letters than one commit handles.
const MANY: usize = 2 * TOGETHER + 10;

#[tokio::test]
async fn dead_letters_are_dropped_in_pages_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(&folder);
    bury(&journal, B, 2).await;
    bury(&journal, A, MANY).await;
    bury(&journal, B, 2).await;
    let of = |stream, limit| DeadLetterFilter { stream: Some(stream), limit, ..DeadLetterFilter::default() };
    assert_eq!(journal.drop_dead_letters(of(A, Some(TOGETHER + 1))).await, Ok(TOGETHER as u64 + 1));
    assert_eq!((letters_of(&journal, A).await, letters_of(&journal, B).await), (TOGETHER + 9, 4));
    // Two callers that drop the same letters drop and count each letter once.
    let (one, other) =
        tokio::join!(journal.drop_dead_letters(of(A, None)), journal.drop_dead_letters(of(A, None)));
    assert_eq!(one.unwrap() + other.unwrap(), TOGETHER as u64 + 9);
    assert_eq!((letters_of(&journal, A).await, letters_of(&journal, B).await), (0, 4));
    assert_eq!(journal.drop_dead_letters(DeadLetterFilter::default()).await, Ok(4));
    assert_eq!(letters_of(&journal, B).await, 0);
    assert_eq!(journal.holding().dead_letters, Fill { used: 0, limit: 16 << 20 });
    journal.close().await;
}

#[tokio::test]
async fn forgotten_stream_loses_its_letters_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(&folder);
    bury(&journal, B, 2).await;
    bury(&journal, A, MANY).await;
    bury(&journal, B, 2).await;
    append(&journal, A, 3).await;
    assert_eq!(journal.forget("a").await, Ok(false), "it has a file");
    assert_eq!(letters_of(&journal, A).await, MANY);
    journal.set_streams(quotas(&["b"])).await.unwrap();
    assert_eq!(journal.forget("a").await, Ok(true));
    assert_eq!(journal.forget("a").await, Ok(false), "it does not exist any more");
    assert_eq!((journal.detached(), journal.name(A)), (Vec::new(), None));
    let left = journal.dead_letters(DeadLetterFilter::default()).await.unwrap();
    assert!(left.len() == 4 && left.iter().all(|(_, stream, _)| *stream == B));
    assert_eq!(journal.check().await, Ok(Vec::new()));
    journal.close().await;
}

#[tokio::test(start_paused = true)]
async fn rewind_is_read_at_its_rate() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(&folder);
    append(&journal, A, 30).await;
    let mut reader = journal.reader(A, ReadRules::default());
    settle(&journal, A, &read(&mut reader, 30).await, Outcome::Delivered);
    let rewind =
        Rewind { stream: A, from: 0, until: u64::MAX, rate: Some(10.0), keep_state: true, dry_run: false };
    let rewound = journal.begin_rewind(rewind).await.unwrap().mark(|_| true).await.unwrap();
    assert_eq!(rewound.messages, 30);
    let start = Instant::now();
    assert!(read(&mut reader, 21).await.iter().all(|p| p.reading == Reading::Rewound));
    let took = start.elapsed();
    assert!((Duration::from_millis(1_900)..Duration::from_millis(2_200)).contains(&took), "{took:?}");
    // It does not delay new messages.
    append(&journal, A, 5).await;
    let start = Instant::now();
    assert!(read(&mut reader, 5).await.iter().all(|p| p.reading == Reading::First));
    assert!(start.elapsed() < Duration::from_millis(200), "{:?}", start.elapsed());
    journal.close().await;
}

#[tokio::test(start_paused = true)]
async fn backlog_is_read_at_its_rate_and_new_messages_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(&folder);
    append(&journal, A, 30).await;
    journal.close().await;

    let journal = open(&folder);
    let rules = ReadRules { live_first: true, backlog_rate: Some(10.0) };
    let mut reader = journal.reader(A, rules);
    let start = Instant::now();
    let waited = read(&mut reader, 21).await;
    let took = start.elapsed();
    assert!((Duration::from_millis(1_900)..Duration::from_millis(2_200)).contains(&took), "{took:?}");
    append(&journal, A, 5).await;
    let start = Instant::now();
    let live = read(&mut reader, 5).await;
    assert!(start.elapsed() < Duration::from_millis(200), "{:?}", start.elapsed());
    let newest = waited.iter().map(|p| p.position).max();
    assert!(live.iter().all(|p| Some(p.position) > newest && p.position.chunk > 0), "{live:?}");
    journal.close().await;
}

fn letter_of(bytes: usize) -> DeadLetter {
    DeadLetter {
        position: Position { chunk: 0, index: 0 },
        at: 5,
        // Each of them takes six bytes in the journal.
        reason: "\u{1}".repeat(bytes / 6),
        script: String::new(),
        message: Message { topic: "t".into(), payload: "x".into(), received_at: 0 },
        delivery: None,
        reply: None,
    }
}

#[tokio::test]
async fn dead_letters_never_pass_their_maximum_size() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(&folder);
    let mut lanes = [journal.dead_letter_room(), journal.dead_letter_room()];
    let mut letters: [Vec<DeadLetter>; 2] = Default::default();
    append(&journal, A, 2_000).await;
    let mut reader = journal.reader(A, ReadRules::default());
    let mut left = read(&mut reader, 2_000).await.into_iter();
    // Two lanes take turns and settle only when there is no room.
    'full: loop {
        for (room, letters) in lanes.iter_mut().zip(&mut letters) {
            let position = left.next().unwrap().position;
            let letter = DeadLetter { position, ..letter_of(60_000) };
            if !room.reserve(&letter) {
                break 'full;
            }
            letters.push(letter);
        }
    }
    for (room, dead_letters) in lanes.into_iter().zip(letters) {
        let ended = dead_letters.iter().map(|l| (l.position, Outcome::DeadLettered)).collect();
        journal.settle_reserved(A, Settlement { ended, dead_letters, ..Settlement::default() }, room);
    }
    let kept = letters_of(&journal, A).await;
    let Fill { used, limit } = journal.holding().dead_letters;
    assert!(used <= limit, "{used} of {limit} for {kept} letters");
    assert!(used + 70_000 > limit, "the room is used: {used} of {limit} for {kept} letters");
    // A reservation that is dropped is released.
    assert_eq!(journal.drop_dead_letters(DeadLetterFilter::default()).await, Ok(kept as u64));
    for _ in 0..2 {
        let mut room = journal.dead_letter_room();
        assert!(room.reserve(&letter_of(9 << 20)));
        assert!(!journal.dead_letter_room().reserve(&letter_of(9 << 20)));
    }
    assert_eq!(journal.holding().dead_letters.used, 0);
    journal.close().await;
}
