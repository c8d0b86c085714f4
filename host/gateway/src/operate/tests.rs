#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::FutureExt;
use journal::{Append, DeadLetter, Outcome, ReadRules, Reading, Settlement};
use settings::StreamEntry;
use tokio::net::TcpListener;

use super::testing::{AT, Site};
use super::*;

const UNUSED: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

async fn offline() -> (Site, Target) {
    let site = Site::new(UNUSED).await;
    let operations = site.operations();
    (site, Target::Offline(operations))
}

fn words<T: std::fmt::Debug>(result: Result<T, TargetError>) -> String {
    result.unwrap_err().to_string()
}

#[tokio::test]
async fn streams_are_listed_with_their_counters() {
    let (_site, target) = offline().await;
    let streams = target.streams().await.unwrap();
    let names: Vec<&str> = streams.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["broken", "fleet-to-web", "yard"]);
    assert!(streams[0].reason.as_ref().unwrap().contains("broken.toml"), "{:?}", streams[0]);
    assert_eq!((streams[1].read, streams[1].dead_lettered, streams[1].queued), (2, 2, 0));
    assert_eq!((streams[2].read, streams[2].dead_lettered, streams[2].queued), (2, 1, 1));
    assert!(streams.iter().all(|s| s.counters_balance && !s.paused && s.state == "stopped"));
    assert_eq!(streams[1].lag, 0.0);
    assert!(streams[2].lag > 1000.0, "the queued message is from 2023");
    let journal = target.journal().await.unwrap();
    assert_eq!((journal.messages, journal.max_bytes, journal.full), (1, 1 << 32, false));
}

#[tokio::test]
async fn pause_lasts_until_resumed() {
    let (site, target) = offline().await;
    let seen = site.journal.paused(StreamIndex(1));
    assert!(target.pause("yard", true).await.unwrap().paused);
    assert!(*seen.borrow());
    let paused = |streams: Vec<StreamLine>| streams.into_iter().filter(|s| s.paused).map(|s| s.name);
    assert!(paused(target.streams().await.unwrap()).eq(["yard"]));
    assert!(!target.pause("yard", false).await.unwrap().paused);
    assert!(!*seen.borrow());
    assert_eq!(words(target.pause("yrad", true).await), "there is no stream `yrad`; did you mean `yard`?");
    assert_eq!(
        words(target.pause("something", true).await),
        "there is no stream `something`; there are broken, fleet-to-web, yard"
    );
    assert!(words(target.pause("broken", true).await).contains("`broken` cannot be used: "));
}

#[tokio::test]
async fn dead_letters_are_found_by_what_is_asked() {
    let (_site, target) = offline().await;
    let ids = async |filter: LetterFilter| {
        let found = target.dead_letters(&filter).await.unwrap();
        (found.dead_letters.iter().map(|letter| letter.id).collect::<Vec<_>>(), found.more)
    };
    let all = LetterFilter::default;
    assert_eq!(ids(all()).await, (vec![0, 1, 2], false));
    assert_eq!(ids(LetterFilter { limit: Some(2), ..all() }).await, (vec![0, 1], true));
    assert_eq!(ids(LetterFilter { limit: Some(3), ..all() }).await, (vec![0, 1, 2], false));
    assert_eq!(ids(LetterFilter { stream: Some("yard".to_owned()), ..all() }).await.0, [2]);
    assert_eq!(ids(LetterFilter { reason: Some("400 Bad".to_owned()), ..all() }).await.0, [0]);
    assert_eq!(ids(LetterFilter { since: Some(moment::show(AT + 1_000)), ..all() }).await.0, [1, 2]);
    for (filter, expected) in [
        (LetterFilter { stream: Some("yards".to_owned()), ..all() }, "did you mean `yard`?"),
        (
            LetterFilter { since: Some("soon".to_owned()), ..all() },
            "`since` is `soon`; expected a time such as",
        ),
        (LetterFilter { limit: Some(0), ..all() }, "expected 1 to 1000"),
        (LetterFilter { limit: Some(1_001), ..all() }, "expected 1 to 1000"),
    ] {
        let error = words(target.dead_letters(&filter).await);
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn dead_letter_is_shown_in_full() {
    let (_site, target) = offline().await;
    let letter = target.dead_letter(2).await.unwrap();
    assert_eq!(
        (letter.stream.as_str(), letter.at, letter.reply.as_deref()),
        ("yard", AT + 2_000, Some("closed"))
    );
    assert_eq!((letter.payload, letter.payload_base64.as_deref()), (None, Some("AQ==")));
    assert_eq!(letter.delivery.unwrap().body_base64.as_deref(), Some("/w=="));
    let letter = target.dead_letter(1).await.unwrap();
    assert_eq!((letter.payload.as_deref(), letter.delivery), (Some("half"), None));
    assert_eq!(words(target.dead_letter(3).await), "dead letter 3 does not exist (any more)");
}

#[tokio::test]
async fn invalid_rewind_is_rejected() {
    let (_site, target) = offline().await;
    let request = |to: &str| RewindRequest {
        to: to.to_owned(),
        until: None,
        keys: None,
        rate: None,
        keep_state: false,
        dry_run: true,
    };
    for (request, expected) in [
        (request("now"), "`to` is `now`; expected"),
        (request("2999-01-01T00:00:00Z"), "which is not before"),
        (RewindRequest { until: Some("2h".to_owned()), ..request("1h") }, "which is not before"),
        (RewindRequest { rate: Some("0/s".to_owned()), ..request("1h") }, "`rate` is `0/s`; expected a rate"),
        (RewindRequest { keys: Some(Vec::new()), ..request("1h") }, "`keys` is empty"),
    ] {
        let error = words(target.rewind("yard", request).await);
        assert!(error.contains(expected), "{error}");
    }
    assert!(words(target.rewind("yart", request("1h")).await).contains("did you mean `yard`?"));
}

/// A client may go away, or give up, while a long rewind is under way.
#[tokio::test]
async fn rewind_completes_after_client_disconnects() {
    let site = Site::new(UNUSED).await;
    let journal = wiring::open_journal(&site.config).await.unwrap();
    let index = journal.stream("yard").unwrap();
    // A chunk each: a rewind of several parts.
    const COUNT: u64 = 200;
    for _ in 0..COUNT {
        let message = Message::received_now("yard", "x");
        journal.append(vec![Append { message, streams: vec![index] }]).await.await.unwrap();
    }
    let mut reader = journal.reader(index, ReadRules::default());
    let mut seen = 0;
    while seen < COUNT {
        let ended: Vec<_> =
            reader.next(100).await.into_iter().map(|p| (p.position, Outcome::Delivered)).collect();
        seen += ended.len() as u64;
        journal.settle(index, Settlement { ended, ..Settlement::default() });
    }
    let settings = site.config.streams.iter().find_map(|entry| match entry {
        StreamEntry::Ready(settings) if settings.name == "yard" => Some(settings.clone()),
        _ => None,
    });
    let operated = Operated::new(index, &settings.unwrap(), None);
    let operations = Operations::new(journal.clone(), vec![operated], None);
    let request = RewindRequest {
        to: "1h".to_owned(),
        until: Some(moment::show(unix_millis() + 60_000)),
        keys: None,
        rate: None,
        keep_state: false,
        dry_run: false,
    };
    let mut rewinding = Box::pin(operations.rewind("yard", request));
    assert!(rewinding.as_mut().now_or_never().is_none());
    drop(rewinding);
    let all = async {
        let mut again = 0;
        while again < COUNT {
            let read = reader.next(100).await;
            assert!(read.iter().all(|p| p.reading == Reading::Rewound));
            again += read.len() as u64;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all).await.expect("it has stopped half-way");
    operations.close().await;
}

#[tokio::test]
async fn rewind_selects_messages_of_stream() {
    let site = Site::new(UNUSED).await;
    let operations = site.operations();
    let takes = &operations.usable("fleet-to-web").unwrap().takes;
    let message = |topic: &str, payload: &str| Message::received_now(topic, payload.to_owned());
    let all = wanted(takes.clone(), None);
    assert!(all(&message("fleet/1", r#"{"ident":"8"}"#)));
    assert!(!all(&message("fleet/1", r#"{"ident":"7"}"#)), "the stream does not serve it");
    assert!(!all(&message("yard", r#"{"ident":"8"}"#)), "another stream's topic");
    let some = wanted(takes.clone(), Some(HashSet::from(["8".to_owned(), "7".to_owned()])));
    assert!(some(&message("fleet/1", r#"{"ident":8}"#)));
    assert!(!some(&message("fleet/1", r#"{"ident":7}"#)));
    assert!(!some(&message("fleet/1", r#"{"ident":9}"#)));
}

#[tokio::test]
async fn only_a_stream_without_a_file_is_forgotten() {
    let (_site, target) = offline().await;
    assert!(words(target.forget("yard").await).contains("has a file"));
    assert_eq!(words(target.forget("old").await), "there is no stream without a file `old`; there is none");
}

#[tokio::test]
async fn detached_stream_is_removed() {
    let site = Site::new(UNUSED).await;
    let journal = wiring::open_journal(&site.config).await.unwrap();
    let index = journal.stream("yard").unwrap();
    let message = Message::received_now("yard", "x");
    let read = async || journal.reader(index, ReadRules::default()).next(1).await.remove(0);
    journal.append(vec![Append { message: message.clone(), streams: vec![index] }]).await.await.unwrap();
    let position = read().await.position;
    let letter = DeadLetter {
        position,
        at: AT,
        reason: "no".to_owned(),
        script: String::new(),
        message,
        delivery: None,
        reply: None,
    };
    let ended = vec![(position, Outcome::DeadLettered)];
    journal.settle(index, Settlement { ended, dead_letters: vec![letter], ..Settlement::default() });
    journal.set_streams(Vec::new()).await.unwrap();
    let operations = Operations::new(journal.clone(), Vec::new(), None);
    let line = operations.journal();
    assert!(line.dead_letter_bytes > 0 && line.max_dead_letter_bytes == 256 << 20, "{line:?}");
    assert!(line.detached.iter().any(|detached| detached.name == "yard"), "{line:?}");
    assert_eq!(operations.forget("yard").await.unwrap().forgotten, "yard");
    // What the writer has done is shown before it answers the next question.
    assert_eq!(journal.state(index).await.unwrap(), []);
    let line = operations.journal();
    assert!(
        line.dead_letter_bytes == 0 && line.detached.iter().all(|detached| detached.name != "yard"),
        "{line:?}"
    );
    assert!(operations.dead_letters(&LetterFilter::default()).await.unwrap().dead_letters.is_empty());
    let again = operations.forget("yard").await.unwrap_err();
    assert!(again.to_string().contains("no stream without a file `yard`"), "{again}");
    operations.close().await;
}

#[tokio::test]
async fn without_a_gateway_the_command_says_where_it_looked() {
    // Bound and dropped: no process listens there.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let site = Site::new(address).await;
    let error = words(Target::find(Some(&site.config.path)).await.map(|_| ()));
    assert!(error.starts_with(&format!("no gateway answers at {address} (")), "{error}");
    let missing = site.folder.path().join("other.toml");
    let error = words(Target::find(Some(&missing)).await.map(|_| ()));
    assert!(error.contains("other.toml") && error.contains("expected: "), "{error}");
}
