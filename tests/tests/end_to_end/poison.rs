//! One message that the destination will never take, among good ones: it alone
//! is a dead letter, logged whole, with what the destination said of it.

use serde_json::json;
use sluicegate_tests::fleet::{Fleet, arrivals_in};
use sluicegate_tests::gateway::Folder;
use sluicegate_tests::publisher::Publisher;
use sluicegate_tests::receiver::{Kind, POISONED, Receiver};
use standins::Received;

use crate::to_receiver;

async fn one_poisoned_among_good_ones(receiver: Receiver, folder: Folder, kind: Kind) {
    let words = receiver.refuse_the_poisoned();
    let (broker, gateway) = to_receiver(folder, &receiver).await;
    let fleet = Fleet::new(5, 100);
    let topic = "flespi/message/gw/devices/poisoned";
    let payload =
        json!({ "ident": POISONED, "n": 7, "timestamp": 1_700_000_007, "position.speed": 3 }).to_string();
    let publisher = Publisher::connect(&broker);
    publisher.publish_all(fleet.some(0..50)).await;
    publisher.publish(topic, payload.clone()).await;
    publisher.publish_all(fleet.some(50..90)).await;
    // Without something accepted after its refusal the poisoned one waits, and
    // which of them a batch sends last is the script's affair: proof of life
    // must be published after everything else has arrived.
    gateway.until("stream", "the good ones have arrived", |s| s.delivered == 90).await;
    publisher.publish_all(fleet.some(90..100)).await;

    let stream = gateway.until_settled("stream", 101).await;
    assert_eq!((stream.read, stream.delivered, stream.dead_lettered), (101, 100, 1), "{stream:?}");
    gateway.until("stream", "it runs on", |s| s.state == "running").await;

    let letters = gateway.dead_letters("stream");
    assert_eq!(letters.len(), 1, "{letters:?}");
    let letter = &letters[0];
    assert_eq!(letter["topic"], topic);
    assert_eq!(letter["payload"], payload, "the log has the message whole");
    assert!(letter["reason"].as_str().unwrap().contains(words), "{letter:?}");
    let body = letter["body"].as_str().unwrap();
    let expected = if kind == Kind::Wialon { "base64:" } else { POISONED };
    assert!(body.contains(expected), "the log has the refused delivery, not {body}");

    if kind == Kind::AwsIot {
        for number in 95..100 {
            assert_eq!(receiver.shadow_number(&fleet.device(number)), Some(number));
        }
        assert_eq!(receiver.shadow_number(POISONED), None);
    } else {
        let arrived = receiver.inbox.all();
        assert!(!arrived.iter().any(|r| matches!(r, Received::Packet(p) if p.uid == POISONED)));
        fleet.assert_arrived(&arrivals_in(&receiver.inbox));
    }
}

async fn one_poisoned_at(kind: Kind) {
    let folder = Folder::new();
    let receiver = Receiver::start(kind, folder.path()).await;
    one_poisoned_among_good_ones(receiver, folder, kind).await;
}

#[tokio::test]
async fn aws_iot_rejects_one_message() {
    one_poisoned_at(Kind::AwsIot).await;
}

#[tokio::test]
async fn thingsboard_refuses_one_message() {
    one_poisoned_at(Kind::ThingsBoard).await;
}

#[tokio::test]
async fn wialon_closes_at_one_message() {
    one_poisoned_among_good_ones(Receiver::start_wialon_that_closes().await, Folder::new(), Kind::Wialon)
        .await;
}

/// The delivery is a list of up to ten messages: it is split until the one is
/// found.
#[tokio::test]
async fn http_refuses_one_message_of_a_list() {
    one_poisoned_at(Kind::Http).await;
}

#[tokio::test]
async fn mqtt_refuses_one_message() {
    one_poisoned_at(Kind::Mqtt).await;
}
