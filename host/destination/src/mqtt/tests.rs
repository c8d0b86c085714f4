//! The destination against a scripted server.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use rumqttc::{
    ConnAckProperties, ConnectAuth, ConnectReturnCode, DisconnectReasonCode, Packet, PubAckReason,
};
use settings_reader::{Secret, TlsSettings};

use super::testing::{
    Authority, Server, deferred, delivery, limits, puback, refused, soon, topic, user_properties,
};
use super::{MqttAccess, MqttDestination, MqttSettings};
use crate::{Delivery, DeliveryId, Destination, FaultKind, Identity, Verdict};

fn destination(access: MqttAccess) -> MqttDestination {
    MqttDestination::new(MqttSettings { access, topic: Some("default/topic".to_owned()) })
}

#[test]
fn a_delivery_without_any_topic_is_refused_beforehand() {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let server = tokio.block_on(Server::start());
    let nowhere = Delivery { target: None, headers: Vec::new(), body: "x".into(), identity: None };
    assert_eq!(destination(server.access()).check(&nowhere), Ok(()));
    let without = MqttDestination::new(MqttSettings { access: server.access(), topic: None });
    assert!(without.check(&nowhere).unwrap_err().contains("no target"));
    assert_eq!(without.check(&delivery("a/b", &[], "x")), Ok(()));
    assert!(without.check(&delivery("a/+", &[], "x")).is_err());
    assert!(without.check(&delivery("$SYS/a", &[], "x")).is_err());
}

#[tokio::test]
async fn the_login_is_clean_and_carries_lane_and_credentials() {
    let server = Server::start().await;
    let mut access = server.access();
    access.username = Some(Secret::new("fleet"));
    access.password = Some(Secret::new("hush"));
    let destination = destination(access);
    let (connection, peer) = tokio::join!(soon(destination.connect(3)), server.login());
    assert!(connection.is_ok());
    let (connect, auth) = peer.login();
    assert!(connect.clean_start);
    assert_eq!((connect.client_id.as_str(), connect.keep_alive), ("gateway-test-3", 30));
    assert_eq!(auth, &ConnectAuth::UsernamePassword { username: "fleet".into(), password: "hush".into() });
}

#[tokio::test]
async fn topic_body_and_headers_arrive_as_they_are() {
    let server = Server::start().await;
    let (mut connection, mut peer) = server.open(&destination(server.access())).await;
    let headers = [("colour", "red"), ("colour", "blue")];
    connection.send(DeliveryId(1), &delivery("a/b", &headers, "body")).await.unwrap();
    let plain = Delivery { target: None, headers: Vec::new(), body: "".into(), identity: None };
    connection.send(DeliveryId(2), &plain).await.unwrap();

    let first = peer.publish().await;
    assert_eq!((topic(&first), &first.payload[..]), ("a/b", &b"body"[..]));
    assert_eq!(user_properties(&first), headers.map(|(n, v)| (n.to_owned(), v.to_owned())));
    let second = peer.publish().await;
    assert_eq!((topic(&second), second.payload.len()), ("default/topic", 0));
}

#[tokio::test]
async fn the_idempotency_key_is_a_user_property_and_ours() {
    let server = Server::start().await;
    let destination = destination(server.access());
    assert!(destination.wants_identity());
    let (mut connection, mut peer) = server.open(&destination).await;
    let mut known = delivery("a/b", &[("Idempotency-Key", "made up"), ("colour", "red")], "body");
    known.identity = Some(Identity { key: "0f".repeat(16), positions: "1/0".to_owned() });
    connection.send(DeliveryId(1), &known).await.unwrap();
    let properties = user_properties(&peer.publish().await).to_vec();
    let expected = [("colour", "red".to_owned()), ("idempotency-key", "0f".repeat(16))];
    assert_eq!(properties, expected.map(|(n, v)| (n.to_owned(), v)));
}

#[tokio::test]
async fn each_reason_of_a_puback_is_a_verdict_of_its_own_delivery() {
    use PubAckReason as R;
    let server = Server::start().await;
    let (mut connection, mut peer) = server.open(&destination(server.access())).await;
    let reasons =
        [R::PayloadFormatInvalid, R::Success, R::QuotaExceeded, R::NotAuthorized, R::NoMatchingSubscribers];
    let mut publishes = Vec::new();
    for n in 0..reasons.len() {
        connection.send(DeliveryId(n as u64), &delivery("t", &[], format!("{n}"))).await.unwrap();
        publishes.push(peer.publish().await);
    }
    // Answered back to front: the identifier decides, not the order.
    for (publish, reason) in publishes.iter().zip(reasons).rev() {
        peer.puback(publish, reason).await;
    }
    let mut verdicts = Vec::new();
    for _ in reasons {
        verdicts.push(soon(connection.next()).await.unwrap());
    }
    verdicts.sort_by_key(|(id, _)| *id);
    let [zero, one, two, three, four]: [Verdict; 5] =
        verdicts.into_iter().map(|(_, v)| v).collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(refused(&zero), "PUBACK 0x99 payload format invalid");
    assert_eq!((one, four), (Verdict::Delivered, Verdict::Delivered));
    assert_eq!(deferred(two).kind, FaultKind::Transient);
    assert_eq!(deferred(three).kind, FaultKind::Persistent);
}

#[tokio::test]
async fn silence_is_a_fault_without_explanation() {
    let server = Server::start().await;
    let mut access = server.access();
    access.timeout = Duration::from_millis(300);
    let (mut connection, mut peer) = server.open(&destination(access)).await;
    connection.send(DeliveryId(1), &delivery("t", &[], "x")).await.unwrap();
    peer.publish().await;
    let fault = soon(connection.next()).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Unexplained);
    assert!(fault.reason.contains("no PUBACK within 300ms"), "{fault}");
}

#[tokio::test]
async fn a_verdict_survives_a_cancelled_wait() {
    let server = Server::start().await;
    let (mut connection, mut peer) = server.open(&destination(server.access())).await;
    connection.send(DeliveryId(1), &delivery("t", &[], "x")).await.unwrap();
    let publish = peer.publish().await;
    // Polled once, then dropped, as a select does.
    assert!(futures_util::FutureExt::now_or_never(connection.next()).is_none());
    peer.puback(&publish, PubAckReason::Success).await;
    assert_eq!(soon(connection.next()).await.unwrap(), (DeliveryId(1), Verdict::Delivered));
}

#[tokio::test]
async fn a_close_with_packets_in_flight_leaves_the_verdicts_that_came_before() {
    let server = Server::start().await;
    let (mut connection, mut peer) = server.open(&destination(server.access())).await;
    for n in 0..3 {
        connection.send(DeliveryId(n), &delivery("t", &[], "x")).await.unwrap();
    }
    let first = peer.publish().await;
    peer.publish().await;
    peer.publish().await;
    peer.puback(&first, PubAckReason::Success).await;
    drop(peer);
    assert_eq!(soon(connection.next()).await.unwrap(), (DeliveryId(0), Verdict::Delivered));
    let fault = soon(connection.next()).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Unexplained, "{fault}");
}

#[tokio::test]
async fn an_idle_connection_reports_its_end_at_once_and_blames_nobody() {
    let server = Server::start().await;
    let (mut connection, peer) = server.open(&destination(server.access())).await;
    drop(peer);
    let fault = soon(connection.next()).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Transient, "{fault}");
    // A lane that did not look first may still hand over; it learns the same.
    connection.send(DeliveryId(1), &delivery("t", &[], "x")).await.unwrap();
    assert!(soon(connection.next()).await.is_err());
}

#[tokio::test]
async fn a_refusal_and_a_disconnect_in_one_segment_are_both_heard() {
    let server = Server::start().await;
    let (mut connection, mut peer) = server.open(&destination(server.access())).await;
    for n in 0..2 {
        connection.send(DeliveryId(n), &delivery("t", &[], "x")).await.unwrap();
    }
    let first = peer.publish().await;
    peer.publish().await;
    let goodbye = rumqttc::Disconnect::new(DisconnectReasonCode::ImplementationSpecificError);
    let refusal = puback(&first, PubAckReason::ImplementationSpecificError);
    peer.send_all(&[refusal, Packet::Disconnect(goodbye)]).await;
    let (id, verdict) = soon(connection.next()).await.unwrap();
    assert_eq!((id, refused(&verdict)), (DeliveryId(0), "PUBACK 0x83 implementation specific error"));
    // The other delivery is not the cause.
    assert_eq!(soon(connection.next()).await.unwrap_err().kind, FaultKind::Transient);
}

#[tokio::test]
async fn the_server_says_why_it_disconnects() {
    for (code, kind) in [
        (DisconnectReasonCode::QuotaExceeded, FaultKind::Transient),
        (DisconnectReasonCode::NotAuthorized, FaultKind::Persistent),
        (DisconnectReasonCode::MalformedPacket, FaultKind::Unexplained),
    ] {
        let server = Server::start().await;
        let (mut connection, mut peer) = server.open(&destination(server.access())).await;
        connection.send(DeliveryId(1), &delivery("t", &[], "x")).await.unwrap();
        peer.publish().await;
        peer.disconnect(code).await;
        let fault = soon(connection.next()).await.unwrap_err();
        assert_eq!(fault.kind, kind, "{fault}");
    }
}

#[tokio::test]
async fn refused_logins() {
    let server = Server::start().await;
    let destination = destination(server.access());
    for (code, kind) in [
        (ConnectReturnCode::BadUserNamePassword, FaultKind::Persistent),
        (ConnectReturnCode::NotAuthorized, FaultKind::Persistent),
        (ConnectReturnCode::ServerBusy, FaultKind::Transient),
        (ConnectReturnCode::ServerUnavailable, FaultKind::Transient),
    ] {
        let fault = server.refuse(&destination, code).await;
        assert_eq!(fault.kind, kind, "{fault}");
        assert!(fault.reason.contains("login refused"), "{fault}");
    }
}

#[tokio::test]
async fn a_server_that_acknowledges_nothing_is_of_no_use() {
    let server = Server::start().await;
    let destination = destination(server.access());
    let properties = ConnAckProperties { max_qos: Some(0), ..limits() };
    let (result, _peer) = tokio::join!(soon(destination.connect(0)), server.login_with(properties));
    assert_eq!(result.err().unwrap().kind, FaultKind::Persistent);
}

#[tokio::test]
async fn nobody_listens() {
    let server = Server::start().await;
    let destination = destination(server.access());
    drop(server);
    let fault = soon(destination.connect(0)).await.err().unwrap();
    assert_eq!(fault.kind, FaultKind::Transient);
    assert!(fault.reason.starts_with("mqtt://127.0.0.1:"), "{fault}");
}

#[tokio::test]
async fn a_server_that_never_answers_connect_is_given_up() {
    let server = Server::start().await;
    let mut access = server.access();
    access.timeout = Duration::from_millis(300);
    let destination = destination(access);
    let (result, _peer) = tokio::join!(soon(destination.connect(0)), server.accept());
    let fault = result.err().unwrap();
    assert_eq!(fault.kind, FaultKind::Transient);
    assert!(fault.reason.contains("no CONNACK"), "{fault}");
}

#[tokio::test]
async fn tls_with_the_right_authority_and_with_a_wrong_one() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = Server::start_tls(&ours).await;
    let mut access = server.access();
    access.tls.ca = Some(ours.ca());
    let (mut connection, mut peer) = server.open(&destination(access.clone())).await;
    connection.send(DeliveryId(1), &delivery("t", &[], "x")).await.unwrap();
    let publish = peer.publish().await;
    peer.puback(&publish, PubAckReason::Success).await;
    assert_eq!(soon(connection.next()).await.unwrap(), (DeliveryId(1), Verdict::Delivered));

    access.tls = TlsSettings { ca: Some(theirs.ca()), ..TlsSettings::default() };
    let wrong = destination(access.clone());
    let (result, peer) = tokio::join!(soon(wrong.connect(0)), server.accept());
    assert!(peer.is_none());
    let fault = result.err().unwrap();
    assert_eq!(fault.kind, FaultKind::Persistent, "{fault}");
    assert!(fault.reason.contains("TLS"), "{fault}");

    access.tls = TlsSettings { ca: Some("/does/not/exist.pem".into()), ..TlsSettings::default() };
    let fault = soon(destination(access).connect(0)).await.err().unwrap();
    assert_eq!(fault.kind, FaultKind::Persistent);
    assert!(fault.reason.contains("/does/not/exist.pem"), "{fault}");
}

#[tokio::test]
async fn a_delivery_that_is_too_large_for_the_server_costs_only_itself() {
    let server = Server::start().await;
    let destination = destination(server.access());
    let properties = ConnAckProperties { max_packet_size: Some(200), ..limits() };
    let (connection, mut peer) = tokio::join!(soon(destination.connect(0)), server.login_with(properties));
    let mut connection = connection.unwrap();
    connection.send(DeliveryId(1), &delivery("t", &[], "x".repeat(200))).await.unwrap();
    connection.send(DeliveryId(2), &delivery("t", &[], "x".repeat(100))).await.unwrap();
    let (id, verdict) = soon(connection.next()).await.unwrap();
    assert_eq!(id, DeliveryId(1));
    assert!(refused(&verdict).contains("the server takes 200 at most"), "{verdict:?}");
    let publish = peer.publish().await;
    assert_eq!(publish.payload.len(), 100);
    peer.puback(&publish, PubAckReason::Success).await;
    assert_eq!(soon(connection.next()).await.unwrap(), (DeliveryId(2), Verdict::Delivered));
}

#[tokio::test]
async fn the_receive_maximum_of_the_server_is_kept() {
    let server = Server::start().await;
    let destination = destination(server.access());
    let properties = ConnAckProperties { receive_max: Some(2), ..limits() };
    let (connection, mut peer) = tokio::join!(soon(destination.connect(0)), server.login_with(properties));
    let mut connection = connection.unwrap();
    for n in 0..8 {
        connection.send(DeliveryId(n), &delivery("t", &[], format!("{n}"))).await.unwrap();
    }
    let mut open = std::collections::VecDeque::from([peer.publish().await, peer.publish().await]);
    for n in 0..8 {
        // All eight were handed over before the first was read: a client that
        // did not wait would have written them together.
        assert!(peer.nothing_more());
        let publish = open.pop_front().unwrap();
        assert_eq!(publish.payload, format!("{n}"));
        peer.puback(&publish, PubAckReason::Success).await;
        assert_eq!(soon(connection.next()).await.unwrap(), (DeliveryId(n), Verdict::Delivered));
        if n + 2 < 8 {
            open.push_back(peer.publish().await);
        }
    }
}

#[tokio::test]
async fn closing_says_goodbye() {
    let server = Server::start().await;
    let (connection, mut peer) = server.open(&destination(server.access())).await;
    soon(connection.close()).await;
    assert!(matches!(peer.read().await, Some(Packet::Disconnect(_))));
    assert!(peer.read().await.is_none());
}

#[tokio::test]
async fn dropping_the_connection_ends_its_task_and_its_socket() {
    let server = Server::start().await;
    let (connection, mut peer) = server.open(&destination(server.access())).await;
    drop(connection);
    while let Some(packet) = peer.read().await {
        assert!(matches!(packet, Packet::Disconnect(_)));
    }
}
