#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use serde_json::json;
use standins::wialon::Block;

use super::super::fleet::Fleet;
use super::*;

fn message(fleet: &mut Fleet) -> FleetMessage {
    fleet.step(0, 1.0, 1_700_000_000_000)
}

fn published(count: usize) -> (Ledger, Vec<FleetMessage>) {
    let mut fleet = Fleet::new(1, 1);
    let messages: Vec<_> = (0..count).map(|_| message(&mut fleet)).collect();
    let mut ledger = Ledger::default();
    for message in &messages {
        ledger.publish(message.clone(), None, Instant::now());
    }
    (ledger, messages)
}

fn missing(ledger: &Ledger, receiver: Receiver) -> u64 {
    ledger.missing(receiver, Instant::now(), Duration::ZERO)
}

fn publish(message: &FleetMessage) -> Received {
    let topic = format!("fleet/{}", message.ident);
    Received::Publish { topic, payload: message.payload(), properties: Vec::new() }
}

fn shadow(message: &FleetMessage) -> Received {
    let reported = Value::Object(message.fields.clone());
    Received::Shadow(ShadowUpdate {
        thing: message.ident.to_string(),
        shadow: None,
        update: reported.clone(),
        merged: reported,
        version: 1,
        client_token: None,
    })
}

/// A packet with the blocks `from..` of the message, as a decoder gives it.
fn packet(message: &FleetMessage, part: impl Fn(&str) -> bool) -> Received {
    let block = |(name, value): (String, _)| {
        let fixed = matches!(name.as_str(), "posinfo" | "avl_inputs" | "avl_outputs");
        Block { offset: 0, size: 0, hidden: fixed, name, value }
    };
    let blocks = expect::blocks(message).into_iter().filter(|(name, _)| part(name)).map(block).collect();
    let time = u32::try_from(message.time / 1000).unwrap();
    Received::Packet(Packet { size: 0, uid: message.ident.to_string(), time, flags: 0, blocks })
}

#[test]
fn ledger_counts_missing_and_duplicates() {
    let (mut ledger, messages) = published(3);
    for message in [&messages[0], &messages[2], &messages[2]] {
        ledger.receive(Receiver::Mqtt, publish(message));
    }
    let book = ledger.book(Receiver::Mqtt);
    assert_eq!(book, Book { published: 3, received: 2, repeats: 1, wrong: 0, unexpected: 0 });
    assert_eq!(missing(&ledger, Receiver::Mqtt), 1);
    assert_eq!(ledger.missing(Receiver::Mqtt, Instant::now(), Duration::from_secs(60)), 0);
    assert!(ledger.is_clean());
}

#[test]
fn any_field_that_differs_is_wrong_and_named() {
    let (mut ledger, messages) = published(1);
    let changed = |field: &str, value: Value| {
        let mut message = messages[0].clone();
        message.fields.insert(field.to_owned(), value);
        publish(&message)
    };
    ledger.receive(Receiver::Mqtt, changed("position.speed", json!(999)));
    ledger.receive(Receiver::Mqtt, changed("extra", json!(1)));
    assert_eq!(ledger.book(Receiver::Mqtt).wrong, 2);
    assert_eq!(missing(&ledger, Receiver::Mqtt), 0);
    assert!(ledger.problems()[0].contains("message 1: position.speed is Number(999), expected"));
    assert!(ledger.problems()[1].contains("extra was not sent"));

    let Received::Publish { payload, .. } = publish(&messages[0]) else { unreachable!() };
    let elsewhere = Received::Publish { topic: "fleet/x".to_owned(), payload, properties: Vec::new() };
    ledger.receive(Receiver::Mqtt, elsewhere);
    assert_eq!(ledger.book(Receiver::Mqtt).wrong, 3);
}

#[test]
fn unpublished_message_is_unexpected() {
    let (mut ledger, messages) = published(1);
    let mut fleet = Fleet::new(1, 2);
    let stranger = fleet.step(1, 1.0, 1_700_000_000_000);
    ledger.receive(Receiver::Mqtt, publish(&stranger));
    let mut future = messages[0].clone();
    future.fields.insert(SEQUENCE.to_owned(), json!(7));
    ledger.receive(Receiver::Mqtt, publish(&future));
    let garbage = Bytes::from_static(b"{");
    let topic = "fleet/1".to_owned();
    ledger.receive(Receiver::Mqtt, Received::Publish { topic, payload: garbage, properties: Vec::new() });
    ledger.receive(Receiver::Mqtt, Received::Violation("a rule".to_owned()));
    assert_eq!(ledger.book(Receiver::Mqtt).unexpected, 4, "{:?}", ledger.problems());
    assert!(!ledger.is_clean());
}

#[test]
fn refused_message_is_expected_only_elsewhere() {
    let mut fleet = Fleet::new(1, 1);
    let mut ledger = Ledger::default();
    let message = message(&mut fleet);
    ledger.publish(message.clone(), Some(Receiver::Http), Instant::now());
    assert_eq!((missing(&ledger, Receiver::Http), missing(&ledger, Receiver::Wialon)), (0, 1));
    let objects = vec![Value::Object(message.fields)];
    let target = expect::HTTP_TARGET.to_owned();
    ledger.receive(Receiver::Http, Received::Request { target, headers: Vec::new(), objects });
    assert_eq!(ledger.book(Receiver::Http).unexpected, 1);
}

#[test]
fn newer_shadow_covers_older_messages() {
    let (mut ledger, messages) = published(3);
    ledger.receive(Receiver::Aws, shadow(&messages[1]));
    assert_eq!((ledger.book(Receiver::Aws).received, missing(&ledger, Receiver::Aws)), (2, 1));
    ledger.receive(Receiver::Aws, shadow(&messages[0]));
    assert_eq!(ledger.book(Receiver::Aws).wrong, 1);
    ledger.receive(Receiver::Aws, shadow(&messages[2]));
    ledger.receive(Receiver::Aws, shadow(&messages[2]));
    let book = ledger.book(Receiver::Aws);
    assert_eq!((book.received, book.repeats, missing(&ledger, Receiver::Aws)), (3, 1, 0));
}

#[test]
fn after_a_kill_a_shadow_may_go_back_once() {
    let (mut ledger, messages) = published(4);
    let got = |ledger: &mut Ledger, number: usize| ledger.receive(Receiver::Aws, shadow(&messages[number]));
    got(&mut ledger, 2);
    ledger.killed();
    for number in [0, 1, 2, 3] {
        got(&mut ledger, number);
    }
    let book = ledger.book(Receiver::Aws);
    assert_eq!((book.received, book.repeats, book.wrong), (4, 3, 0), "{:?}", ledger.problems());
    got(&mut ledger, 1);
    assert_eq!(ledger.book(Receiver::Aws).wrong, 1, "it has gone back a second time");
}

#[test]
fn message_out_of_order_is_wrong() {
    let (mut ledger, messages) = published(3);
    for number in [0, 2, 0, 1] {
        ledger.receive(Receiver::Mqtt, publish(&messages[number]));
    }
    let book = ledger.book(Receiver::Mqtt);
    assert_eq!((book.received, book.repeats, book.wrong), (2, 1, 1));
    assert!(
        ledger.problems()[0].contains("message 2 came first after 3 had come"),
        "{:?}",
        ledger.problems()
    );
}

#[test]
fn shadow_keeps_fields_of_older_messages() {
    let mut fleet = Fleet::new(1, 1);
    let mut ledger = Ledger::default();
    let (mut older, newer) = (message(&mut fleet), message(&mut fleet));
    older.fields.insert("alarm.event".to_owned(), json!(true));
    ledger.publish(older, None, Instant::now());
    ledger.publish(newer.clone(), None, Instant::now());

    let Received::Shadow(mut update) = shadow(&newer) else { unreachable!() };
    ledger.receive(Receiver::Aws, Received::Shadow(update.clone()));
    assert_eq!(ledger.book(Receiver::Aws).wrong, 1);
    assert!(ledger.problems()[0].contains("alarm.event is missing"), "{:?}", ledger.problems());

    update.merged.as_object_mut().unwrap().insert("alarm.event".to_owned(), json!(true));
    ledger.receive(Receiver::Aws, Received::Shadow(update));
    assert_eq!(ledger.book(Receiver::Aws).wrong, 1);
}

#[test]
fn shadow_without_a_field_is_wrong() {
    let (mut ledger, messages) = published(1);
    let Received::Shadow(mut update) = shadow(&messages[0]) else { unreachable!() };
    update.merged.as_object_mut().unwrap().remove("din");
    ledger.receive(Receiver::Aws, Received::Shadow(update));
    assert_eq!(ledger.book(Receiver::Aws).wrong, 1);
}

#[test]
fn telemetry_is_compared_with_its_time() {
    let (mut ledger, messages) = published(2);
    let telemetry = |message: &FleetMessage, ts: i64| {
        let values = message
            .fields
            .iter()
            .filter(|(key, _)| {
                !["ident", "timestamp", "device.name", "device.type.id"].contains(&key.as_str())
            })
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        Received::Telemetry { device: message.ident.to_string(), ts, values }
    };
    ledger.receive(Receiver::ThingsBoard, telemetry(&messages[0], 1_700_000_000_000));
    ledger.receive(Receiver::ThingsBoard, telemetry(&messages[1], 1_700_000_000));
    let book = ledger.book(Receiver::ThingsBoard);
    assert_eq!((book.received, book.wrong), (1, 1), "{:?}", ledger.problems());
}

#[test]
fn packets_of_one_message_are_put_together() {
    let (mut ledger, messages) = published(2);
    let sequence = "custom_message_number";
    let first = |name: &str| name == "posinfo" || name <= sequence;
    let second = |name: &str| name == "posinfo" || name > sequence;

    ledger.receive(Receiver::Wialon, packet(&messages[0], first));
    assert_eq!(ledger.book(Receiver::Wialon).received, 0);
    ledger.receive(Receiver::Wialon, packet(&messages[0], second));
    assert_eq!(ledger.book(Receiver::Wialon).received, 1, "{:?}", ledger.problems());
    // The answer to the last one was lost.
    ledger.receive(Receiver::Wialon, packet(&messages[0], second));
    assert_eq!(ledger.book(Receiver::Wialon).repeats, 1);

    ledger.receive(Receiver::Wialon, packet(&messages[1], |_| true));
    let Received::Packet(mut wrong) = packet(&messages[1], |_| true) else { unreachable!() };
    wrong.time += 1;
    ledger.receive(Receiver::Wialon, Received::Packet(wrong));
    let book = ledger.book(Receiver::Wialon);
    assert_eq!((book.received, book.wrong), (2, 1), "{:?}", ledger.problems());
}

#[test]
fn old_messages_are_dropped_after_delivery() {
    let (mut ledger, messages) = published(KEPT + 50);
    for message in &messages {
        for receiver in Receiver::ALL {
            let device = ledger.devices.get_mut(&message.ident).unwrap();
            device.fit(receiver, message.sequence, |_| Ok(()));
        }
    }
    let mut next = messages[0].clone();
    next.sequence = KEPT as u64 + 51;
    ledger.publish(next, None, Instant::now());
    assert_eq!(ledger.devices[&messages[0].ident].messages.len(), KEPT);
    ledger.receive(Receiver::Mqtt, publish(&messages[0]));
    assert_eq!(ledger.book(Receiver::Mqtt).repeats, 1);
}
