//! The side of the bus: nothing that the broker has taken over is lost, however
//! the gateway or the broker ends, and each stream gets what it asked for.

use serde_json::Value;
use sluicegate_tests::broker::{Broker, BrokerOptions};
use sluicegate_tests::fleet::{Fleet, arrivals, arrivals_in};
use sluicegate_tests::gateway::Folder;
use sluicegate_tests::publisher::Publisher;
use sluicegate_tests::receiver::{Kind, Receiver};
use sluicegate_tests::{LOOK, PATIENCE};
use standins::Inbox;
use standins::mqtt::{Mode, MqttStandin};
use standins::mqtt_server::Reply;

use crate::one_stream;

/// A stream of these topics to an MQTT stand-in, with more lines before the
/// first table.
fn stream_of(topics: &str, lines: &str, standin: &MqttStandin) -> String {
    format!(
        "topics = {topics}\n{lines}\n[script]\nadapter = \"mqtt-json\"\n\
         [destination]\ntype = \"mqtt\"\nurl = \"mqtt://localhost:{}\"\ntopic = \"out\"\n",
        standin.port()
    )
}

async fn receiver() -> (Inbox, MqttStandin) {
    let inbox = Inbox::default();
    let standin = MqttStandin::start(inbox.clone(), None).await.unwrap();
    (inbox, standin)
}

/// What a killed gateway had not journaled comes again from the broker, what it
/// had not settled from its journal.
#[tokio::test]
async fn gateway_killed_under_load_loses_nothing() {
    let (broker, mut gateway, receiver) = one_stream(Kind::Mqtt).await;
    let fleet = Fleet::new(11, 4000);
    let publisher = Publisher::connect(&broker);
    let publishing = tokio::spawn(async move { publisher.publish_all(fleet.all()).await });
    for part in 1..=3_usize {
        let arrived = part * 800;
        assert!(receiver.inbox.wait_until(PATIENCE, |all| all.len() >= arrived).await, "part {part}");
        gateway.kill();
        gateway.restart().await;
    }
    publishing.await.unwrap();
    // The counters count what they settled; only the receiver knows of repeats.
    let repeats = fleet.until_arrived(&receiver.inbox).await;
    gateway.until("stream", "all is settled", |s| s.queued == 0).await;
    println!("three kills, {repeats} of 4000 messages came again");
}

#[tokio::test]
async fn restarted_persistent_broker_delivers_the_rest() {
    let mut broker =
        Broker::start_with(BrokerOptions { persistence: true, ..BrokerOptions::default() }).await;
    let folder = Folder::new();
    let receiver = Receiver::start(Kind::Mqtt, folder.path()).await;
    let mut gateway = folder.bus(&broker.url()).stream("stream", &receiver.stream).start().await;
    let fleet = Fleet::new(5, 600);
    let publisher = Publisher::connect(&broker);
    publisher.publish_all(fleet.some(0..100)).await;
    gateway.until_settled("stream", 100).await;
    receiver.plug().unplug().await.unwrap();
    publisher.publish_all(fleet.some(100..400)).await;
    gateway.until("stream", "all is read", |s| s.read == 400).await;

    broker.stop().await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while gateway.readiness().await.bus["connected"] == Value::Bool(true) {
        assert!(tokio::time::Instant::now() < deadline, "the gateway does not notice");
        tokio::time::sleep(LOOK).await;
    }
    broker.resume().await;
    gateway.until_ready().await;
    Publisher::connect(&broker).publish_all(fleet.some(400..600)).await;
    receiver.plug().plug().await.unwrap();
    fleet.until_arrived(&receiver.inbox).await;
}

#[tokio::test]
async fn sigterm_in_full_flow_is_a_clean_end_without_loss() {
    let (broker, mut gateway, receiver) = one_stream(Kind::Http).await;
    let fleet = Fleet::new(7, 3000);
    let publisher = Publisher::connect(&broker);
    let publishing = tokio::spawn(async move { publisher.publish_all(fleet.all()).await });
    assert!(receiver.inbox.wait_until(PATIENCE, |all| all.len() >= 20).await);
    let status = gateway.terminate().await;
    assert_eq!(status.code(), Some(0), "{status}");
    publishing.await.unwrap();
    gateway.restart().await;
    gateway.until_ready().await;
    fleet.until_arrived(&receiver.inbox).await;
    assert_eq!(gateway.terminate().await.code(), Some(0), "idle, too");
}

/// A destination that does not answer holds up neither the end nor what it has
/// not acknowledged.
#[tokio::test]
async fn sigterm_with_a_silent_destination_hands_everything_back() {
    let broker = Broker::start().await;
    let (inbox, standin) = receiver().await;
    standin.set_mode(Mode::Reply(Reply::Silence));
    let stream = stream_of("[\"flespi/message/gw/devices/+\"]", "", &standin);
    let mut gateway = Folder::new().bus(&broker.url()).stream("stream", &stream).start().await;
    let fleet = Fleet::new(3, 200);
    Publisher::connect(&broker).publish_all(fleet.all()).await;
    gateway.until("stream", "all is read", |s| s.read == 200).await;
    assert_eq!(gateway.terminate().await.code(), Some(0));
    standin.set_mode(Mode::Accept);
    gateway.restart().await;
    gateway.until_settled("stream", 200).await;
    fleet.assert_arrived(&arrivals_in(&inbox));
}

#[tokio::test]
async fn arrays_are_split_and_qos_0_is_taken() {
    let (broker, gateway, receiver) = one_stream(Kind::Mqtt).await;
    let fleet = Fleet::new(1, 30);
    let publisher = Publisher::connect(&broker);
    let array = |from: u64, to: u64| {
        let parts: Vec<Value> = (from..to).map(|n| fleet.message(n)).collect();
        Value::from(parts).to_string()
    };
    publisher.publish(&fleet.topic(0), array(0, 10)).await;
    publisher.publish(&fleet.topic(0), "[]").await;
    for (topic, payload) in fleet.some(10..20) {
        publisher.publish_at_most_once(&topic, payload).await;
    }
    publisher.publish(&fleet.topic(0), array(20, 30)).await;
    let stream = gateway.until_settled("stream", 30).await;
    assert_eq!((stream.read, stream.delivered), (30, 30), "{stream:?}");
    assert_eq!(fleet.assert_arrived(&arrivals_in(&receiver.inbox)), 0, "nothing comes twice");
}

#[tokio::test]
async fn streams_with_overlapping_filters_get_one_copy_each() {
    let broker = Broker::start().await;
    let (all_inbox, all) = receiver().await;
    let (one_inbox, one) = receiver().await;
    let gateway = Folder::new()
        .bus(&broker.url())
        .stream("all", &stream_of("[\"flespi/message/#\"]", "", &all))
        .stream("one", &stream_of("[\"flespi/message/gw/devices/2\", \"other/+\"]", "", &one))
        .start()
        .await;
    let fleet = Fleet::new(4, 200);
    Publisher::connect(&broker).publish_all(fleet.all()).await;
    let stream = gateway.until_settled("all", 200).await;
    assert_eq!(stream.read, 200, "one copy each: {stream:?}");
    let stream = gateway.until_settled("one", 50).await;
    assert_eq!(stream.read, 50, "{stream:?}");
    assert_eq!(fleet.assert_arrived(&arrivals_in(&all_inbox)), 0);
    assert_eq!(fleet.assert_some_arrived(&arrivals_in(&one_inbox), |n| n % 4 == 2), 0);
}

#[tokio::test]
async fn only_and_except_divide_the_devices() {
    let broker = Broker::start().await;
    let (acme_inbox, acme) = receiver().await;
    let (rest_inbox, rest) = receiver().await;
    let topics = "[\"flespi/message/gw/devices/+\"]";
    let gateway = Folder::new()
        .bus(&broker.url())
        .file("streams/acme.txt", "unit-1\nunit-3\n")
        .stream("acme", &stream_of(topics, "key = \"ident\"\nonly = { file = \"acme.txt\" }", &acme))
        .stream("rest", &stream_of(topics, "key = \"ident\"\nexcept = [\"unit-1\", \"unit-3\"]", &rest))
        .start()
        .await;
    let fleet = Fleet::new(5, 250);
    Publisher::connect(&broker).publish_all(fleet.all()).await;
    let is_acme = |n: u64| matches!(n % 5, 1 | 3);
    assert_eq!(gateway.until_settled("acme", 100).await.read, 100);
    assert_eq!(gateway.until_settled("rest", 150).await.read, 150);
    assert_eq!(fleet.assert_some_arrived(&arrivals_in(&acme_inbox), is_acme), 0);
    assert_eq!(fleet.assert_some_arrived(&arrivals_in(&rest_inbox), |n| !is_acme(n)), 0);
}

#[tokio::test]
async fn two_gateways_share_a_subscription() {
    let broker = Broker::start().await;
    let (inbox, standin) = receiver().await;
    let stream = stream_of("[\"flespi/message/gw/devices/+\"]", "", &standin);
    let start = async |name: &str| {
        let bus = format!("url = \"{}\"\nclient_id = \"{name}\"\nshare = \"fleet\"", broker.url());
        Folder::new().bus_lines(&bus).stream("stream", &stream).start().await
    };
    let (first, second) = (start("first").await, start("second").await);
    let fleet = Fleet::new(6, 600);
    Publisher::connect(&broker).publish_all(fleet.all()).await;
    assert!(inbox.wait_until(PATIENCE, |all| all.len() >= 600).await);
    let (first, second) = (first.stream("stream").await, second.stream("stream").await);
    assert!(first.read > 0 && second.read > 0, "both take part: {first:?} {second:?}");
    assert_eq!(first.read + second.read, 600, "each message goes to one of them");
    // No order is promised between members of a group.
    let mut numbers: Vec<u64> = arrivals(&inbox.all()).iter().map(|arrival| arrival.number).collect();
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..600), "{numbers:?}");
}

#[tokio::test]
async fn bus_accepts_mutual_tls_and_password() {
    let options =
        BrokerOptions { tls: true, login: Some(("gateway", "tr0ub4dor")), ..BrokerOptions::default() };
    let broker = Broker::start_with(options).await;
    let (inbox, standin) = receiver().await;
    let bus = format!(
        "url = \"{}\"\nclient_id = \"gateway\"\nusername = \"gateway\"\npassword = {{ env = \"BUS_PASSWORD\" }}\n{}",
        broker.url(),
        broker.certificates.as_ref().unwrap().client_lines()
    );
    let gateway = Folder::new()
        .bus_lines(&bus)
        .env("BUS_PASSWORD", "tr0ub4dor")
        .stream("stream", &stream_of("[\"flespi/message/gw/devices/+\"]", "", &standin))
        .start()
        .await;
    let fleet = Fleet::new(5, 200);
    Publisher::connect(&broker).publish_all(fleet.all()).await;
    gateway.until_settled("stream", 200).await;
    fleet.assert_arrived(&arrivals_in(&inbox));
    let log = serde_json::to_string(&gateway.log_lines()).unwrap();
    assert!(!log.contains("tr0ub4dor"), "the log shows the password");
}

#[tokio::test]
async fn wrong_password_is_reported_and_fixed_by_restart() {
    let options = BrokerOptions { login: Some(("gateway", "right")), ..BrokerOptions::default() };
    let broker = Broker::start_with(options).await;
    let (_inbox, standin) = receiver().await;
    let bus = format!(
        "url = \"{}\"\nclient_id = \"gateway\"\nusername = \"gateway\"\npassword = {{ file = \"password\" }}",
        broker.url()
    );
    let mut gateway = Folder::new()
        .bus_lines(&bus)
        .file("password", "wrong\n")
        .stream("stream", &stream_of("[\"flespi/message/gw/devices/+\"]", "", &standin))
        .start_unready()
        .await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let readiness = gateway.readiness().await;
        assert!(!readiness.ready);
        let error = readiness.bus["last_error"].as_str().unwrap_or_default().to_lowercase();
        if error.contains("not auth") || error.contains("password") {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{readiness:?}");
        tokio::time::sleep(LOOK).await;
    }
    std::fs::write(gateway.path().join("password"), "right\n").unwrap();
    assert_eq!(gateway.terminate().await.code(), Some(0));
    gateway.restart().await;
    gateway.until_ready().await;
}
