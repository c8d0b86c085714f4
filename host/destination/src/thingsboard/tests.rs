//! The destination against a scripted platform.

#![allow(clippy::unwrap_used)]

use rumqttc::{ConnectAuth, ConnectReturnCode, PubAckReason, Publish};
use settings_reader::Secret;

use super::{ThingsBoardDestination, ThingsBoardSettings};
use crate::mqtt::testing::{Peer, Server, deferred, delivery, refused, soon, topic, user_properties};
use crate::{Connection, Delivery, DeliveryId, Destination, FaultKind, Verdict};

fn destination(server: &Server) -> ThingsBoardDestination {
    let mut access = server.access();
    access.username = Some(Secret::new("token-of-the-gateway"));
    ThingsBoardDestination::new(ThingsBoardSettings { access })
}

fn telemetry(device: &str, body: &str) -> Delivery {
    delivery("v1/gateway/telemetry", &[("device", device), ("device-type", "truck")], body.to_owned())
}

async fn expect(peer: &mut Peer, to: &str, body: &str) -> Publish {
    let publish = peer.publish().await;
    assert_eq!((topic(&publish), std::str::from_utf8(&publish.payload).unwrap()), (to, body));
    assert_eq!(user_properties(&publish), []);
    publish
}

async fn delivered(connection: &mut Box<dyn Connection>, id: u64) {
    assert_eq!(soon(connection.next()).await.unwrap(), (DeliveryId(id), Verdict::Delivered));
}

#[tokio::test]
async fn the_token_is_the_user_name() {
    let server = Server::start().await;
    let (_connection, peer) = server.open(&destination(&server)).await;
    assert_eq!(peer.login().1, ConnectAuth::Username { username: "token-of-the-gateway".into() });
    let fault = server.refuse(&destination(&server), ConnectReturnCode::NotAuthorized).await;
    assert_eq!(fault.kind, FaultKind::Persistent);
    assert!(!fault.reason.contains("token"), "{fault}");
}

#[tokio::test]
async fn a_device_is_announced_before_its_data_and_does_not_hold_up_others() {
    let server = Server::start().await;
    let (mut connection, mut peer) = server.open(&destination(&server)).await;
    for (id, device, body) in [(1, "a", "a1"), (2, "a", "a2"), (3, "b", "b1")] {
        connection.send(DeliveryId(id), &telemetry(device, body)).await.unwrap();
    }
    let a = expect(&mut peer, "v1/gateway/connect", r#"{"device":"a","type":"truck"}"#).await;
    let b = expect(&mut peer, "v1/gateway/connect", r#"{"device":"b","type":"truck"}"#).await;
    // Everything was handed over, and only the two announcements came.
    assert!(peer.nothing_more());

    peer.puback(&b, PubAckReason::Success).await;
    assert!(futures_util::FutureExt::now_or_never(connection.next()).is_none());
    let ((), b1) = tokio::join!(async { delivered(&mut connection, 3).await }, async {
        let b1 = expect(&mut peer, "v1/gateway/telemetry", "b1").await;
        peer.puback(&b1, PubAckReason::Success).await;
        b1
    });
    assert_eq!(b1.payload, "b1");

    peer.puback(&a, PubAckReason::Success).await;
    tokio::join!(async { delivered(&mut connection, 1).await }, async {
        let a1 = expect(&mut peer, "v1/gateway/telemetry", "a1").await;
        let a2 = expect(&mut peer, "v1/gateway/telemetry", "a2").await;
        peer.puback(&a1, PubAckReason::Success).await;
        peer.puback(&a2, PubAckReason::Success).await;
    });
    delivered(&mut connection, 2).await;

    // Known by now: no second announcement.
    connection.send(DeliveryId(4), &telemetry("a", "a3")).await.unwrap();
    let a3 = expect(&mut peer, "v1/gateway/telemetry", "a3").await;
    peer.puback(&a3, PubAckReason::Success).await;
    delivered(&mut connection, 4).await;
}

#[tokio::test]
async fn a_new_connection_announces_again() {
    let server = Server::start().await;
    let destination = destination(&server);
    for _ in 0..2 {
        let (mut connection, mut peer) = server.open(&destination).await;
        connection.send(DeliveryId(1), &telemetry("a", "a1")).await.unwrap();
        let connect = expect(&mut peer, "v1/gateway/connect", r#"{"device":"a","type":"truck"}"#).await;
        peer.puback(&connect, PubAckReason::Success).await;
        tokio::join!(async { delivered(&mut connection, 1).await }, async {
            let data = expect(&mut peer, "v1/gateway/telemetry", "a1").await;
            peer.puback(&data, PubAckReason::Success).await;
        });
    }
}

#[tokio::test]
async fn a_device_that_the_platform_drops_is_announced_again() {
    let server = Server::start().await;
    let (mut connection, mut peer) = server.open(&destination(&server)).await;
    connection
        .send(DeliveryId(1), &delivery("v1/gateway/attributes", &[("device", "a")], "x"))
        .await
        .unwrap();
    let connect = expect(&mut peer, "v1/gateway/connect", r#"{"device":"a"}"#).await;
    peer.puback(&connect, PubAckReason::Success).await;
    tokio::join!(async { delivered(&mut connection, 1).await }, async {
        let data = expect(&mut peer, "v1/gateway/attributes", "x").await;
        peer.message("v1/gateway/disconnect", r#"{"device":"a","reason":150}"#).await;
        peer.puback(&data, PubAckReason::Success).await;
    });
    connection.send(DeliveryId(2), &telemetry("a", "y")).await.unwrap();
    expect(&mut peer, "v1/gateway/connect", r#"{"device":"a","type":"truck"}"#).await;
}

#[tokio::test]
async fn an_announcement_that_fails_decides_what_waits_for_it() {
    let server = Server::start().await;
    let (mut connection, mut peer) = server.open(&destination(&server)).await;
    for (id, device) in [(1, "a"), (2, "a"), (3, "b")] {
        connection.send(DeliveryId(id), &telemetry(device, "x")).await.unwrap();
    }
    let a = peer.publish().await;
    let b = peer.publish().await;
    peer.puback(&a, PubAckReason::QuotaExceeded).await;
    peer.puback(&b, PubAckReason::PayloadFormatInvalid).await;
    for id in [1, 2] {
        let (of, verdict) = soon(connection.next()).await.unwrap();
        let fault = deferred(verdict);
        assert_eq!((of, fault.kind), (DeliveryId(id), FaultKind::Transient));
        assert!(fault.reason.contains("connect of device \"a\": PUBACK 0x97"), "{fault}");
    }
    let (of, verdict) = soon(connection.next()).await.unwrap();
    assert_eq!(of, DeliveryId(3));
    assert!(refused(&verdict).contains("connect of device \"b\": PUBACK 0x99"), "{verdict:?}");
    // The next attempt announces again.
    connection.send(DeliveryId(1), &telemetry("a", "x")).await.unwrap();
    expect(&mut peer, "v1/gateway/connect", r#"{"device":"a","type":"truck"}"#).await;
}

#[tokio::test]
async fn a_close_after_a_rate_limit_is_explained_by_it() {
    let server = Server::start().await;
    let (mut connection, mut peer) = server.open(&destination(&server)).await;
    for id in [1, 2] {
        let own = delivery("v1/devices/me/telemetry", &[("note", "kept")], "x");
        connection.send(DeliveryId(id), &own).await.unwrap();
    }
    let first = peer.publish().await;
    assert_eq!(user_properties(&first), [("note".to_owned(), "kept".to_owned())]);
    peer.publish().await;
    peer.puback(&first, PubAckReason::QuotaExceeded).await;
    drop(peer);
    let (id, verdict) = soon(connection.next()).await.unwrap();
    assert_eq!((id, deferred(verdict).kind), (DeliveryId(1), FaultKind::Transient));
    let fault = soon(connection.next()).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Transient, "{fault}");
    assert!(fault.reason.contains("after PUBACK 0x97 quota exceeded"), "{fault}");
}

#[test]
fn rejected_beforehand() {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let destination = destination(&tokio.block_on(Server::start()));
    assert!(destination.check(&delivery("v1/gateway/unknown", &[], "{}")).is_err());
    assert_eq!(destination.check(&telemetry("a", "{}")), Ok(()));
}
