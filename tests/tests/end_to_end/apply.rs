//! Stream files change while the gateway runs, and before it is started again.

use std::ops::Range;

use serde_json::{Value, json};
use sluicegate_tests::broker::Broker;
use sluicegate_tests::fleet::{Fleet, arrivals_in};
use sluicegate_tests::gateway::{Folder, Gateway, LogLine};
use sluicegate_tests::publisher::Publisher;
use sluicegate_tests::receiver::{Kind, Receiver};
use sluicegate_tests::traffic::Traffic;

async fn receivers<const COUNT: usize>(folder: &Folder, kinds: [Kind; COUNT]) -> [Receiver; COUNT] {
    let mut started = Vec::new();
    for kind in kinds {
        started.push(Receiver::start(kind, folder.path()).await);
    }
    started.try_into().ok().unwrap()
}

/// What became of each stream: its name, the word and the keys.
async fn changes(gateway: &Gateway, command: &str) -> Vec<(String, String, Vec<String>)> {
    let answer: Value = serde_json::from_str(&gateway.prints(&[command, "--json"]).await).unwrap();
    assert_eq!(answer["applied"], command == "apply");
    assert_eq!(answer["waiting"], Value::Null);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let keys = |line: &Value| line["keys"].as_array().unwrap().iter().map(text).collect();
    let lines = answer["streams"].as_array().unwrap().iter();
    lines.map(|line| (text(&line["stream"]), text(&line["change"]), keys(line))).collect()
}

fn change(stream: &str, word: &str, keys: &[&str]) -> (String, String, Vec<String>) {
    (stream.to_owned(), word.to_owned(), keys.iter().map(|key| (*key).to_owned()).collect())
}

/// Exactly these messages, each once.
fn assert_once(fleet: &Fleet, receiver: &Receiver, wanted: impl Fn(u64) -> bool) {
    assert_eq!(fleet.assert_some_arrived(&arrivals_in(&receiver.inbox), wanted), 0, "none comes twice");
}

/// At least the messages of the first range, and none outside the second.
fn assert_between(fleet: &Fleet, receiver: &Receiver, owed: Range<u64>, allowed: Range<u64>) {
    let numbers: Vec<u64> = arrivals_in(&receiver.inbox).iter().map(|arrival| arrival.number).collect();
    let arrived = |number: u64| numbers.contains(&number);
    assert!(owed.clone().all(arrived), "of {owed:?} is missing {:?}", owed.clone().find(|n| !arrived(*n)));
    assert_once(fleet, receiver, |number| {
        owed.contains(&number) || (allowed.contains(&number) && arrived(number))
    });
}

#[tokio::test]
async fn streams_come_change_and_go_while_messages_flow() {
    let folder = Folder::new();
    let kinds = [Kind::Mqtt, Kind::Http, Kind::ThingsBoard, Kind::Mqtt];
    let [same, changed, added, removed] = receivers(&folder, kinds).await;
    let broker = Broker::start().await;
    let gateway = folder
        .bus(&broker.url())
        .env("ACCESS_TOKEN", sluicegate_tests::receiver::ACCESS_TOKEN)
        .stream("changed", &changed.stream)
        .stream("removed", &removed.stream)
        .stream("same", &same.stream)
        .start()
        .await;
    let fleet = Fleet::new(7, u64::MAX);
    let traffic = Traffic::start(&broker, fleet);
    traffic.more(100).await;
    assert_eq!(gateway.prints(&["plan"]).await.lines().last(), Some("Nothing to change."));

    gateway.write_stream("added", &added.stream);
    gateway.write_stream("changed", &format!("{}[delivery]\nlanes = 2\n", changed.stream));
    gateway.remove_stream("removed");
    let expected = [
        change("added", "new", &[]),
        change("changed", "changed", &["delivery.lanes"]),
        change("removed", "orphaned", &[]),
        change("same", "unchanged", &[]),
    ];
    assert_eq!(changes(&gateway, "plan").await, expected);
    let names: Vec<String> = gateway.streams().await.into_iter().map(|s| s.name).collect();
    assert_eq!(names, ["changed", "removed", "same"], "a plan changes nothing");
    let before = traffic.count();
    assert_eq!(changes(&gateway, "apply").await, expected);
    let after = traffic.count();
    let names: Vec<String> = gateway.streams().await.into_iter().map(|s| s.name).collect();
    assert_eq!(names, ["added", "changed", "same"]);
    let (_, metrics) = gateway.get("/metrics").await;
    let metrics = String::from_utf8(metrics.to_vec()).unwrap();
    assert!(metrics.contains("sluicegate_messages_read_total{stream=\"same\"}"), "{metrics}");
    assert!(!metrics.contains("sluicegate_messages_read_total{stream=\"removed\"}"), "{metrics}");
    assert!(gateway.prints(&["streams"]).await.contains("detached: removed has no file since"));

    // It comes back, and then another change in the same way.
    traffic.more(100).await;
    gateway.write_stream("removed", &removed.stream);
    gateway.write_stream("changed", &changed.stream);
    let gone_until = traffic.count();
    assert_eq!(changes(&gateway, "apply").await[2], change("removed", "new", &[]));
    let back = traffic.count();
    traffic.more(100).await;
    let messages = traffic.end().await;
    for name in ["changed", "same"] {
        gateway.until_settled(name, messages).await;
    }
    gateway.until_settled("added", messages - after).await;
    let fleet = Fleet { messages, ..fleet };
    assert_once(&fleet, &same, |_| true);
    assert_once(&fleet, &changed, |_| true);
    fleet.until_some_arrived(&removed.inbox, |number| number < before || number >= back).await;
    assert_between(&fleet, &removed, 0..before, 0..messages);
    let quiet = |number: &u64| (after..gone_until).contains(number);
    let strays = arrivals_in(&removed.inbox).into_iter().map(|a| a.number).filter(quiet).count();
    assert_eq!(strays, 0, "nothing is kept for a stream that has no file");
    assert_between(&fleet, &added, after..messages, before..messages);
    assert_eq!(same.plug().connections(), 1, "its connection is the first one");
}

#[tokio::test]
async fn restored_stream_continues_with_its_backlog() {
    let folder = Folder::new();
    let [receiver] = receivers(&folder, [Kind::Mqtt]).await;
    receiver.plug().unplug().await.unwrap();
    let broker = Broker::start().await;
    let mut gateway = folder.bus(&broker.url()).stream("stream", &receiver.stream).start().await;
    let fleet = Fleet::new(3, 500);
    Publisher::connect(&broker).publish_all(fleet.all()).await;
    gateway.until("stream", "it has read all", |s| s.read == fleet.messages).await;
    gateway.remove_stream("stream");
    gateway.prints(&["apply"]).await;
    assert!(gateway.streams().await.is_empty());
    // The 24 hours are the journal's, not the process's.
    gateway.kill();
    gateway.restart().await;
    gateway.until_ready().await;
    receiver.plug().plug().await.unwrap();
    gateway.write_stream("stream", &receiver.stream);
    gateway.prints(&["apply"]).await;
    let stream = gateway.until_settled("stream", fleet.messages).await;
    assert_eq!(stream.delivered, fleet.messages);
    assert_once(&fleet, &receiver, |_| true);
}

/// What a command that must fail says to standard error.
async fn complaint(gateway: &Gateway, command: &str) -> String {
    let output = gateway.command(&[command]).await;
    assert_eq!(output.status.code(), Some(1), "{command}");
    assert!(output.stdout.is_empty(), "{command}");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn one_bad_file_changes_nothing_even_after_restart() {
    let folder = Folder::new();
    let [good, other] = receivers(&folder, [Kind::Mqtt, Kind::Mqtt]).await;
    let broker = Broker::start().await;
    let mut gateway =
        folder.bus(&broker.url()).stream("good", &good.stream).stream("other", &other.stream).start().await;
    let fleet = Fleet::new(3, 90);
    let publisher = Publisher::connect(&broker);
    publisher.publish_all(fleet.some(0..30)).await;
    gateway.until_settled("good", 30).await;

    gateway.write_stream("other", &other.stream.replace("mqtt-json", "mqtt-jason"));
    gateway.write_stream("good", &good.stream.replace("out/", "elsewhere/"));
    gateway.write_stream("new", &format!("{}[script.limits]\ntime = \"1h\"\n", good.stream));
    for command in ["plan", "apply"] {
        let said = complaint(&gateway, command).await;
        for words in [
            "streams/new.toml:12:8: `time` is 1h",
            "streams/other.toml:4:11: there is no official adapter \"mqtt-jason\"",
            "meanwhile: no change applied; the running configuration is kept",
        ] {
            assert!(said.contains(words), "{words:?} is not in {said}");
        }
    }
    publisher.publish_all(fleet.some(30..60)).await;
    gateway.until_settled("other", 60).await;
    gateway.until_settled("good", 60).await;
    assert_eq!((good.plug().connections(), other.plug().connections()), (1, 1));

    assert!(gateway.terminate().await.success());
    gateway.restart().await;
    gateway.until_ready().await;
    publisher.publish_all(fleet.some(60..90)).await;
    let stream = gateway.until_settled("good", 90).await;
    let note = stream.note.unwrap();
    assert!(
        note.contains("streams/good.toml differs from the running configuration")
            && note.contains("sluicegate apply"),
        "{note}"
    );
    let note = gateway.until_settled("other", 90).await.note.unwrap();
    assert!(note.contains("is invalid") && note.contains("mqtt-jason"), "{note}");
    assert_eq!(gateway.stream("new").await.state, "blocked", "it was never accepted");
    let warned = gateway.log_lines().into_iter().filter(|line| {
        line["message"]
            .as_str()
            .is_some_and(|text| text.starts_with("stream runs its last accepted configuration: "))
    });
    assert_eq!(warned.count(), 2);
    assert!(gateway.prints(&["streams"]).await.contains("\nnote: good: "));
    for receiver in [&good, &other] {
        assert_once(&fleet, receiver, |_| true);
    }

    // `--apply` accepts the files as they are, except invalid ones.
    assert!(gateway.terminate().await.success());
    gateway.restart_with(&["--apply"]).await;
    gateway.until("good", "it runs", |s| s.state == "running").await;
    assert_eq!(gateway.stream("good").await.note, None);
    assert!(gateway.stream("other").await.note.is_some());
    publisher
        .publish_all([("flespi/message/gw/devices/0", json!({ "ident": "x", "n": 1 }).to_string())])
        .await;
    gateway.until_settled("good", 91).await;
    let last = good.inbox.all().pop();
    assert!(format!("{last:?}").contains("elsewhere/x"), "{last:?}");
}

#[tokio::test]
async fn while_no_gateway_runs_the_next_one_is_changed() {
    let folder = Folder::new();
    let [receiver, second] = receivers(&folder, [Kind::Mqtt, Kind::Mqtt]).await;
    let broker = Broker::start().await;
    let mut gateway = folder.bus(&broker.url()).stream("stream", &receiver.stream).start().await;
    assert!(gateway.terminate().await.success());
    gateway.write_stream("stream", &receiver.stream.replace("out/", "elsewhere/"));
    gateway.write_stream("second", &second.stream);
    let expected = [change("second", "new", &[]), change("stream", "changed", &["script.settings.topic"])];
    assert_eq!(changes(&gateway, "plan").await, expected);
    assert_eq!(changes(&gateway, "apply").await, expected);
    let words = ["unchanged", "unchanged"];
    assert!(changes(&gateway, "plan").await.iter().map(|(_, word, _)| word).eq(words));
    gateway.write_stream("second", "nonsense");
    assert!(complaint(&gateway, "apply").await.contains("streams/second.toml:1:9: invalid TOML"));
    gateway.restart().await;
    gateway.until_ready().await;
    let topic = "flespi/message/gw/devices/0";
    Publisher::connect(&broker).publish(topic, json!({ "ident": "x", "n": 1 }).to_string()).await;
    for name in ["stream", "second"] {
        gateway.until_settled(name, 1).await;
    }
    assert!(format!("{:?}", receiver.inbox.all()).contains("elsewhere/x"));

    // What only a restart changes is said.
    let main = gateway.path().join("sluicegate.toml");
    let text = std::fs::read_to_string(&main).unwrap();
    std::fs::write(&main, text.replace("client_id", "keep_alive = \"10s\"\nclient_id")).unwrap();
    gateway.write_stream("second", &second.stream);
    let said = gateway.prints(&["plan"]).await;
    assert!(said.contains("sluicegate.toml has changed: bus.keep_alive; restart the gateway"), "{said}");
}

#[tokio::test]
async fn watched_files_take_effect_by_themselves_and_bad_ones_do_not() {
    let folder = Folder::new();
    let [receiver, second] = receivers(&folder, [Kind::Mqtt, Kind::Mqtt]).await;
    let broker = Broker::start().await;
    let gateway = folder
        .bus(&broker.url())
        .table("[reload]\nstreams = \"watch\"\n")
        .stream("stream", &receiver.stream)
        .start()
        .await;
    let publisher = Publisher::connect(&broker);
    let fleet = Fleet::new(3, 20);
    publisher.publish_all(fleet.some(0..10)).await;
    gateway.until_settled("stream", 10).await;

    gateway.write_stream("second", "nonsense");
    let refused = |line: &LogLine| {
        line["message"] == "stream files not applied; the running configuration is kept"
            && line["reason"].as_str().is_some_and(|reason| reason.contains("streams/second.toml:1:9"))
    };
    gateway.until_logged("the file that is wrong", refused).await;
    gateway.write_stream("second", &second.stream);
    let applied = |line: &LogLine| line["message"] == "applied: stream added" && line["stream"] == "second";
    gateway.until_logged("the file that was put right", applied).await;
    gateway.until("second", "it runs", |s| s.state == "running").await;
    // What is subscribed already needs no answer of the broker.
    publisher.publish_all(fleet.some(10..20)).await;
    gateway.until_settled("second", 10).await;
    gateway.until_settled("stream", 20).await;
    assert_once(&fleet, &receiver, |_| true);
    assert_once(&fleet, &second, |number| number >= 10);
    assert_eq!(receiver.plug().connections(), 1);
    assert!(gateway.prints(&["plan"]).await.ends_with("Nothing to change.\n"));
}
