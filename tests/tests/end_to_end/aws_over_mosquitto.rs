//! `aws-iot` over a real TLS stack that is not ours: mosquitto requires the
//! client certificate, and a client of the test plays the shadow service.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde_json::{Value, json};
use sluicegate_tests::PATIENCE;
use sluicegate_tests::broker::{Broker, BrokerOptions};
use sluicegate_tests::fleet::Fleet;
use sluicegate_tests::gateway::{Folder, Gateway};
use sluicegate_tests::publisher::Publisher;
use sluicegate_tests::receiver::{Kind, stream_file};
use sluicegate_tests::subscriber::Subscriber;
use standins::{Inbox, Received};

/// Answers updates of the things that are in the map with `rejected`: the
/// code, and how often.
type Rejections = Arc<Mutex<HashMap<String, (u16, u32)>>>;

struct Aws {
    _broker: Broker,
    _service: Subscriber,
    inbox: Inbox,
    rejections: Rejections,
}

async fn aws_and_gateway() -> (Broker, Aws, Gateway) {
    let bus = Broker::start().await;
    let broker = Broker::start_with(BrokerOptions { tls: true, ..BrokerOptions::default() }).await;
    let inbox = Inbox::default();
    let rejections = Rejections::default();
    let table = rejections.clone();
    let service = Subscriber::start_answering(
        &broker,
        "$aws/things/+/shadow/update",
        inbox.clone(),
        move |topic, body| answer(&table, topic, body),
    );
    let service = service.await;
    let destination = format!(
        "url = \"{}\"\nreject_window = \"300ms\"\n{}",
        broker.url(),
        broker.certificates.as_ref().unwrap().client_lines()
    );
    let stream = stream_file(Kind::AwsIot, "thing_name = \"{ident}\"", &destination);
    let gateway = Folder::new().bus(&bus.url()).stream("stream", &stream).start().await;
    (bus, Aws { _broker: broker, _service: service, inbox, rejections }, gateway)
}

fn answer(table: &Rejections, topic: &str, body: &Bytes) -> Option<(String, Bytes)> {
    let document: Value = serde_json::from_slice(body).ok()?;
    let thing = topic.split('/').nth(2)?;
    let mut table = table.lock().unwrap();
    let (code, times) = table.get_mut(thing)?;
    *times = times.checked_sub(1)?;
    let rejected =
        json!({ "code": *code, "message": "said the test", "clientToken": document["clientToken"] });
    Some((format!("{topic}/rejected"), Bytes::from(rejected.to_string())))
}

impl Aws {
    /// The number of the newest update of each thing, in the order of arrival.
    fn newest(&self) -> HashMap<String, u64> {
        let mut newest = HashMap::new();
        for received in self.inbox.all() {
            let Received::Publish { topic, payload, .. } = received else { panic!("{received:?}") };
            let document: Value = serde_json::from_slice(&payload).unwrap();
            let number = document["state"]["reported"]["n"].as_u64().unwrap();
            assert!(document["clientToken"].is_string(), "{document}");
            newest.insert(topic.split('/').nth(2).unwrap().to_owned(), number);
        }
        newest
    }
}

#[tokio::test]
async fn updates_arrive_over_mutual_tls_and_a_throttled_one_is_sent_again() {
    let (bus, aws, gateway) = aws_and_gateway().await;
    aws.rejections.lock().unwrap().insert("unit-2".to_owned(), (429, 2));
    let fleet = Fleet::new(4, 80);
    Publisher::connect(&bus).publish_all(fleet.all()).await;
    let stream = gateway.until_settled("stream", 80).await;
    assert_eq!((stream.delivered, stream.dead_lettered), (80, 0), "{stream:?}");
    assert!(stream.retries >= 1, "{stream:?}");
    assert!(aws.inbox.wait_until(PATIENCE, |all| !all.is_empty()).await);
    let newest = aws.newest();
    for number in 76..80 {
        assert_eq!(newest[&fleet.device(number)], number);
    }
    assert_eq!(aws.rejections.lock().unwrap()["unit-2"].1, 0, "both rejections were used");
}

#[tokio::test]
async fn always_rejected_update_becomes_dead_letter() {
    let (bus, aws, gateway) = aws_and_gateway().await;
    aws.rejections.lock().unwrap().insert("poisoned".to_owned(), (400, 1000));
    let publisher = Publisher::connect(&bus);
    let poisoned = json!({ "ident": "poisoned", "n": 1000, "timestamp": 1_700_000_000 });
    publisher.publish("flespi/message/gw/devices/99", poisoned.to_string()).await;
    publisher.publish_all(Fleet::new(4, 40).all()).await;
    let stream = gateway.until_settled("stream", 41).await;
    assert_eq!((stream.delivered, stream.dead_lettered), (40, 1), "{stream:?}");
    let letters = gateway.dead_letters("stream");
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["payload"], poisoned.to_string());
    let reason = letters[0]["reason"].as_str().unwrap();
    assert!(reason.contains("400") && reason.contains("said the test"), "{reason}");
}
