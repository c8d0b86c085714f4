//! The faults under which other systems of the field were measured, and what
//! is missing here afterwards. `--nocapture` prints the figures of the README.

use std::net::SocketAddr;
use std::time::Duration;

use sluicegate_tests::broker::Broker;
use sluicegate_tests::fleet::{Fleet, arrivals_in};
use sluicegate_tests::gateway::Folder;
use sluicegate_tests::proxy::{Link, Proxy};
use sluicegate_tests::publisher::Publisher;
use sluicegate_tests::receiver::{Kind, Receiver};
use tokio::time::{MissedTickBehavior, interval, sleep};

const MESSAGES: u64 = 20_000;
/// Messages of one tick of the publisher, and its ticks a second: 2,000/s.
const TOGETHER: u64 = 100;
const TICK: Duration = Duration::from_millis(50);

/// Publishes the fleet at 2,000 messages/s.
async fn publish_paced(broker: &Broker, fleet: Fleet) {
    let publisher = Publisher::connect(broker);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next = 0;
    while next < fleet.messages {
        ticks.tick().await;
        publisher.publish_all(fleet.some(next..next + TOGETHER)).await;
        next += TOGETHER;
    }
}

/// The link to the destination is cut twice, for 5 s each time.
#[tokio::test]
async fn twenty_thousand_with_the_link_cut_twice_for_5_s() {
    let folder = Folder::new();
    let receiver = Receiver::start(Kind::Mqtt, folder.path()).await;
    let far: SocketAddr = receiver.plug().address();
    let proxy = Proxy::start(far).await;
    let stream = receiver
        .stream
        .replace(&format!("localhost:{}", far.port()), &format!("127.0.0.1:{}", proxy.address().port()));
    let broker = Broker::start().await;
    let gateway = folder.bus(&broker.url()).stream("stream", &stream).start().await;
    let fleet = Fleet::new(20, MESSAGES);
    let cuts = async {
        for _ in 0..2 {
            sleep(Duration::from_secs(1)).await;
            proxy.set(Link { refuses: true, ..Link::default() }).await;
            proxy.reset();
            sleep(Duration::from_secs(5)).await;
            proxy.heal().await;
        }
    };
    tokio::join!(publish_paced(&broker, fleet), cuts);
    let settled = gateway.until_settled("stream", MESSAGES).await;
    assert_eq!((settled.delivered, settled.dead_lettered), (MESSAGES, 0), "{settled:?}");
    let repeats = fleet.assert_arrived(&arrivals_in(&receiver.inbox));
    println!("link cut twice for 5 s: {MESSAGES} sent, 0 missing, {repeats} repeats");
}

/// The gateway is killed in the middle, paced and with everything at once.
#[tokio::test]
async fn twenty_thousand_with_the_gateway_killed() {
    for paced in [true, false] {
        let folder = Folder::new();
        let receiver = Receiver::start(Kind::Mqtt, folder.path()).await;
        let broker = Broker::start().await;
        let mut gateway = folder.bus(&broker.url()).stream("stream", &receiver.stream).start().await;
        let fleet = Fleet::new(20, MESSAGES);
        let kill = async {
            gateway.until("stream", "it works", |s| s.delivered >= 2000).await;
            gateway.kill();
            gateway.restart().await;
        };
        let publish = async {
            if paced {
                publish_paced(&broker, fleet).await;
            } else {
                Publisher::connect(&broker).publish_all(fleet.all()).await;
            }
        };
        tokio::join!(publish, kill);
        let settled = gateway.until_settled("stream", MESSAGES).await;
        // What was killed between the journal and the bus's acknowledgement is
        // read a second time, and counted so.
        assert_eq!((settled.delivered, settled.dead_lettered), (settled.read, 0), "{settled:?}");
        let repeats = fleet.assert_arrived(&arrivals_in(&receiver.inbox));
        let read_again = settled.read - MESSAGES;
        assert!(read_again <= repeats as u64, "{repeats} repeats, {settled:?}");
        let pace = if paced { "at 2,000/s" } else { "at once" };
        println!("killed in the middle, {pace}: {MESSAGES} sent, 0 missing, {repeats} repeats");
    }
}
