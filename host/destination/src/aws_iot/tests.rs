//! The destination against a scripted service.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use rumqttc::mqttbytes::QoS;
use rumqttc::{DisconnectReasonCode, PubAckReason, Publish, SubscribeReasonCode};

use super::{AwsIotDestination, AwsIotSettings, REJECTED};
use crate::mqtt::testing::{Peer, Server, deferred, delivery, refused, soon, topic, user_properties};
use crate::{Connection, Delivery, DeliveryId, Destination, Fault, FaultKind, Verdict};

const GRANTED: SubscribeReasonCode = SubscribeReasonCode::Success(QoS::AtLeastOnce);
/// Long enough that no test waits for its end by accident.
const NEVER: Duration = Duration::from_secs(3600);

fn settings(server: &Server, reject_window: Duration) -> AwsIotSettings {
    AwsIotSettings { access: server.access(), reject_window, publishes_per_second: 10_000 }
}

async fn open(server: &Server, settings: AwsIotSettings) -> (Box<dyn Connection>, Peer) {
    let (connection, peer) = open_with(server, settings, [GRANTED, GRANTED]).await;
    (connection.unwrap(), peer)
}

async fn open_with(
    server: &Server,
    settings: AwsIotSettings,
    codes: [SubscribeReasonCode; 2],
) -> (Result<Box<dyn Connection>, Fault>, Peer) {
    let destination = AwsIotDestination::new(settings);
    tokio::join!(soon(destination.connect(0)), async {
        let mut peer = server.login().await;
        let subscribe = peer.subscribe().await;
        let filters: Vec<_> = subscribe.filters.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(filters, REJECTED);
        peer.suback(&subscribe, &codes).await;
        peer
    })
}

fn update(thing: &str, token: &str) -> Delivery {
    let body = format!(r#"{{"state":{{"reported":{{"n":1}}}},"clientToken":"{token}"}}"#);
    delivery(&format!("$aws/things/{thing}/shadow/update"), &[("client-token", token)], body)
}

async fn reject(peer: &mut Peer, thing: &str, code: u16, token: &str) {
    let body = format!(r#"{{"code":{code},"message":"because","timestamp":1,"clientToken":"{token}"}}"#);
    peer.message(&format!("$aws/things/{thing}/shadow/update/rejected"), &body).await;
}

async fn acknowledged(peer: &mut Peer) -> Publish {
    let publish = peer.publish().await;
    peer.puback(&publish, PubAckReason::Success).await;
    publish
}

#[tokio::test]
async fn a_subscription_that_is_not_granted_is_no_connection() {
    let server = Server::start().await;
    let (result, _peer) =
        open_with(&server, settings(&server, NEVER), [GRANTED, SubscribeReasonCode::NotAuthorized]).await;
    let fault = result.err().unwrap();
    assert_eq!(fault.kind, FaultKind::Persistent);
    assert!(fault.reason.contains("subscription refused"), "{fault}");

    let destination = AwsIotDestination::new(settings(&server, NEVER));
    let (result, ()) = tokio::join!(soon(destination.connect(0)), async {
        let mut peer = server.login().await;
        peer.subscribe().await;
        peer.disconnect(DisconnectReasonCode::NotAuthorized).await;
    });
    assert_eq!(result.err().unwrap().kind, FaultKind::Persistent);
}

#[tokio::test]
async fn an_update_is_delivered_after_puback_and_window() {
    let server = Server::start().await;
    let window = Duration::from_millis(150);
    let (mut connection, mut peer) = open(&server, settings(&server, window)).await;
    connection.send(DeliveryId(1), &update("T", "t1")).await.unwrap();
    let publish = peer.publish().await;
    assert_eq!(topic(&publish), "$aws/things/T/shadow/update");
    // The header is for the destination; the body is what the script made.
    assert_eq!((user_properties(&publish), &publish.payload), (&[][..], &update("T", "t1").body));
    let acked = Instant::now();
    peer.puback(&publish, PubAckReason::Success).await;
    assert_eq!(soon(connection.next()).await.unwrap(), (DeliveryId(1), Verdict::Delivered));
    assert!(acked.elapsed() >= window);
}

#[tokio::test]
async fn each_code_of_a_rejection() {
    let server = Server::start().await;
    let (mut connection, mut peer) = open(&server, settings(&server, NEVER)).await;
    for (code, kind) in [
        (400, None),
        (413, None),
        (415, None),
        (401, Some(FaultKind::Persistent)),
        (403, Some(FaultKind::Persistent)),
        (404, Some(FaultKind::Persistent)),
        (409, Some(FaultKind::Transient)),
        (429, Some(FaultKind::Transient)),
        (500, Some(FaultKind::Transient)),
        (503, Some(FaultKind::Transient)),
    ] {
        let token = format!("t{code}");
        connection.send(DeliveryId(code.into()), &update("T", &token)).await.unwrap();
        acknowledged(&mut peer).await;
        reject(&mut peer, "T", code, &token).await;
        let (id, verdict) = soon(connection.next()).await.unwrap();
        assert_eq!(id, DeliveryId(code.into()));
        match kind {
            None => assert_eq!(refused(&verdict), format!("shadow update rejected: {code} because")),
            Some(kind) => assert_eq!(deferred(verdict).kind, kind, "{code}"),
        }
    }
}

#[tokio::test]
async fn rejections_of_others_and_early_ones() {
    let server = Server::start().await;
    let (mut connection, mut peer) = open(&server, settings(&server, NEVER)).await;
    connection.send(DeliveryId(1), &update("T", "ours")).await.unwrap();
    let publish = peer.publish().await;
    reject(&mut peer, "T", 400, "theirs").await;
    reject(&mut peer, "U", 400, "ours").await;
    peer.message("$aws/things/T/shadow/update/rejected", r#"{"code":400,"message":"no token"}"#).await;
    peer.message("$aws/things/T/shadow/update/rejected", "no JSON").await;
    peer.message("$aws/things/T/shadow/update", r#"{"code":400,"clientToken":"ours"}"#).await;
    // None of those is an answer to ours; this one is, and comes before the PUBACK.
    reject(&mut peer, "T", 413, "ours").await;
    let (id, verdict) = soon(connection.next()).await.unwrap();
    assert_eq!((id, refused(&verdict)), (DeliveryId(1), "shadow update rejected: 413 because"));

    // Sent again: the late PUBACK of the first attempt is not an answer to it.
    connection.send(DeliveryId(1), &update("T", "ours")).await.unwrap();
    peer.puback(&publish, PubAckReason::QuotaExceeded).await;
    acknowledged(&mut peer).await;
    reject(&mut peer, "T", 400, "ours").await;
    let (id, verdict) = soon(connection.next()).await.unwrap();
    assert_eq!((id, refused(&verdict)), (DeliveryId(1), "shadow update rejected: 400 because"));
}

#[tokio::test]
async fn a_rejection_after_the_window_is_too_late() {
    let server = Server::start().await;
    let (mut connection, mut peer) = open(&server, settings(&server, Duration::from_millis(50))).await;
    connection.send(DeliveryId(1), &update("T", "t1")).await.unwrap();
    acknowledged(&mut peer).await;
    assert_eq!(soon(connection.next()).await.unwrap(), (DeliveryId(1), Verdict::Delivered));
    reject(&mut peer, "T", 400, "t1").await;
    connection.send(DeliveryId(2), &delivery("plain", &[], "x")).await.unwrap();
    acknowledged(&mut peer).await;
    assert_eq!(soon(connection.next()).await.unwrap(), (DeliveryId(2), Verdict::Delivered));
}

#[tokio::test]
async fn a_named_shadow_is_answered_on_its_own_topic() {
    let server = Server::start().await;
    let (mut connection, mut peer) = open(&server, settings(&server, NEVER)).await;
    let named =
        Delivery { target: Some("$aws/things/T/shadow/name/s/update".to_owned()), ..update("T", "t1") };
    connection.send(DeliveryId(1), &named).await.unwrap();
    acknowledged(&mut peer).await;
    reject(&mut peer, "T", 400, "t1").await;
    let body = r#"{"code":429,"clientToken":"t1"}"#;
    peer.message("$aws/things/T/shadow/name/s/update/rejected", body).await;
    let (_, verdict) = soon(connection.next()).await.unwrap();
    assert_eq!(deferred(verdict).kind, FaultKind::Transient);
}

#[tokio::test]
async fn a_plain_publish_is_settled_by_its_puback() {
    let server = Server::start().await;
    let (mut connection, mut peer) = open(&server, settings(&server, NEVER)).await;
    connection.send(DeliveryId(1), &update("T", "t1")).await.unwrap();
    connection.send(DeliveryId(2), &delivery("fleet/T", &[("colour", "red")], "x")).await.unwrap();
    acknowledged(&mut peer).await;
    let plain = acknowledged(&mut peer).await;
    assert_eq!(user_properties(&plain), [("colour".to_owned(), "red".to_owned())]);
    assert_eq!(soon(connection.next()).await.unwrap(), (DeliveryId(2), Verdict::Delivered));
}

#[tokio::test]
async fn a_cut_within_the_window_leaves_the_update_unsettled() {
    let server = Server::start().await;
    let (mut connection, mut peer) = open(&server, settings(&server, NEVER)).await;
    connection.send(DeliveryId(1), &update("T", "t1")).await.unwrap();
    acknowledged(&mut peer).await;
    drop(peer);
    assert!(soon(connection.next()).await.is_err());
}

#[tokio::test]
async fn publishes_are_paced() {
    let server = Server::start().await;
    let slow = AwsIotSettings { publishes_per_second: 10, ..settings(&server, NEVER) };
    let (mut connection, mut peer) = open(&server, slow).await;
    let start = Instant::now();
    for n in 0..4 {
        connection.send(DeliveryId(n), &delivery("plain", &[], "x")).await.unwrap();
    }
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    for _ in 0..4 {
        acknowledged(&mut peer).await;
    }
}

#[tokio::test]
async fn slots_and_merging() {
    let server = Server::start().await;
    let mut settings = settings(&server, NEVER);
    settings.access.in_flight = 1000;
    let destination = AwsIotDestination::new(settings);
    assert_eq!(destination.window(), 100);

    let (one, two) = (update("T", "t1"), update("T", "t2"));
    assert_eq!(destination.slot(&one).as_deref(), Some("$aws/things/T/shadow/update"));
    assert_eq!(destination.slot(&one), destination.slot(&two));
    assert_ne!(destination.slot(&one), destination.slot(&update("U", "t1")));
    assert_eq!(destination.slot(&delivery("plain", &[], "x")), None);

    let merged = destination.merge(&one, &two).unwrap();
    // The header says what the body says, which is what `check` insists on.
    assert_eq!(destination.check(&merged), Ok(()));
    assert_eq!(merged.target, two.target);
    let token = merged.header("client-token").unwrap();
    assert!(token != "t1" && token != "t2");
    assert_eq!(destination.merge(&one, &two).unwrap(), merged);
    assert_eq!(destination.merge(&one, &update("U", "t2")), None);
    let plain = delivery("plain", &[], "x");
    assert_eq!(destination.merge(&plain, &plain), None);
}

#[tokio::test]
async fn a_client_id_that_aws_does_not_allow() {
    let server = Server::start().await;
    let mut settings = settings(&server, NEVER);
    settings.access.client_id = "x".repeat(127);
    let fault = AwsIotDestination::new(settings).connect(0).await.err().unwrap();
    assert_eq!(fault.kind, FaultKind::Persistent);
    assert!(fault.reason.contains("at most 128 bytes"), "{fault}");
}
