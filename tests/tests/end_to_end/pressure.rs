//! What keeps a stream from drowning: messages that grow too old, rates, and
//! only the newest of each key.

use std::collections::HashMap;
use std::time::Duration;

use sluicegate_tests::fleet::{Fleet, arrivals_in};
use sluicegate_tests::gateway::{Folder, Gateway};
use sluicegate_tests::publisher::Publisher;
use sluicegate_tests::receiver::{Kind, Receiver};
use tokio::time::Instant;

use crate::to_receiver;

/// A receiver whose stream has these lines in `[delivery]`.
async fn receiver(folder: &Folder, delivery: &str) -> Receiver {
    let mut receiver = Receiver::start(Kind::Mqtt, folder.path()).await;
    receiver.stream.push_str(&format!("\n[delivery]\n{delivery}\n"));
    receiver
}

/// The stream was never in trouble.
fn assert_only_ran(gateway: &Gateway, stream: &str) {
    let states: Vec<_> = gateway.states(stream).into_iter().map(|(state, _)| state).collect();
    assert_eq!(states, ["running"], "{stream}");
}

#[tokio::test]
async fn old_message_expires_and_next_is_delivered() {
    let folder = Folder::new();
    let receiver = receiver(&folder, "queue_ttl = \"2s\"").await;
    let (broker, gateway) = to_receiver(folder, &receiver).await;
    receiver.plug().unplug().await.unwrap();
    let fleet = Fleet::new(4, 120);
    let publisher = Publisher::connect(&broker);
    publisher.publish_all(fleet.some(0..100)).await;
    let stream = gateway.until("stream", "the first hundred expire", |s| s.expired == 100).await;
    assert_eq!((stream.delivered, stream.queued), (0, 0), "{stream:?}");
    receiver.plug().plug().await.unwrap();
    gateway.until("stream", "it is connected again", |s| s.state == "running").await;
    publisher.publish_all(fleet.some(100..120)).await;
    let stream = gateway.until_settled("stream", 120).await;
    assert_eq!((stream.delivered, stream.expired, stream.dead_lettered), (20, 100, 0), "{stream:?}");
    fleet.assert_some_arrived(&arrivals_in(&receiver.inbox), |number| number >= 100);
}

#[tokio::test]
async fn rate_limit_covers_all_streams_of_group() {
    let folder = Folder::new();
    let receivers = [
        receiver(&folder, "lanes = 3\nrate_limit_group = \"account\"").await,
        receiver(&folder, "rate_limit = \"1000/s\"\nrate_limit_group = \"account\"").await,
    ];
    let broker = sluicegate_tests::broker::Broker::start().await;
    let bus = format!(
        "url = \"{}\"\nclient_id = \"gateway\"\n[rate_limit_groups]\naccount = \"20/s\"",
        broker.url()
    );
    let [a, b] = &receivers;
    let gateway = folder.bus_lines(&bus).stream("a", &a.stream).stream("b", &b.stream).start().await;
    let fleet = Fleet::new(5, 40);
    let publisher = Publisher::connect(&broker);
    let start = Instant::now();
    publisher.publish_all(fleet.all()).await;
    for name in ["a", "b"] {
        gateway.until_settled(name, 40).await;
        assert_only_ran(&gateway, name);
    }
    // Twenty at once, and the other sixty at twenty a second.
    assert!(start.elapsed() >= Duration::from_millis(2900), "{:?}", start.elapsed());
    for receiver in &receivers {
        assert_eq!(fleet.assert_arrived(&arrivals_in(&receiver.inbox)), 0, "nothing comes twice");
    }
}

#[tokio::test]
async fn only_the_newest_position_of_each_device_is_sent() {
    const DEVICES: u64 = 3;
    let folder = Folder::new();
    let receiver = receiver(&folder, "lanes = 2\nconflate = true\nmin_interval = \"300ms\"").await;
    let (broker, gateway) = to_receiver(folder, &receiver).await;
    let fleet = Fleet::new(DEVICES, 3000);
    let start = Instant::now();
    Publisher::connect(&broker).publish_all(fleet.all()).await;
    let stream = gateway.until_settled("stream", fleet.messages).await;
    let most = start.elapsed().as_millis() as u64 / 300 + 1;
    assert_eq!((stream.delivered + stream.superseded, stream.read), (3000, 3000), "{stream:?}");
    assert!(stream.delivered <= DEVICES * most, "{stream:?} in {:?}", start.elapsed());

    let mut newest: HashMap<String, (u64, u64)> = HashMap::new();
    for arrival in arrivals_in(&receiver.inbox) {
        fleet.check(&arrival).unwrap();
        let (number, count) = newest.entry(arrival.device).or_insert((arrival.number, 0));
        assert!(*number <= arrival.number, "{} after {number}", arrival.number);
        (*number, *count) = (arrival.number, *count + 1);
    }
    let count: u64 = newest.values().map(|(_, count)| count).sum();
    assert_eq!(count, stream.delivered);
    for number in fleet.messages - DEVICES..fleet.messages {
        assert_eq!(newest[&fleet.device(number)].0, number, "the newest is what counts");
    }
}
