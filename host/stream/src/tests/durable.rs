//! With a journal on the disk: what a script remembers, and what is sent again.

use journal::{JournalSettings, OnFull, Quota, Rewind, StreamQuota, SyncMode};
use message::unix_millis;

use super::*;

/// Delivers of each message what was remembered before it, and remembers its
/// payload.
pub(super) const RECALLS: &str = "
    (local $body i32) (local $len i32)
    (call $get (i32.const 100) (i32.const 1) (i32.const 200))
    (if (i32.load8_u (i32.const 200))
      (then
        (local.set $body (i32.load (i32.const 204)))
        (local.set $len (i32.load (i32.const 208)))))
    (call $set (i32.const 100) (i32.const 1)
      (i32.load offset=8 (local.get $batch)) (i32.load offset=12 (local.get $batch)))
    (call $answer (local.get $body) (local.get $len))";

pub(super) fn open(folder: &tempfile::TempDir) -> Journal {
    open_for(folder, false)
}

fn open_for(folder: &tempfile::TempDir, conflates: bool) -> Journal {
    let settings = JournalSettings {
        path: folder.path().to_owned(),
        max_size: 1 << 30,
        keep: Duration::from_secs(3600),
        sync: SyncMode::Always,
        dead_letters_max_size: 1 << 20,
    };
    let quota = Quota { max_backlog: 1 << 29, on_full: OnFull::ExpireOldest };
    let stream = StreamQuota { name: "test".to_owned(), quota, live_first: false, conflates };
    Journal::open(&settings, vec![stream]).unwrap()
}

async fn start_on(journal: &Journal, transform: &str, far: &Arc<FarSide>) -> Running {
    start_here(journal.clone(), Pressure::default(), transform, far.clone(), 1, Limits::default()).await
}

/// Stops the stream and closes its journal.
pub(super) async fn stop(running: Running) {
    let journal = running.journal.clone();
    running.finish().await;
    journal.close().await;
}

impl Running {
    pub(super) async fn deliver(&self, body: &str) {
        let before = self.counters().delivered;
        self.append_at(unix_millis(), [body.to_owned()]).await;
        self.until(|b| b.delivered == before + 1).await;
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

#[tokio::test]
async fn a_script_remembers_across_restarts_and_forgets_with_a_rewind() {
    let folder = tempfile::tempdir().unwrap();
    let far = FarSide::new(Mood::Accepts, 8);
    let running = start_on(&open(&folder), RECALLS, &far).await;
    for body in ["a", "b"] {
        running.deliver(body).await;
    }
    stop(running).await;

    let journal = open(&folder);
    let running = start_on(&journal, RECALLS, &far).await;
    running.deliver("c").await;
    assert_eq!(far.accepted(), words(&["", "a", "b"]));
    let saved = || async { journal.state(StreamIndex(0)).await.unwrap().remove(0).1 };
    assert_eq!(saved().await, "c");

    let rewind = |keep_state| Rewind {
        stream: StreamIndex(0),
        from: 0,
        until: u64::MAX,
        rate: None,
        keep_state,
        dry_run: false,
    };
    let rewound = running.status.rewind(&journal, rewind(false), |_| true).await.unwrap();
    assert_eq!(rewound.messages, 3);
    running.until(|b| b.delivered == 6).await;
    assert_eq!(far.accepted()[3..], words(&["", "a", "b"]), "as if for the first time");
    assert_eq!(saved().await, "c");
    running.status.rewind(&journal, rewind(true), |_| true).await.unwrap();
    running.until(|b| b.delivered == 9).await;
    assert_eq!(far.accepted()[6..], words(&["c", "a", "b"]), "with what it knew");
    stop(running).await;

    // The same messages, and other deliveries of them: each time other keys.
    let sent = far.sent.lock().unwrap();
    let mut keys: Vec<&str> = sent.iter().map(|(_, i)| i.as_ref().unwrap().key.as_str()).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 9);
}

/// What is read again is marked a part at a time, and mapped meanwhile.
#[tokio::test]
async fn the_first_message_of_a_long_rewind_finds_nothing_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let far = FarSide::new(Mood::Accepts, 8);
    let journal = open(&folder);
    let running = start_on(&journal, RECALLS, &far).await;
    // A chunk each: several parts of a rewind.
    for n in 0..300 {
        let message =
            Message { topic: "t".into(), payload: n.to_string().into(), received_at: unix_millis() };
        let appended = journal.append(vec![Append { message, streams: vec![StreamIndex(0)] }]).await;
        appended.await.unwrap();
    }
    running.until(|b| b.delivered == 300).await;
    let rewind = Rewind {
        stream: StreamIndex(0),
        from: 0,
        until: u64::MAX,
        rate: None,
        keep_state: false,
        dry_run: false,
    };
    let rewound = running.status.rewind(&journal, rewind, |_| true).await.unwrap();
    assert_eq!(rewound.messages, 300);
    running.until(|b| b.delivered == 600).await;
    let accepted = far.accepted();
    assert_eq!(accepted[300..], accepted[..300], "as if for the first time");
    let saved = journal.state(StreamIndex(0)).await.unwrap();
    assert_eq!(saved[0].1, "299", "what they wrote is kept");
    stop(running).await;
}

#[tokio::test]
async fn what_was_not_settled_is_mapped_again_with_the_state_before_it_and_has_the_same_key() {
    let folder = tempfile::tempdir().unwrap();
    let far = FarSide::new(Mood::Accepts, 8);
    let running = start_on(&open(&folder), RECALLS, &far).await;
    running.deliver("a").await;
    far.set(Mood::Silent);
    running.append_at(unix_millis(), ["b".to_owned()]).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while far.sent.lock().unwrap().len() < 2 {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(running.status.memory.state.len(), 1);
    // The process ends here: what the call wrote was in memory only.
    running.task.abort();
    running.journal.close().await;

    let running = start_on(&open(&folder), RECALLS, &far).await;
    far.set(Mood::Accepts);
    running.until(|b| b.delivered == 2).await;
    running.deliver("c").await;
    assert_eq!(far.accepted(), words(&["", "a", "b"]));
    stop(running).await;
    let sent = far.sent.lock().unwrap();
    assert_eq!(sent[1], sent[2], "sent twice, and known by its key");
}

#[tokio::test]
async fn a_dead_letter_is_sent_again_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let far = FarSide::new(Mood::RefusesMarked, 1);
    let journal = open(&folder);
    let running = start_on(&journal, TRAPS_ON_MARK, &far).await;
    running.append_at(unix_millis(), words(&["?no", "a", "b", "c"])).await;
    running.until(|b| (b.delivered, b.dead_lettered) == (3, 1)).await;
    stop(running).await;

    // The script of today could not map it.
    let journal = open(&folder);
    far.set(Mood::Accepts);
    let running = start_on(&journal, "unreachable", &far).await;
    assert_eq!(journal.replay(DeadLetterFilter::default(), true).await.unwrap(), 1);
    running.until(|b| b.delivered == 4).await;
    assert_eq!(far.accepted().last().unwrap(), "?no");
    assert_eq!(running.counters().dead_lettered, 1, "that it was one stays in the counters");
    stop(running).await;
}

#[tokio::test]
async fn a_dead_letter_that_is_mapped_again_leaves_the_state_alone() {
    let folder = tempfile::tempdir().unwrap();
    let far = FarSide::new(Mood::RefusesMarked, 1);
    let journal = open(&folder);
    let running = start_on(&journal, RECALLS, &far).await;
    running.append_at(unix_millis(), words(&["?x", "b", "c", "d"])).await;
    running.until(|b| (b.delivered, b.dead_lettered) == (3, 1)).await;
    assert_eq!(far.accepted(), words(&["", "b", "c"]), "what `b` recalled is refused");
    assert_eq!(journal.replay(DeadLetterFilter::default(), false).await.unwrap(), 1);
    running.until(|b| b.delivered == 4).await;
    assert_eq!(far.accepted()[3], "d", "`b` is mapped with what is known now");
    running.deliver("e").await;
    assert_eq!(far.accepted()[4], "d", "and has not been remembered again");
    stop(running).await;
}

/// More keys than a stream may usually have in memory wait on the disk.
#[tokio::test]
async fn conflation_reaches_over_a_backlog_of_many_keys() {
    const KEYS: u64 = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let journal = open(&folder);
    for round in ["old", "new"] {
        for part in (0..KEYS).collect::<Vec<_>>().chunks(1000) {
            let batch = part.iter().map(|key| Append {
                message: Message {
                    topic: format!("device/{key}").into(),
                    payload: format!("{round}{:0>600}", "").into(),
                    received_at: unix_millis(),
                },
                streams: vec![StreamIndex(0)],
            });
            journal.append(batch.collect()).await.await.unwrap();
        }
    }
    journal.close().await;

    let journal = open_for(&folder, true);
    let intake =
        Arc::new(Intake::conflating(1, Amount { messages: 1000, bytes: usize::MAX }, Duration::from_secs(1)));
    let feeding = tokio::spawn({
        let (journal, intake) = (journal.clone(), intake.clone());
        async move {
            let key = Arc::new(KeyRule::Topic);
            intake.feed(&journal, StreamIndex(0), journal::ReadRules::default(), key).await;
        }
    });
    let superseded = async {
        while journal.counters(StreamIndex(0)).superseded < KEYS {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(60), superseded).await.expect("the old ones are sent one by one");
    let mut newest = 0;
    loop {
        let taken = intake.take(0, Instant::now());
        if taken.is_empty() {
            break;
        }
        assert!(taken.iter().all(|entry| entry.message.payload.starts_with(b"new")));
        newest += taken.len() as u64;
    }
    assert_eq!(newest, KEYS);
    feeding.abort();
    journal.close().await;
}
