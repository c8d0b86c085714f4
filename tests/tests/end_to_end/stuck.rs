//! A stream that goes nowhere changes nothing for the others until the window
//! of unacknowledged messages is full, and then it is named.

use sluicegate::cli::demo::standin::Inbox;
use sluicegate::cli::demo::standin::mqtt::MqttStandin;
use sluicegate_tests::broker::Broker;
use sluicegate_tests::fleet::{Fleet, arrivals_in};
use sluicegate_tests::gateway::{Folder, Gateway};
use sluicegate_tests::publisher::Publisher;
use sluicegate_tests::receiver::{Kind, dead_end, stream_file};

/// Streams `stuck`, to an address where nobody listens, and `healthy`.
async fn stuck_and_healthy(window: &str) -> (Broker, Gateway, Inbox, MqttStandin) {
    let broker = Broker::start().await;
    let inbox = Inbox::default();
    let standin = MqttStandin::start(inbox.clone(), None).await.unwrap();
    let bus = format!("url = \"{}\"\nclient_id = \"gateway\"\n{window}", broker.url());
    let stream = |url: String| stream_file(Kind::Mqtt, "topic = \"out\"", &format!("url = \"mqtt://{url}\""));
    let gateway = Folder::new()
        .bus_lines(&bus)
        .stream("stuck", &stream(dead_end().to_string()))
        .stream("healthy", &stream(format!("localhost:{}", standin.port())))
        .start()
        .await;
    (broker, gateway, inbox, standin)
}

#[tokio::test]
async fn a_wrong_address_stops_nobody_within_the_window() {
    let (broker, gateway, inbox, _standin) = stuck_and_healthy("").await;
    let fleet = Fleet::new(9, 3000);
    Publisher::connect(&broker).publish_all(fleet.all()).await;
    let healthy = gateway.until_settled("healthy", 3000).await;
    assert_eq!((healthy.delivered, healthy.state.as_str()), (3000, "running"));
    assert_eq!(fleet.assert_arrived(&arrivals_in(&inbox)), 0, "nothing comes twice");
    let stuck = gateway.until("stuck", "it has read all", |s| s.read == 3000).await;
    assert!(stuck.troubled_by("127.0.0.1:9"), "{stuck:?}");
    assert_eq!((stuck.queued, stuck.delivered, stuck.holds_window), (3000, 0, false), "{stuck:?}");
    assert!(stuck.lag > 0.0);
    assert!(gateway.readiness().await.ready);
}

#[tokio::test]
async fn a_full_window_names_its_holder() {
    let (broker, gateway, inbox, standin) = stuck_and_healthy("window_messages = 100").await;
    let fleet = Fleet::new(3, 250);
    Publisher::connect(&broker).publish_all(fleet.all()).await;
    let stuck = gateway.until("stuck", "it holds the window", |s| s.holds_window).await;
    assert!(stuck.queued >= 100 && stuck.read < 250, "{stuck:?}");
    let healthy = gateway.until("healthy", "it has delivered what was read", |s| s.delivered >= 100).await;
    assert!(healthy.read < 250 && !healthy.holds_window, "{healthy:?}");

    let readiness = gateway.readiness().await;
    assert!(!readiness.ready, "{readiness:?}");
    assert!(
        readiness.waiting_for.iter().any(|who| who.starts_with("stuck:") && who.contains("window")),
        "{readiness:?}"
    );
    assert_eq!(readiness.window["full"], true);
    assert_eq!(readiness.window["holder"], "stuck");
    assert_eq!(readiness.bus["connected"], true, "the bus waits, and stays connected");
    drop((inbox, standin));
}

/// Acknowledgements go out in order, so one message that goes nowhere is enough
/// to stop the broker, however many behind it are delivered.
#[tokio::test]
async fn one_stuck_message_at_the_head_of_the_window_is_named() {
    let broker = Broker::start().await;
    let inbox = Inbox::default();
    let standin = MqttStandin::start(inbox.clone(), None).await.unwrap();
    let bus = format!("url = \"{}\"\nclient_id = \"gateway\"\nwindow_messages = 100", broker.url());
    let healthy = format!("url = \"mqtt://localhost:{}\"", standin.port());
    let stuck = format!("url = \"mqtt://{}\"", dead_end());
    let stuck = stream_file(Kind::Mqtt, "topic = \"out\"", &stuck).replace("flespi/message", "stuck");
    let gateway = Folder::new()
        .bus_lines(&bus)
        .stream("stuck", &stuck)
        .stream("healthy", &stream_file(Kind::Mqtt, "topic = \"out\"", &healthy))
        .start()
        .await;
    let publisher = Publisher::connect(&broker);
    publisher.publish("stuck/gw/devices/1", "{\"ident\":\"1\"}").await;
    gateway.until("stuck", "it has read its message", |s| s.read == 1).await;
    publisher.publish_all(Fleet::new(3, 250).all()).await;
    gateway.until("stuck", "it holds the window", |s| s.holds_window && s.queued == 1).await;
    let healthy = gateway.stream("healthy").await;
    assert!(healthy.delivered == healthy.read && healthy.read < 250, "{healthy:?}");
    let readiness = gateway.readiness().await;
    assert_eq!((readiness.ready, &readiness.window["holder"]), (false, &"stuck".into()), "{readiness:?}");
}

#[tokio::test]
async fn a_stream_file_that_cannot_be_used_is_listed_beside_the_others() {
    let broker = Broker::start().await;
    let inbox = Inbox::default();
    let standin = MqttStandin::start(inbox.clone(), None).await.unwrap();
    let destination = format!("url = \"mqtt://localhost:{}\"", standin.port());
    let gateway = Folder::new()
        .bus(&broker.url())
        .stream("healthy", &stream_file(Kind::Mqtt, "topic = \"out\"", &destination))
        .stream("unusable", "topics = [\"a\"]\n[destination]\ntype = \"carrier-pigeon\"\n")
        .start()
        .await;
    let unusable = gateway.stream("unusable").await;
    assert!(unusable.state == "blocked" && unusable.troubled_by("carrier-pigeon"), "{unusable:?}");
    let fleet = Fleet::new(2, 50);
    Publisher::connect(&broker).publish_all(fleet.all()).await;
    gateway.until_settled("healthy", 50).await;
    fleet.assert_arrived(&arrivals_in(&inbox));
}
