//! A stream that goes nowhere changes nothing for the others; where it is told
//! to block when its quota is used up, it is named.

use sluicegate_tests::broker::Broker;
use sluicegate_tests::fleet::{Fleet, arrivals_in};
use sluicegate_tests::gateway::{Folder, Gateway};
use sluicegate_tests::publisher::Publisher;
use sluicegate_tests::receiver::{Kind, dead_end, stream_file};
use standins::Inbox;
use standins::mqtt::MqttStandin;

/// Streams `stuck`, to an address without a listener, and `healthy`.
async fn stuck_and_healthy(window: &str, delivery: &str) -> (Broker, Gateway, Inbox, MqttStandin) {
    let broker = Broker::start().await;
    let inbox = Inbox::default();
    let standin = MqttStandin::start(inbox.clone(), None).await.unwrap();
    let bus = format!("url = \"{}\"\nclient_id = \"gateway\"\n{window}", broker.url());
    let stream = |url: String| stream_file(Kind::Mqtt, "topic = \"out\"", &format!("url = \"mqtt://{url}\""));
    let gateway = Folder::new()
        .bus_lines(&bus)
        .stream("stuck", &format!("{}{delivery}", stream(dead_end().to_string())))
        .stream("healthy", &stream(format!("localhost:{}", standin.port())))
        .start()
        .await;
    (broker, gateway, inbox, standin)
}

#[tokio::test]
async fn wrong_address_does_not_affect_other_streams() {
    // Thirty times what may be received and not acknowledged.
    let (broker, gateway, inbox, _standin) = stuck_and_healthy("window_messages = 100", "").await;
    let fleet = Fleet::new(9, 3000);
    Publisher::connect(&broker).publish_all(fleet.all()).await;
    let healthy = gateway.until_settled("healthy", 3000).await;
    assert_eq!((healthy.delivered, healthy.state.as_str()), (3000, "running"));
    assert_eq!(fleet.assert_arrived(&arrivals_in(&inbox)), 0, "nothing comes twice");
    let stuck = gateway.until("stuck", "it has read all", |s| s.read == 3000).await;
    assert!(stuck.troubled_by("127.0.0.1:9"), "{stuck:?}");
    assert_eq!((stuck.queued, stuck.delivered, stuck.holds_bus), (3000, 0, false), "{stuck:?}");
    assert!(stuck.lag > 0.0);
    assert!(gateway.readiness().await.ready);
}

#[tokio::test]
async fn small_quota_expires_only_messages_of_stuck_stream() {
    let quota = "[delivery]\nmax_backlog = \"256KiB\"\n";
    let (broker, gateway, inbox, _standin) = stuck_and_healthy("", quota).await;
    let fleet = Fleet::new(9, 3000);
    Publisher::connect(&broker).publish_all(fleet.all()).await;
    gateway.until_settled("healthy", 3000).await;
    fleet.assert_arrived(&arrivals_in(&inbox));
    let stuck = gateway.until("stuck", "it has read all", |s| s.read == 3000).await;
    assert!(stuck.expired > 1000 && stuck.queued > 500, "{stuck:?}");
    assert!(gateway.readiness().await.ready);
}

#[tokio::test]
async fn blocking_quota_pauses_bus_and_names_stream() {
    let quota = "[delivery]\nmax_backlog = \"64KiB\"\non_full = \"block\"\n";
    let (broker, gateway, inbox, standin) = stuck_and_healthy("window_messages = 100", quota).await;
    let fleet = Fleet::new(3, 2000);
    Publisher::connect(&broker).publish_all(fleet.all()).await;
    let stuck = gateway.until("stuck", "it holds the bus back", |s| s.holds_bus).await;
    assert!(stuck.queued >= 100 && stuck.read < 2000 && stuck.expired == 0, "{stuck:?}");
    let healthy = gateway.until("healthy", "it has delivered what was read", |s| s.queued == 0).await;
    assert!(healthy.read < 2000 && !healthy.holds_bus, "{healthy:?}");

    let readiness = gateway.readiness().await;
    assert!(!readiness.ready, "{readiness:?}");
    assert!(readiness.waiting_for.iter().any(|who| who.starts_with("stuck:")), "{readiness:?}");
    assert_eq!(readiness.journal["full"], true);
    assert_eq!(readiness.journal["holder"], "stuck");
    assert_eq!(readiness.bus["connected"], true, "the bus waits, and stays connected");
    drop((inbox, standin));
}

#[tokio::test]
async fn invalid_stream_file_is_listed_with_the_others() {
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
