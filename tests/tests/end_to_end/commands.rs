//! `sluicegate streams` and `sluicegate dead-letters` on a running gateway.

use serde_json::{Value, json};
use sluicegate_tests::LOOK;
use sluicegate_tests::fleet::{Fleet, arrivals_in};
use sluicegate_tests::gateway::Gateway;
use sluicegate_tests::publisher::Publisher;
use sluicegate_tests::receiver::{Kind, POISONED};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::one_stream;

/// What a command that must fail says to standard error.
async fn complaint(gateway: &Gateway, arguments: &[&str]) -> String {
    let output = gateway.command(arguments).await;
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn dead_letter_is_listed_and_shown_in_full() {
    let (broker, gateway, receiver) = one_stream(Kind::Http).await;
    assert_eq!(gateway.prints(&["dead-letters"]).await, "no dead letters\n");
    let words = receiver.refuse_the_poisoned();
    let fleet = Fleet::new(2, 20);
    let publisher = Publisher::connect(&broker);
    let payload = json!({ "ident": POISONED, "n": 7, "timestamp": 1_700_000_007 }).to_string();
    publisher.publish("flespi/message/gw/devices/poisoned", payload.clone()).await;
    publisher.publish_all(fleet.some(0..10)).await;
    gateway.until("stream", "the good ones have arrived", |s| s.delivered == 10).await;
    publisher.publish_all(fleet.some(10..20)).await;
    gateway.until_settled("stream", 21).await;

    let list = gateway.prints(&["dead-letters", "list", "--stream", "stream", "--since", "1h"]).await;
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("ID  STREAM  GIVEN UP"), "{list}");
    assert!(lines[1].contains("flespi/message/gw/devices/poisoned") && lines[1].contains(words), "{list}");
    let list: Value =
        serde_json::from_str(&gateway.prints(&["dead-letters", "list", "--json"]).await).unwrap();
    let letter = &list["dead_letters"][0];
    assert_eq!((letter["payload"].as_str(), &list["more"]), (Some(payload.as_str()), &json!(false)));

    let id = letter["id"].to_string();
    let shown = gateway.prints(&["dead-letters", "show", &id]).await;
    for part in
        [&payload, words, "http-json", "topic     flespi/message/gw/devices/poisoned", "delivery  to "]
    {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
    let error = complaint(&gateway, &["dead-letters", "show", "4711"]).await;
    assert_eq!(error, "sluicegate: dead letter 4711 does not exist (any more)\n");
    let error = complaint(&gateway, &["dead-letters", "list", "--stream", "steam"]).await;
    assert_eq!(error, "sluicegate: there is no stream `steam`; did you mean `stream`?\n");
    let streams = gateway.prints(&["streams"]).await;
    assert!(
        streams.starts_with("STREAM  STATE    LAG  QUEUED  READ  DELIVERED  DEAD  REASON\n"),
        "{streams}"
    );
    assert!(streams.contains("\nstream  running    -       0    21         20     1\n"), "{streams}");
}

#[tokio::test]
async fn paused_stream_waits_until_resumed() {
    let (broker, gateway, receiver) = one_stream(Kind::Mqtt).await;
    let fleet = Fleet::new(3, 60);
    let publisher = Publisher::connect(&broker);
    publisher.publish_all(fleet.some(0..20)).await;
    gateway.until_settled("stream", 20).await;

    let said = gateway.prints(&["streams", "pause", "stream"]).await;
    assert!(said.starts_with("stream is paused: its messages wait until"), "{said}");
    gateway.until("stream", "it is paused", |s| s.paused && s.state == "paused").await;
    publisher.publish_all(fleet.some(20..60)).await;
    let stream = gateway.until("stream", "it has read all", |s| s.read == 60).await;
    assert_eq!((stream.delivered, stream.queued), (20, 40), "{stream:?}");
    let list = gateway.prints(&["streams", "list"]).await;
    assert!(list.lines().any(|line| line.starts_with("stream  paused ")), "{list}");

    assert_eq!(gateway.prints(&["streams", "resume", "stream"]).await, "stream is running again\n");
    let stream = gateway.until_settled("stream", 60).await;
    assert_eq!((stream.delivered, stream.paused), (60, false), "{stream:?}");
    fleet.assert_arrived(&arrivals_in(&receiver.inbox));
}

#[tokio::test]
async fn without_a_gateway_or_its_token_the_commands_say_so() {
    let (_broker, mut gateway, _receiver) = one_stream(Kind::Http).await;
    let token = gateway.path().join("data/admin.token");
    let text = std::fs::read_to_string(&token).unwrap();
    std::fs::remove_file(&token).unwrap();
    let error = complaint(&gateway, &["streams", "pause", "stream"]).await;
    assert!(error.contains("admin.token: No such file"), "{error}");
    std::fs::write(&token, text.replace(|c: char| c.is_ascii_digit(), "f")).unwrap();
    let error = complaint(&gateway, &["streams", "pause", "stream"]).await;
    assert!(error.contains("does not accept the token in"), "{error}");
    assert!(!gateway.stream("stream").await.paused);
    assert!(gateway.prints(&["streams"]).await.contains("\nstream  running"), "showing needs no token");
    std::fs::write(&token, text).unwrap();
    let error = complaint(&gateway, &["streams", "forget", "stream"]).await;
    assert!(error.contains("has a file"), "{error}");

    gateway.kill();
    let list = gateway.prints(&["streams"]).await;
    assert!(list.contains("\nstream  stopped"), "{list}");
    std::fs::remove_dir_all(gateway.path().join("data/journal")).unwrap();
    let error = complaint(&gateway, &["dead-letters"]).await;
    assert!(error.starts_with("sluicegate: no gateway answers at 127.0.0.1:"), "{error}");
    assert!(error.contains("journal") && error.contains("there is none yet"), "{error}");
}

/// What a stream holds may be seen and changed while no gateway runs; the next
/// one goes by it.
#[tokio::test]
async fn dead_letters_are_replayed_and_streams_paused_offline() {
    let (broker, mut gateway, receiver) = one_stream(Kind::Mqtt).await;
    let publisher = Publisher::connect(&broker);
    let topic = "flespi/message/gw/devices/1";
    for garbage in ["no json", "nor this", "nor that"] {
        publisher.publish(topic, garbage).await;
    }
    gateway.until("stream", "three are buried", |s| s.dead_lettered == 3 && s.queued == 0).await;
    let error = complaint(&gateway, &["dead-letters", "replay"]).await;
    assert!(error.contains("specify an ID") && error.contains("--all"), "{error}");
    assert_eq!(gateway.prints(&["dead-letters", "drop", "--limit", "1"]).await, "dropped 1 dead letter\n");

    assert!(gateway.terminate().await.success());
    let list = gateway.prints(&["dead-letters"]).await;
    assert_eq!(list.lines().count(), 3, "{list}");
    assert_eq!(gateway.prints(&["dead-letters", "replay", "--all"]).await, "replayed 2 dead letters\n");
    assert_eq!(gateway.prints(&["dead-letters"]).await, "no dead letters\n");
    gateway.prints(&["streams", "pause", "stream"]).await;
    let list = gateway.prints(&["streams"]).await;
    assert!(list.lines().any(|line| line.starts_with("stream  paused ")), "{list}");

    gateway.restart().await;
    let stream = gateway.until("stream", "it is paused", |s| s.state == "paused").await;
    assert_eq!((stream.queued, stream.reread, stream.dead_lettered), (2, 2, 3), "{stream:?}");
    gateway.prints(&["streams", "resume", "stream"]).await;
    // What no script can map is no more mappable the second time.
    gateway.until("stream", "both are buried again", |s| s.dead_lettered == 5 && s.queued == 0).await;
    assert!(receiver.inbox.all().is_empty());

    // They outlive a file that is wrong, and one that is gone.
    assert!(gateway.terminate().await.success());
    let file = gateway.path().join("streams/stream.toml");
    std::fs::write(&file, "topics = []\n").unwrap();
    gateway.write_stream("never-accepted", "topics = []\n");
    let of_stream = ["dead-letters", "list", "--stream", "stream"];
    assert_eq!(gateway.prints(&of_stream).await.lines().count(), 3);
    let error = complaint(&gateway, &["dead-letters", "replay", "--stream", "never-accepted"]).await;
    assert!(error.contains("the file of the stream `never-accepted` cannot be used"), "{error}");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(gateway.prints(&of_stream).await.lines().count(), 3);
    let dropped = gateway.prints(&["dead-letters", "drop", "--stream", "stream"]).await;
    assert_eq!(dropped, "dropped 2 dead letters\n");
    let said = gateway.prints(&["streams", "forget", "stream"]).await;
    assert_eq!(said, "removed stream and all messages that were queued for it\n");
    let error = complaint(&gateway, &["streams", "forget", "stream"]).await;
    assert!(error.contains("no stream without a file `stream`"), "{error}");
}

#[tokio::test]
async fn rewind_sends_the_previewed_messages() {
    let (broker, gateway, receiver) = one_stream(Kind::Mqtt).await;
    let fleet = Fleet::new(2, 40);
    Publisher::connect(&broker).publish_all(fleet.all()).await;
    gateway.until_settled("stream", 40).await;
    let rewind = ["streams", "rewind", "--stream", "stream", "--to", "30m", "--keys"];
    let device = fleet.device(0);
    let rewind = [&rewind[..], &[&device]].concat();
    let said = gateway.prints(&rewind).await;
    assert!(
        said.starts_with("stream: 20 messages (") && said.contains("would be sent again to mqtt mqtt"),
        "{said}"
    );
    assert!(said.contains("--yes"), "{said}");
    assert_eq!(gateway.stream("stream").await.read, 40, "nothing was done");

    let said = gateway.prints(&[&rewind[..], &["--yes"]].concat()).await;
    assert!(said.starts_with("stream: 20 messages (") && said.contains("are sent again"), "{said}");
    let stream = gateway.until_settled("stream", 60).await;
    assert_eq!((stream.delivered, stream.reread), (60, 20), "{stream:?}");
    assert_eq!(fleet.assert_arrived(&arrivals_in(&receiver.inbox)), 20, "they come twice");
    let error = complaint(&gateway, &["streams", "rewind", "--stream", "steam", "--to", "30m"]).await;
    assert_eq!(error, "sluicegate: there is no stream `steam`; did you mean `stream`?\n");
}

/// A client that never completes its request, or never reads the answer, is not
/// waited for.
#[tokio::test]
async fn strange_callers_of_the_admin_listener_do_not_hold_up_the_end() {
    let (_broker, mut gateway, _receiver) = one_stream(Kind::Http).await;
    let mut callers = Vec::new();
    for begun in ["", "GET /streams HTTP/1.1\r\nHost: localhost\r\n", "POST /dead-letters/drop HTTP/1.1\r\n"]
    {
        let mut caller = TcpStream::connect(gateway.admin()).await.unwrap();
        caller.write_all(begun.as_bytes()).await.unwrap();
        callers.push(caller);
    }
    let mut deaf = TcpStream::connect(gateway.admin()).await.unwrap();
    let question = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1_000);
    // It stops reading when its answers are not read.
    let _ = timeout(10 * LOOK, deaf.write_all(question.as_bytes())).await;
    assert_eq!(gateway.get("/healthz").await.0, 200);
    assert_eq!(gateway.terminate().await.code(), Some(0));
}
