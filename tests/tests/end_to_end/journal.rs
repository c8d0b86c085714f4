//! What the gateway has acknowledged is on its own disk: the broker may forget
//! it, the gateway may be killed, and it is delivered all the same.

use std::process::Command;

use sluicegate_tests::broker::Broker;
use sluicegate_tests::fleet::{Fleet, arrivals_in};
use sluicegate_tests::gateway::{Folder, Gateway, program};
use sluicegate_tests::publisher::Publisher;
use sluicegate_tests::receiver::{Kind, Receiver};

use crate::to_receiver;

/// A stream whose destination is unplugged and that has read a whole fleet.
async fn with_a_backlog(fleet: &Fleet, delivery: &str) -> (Broker, Gateway, Receiver) {
    let folder = Folder::new();
    let mut receiver = Receiver::start(Kind::Mqtt, folder.path()).await;
    receiver.stream = format!("{}{delivery}", receiver.stream);
    receiver.plug().unplug().await.unwrap();
    let (broker, gateway) = to_receiver(folder, &receiver).await;
    Publisher::connect(&broker).publish_all(fleet.all()).await;
    gateway.until("stream", "it has read all", |s| s.read == fleet.messages).await;
    (broker, gateway, receiver)
}

#[tokio::test]
async fn backlog_survives_gateway_and_broker_restart() {
    let fleet = Fleet::new(7, 4000);
    let (broker, mut gateway, receiver) = with_a_backlog(&fleet, "").await;
    gateway.kill();
    // Without persistence the broker forgets everything, the session as well.
    let url = broker.url();
    drop(broker);
    receiver.plug().plug().await.unwrap();
    gateway.restart().await;
    let stream = gateway.until_settled("stream", fleet.messages).await;
    assert_eq!(
        (stream.delivered, stream.dead_lettered, stream.expired),
        (fleet.messages, 0, 0),
        "{stream:?}"
    );
    fleet.assert_arrived(&arrivals_in(&receiver.inbox));
    assert!(!gateway.readiness().await.ready, "no broker listens at {url} any more");
}

#[tokio::test]
async fn device_order_survives_change_of_lanes() {
    let fleet = Fleet::new(11, 3000);
    let (_broker, mut gateway, receiver) = with_a_backlog(&fleet, "[delivery]\nlanes = 5\n").await;
    gateway.kill();
    let file = gateway.path().join("streams/stream.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("lanes = 5", "lanes = 2")).unwrap();
    let said = gateway.prints(&["apply"]).await;
    assert!(said.contains("stream  changed  delivery.lanes\n"), "{said}");
    receiver.plug().plug().await.unwrap();
    gateway.restart().await;
    gateway.until_settled("stream", fleet.messages).await;
    fleet.assert_arrived(&arrivals_in(&receiver.inbox));
}

#[tokio::test]
async fn killed_again_and_again_while_it_works_off_a_backlog() {
    let fleet = Fleet::new(5, 6000);
    let (_broker, mut gateway, receiver) = with_a_backlog(&fleet, "").await;
    gateway.kill();
    receiver.plug().plug().await.unwrap();
    let mut delivered = 0;
    while delivered < fleet.messages {
        gateway.restart().await;
        let next = (delivered + 700).min(fleet.messages);
        delivered =
            gateway.until("stream", "it has delivered some more", |s| s.delivered >= next).await.delivered;
        if delivered < fleet.messages {
            gateway.kill();
        }
    }
    let stream = gateway.until_settled("stream", fleet.messages).await;
    assert_eq!((stream.read, stream.delivered), (fleet.messages, fleet.messages), "{stream:?}");
    let repeats = fleet.assert_arrived(&arrivals_in(&receiver.inbox));
    assert!(repeats < fleet.messages, "{repeats} repeats: what was settled does not come again");
}

#[tokio::test]
async fn second_gateway_on_same_data_is_rejected() {
    let fleet = Fleet::new(1, 3);
    let (_broker, gateway, _receiver) = with_a_backlog(&fleet, "").await;
    let text = std::fs::read_to_string(gateway.path().join("sluicegate.toml")).unwrap();
    let second = gateway.path().join("second.toml");
    let admin = text.find("[admin]").unwrap();
    std::fs::write(&second, format!("{}[admin]\nlisten = \"off\"\n", &text[..admin])).unwrap();
    let refused = Command::new(program())
        .args(["run", "--config"])
        .arg(second)
        .output()
        .expect("the second gateway ends");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success());
    assert!(said.contains("index.redb is in use by another process"), "{said}");
    gateway.until("stream", "the first one does not notice", |s| s.queued == 3).await;
}

/// The system refuses to let files grow beyond a size: the writer gets an error
/// in the middle of its work, opens everything again, and continues.
#[tokio::test]
async fn write_error_loses_nothing() {
    let folder = Folder::new().file_size_limit(3 << 20);
    let receiver = Receiver::start(Kind::Mqtt, folder.path()).await;
    let (broker, gateway) = to_receiver(folder, &receiver).await;
    let fleet = Fleet::new(5, 20_000);
    Publisher::connect(&broker).publish_all(fleet.all()).await;
    let stream =
        gateway.until("stream", "all is delivered", |s| s.delivered >= fleet.messages && s.queued == 0).await;
    assert_eq!(stream.dead_lettered, 0, "{stream:?}");
    fleet.assert_arrived(&arrivals_in(&receiver.inbox));
    let failures = gateway.log_lines().into_iter().filter(|line| {
        line.get("message").and_then(|m| m.as_str()).is_some_and(|m| m.contains("the journal has failed"))
    });
    assert!(failures.count() > 0, "the limit was never reached");
}

/// Nothing that is at rest stays for ever: what is settled and older than
/// `keep` leaves the disk.
#[tokio::test]
async fn drained_journal_shrinks() {
    let folder = Folder::new();
    let receiver = Receiver::start(Kind::Mqtt, folder.path()).await;
    let broker = Broker::start().await;
    let bus = format!("url = \"{}\"\nclient_id = \"gateway\"\n[journal]\nkeep = \"1s\"", broker.url());
    let gateway = folder.bus_lines(&bus).stream("stream", &receiver.stream).start().await;
    let fleet = Fleet::new(5, 5000);
    Publisher::connect(&broker).publish_all(fleet.all()).await;
    gateway.until_settled("stream", fleet.messages).await;
    let journal = gateway.path().join("data/journal");
    let segments = || {
        let names =
            std::fs::read_dir(&journal).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".seg")).count()
    };
    gateway.until("stream", "the segments are gone", |_| segments() == 0).await;
}
