//! The binary brings along another version of an adapter than the one that
//! runs.

use script::Version;
use serde_json::{Value, json};
use sluicegate_tests::broker::Broker;
use sluicegate_tests::gateway::{Folder, Gateway, LogLine};
use sluicegate_tests::publisher::Publisher;
use sluicegate_tests::receiver::{Kind, Receiver};
use sluicegate_tests::scripts;
use standins::Received;

const TOPIC: &str = "flespi/message/gw/devices/1";

/// Makes of a stopped gateway one that has run another version of `mqtt-json`
/// until now: one that sends everything to the topic `before`.
fn has_run_another(gateway: &Gateway) -> String {
    let wasm = scripts::marking("before");
    let version = Version::of(&wasm);
    let folder = gateway.path().join("data/scripts");
    std::fs::write(folder.join(format!("{}.wasm", version.full())), &wasm).unwrap();
    let accepted = json!({
        "version": version.full(), "name": "mqtt-json", "source": "adapter mqtt-json", "accepted_at": 7,
        "state_version": 0
    });
    std::fs::write(folder.join("fleet.json"), json!({ "versions": [accepted] }).to_string()).unwrap();
    version.to_string()
}

fn topics(receiver: &Receiver) -> Vec<String> {
    let topic = |received: Received| match received {
        Received::Publish { topic, .. } => Some(topic),
        _ => None,
    };
    receiver.inbox.all().into_iter().filter_map(topic).collect()
}

async fn start() -> (Broker, Receiver, Gateway, String) {
    let folder = Folder::new();
    let receiver = Receiver::start(Kind::Mqtt, folder.path()).await;
    let broker = Broker::start().await;
    let mut gateway = folder.bus(&broker.url()).stream("fleet", &receiver.stream).start().await;
    assert!(gateway.terminate().await.success());
    let version = has_run_another(&gateway);
    (broker, receiver, gateway, version)
}

async fn restart(gateway: &mut Gateway, version: &str) {
    gateway.restart().await;
    gateway.until_ready().await;
    let runs = |s: &sluicegate_tests::gateway::Stream| {
        s.state == "running" && s.script.as_ref().is_some_and(|script| script.version == version)
    };
    gateway.until("fleet", "it keeps its version", runs).await;
}

fn payload(n: u64) -> String {
    json!({ "ident": "x", "n": n }).to_string()
}

#[tokio::test]
async fn new_adapter_version_waits_for_update() {
    let (broker, receiver, mut gateway, before) = start().await;
    restart(&mut gateway, &before).await;
    let waits = |line: &LogLine| {
        line.get("waiting").is_some()
            && line.get("running").and_then(Value::as_str).is_some_and(|running| running.ends_with(&before))
    };
    gateway.until_logged("the version that waits", waits).await;
    let publisher = Publisher::connect(&broker);
    publisher.publish(TOPIC, payload(1)).await;
    gateway.until_settled("fleet", 1).await;

    let shown = gateway.prints(&["streams", "update", "fleet"]).await;
    assert!(
        shown.contains("\n- {\"target\":\"before\"") && shown.contains("\n+ {\"target\":\"out/x\""),
        "{shown}"
    );
    assert!(shown.ends_with("Nothing was changed. Repeat the command with --yes to change it.\n"), "{shown}");
    publisher.publish(TOPIC, payload(2)).await;
    gateway.until_settled("fleet", 2).await;
    let taken = gateway.prints(&["streams", "update", "fleet", "--yes"]).await;
    assert!(taken.contains(&format!("replaced mqtt-json {before}")), "{taken}");
    publisher.publish(TOPIC, payload(3)).await;
    gateway.until_settled("fleet", 3).await;
    assert_eq!(topics(&receiver), ["before", "before", "out/x"]);
}

/// Its settings are those of the version that it has.
#[tokio::test]
async fn settings_of_the_version_that_runs_are_good_until_another_one_is_wanted() {
    let (broker, receiver, mut gateway, before) = start().await;
    // What it has run, it has run with this.
    let of_before = format!("{}[script.settings.of_before]\na = 1\n", receiver.stream);
    gateway.write_stream("fleet", &of_before);
    let refused = gateway.command(&["check"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("of_before"), "{refused:?}");
    assert!(gateway.prints(&["apply"]).await.ends_with("Applied.\n"));
    restart(&mut gateway, &before).await;
    let told = |line: &LogLine| {
        line["message"].as_str().is_some_and(|text| text.ends_with("cannot take its place"))
            && line["reason"].as_str().is_some_and(|reason| reason.contains("of_before"))
    };
    gateway.until_logged("why the version that waits does not do", told).await;
    assert!(gateway.stream("fleet").await.note.unwrap().contains("would be rejected now"));
    // Another file may be changed all the same.
    gateway.write_stream("second", &receiver.stream.replace("out/", "second/"));
    assert!(gateway.prints(&["apply"]).await.ends_with("Applied.\n"));
    let update = gateway.command(&["streams", "update", "fleet", "--yes"]).await;
    assert!(String::from_utf8_lossy(&update.stderr).contains("of_before"), "{update:?}");

    // And of the next version when that one is wanted.
    gateway.write_stream("fleet", &receiver.stream);
    assert!(gateway.prints(&["apply"]).await.ends_with("Applied.\n"));
    gateway.prints(&["streams", "update", "fleet", "--yes"]).await;
    Publisher::connect(&broker).publish(TOPIC, payload(1)).await;
    gateway.until_settled("fleet", 1).await;
    assert!(topics(&receiver).contains(&"out/x".to_owned()));
}

#[tokio::test]
async fn pinned_stream_keeps_its_version() {
    let (broker, receiver, mut gateway, before) = start().await;
    let pinned = |pin: u32| {
        let stream =
            receiver.stream.replace("adapter = \"mqtt-json\"", &format!("adapter = \"mqtt-json@{pin}\""));
        assert_ne!(stream, receiver.stream);
        stream
    };
    gateway.write_stream("fleet", &pinned(7));
    let refused = gateway.command(&["check"]).await;
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("`mqtt-json@7` is not available"),
        "{refused:?}"
    );
    assert!(gateway.prints(&["apply"]).await.ends_with("Applied.\n"));
    restart(&mut gateway, &before).await;
    let told = |line: &LogLine| {
        line["message"].as_str().is_some_and(|text| text.ends_with("cannot take its place"))
            && line["reason"].as_str().is_some_and(|reason| reason.contains("`mqtt-json@7` is not available"))
    };
    gateway.until_logged("that another version is here", told).await;
    Publisher::connect(&broker).publish(TOPIC, payload(1)).await;
    gateway.until_settled("fleet", 1).await;
    assert_eq!(topics(&receiver), ["before"]);
    let update = gateway.command(&["streams", "update", "fleet", "--yes"]).await;
    assert!(String::from_utf8_lossy(&update.stderr).contains("`mqtt-json@7` is not available"), "{update:?}");

    // A stream that has run nothing has no version to keep.
    gateway.write_stream("second", &pinned(7));
    let refused = gateway.command(&["apply"]).await;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("streams/second.toml:4:1: `mqtt-json@7` is not available"), "{text}");
    gateway.write_stream("second", &pinned(1));
    assert!(gateway.prints(&["apply"]).await.ends_with("Applied.\n"));
    gateway.until("second", "it runs", |s| s.state == "running").await;
}
