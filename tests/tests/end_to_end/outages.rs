//! A destination that refuses everything for a while, or is away, costs
//! nothing but time: no dead letter, nothing lost, and the stream says why it
//! waits.

use sluicegate_tests::broker::Broker;
use sluicegate_tests::fleet::{Fleet, arrivals_in};
use sluicegate_tests::gateway::{Folder, Gateway, Stream};
use sluicegate_tests::proxy::{Flow, Link, Proxy};
use sluicegate_tests::publisher::Publisher;
use sluicegate_tests::receiver::{Kind, Receiver};

use crate::{one_stream, to_receiver};

const DEVICES: u64 = 4;
const ROUND: u64 = 24;

async fn refuses_for_a_while(kind: Kind) {
    let (broker, gateway, receiver) = one_stream(kind).await;
    let refusals = receiver.refusals();
    let rounds = u64::try_from(refusals.len()).unwrap() + 1;
    let fleet = Fleet::new(DEVICES, rounds * ROUND);
    let publisher = Publisher::connect(&broker);
    let mut published = 0;
    for refusal in &refusals {
        receiver.refuse(refusal).await;
        publisher.publish_all(fleet.some(published..published + ROUND)).await;
        published += ROUND;
        let what = format!("the stream is in trouble by {:?}", refusal.word);
        let stream = gateway
            .until("stream", &what, |s| s.read == published && s.troubled_by(refusal.word) && s.queued > 0)
            .await;
        assert_eq!(stream.dead_lettered, 0, "{stream:?}");
        assert!(gateway.readiness().await.ready, "one stream in trouble does not stop the gateway");
        receiver.accept();
        gateway.until_settled("stream", published).await;
    }
    publisher.publish_all(fleet.some(published..fleet.messages)).await;
    let stream = gateway.until_settled("stream", fleet.messages).await;
    assert_all_delivered(&stream, fleet);
    gateway.until("stream", "it runs again", |s| s.state == "running").await;
    check_arrivals(kind, &receiver, fleet);
    assert!(gateway.dead_letters("stream").is_empty());
}

async fn is_away_for_a_while(kind: Kind) {
    let (broker, gateway, receiver) = one_stream(kind).await;
    let fleet = Fleet::new(DEVICES, 120);
    let publisher = Publisher::connect(&broker);
    publisher.publish_all(fleet.some(0..40)).await;
    gateway.until("stream", "something is delivered", |s| s.delivered > 0).await;
    receiver.plug().unplug().await.unwrap();
    publisher.publish_all(fleet.some(40..100)).await;
    let stream =
        gateway.until("stream", "the stream is retrying", |s| s.read == 100 && s.state == "retrying").await;
    assert!(stream.queued > 0 && stream.reason.is_some(), "{stream:?}");
    receiver.plug().plug().await.unwrap();
    publisher.publish_all(fleet.some(100..120)).await;
    let stream = gateway.until_settled("stream", 120).await;
    assert_all_delivered(&stream, fleet);
    check_arrivals(kind, &receiver, fleet);
}

/// The link to it lets nothing through for a while; what waits in it comes out
/// late, when other connections have sent it again.
async fn is_behind_a_black_hole(kind: Kind) {
    let (broker, gateway, [receiver, _beside], link) = behind_a_link(kind).await;
    let fleet = Fleet::new(DEVICES, 120);
    let publisher = Publisher::connect(&broker);
    publisher.publish_all(fleet.some(0..40)).await;
    gateway.until("stream", "something is delivered", |s| s.delivered > 0).await;
    link.set(Link { to_target: Flow::Held, to_client: Flow::Held, refuses: false }).await;
    publisher.publish_all(fleet.some(40..100)).await;
    gateway.until("stream", "it is in trouble", |s| s.read == 100 && s.troubled_by("")).await;
    link.heal().await;
    publisher.publish_all(fleet.some(100..120)).await;
    let stream = gateway.until_settled("stream", 120).await;
    assert_all_delivered(&stream, fleet);
    check_arrivals(kind, &receiver, fleet);
}

/// It takes everything, and no answer ever comes back: the stream sends it
/// again and again, and the one beside it does not notice.
async fn never_answers(kind: Kind) {
    let (broker, gateway, [receiver, _beside], link) = behind_a_link(kind).await;
    let fleet = Fleet::new(DEVICES, 100);
    link.set(Link { to_client: Flow::Swallowed, ..Link::default() }).await;
    let publisher = Publisher::connect(&broker);
    publisher.publish_all(fleet.some(0..80)).await;
    gateway.until("stream", "it is in trouble", |s| s.read == 80 && s.troubled_by("")).await;
    let beside = gateway.until_settled("beside", 80).await;
    assert_eq!((beside.delivered, beside.state.as_str(), beside.retries), (80, "running", 0), "{beside:?}");
    let stream = gateway.stream("stream").await;
    assert_eq!((stream.delivered, stream.queued, stream.dead_lettered), (0, 80, 0), "{stream:?}");
    link.heal().await;
    publisher.publish_all(fleet.some(80..100)).await;
    let stream = gateway.until_settled("stream", 100).await;
    assert_all_delivered(&stream, fleet);
    check_arrivals(kind, &receiver, fleet);
}

/// A stream `stream` whose destination is behind a link, and one `beside` it;
/// the receivers of both.
async fn behind_a_link(kind: Kind) -> (Broker, Gateway, [Receiver; 2], Proxy) {
    let folder = Folder::new();
    let mut receiver = Receiver::start(kind, folder.path()).await;
    let link = Proxy::start(receiver.plug().address()).await;
    receiver.stream = receiver.stream_through(&link);
    let beside = Receiver::start(Kind::Http, folder.path()).await;
    let (broker, gateway) = to_receiver(folder.stream("beside", &beside.stream), &receiver).await;
    (broker, gateway, [receiver, beside], link)
}

fn assert_all_delivered(stream: &Stream, fleet: Fleet) {
    let settled = (stream.read, stream.delivered, stream.dead_lettered);
    assert_eq!(settled, (fleet.messages, fleet.messages, 0), "{stream:?}");
}

/// Shadows coalesce: there the newest state of each device counts.
fn check_arrivals(kind: Kind, receiver: &Receiver, fleet: Fleet) {
    if kind == Kind::AwsIot {
        for number in fleet.messages - DEVICES..fleet.messages {
            assert_eq!(receiver.shadow_number(&fleet.device(number)), Some(number));
        }
        assert_eq!(receiver.inbox.violations(), [] as [String; 0]);
    } else {
        fleet.assert_arrived(&arrivals_in(&receiver.inbox));
    }
}

#[tokio::test]
async fn aws_iot_refuses_everything_for_a_while() {
    refuses_for_a_while(Kind::AwsIot).await;
}

#[tokio::test]
async fn thingsboard_refuses_everything_for_a_while() {
    refuses_for_a_while(Kind::ThingsBoard).await;
}

#[tokio::test]
async fn wialon_refuses_everything_for_a_while() {
    refuses_for_a_while(Kind::Wialon).await;
}

#[tokio::test]
async fn http_refuses_everything_for_a_while() {
    refuses_for_a_while(Kind::Http).await;
}

#[tokio::test]
async fn mqtt_refuses_everything_for_a_while() {
    refuses_for_a_while(Kind::Mqtt).await;
}

#[tokio::test]
async fn aws_iot_is_unplugged_and_comes_back() {
    is_away_for_a_while(Kind::AwsIot).await;
}

#[tokio::test]
async fn thingsboard_is_unplugged_and_comes_back() {
    is_away_for_a_while(Kind::ThingsBoard).await;
}

#[tokio::test]
async fn wialon_is_unplugged_and_comes_back() {
    is_away_for_a_while(Kind::Wialon).await;
}

#[tokio::test]
async fn http_is_unplugged_and_comes_back() {
    is_away_for_a_while(Kind::Http).await;
}

#[tokio::test]
async fn mqtt_is_unplugged_and_comes_back() {
    is_away_for_a_while(Kind::Mqtt).await;
}

#[tokio::test]
async fn aws_iot_is_behind_a_black_hole_for_a_while() {
    is_behind_a_black_hole(Kind::AwsIot).await;
}

#[tokio::test]
async fn aws_iot_takes_everything_and_never_answers() {
    never_answers(Kind::AwsIot).await;
}

#[tokio::test]
async fn thingsboard_is_behind_a_black_hole_for_a_while() {
    is_behind_a_black_hole(Kind::ThingsBoard).await;
}

#[tokio::test]
async fn thingsboard_takes_everything_and_never_answers() {
    never_answers(Kind::ThingsBoard).await;
}

#[tokio::test]
async fn wialon_is_behind_a_black_hole_for_a_while() {
    is_behind_a_black_hole(Kind::Wialon).await;
}

#[tokio::test]
async fn wialon_takes_everything_and_never_answers() {
    never_answers(Kind::Wialon).await;
}

#[tokio::test]
async fn http_is_behind_a_black_hole_for_a_while() {
    is_behind_a_black_hole(Kind::Http).await;
}

#[tokio::test]
async fn http_takes_everything_and_never_answers() {
    never_answers(Kind::Http).await;
}

#[tokio::test]
async fn mqtt_is_behind_a_black_hole_for_a_while() {
    is_behind_a_black_hole(Kind::Mqtt).await;
}

#[tokio::test]
async fn mqtt_takes_everything_and_never_answers() {
    never_answers(Kind::Mqtt).await;
}
