//! A stream that waits for its destination, until its quota is used up and
//! beyond, does not slow the others down.

use std::collections::HashSet;
use std::ops::Range;
use std::time::Duration;

use sluicegate_tests::PATIENCE;
use sluicegate_tests::broker::Broker;
use sluicegate_tests::fleet::{Fleet, arrivals_in, read};
use sluicegate_tests::gateway::Folder;
use sluicegate_tests::publisher::Publisher;
use sluicegate_tests::receiver::{Kind, stream_file};
use standins::mqtt::MqttStandin;
use standins::{Inbox, Received};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// Streams beside the one that waits.
const OTHERS: usize = 13;
/// Messages of one measurement, and the time between two of them.
const MESSAGES: u64 = 150;
const PACE: Duration = Duration::from_millis(25);
/// The one that waits may queue a part of the messages of one measurement, and
/// its lane holds few of them.
const QUOTA: &str = "[delivery]\nmax_backlog = \"8KiB\"\nbatch_messages = 5\nin_flight = 5\n";
/// What is shorter says nothing on a machine that others use, too.
const NOISE: Duration = Duration::from_millis(50);

/// 99 of 100 messages reach the 13 receivers within this time.
async fn p99(publisher: &Publisher, inbox: &Inbox, fleet: Fleet, numbers: Range<u64>) -> Duration {
    let first = numbers.start;
    let mut sent = Vec::new();
    let mut times = Vec::new();
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut publishing = std::pin::pin!(async {
        for (topic, payload) in fleet.some(numbers.clone()) {
            pace.tick().await;
            sent.push(Instant::now());
            publisher.publish(&topic, payload).await;
        }
        sent
    });
    let expected = OTHERS * usize::try_from(MESSAGES).unwrap();
    let arriving = async {
        while times.len() < expected {
            inbox.wait_until(PATIENCE, |all| !all.is_empty()).await;
            let now = Instant::now();
            for received in inbox.drain() {
                assert!(matches!(received, Received::Publish { .. }), "{received:?}");
                let number = read(&received).unwrap()[0].number;
                times.push((usize::try_from(number - first).unwrap(), now));
            }
        }
    };
    let both = async { tokio::join!(&mut publishing, arriving).0 };
    let sent = timeout(2 * PATIENCE, both).await.expect("everything arrives everywhere");
    let mut latencies: Vec<Duration> = times.iter().map(|(index, came)| *came - sent[*index]).collect();
    latencies.sort_unstable();
    latencies[latencies.len() * 99 / 100]
}

#[tokio::test]
async fn waiting_stream_leaves_latency_of_others_unchanged() {
    let broker = Broker::start().await;
    let (inbox, own_inbox) = (Inbox::default(), Inbox::default());
    let standin = MqttStandin::start(inbox.clone(), None).await.unwrap();
    let waited_for = MqttStandin::start(own_inbox.clone(), None).await.unwrap();
    let stream =
        |port: u16| stream_file(Kind::Mqtt, "topic = \"out\"", &format!("url = \"mqtt://localhost:{port}\""));
    let waiting = format!("{}{QUOTA}", stream(waited_for.port()));
    let mut folder = Folder::new().bus(&broker.url()).stream("waiting", &waiting);
    for number in 0..OTHERS {
        folder = folder.stream(&format!("other-{number}"), &stream(standin.port()));
    }
    let gateway = folder.start().await;
    let publisher = Publisher::connect(&broker);
    let fleet = Fleet::new(7, u64::MAX);

    // Twice, and the better one of each counts: whatever else this machine
    // does hits one of them, what a waiting stream does hits both.
    let (mut alone, mut beside, mut expired) = (Duration::MAX, Duration::MAX, 0);
    for round in 0..2 {
        let start = 2 * round * MESSAGES;
        alone = alone.min(p99(&publisher, &inbox, fleet, start..start + MESSAGES).await);
        gateway.until_settled("waiting", start + MESSAGES).await;
        waited_for.plug().unplug().await.unwrap();
        beside = beside.min(p99(&publisher, &inbox, fleet, start + MESSAGES..start + 2 * MESSAGES).await);
        let waiting = gateway.until("waiting", "it has read all", |s| s.read == start + 2 * MESSAGES).await;
        assert!(waiting.expired > expired && waiting.state == "retrying", "the quota: {waiting:?}");
        expired = waiting.expired;
        waited_for.plug().plug().await.unwrap();
        gateway.until_settled("waiting", start + 2 * MESSAGES).await;
    }
    println!("p99 without a waiting stream {alone:?}, beside one {beside:?}");
    assert!(beside <= 4 * alone.max(NOISE), "p99 is {beside:?} beside a waiting stream, {alone:?} without");
    let waiting = gateway.stream("waiting").await;
    assert_eq!(
        (waiting.read, waiting.delivered + waiting.expired),
        (4 * MESSAGES, 4 * MESSAGES),
        "{waiting:?}"
    );
    let arrivals = arrivals_in(&own_inbox);
    let arrived: HashSet<u64> = arrivals.iter().map(|arrival| arrival.number).collect();
    Fleet { messages: 4 * MESSAGES, ..fleet }.assert_some_arrived(&arrivals, |n| arrived.contains(&n));
    assert_eq!(arrived.len() as u64, waiting.delivered, "what did not expire has arrived");
}
