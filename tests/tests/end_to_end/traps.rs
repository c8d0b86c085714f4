//! What MQTT does to those who trust it, by name.

use rumqttc::{AckMode, AsyncClient, BrokerSessionResumePolicy, Event, MqttOptions, Packet};
use serde_json::Value;
use sluicegate_tests::broker::Broker;
use sluicegate_tests::fleet::{Fleet, arrivals_in};
use sluicegate_tests::gateway::{Folder, Gateway, Readiness, signal};
use sluicegate_tests::proxy::{Flow, Link, Proxy};
use sluicegate_tests::publisher::Publisher;
use sluicegate_tests::receiver::{Kind, Receiver};
use sluicegate_tests::{LOOK, PATIENCE};
use tokio::time::{Instant, sleep, timeout};

use crate::one_stream;

/// Broker, gateway with a stream `stream`, its receiver, and the link between
/// broker and gateway, which fails in each way.
async fn behind_a_bus_link() -> (Broker, Gateway, Receiver, Proxy) {
    let broker = Broker::start().await;
    let link = Proxy::start(([127, 0, 0, 1], broker.port()).into()).await;
    let folder = Folder::new();
    let receiver = Receiver::start(Kind::Mqtt, folder.path()).await;
    let bus = format!("url = \"mqtt://{}\"\nclient_id = \"gateway\"\nkeep_alive = \"5s\"", link.address());
    let gateway = folder.bus_lines(&bus).stream("stream", &receiver.stream).start().await;
    (broker, gateway, receiver, link)
}

/// Waits until `holds` is true of the readiness, and returns it.
async fn until(gateway: &Gateway, what: &str, holds: impl Fn(&Readiness) -> bool) -> Readiness {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let readiness = gateway.readiness().await;
        if holds(&readiness) {
            return readiness;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}; {readiness:?}");
        sleep(LOOK).await;
    }
}

fn says(gateway: &Gateway, words: &str) -> bool {
    gateway.log_lines().iter().any(|line| Value::from(line.clone()).to_string().contains(words))
}

/// The broker has been acknowledged everything, each message by the right
/// packet identifier: a gateway that starts again is handed nothing.
async fn assert_nothing_comes_again(broker: &Broker, gateway: &mut Gateway, receiver: &Receiver, next: u64) {
    assert_eq!(gateway.terminate().await.code(), Some(0));
    receiver.inbox.drain();
    gateway.restart().await;
    gateway.until_ready().await;
    let fleet = Fleet::new(5, next + 1);
    Publisher::connect(broker).publish_all(fleet.some(next..next + 1)).await;
    assert!(receiver.inbox.wait_until(PATIENCE, |all| !all.is_empty()).await);
    let numbers: Vec<u64> = arrivals_in(&receiver.inbox).iter().map(|arrival| arrival.number).collect();
    assert_eq!(numbers, [next]);
}

/// The broker sends what was not acknowledged again, under identifiers that
/// the new connection has in use for other messages than the old one had.
#[tokio::test]
async fn packet_identifiers_are_used_again_after_a_reconnect() {
    let (broker, mut gateway, receiver, link) = behind_a_bus_link().await;
    let fleet = Fleet::new(5, 300);
    let publisher = Publisher::connect(&broker);
    receiver.plug().unplug().await.unwrap();
    for part in 0..3 {
        publisher.publish_all(fleet.some(100 * part..100 * part + 100)).await;
        gateway.until("stream", "it has read them", |s| s.read >= 100 * (part + 1)).await;
        link.reset();
        until(&gateway, "it connects again", |r| {
            r.bus["reconnects"] == part + 1 && r.bus["connected"] == true
        })
        .await;
    }
    receiver.plug().plug().await.unwrap();
    fleet.until_arrived(&receiver.inbox).await;
    gateway.until_settled("stream", 300).await;
    assert_nothing_comes_again(&broker, &mut gateway, &receiver, 300).await;
}

/// Acknowledgements of a connection that has ended belong to no publish: given to
/// the next one, they would be for other messages.
#[tokio::test]
async fn acknowledgements_that_come_too_late_are_not_given_to_the_next_connection() {
    let (broker, mut gateway, receiver, link) = behind_a_bus_link().await;
    let fleet = Fleet::new(5, 300);
    let publisher = Publisher::connect(&broker);
    for part in 0..3 {
        link.set(Link { to_target: Flow::Held, ..Link::default() }).await;
        let publishing = fleet.some(100 * part..100 * part + 100);
        publisher.publish_all(publishing).await;
        gateway.until("stream", "they are delivered", |s| s.delivered >= 100 * part + 100).await;
        link.reset();
        link.heal().await;
        until(&gateway, "it connects again", |r| {
            r.bus["reconnects"] == part + 1 && r.bus["connected"] == true
        })
        .await;
    }
    let repeats = fleet.until_arrived(&receiver.inbox).await;
    gateway.until("stream", "what came again is settled, too", |s| s.read >= 300 && s.queued == 0).await;
    println!("{repeats} of 300 messages came again");
    assert_nothing_comes_again(&broker, &mut gateway, &receiver, 300).await;
}

/// The broker gives up a client that sends nothing for one and a half
/// keep-alives; the gateway wakes up with a connection that is no more.
#[tokio::test]
async fn gateway_frozen_beyond_keep_alive_recovers() {
    let (broker, gateway, receiver, _link) = behind_a_bus_link().await;
    let fleet = Fleet::new(5, 300);
    let publisher = Publisher::connect(&broker);
    publisher.publish_all(fleet.some(0..100)).await;
    signal(gateway.process(), "STOP");
    publisher.publish_all(fleet.some(100..200)).await;
    let deadline = Instant::now() + PATIENCE;
    while !broker.log_text().contains("exceeded timeout") {
        assert!(Instant::now() < deadline, "the broker does not give the gateway up");
        sleep(LOOK).await;
    }
    signal(gateway.process(), "CONT");
    publisher.publish_all(fleet.some(200..300)).await;
    fleet.until_arrived(&receiver.inbox).await;
    let readiness = until(&gateway, "it is connected", |r| r.bus["connected"] == true).await;
    assert!(readiness.bus["reconnects"].as_u64().unwrap() >= 1, "{readiness:?}");
    assert_eq!(readiness.bus["sessions_lost"], 0, "{readiness:?}");
}

#[tokio::test]
async fn lost_session_is_counted_and_logged() {
    let (mut broker, mut gateway, receiver) = one_stream(Kind::Mqtt).await;
    let fleet = Fleet::new(5, 200);
    Publisher::connect(&broker).publish_all(fleet.some(0..100)).await;
    gateway.until_settled("stream", 100).await;
    // It keeps nothing: after this the gateway's session is unknown.
    broker.stop().await;
    broker.resume().await;
    let readiness = until(&gateway, "the loss is counted", |r| r.bus["sessions_lost"] == 1).await;
    assert_eq!(readiness.bus["take_overs"], 0, "{readiness:?}");
    assert!(says(&gateway, "has lost the session"));
    gateway.until_ready().await;
    Publisher::connect(&broker).publish_all(fleet.some(100..200)).await;
    fleet.until_arrived(&receiver.inbox).await;
}

/// Another client with the gateway's client id gets the gateway's messages.
/// What he does not acknowledge is still there when he is gone. (This
/// mosquitto closes the connection of the one who was there first without a
/// word; what the gateway does where the broker says why is tested in
/// `bus::mqtt`.)
#[tokio::test]
async fn client_id_takeover_loses_nothing() {
    let (broker, gateway, receiver, _link) = behind_a_bus_link().await;
    let fleet = Fleet::new(5, 200);
    let publisher = Publisher::connect(&broker);
    publisher.publish_all(fleet.some(0..100)).await;
    gateway.until_settled("stream", 100).await;

    let mut options = MqttOptions::new("gateway", rumqttc::Broker::tcp("localhost", broker.port()));
    options
        .set_clean_start(false)
        .set_session_expiry_interval(Some(3600))
        .set_ack_mode(AckMode::Manual)
        .set_broker_session_resume_policy(BrokerSessionResumePolicy::AllowBrokerOnly);
    let (_intruder, mut events) = AsyncClient::builder(options).capacity(8).build();
    let connack = async {
        loop {
            if let Event::Incoming(Packet::ConnAck(connack)) = events.poll().await.unwrap() {
                break connack;
            }
        }
    };
    assert!(timeout(PATIENCE, connack).await.unwrap().session_present);
    let intruding = tokio::spawn(async move { while events.poll().await.is_ok() {} });
    publisher.publish_all(fleet.some(100..200)).await;
    // The gateway takes it back after a while, and the other one is out.
    timeout(PATIENCE, intruding).await.unwrap().unwrap();
    fleet.until_arrived(&receiver.inbox).await;
    let readiness = until(&gateway, "it is connected", |r| r.bus["connected"] == true).await;
    assert!(readiness.bus["reconnects"].as_u64().unwrap() >= 1, "{readiness:?}");
    assert_eq!(readiness.bus["sessions_lost"], 0, "{readiness:?}");
}

/// Servers before 4.2.1 sent one PUBACK for each device of a publish. The
/// second one is for no publish, or, worse, for the next publish of that
/// identifier.
#[tokio::test]
async fn several_acknowledgements_of_one_publish_lose_nothing() {
    let (broker, gateway, receiver) = one_stream(Kind::ThingsBoard).await;
    let fleet = Fleet::new(4, 120);
    let publisher = Publisher::connect(&broker);
    publisher.publish_all(fleet.some(0..40)).await;
    gateway.until_settled("stream", 40).await;
    receiver.acknowledge_each(2);
    publisher.publish_all(fleet.some(40..80)).await;
    let stream = gateway.until("stream", "some are delivered", |s| s.delivered > 44).await;
    assert_eq!(stream.dead_lettered, 0, "{stream:?}");
    receiver.accept();
    publisher.publish_all(fleet.some(80..120)).await;
    let stream = gateway.until_settled("stream", 120).await;
    assert_eq!((stream.delivered, stream.dead_lettered), (120, 0), "{stream:?}");
    fleet.assert_arrived(&arrivals_in(&receiver.inbox));
}
