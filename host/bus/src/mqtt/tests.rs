//! The bus against a broker that does what the test says.

#![allow(clippy::unwrap_used)]

use std::collections::HashSet;

use journal::StreamIndex;
use message::{KeyRule, Selection};
use rumqttc::{ConnAckProperties, ConnectReturnCode, DisconnectReasonCode, Packet};
use settings_reader::Secret;
use tempfile::{TempDir, tempdir};

use super::super::testing::{Broker, Gateway, Peer, publish, settings, soon, stream};
use super::*;
#[cfg(feature = "embedded")]
use crate::embedded::{self, EmbeddedError};
use crate::try_login;

/// A broker, a bus with one stream on `a/+`, and the folder of its data.
async fn one_stream() -> (Broker, Gateway, TempDir) {
    let broker = Broker::start().await;
    let data = tempdir().unwrap();
    let gateway = Gateway::start(settings(broker.source()), vec![stream(0, &["a/+"])], &data);
    (broker, gateway, data)
}

#[tokio::test]
async fn the_login_asks_for_a_session_that_stays() {
    let broker = Broker::start().await;
    let data = tempdir().unwrap();
    let mut secret = settings(broker.source());
    (secret.username, secret.password) = (Some(Secret::new("u")), Some(Secret::new("p")));
    let gateway = Gateway::start(secret, vec![stream(0, &["a/+"])], &data);
    let mut peer = broker.login(false).await;
    let connect = peer.connect.clone().unwrap();
    assert_eq!(
        (connect.client_id.as_str(), connect.clean_start, connect.keep_alive),
        ("gateway-test", false, 30)
    );
    let properties = connect.properties.unwrap();
    assert_eq!(properties.session_expiry_interval, Some(7 * 86_400));
    assert_eq!(properties.receive_maximum, Some(1_000));
    assert_eq!(properties.max_packet_size, Some(1024 * 1024));

    let subscribe = peer.subscribe().await;
    assert_eq!(subscribe.filters[0].path, "a/+");
    assert_eq!(subscribe.filters[0].qos, QoS::AtLeastOnce);
    assert_eq!(subscribe.filters[0].retain_forward_rule, RetainForwardRule::Never);
    assert!(!gateway.status.snapshot().connected, "not before the SUBACK");
    peer.suback(&subscribe, SubscribeReasonCode::Success(QoS::AtLeastOnce)).await;
    gateway.until(|s| s.connected).await;
}

#[tokio::test]
async fn message_is_acknowledged_after_its_commit_and_in_order() {
    let (broker, mut gateway, _data) = one_stream().await;
    let mut peer = broker.subscribed(false, 1).await;
    gateway.hold_commits();
    peer.publish(1, "a/1", "first", &[]).await;
    peer.publish(2, "a/1", "second", &[]).await;
    gateway.until(|s| s.received == 2).await;
    assert_eq!(gateway.status.snapshot().acknowledged, 0);
    gateway.commit();
    assert_eq!((peer.puback().await, peer.puback().await), (1, 2));
    assert_eq!(gateway.text(0).await.0, "first");
    let (_, second) = gateway.text(0).await;
    assert_eq!((&*second.message.topic, &second.message.payload[..]), ("a/1", &b"second"[..]));
    gateway.until(|s| s.acknowledged == 2 && s.received == 2).await;
}

#[tokio::test]
async fn a_message_of_qos_0_is_taken_and_needs_no_acknowledgement() {
    let (broker, mut gateway, _data) = one_stream().await;
    let mut peer = broker.subscribed(false, 1).await;
    peer.publish(0, "a/1", "zero", &[]).await;
    let (text, zero) = gateway.text(0).await;
    assert_eq!(text, "zero");
    gateway.settle(0, &zero);
    peer.publish(1, "b", "unwanted", &[]).await;
    assert_eq!(peer.puback().await, 1);
}

#[tokio::test]
async fn unwanted_messages_are_acknowledged_and_counted() {
    let broker = Broker::start().await;
    let data = tempdir().unwrap();
    let mut selective = stream(0, &["a/+"]);
    selective.key = KeyRule::Field("ident".into());
    selective.selection = Some(Selection::Only(Arc::new(HashSet::from(["7001".to_owned()]))));
    let mut gateway = Gateway::start(settings(broker.source()), vec![selective], &data);
    let mut peer = broker.subscribed(false, 1).await;
    peer.publish(1, "b", "{}", &[]).await;
    peer.publish(2, "a/1", r#"{"ident":"7002"}"#, &[]).await;
    peer.publish(3, "a/1", "[]", &[]).await;
    assert_eq!((peer.puback().await, peer.puback().await, peer.puback().await), (1, 2, 3));
    peer.publish(4, "a/1", r#"{"ident":"7001"}"#, &[]).await;
    let wanted = gateway.next(0).await;
    gateway.settle(0, &wanted);
    assert_eq!(peer.puback().await, 4);
    assert_eq!(gateway.status.snapshot().unwanted, 2);
}

#[tokio::test]
async fn copies_of_overlapping_filters_go_to_their_owners() {
    let broker = Broker::start().await;
    let data = tempdir().unwrap();
    let streams = vec![stream(0, &["a/+"]), stream(1, &["a/#"])];
    let mut gateway = Gateway::start(settings(broker.source()), streams, &data);
    let mut peer = broker.login(false).await;
    let filters = peer.subscribes(2).await;
    let id = |wanted: &str| filters.iter().find(|(f, _)| f == wanted).unwrap().1.unwrap();

    // As mosquitto sends them: one copy for each filter.
    peer.publish(1, "a/1", "m", &[id("a/+")]).await;
    peer.publish(2, "a/1", "m", &[id("a/#")]).await;
    let first = gateway.next(0).await;
    let second = gateway.next(1).await;
    gateway.settle(0, &first);
    gateway.settle(1, &second);
    assert_eq!((peer.puback().await, peer.puback().await), (1, 2));
    assert_eq!(
        (gateway.journal.counters(StreamIndex(0)).read, gateway.journal.counters(StreamIndex(1)).read),
        (1, 1)
    );

    // As others do: one copy for both.
    peer.publish(3, "a/1", "m", &[id("a/+"), id("a/#")]).await;
    let first = gateway.next(0).await;
    let second = gateway.next(1).await;
    gateway.settle(0, &first);
    gateway.settle(1, &second);
    assert_eq!(peer.puback().await, 3);
}

#[tokio::test]
async fn a_broker_without_subscription_identifiers_is_asked_for_none() {
    let (broker, mut gateway, _data) = one_stream().await;
    let mut peer = broker.accept().await;
    let limits = ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: vec![],
        wildcard_subscription_available: None,
        subscription_identifiers_available: Some(0),
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    };
    peer.connack(false, ConnectReturnCode::Success, Some(limits)).await;
    assert_eq!(peer.subscribes(1).await, [("a/+".to_owned(), None)]);
    peer.publish(1, "a/1", "m", &[]).await;
    let message = gateway.next(0).await;
    gateway.settle(0, &message);
    assert_eq!(peer.puback().await, 1);
}

#[tokio::test]
async fn a_list_becomes_its_elements_and_one_acknowledgement() {
    let (broker, mut gateway, _data) = one_stream().await;
    let mut peer = broker.subscribed(false, 1).await;
    gateway.hold_commits();
    peer.publish(1, "a/1", r#"[{"n":1},{"n":2}, {"n":3}]"#, &[]).await;
    peer.publish(2, "b", "unwanted", &[]).await;
    gateway.until(|s| s.received == 2).await;
    assert_eq!(gateway.status.snapshot().acknowledged, 0);
    gateway.commit();
    assert_eq!((peer.puback().await, peer.puback().await), (1, 2));
    let mut all = Vec::new();
    for n in 1..=3 {
        let (text, pending) = gateway.text(0).await;
        assert_eq!(text, format!(r#"{{"n":{n}}}"#));
        all.push(pending);
    }
    assert!(all.windows(2).all(|two| two[0].position.chunk == two[1].position.chunk), "one append");
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again_on_the_next_connection() {
    let (broker, mut gateway, _data) = one_stream().await;
    let mut peer = broker.subscribed(false, 1).await;
    gateway.hold_commits();
    for (pkid, text) in [(1, "one"), (2, "two")] {
        peer.publish(pkid, "a/1", text, &[]).await;
    }
    gateway.until(|s| s.received == 2).await;
    drop(peer);

    let mut peer = broker.subscribed(true, 1).await;
    gateway.until(|s| s.abandoned == 2 && s.reconnects == 1).await;
    // Committed too late: no acknowledgement may reach the new connection.
    gateway.commit();
    assert_eq!((gateway.text(0).await.0, gateway.text(0).await.0), ("one".to_owned(), "two".to_owned()));
    peer.publish(7, "b", "unwanted", &[]).await;
    assert_eq!(peer.puback().await, 7);

    for (pkid, text) in [(1, "one"), (2, "two")] {
        peer.publish(pkid, "a/1", text, &[]).await;
        let (again, pending) = gateway.text(0).await;
        assert_eq!(again, text);
        gateway.settle(0, &pending);
        assert_eq!(peer.puback().await, pkid);
    }
    let status = gateway.status.snapshot();
    assert_eq!((status.sessions_lost, status.acknowledged), (0, 3));
}

/// The broker may give the identifier of a message that was not acknowledged
/// to another one on the next connection. Acknowledging that one for the first
/// would lose it.
#[tokio::test]
async fn late_commit_does_not_acknowledge_a_reused_packet_identifier() {
    let (broker, gateway, _data) = one_stream().await;
    let mut peer = broker.subscribed(false, 1).await;
    gateway.hold_commits();
    peer.publish(1, "a/1", "old", &[]).await;
    gateway.until(|s| s.received == 1).await;
    drop(peer);

    let mut peer = broker.subscribed(true, 1).await;
    gateway.commit();
    gateway.until(|s| s.abandoned == 1).await;
    gateway.hold_commits();
    peer.publish(1, "a/1", "new", &[]).await;
    gateway.until(|s| s.received == 2).await;
    assert_eq!(gateway.status.snapshot().acknowledged, 0);
    gateway.commit();
    assert_eq!(peer.puback().await, 1);
    peer.publish(2, "b", "unwanted", &[]).await;
    assert_eq!(peer.puback().await, 2, "the first was acknowledged twice");
    assert_eq!(gateway.status.snapshot().acknowledged, 2);
}

/// A connection that ends before its SUBSCRIBE leaves a session without
/// subscriptions, which the next CONNACK reports as present.
#[tokio::test]
async fn a_resumed_session_is_subscribed_again() {
    let (broker, mut gateway, _data) = one_stream().await;
    drop(broker.login(false).await);
    let mut peer = broker.login(true).await;
    assert_eq!(peer.subscribes(1).await[0].0, "a/+");
    peer.publish(1, "a/1", "m", &[]).await;
    let message = gateway.next(0).await;
    gateway.settle(0, &message);
    assert_eq!(peer.puback().await, 1);
    assert_eq!(gateway.status.snapshot().sessions_lost, 0);
}

#[tokio::test]
async fn a_lost_session_is_counted_within_a_run_and_across_runs() {
    let (broker, gateway, data) = one_stream().await;
    drop(broker.subscribed(false, 1).await);
    let _peer = broker.subscribed(false, 1).await;
    gateway.until(|s| s.connected && s.sessions_lost == 1).await;
    gateway.stop.reading.cancel();
    gateway.ended().await;

    let gateway = Gateway::start(settings(broker.source()), vec![stream(0, &["a/+"])], &data);
    let _peer = broker.subscribed(false, 1).await;
    gateway.until(|s| s.connected && s.sessions_lost == 1).await;
}

#[tokio::test]
async fn a_filter_that_nobody_wants_any_more_is_unsubscribed_after_the_new_ones() {
    let (broker, gateway, data) = one_stream().await;
    let mut peer = broker.subscribed(false, 1).await;
    gateway.until(|s| s.connected).await;
    gateway.stop.reading.cancel();
    assert!(matches!(peer.read().await, Some(Packet::Disconnect(_))));
    gateway.ended().await;

    let gateway = Gateway::start(settings(broker.source()), vec![stream(0, &["b"])], &data);
    let mut peer = broker.login(true).await;
    assert_eq!(peer.subscribes(1).await[0].0, "b");
    assert_eq!(peer.unsubscribe().await, ["a/+"]);
    let written = data.path().join("bus-filters.json");
    gateway.until(|s| s.connected && !std::fs::read_to_string(&written).unwrap().contains("a/+")).await;
    drop(peer);
    // Once is enough.
    let mut peer = broker.subscribed(true, 1).await;
    peer.publish(1, "x", "unwanted", &[]).await;
    assert_eq!(peer.puback().await, 1);
}

/// A gateway with two streams in its journal, of which the first is routed.
async fn a_router_that_grows() -> (Broker, Gateway, TempDir, Peer) {
    let broker = Broker::start().await;
    let data = tempdir().unwrap();
    let gateway =
        Gateway::start(settings(broker.source()), vec![stream(0, &["a/+"]), stream(1, &["b"])], &data);
    let peer = broker.subscribed(false, 2).await;
    gateway.until(|s| s.connected).await;
    soon(gateway.routes.subscribed()).await;
    (broker, gateway, data, peer)
}

fn written(data: &TempDir) -> String {
    std::fs::read_to_string(data.path().join("bus-filters.json")).unwrap()
}

#[tokio::test]
async fn a_new_router_subscribes_what_is_new_and_then_unsubscribes_what_is_gone() {
    let (broker, mut gateway, data, mut peer) = a_router_that_grows().await;
    gateway.routes.replace(Router::new(vec![stream(0, &["a/+"]), stream(1, &["c"])]));
    let subscribe = peer.subscribe().await;
    assert_eq!(subscribe.filters[0].path, "c", "and nothing that was subscribed already");
    assert!(written(&data).contains("\"c\"") && written(&data).contains("\"b\""), "before SUBSCRIBE");
    // What the new subscription brings may overtake its SUBACK.
    let id = subscribe.properties.as_ref().and_then(|p| p.id).unwrap();
    peer.publish(1, "c", "early", &[id]).await;
    let (text, early) = gateway.text(1).await;
    assert_eq!(text, "early");
    peer.suback(&subscribe, SubscribeReasonCode::Success(QoS::AtLeastOnce)).await;
    gateway.settle(1, &early);
    assert_eq!(peer.puback().await, 1);
    assert_eq!(peer.unsubscribe().await, ["b"]);
    soon(gateway.routes.subscribed()).await;
    assert!(!written(&data).contains("\"b\""));

    drop(peer);
    let mut peer = broker.login(true).await;
    let filters: Vec<String> = peer.subscribes(2).await.into_iter().map(|(filter, _)| filter).collect();
    assert_eq!(filters, ["a/+", "c"]);
    peer.publish(1, "x", "unwanted", &[]).await;
    assert_eq!(peer.puback().await, 1, "nothing is left to unsubscribe");
}

#[tokio::test]
async fn what_was_queued_for_a_subscription_that_is_gone_goes_to_all_that_match() {
    let (_broker, mut gateway, _data, mut peer) = a_router_that_grows().await;
    let before = gateway.routes.current();
    let id = |router: &Router, filter: &str| {
        router.subscriptions().iter().find(|s| s.filter.as_str() == filter).unwrap().id
    };
    let gone = id(&before, "a/+");
    gateway.routes.replace(Router::new(vec![stream(0, &["a/1"]), stream(1, &["a/1", "b"])]));
    gateway.hold_commits();
    peer.publish(1, "a/1", "queued before", &[gone]).await;
    assert_eq!(peer.subscribes(1).await[0].0, "a/1");
    assert_eq!(peer.unsubscribe().await, ["a/+"]);
    gateway.commit();
    let both = [gateway.text(0).await, gateway.text(1).await];
    for (stream, (text, pending)) in (0..).zip(both) {
        assert_eq!(text, "queued before");
        gateway.settle(stream, &pending);
    }
    assert_eq!(peer.puback().await, 1);
}

#[tokio::test]
async fn a_router_that_comes_while_there_is_no_connection_is_subscribed_by_the_next() {
    let (broker, gateway, data, peer) = a_router_that_grows().await;
    drop(peer);
    gateway.until(|s| !s.connected).await;
    gateway.routes.replace(Router::new(vec![stream(0, &["d"])]));
    let mut peer = broker.login(true).await;
    let filters: Vec<String> = peer.subscribes(1).await.into_iter().map(|(filter, _)| filter).collect();
    assert_eq!(filters, ["d"]);
    assert_eq!(peer.unsubscribe().await, ["a/+"]);
    assert_eq!(peer.unsubscribe().await, ["b"]);
    soon(gateway.routes.subscribed()).await;
    assert!(!written(&data).contains("a/+"));
}

/// The connection ends between SUBSCRIBE and SUBACK of a filter that is new.
#[tokio::test]
async fn a_subscription_that_is_cut_off_is_made_by_the_next_connection() {
    let (broker, gateway, _data, mut peer) = a_router_that_grows().await;
    gateway.routes.replace(Router::new(vec![stream(0, &["a/+", "c"])]));
    assert_eq!(peer.subscribe().await.filters[0].path, "c");
    drop(peer);
    let mut peer = broker.subscribed(true, 2).await;
    assert_eq!(peer.unsubscribe().await, ["b"]);
    soon(gateway.routes.subscribed()).await;
}

#[tokio::test]
async fn a_refused_filter_that_nobody_wants_any_more_is_no_trouble() {
    let (_broker, gateway, _data, mut peer) = a_router_that_grows().await;
    gateway.routes.replace(Router::new(vec![stream(0, &["a/+"]), stream(1, &["c"])]));
    let refused = peer.subscribe().await;
    peer.suback(&refused, SubscribeReasonCode::NotAuthorized).await;
    assert_eq!(peer.unsubscribe().await, ["b"]);
    gateway.until(|s| s.refused_filters == ["c: NotAuthorized"]).await;
    gateway.routes.replace(Router::new(vec![stream(0, &["a/+"])]));
    assert_eq!(peer.unsubscribe().await, ["c"]);
    gateway.until(|s| s.refused_filters.is_empty()).await;
}

#[tokio::test]
async fn a_take_over_is_counted_and_named() {
    let (broker, gateway, _data) = one_stream().await;
    let mut peer = broker.subscribed(false, 1).await;
    gateway.until(|s| s.connected).await;
    peer.disconnect(DisconnectReasonCode::SessionTakenOver).await;
    gateway.until(|s| s.take_overs == 1 && !s.connected).await;
    let error = gateway.status.snapshot().last_error.unwrap();
    assert!(error.contains("every gateway needs its own client_id"), "{error}");
}

#[tokio::test]
async fn a_refused_login_says_why_and_is_tried_again() {
    let (broker, gateway, _data) = one_stream().await;
    let mut peer = broker.accept().await;
    peer.connack(false, ConnectReturnCode::BadUserNamePassword, None).await;
    gateway.until(|s| s.last_error.is_some()).await;
    let error = gateway.status.snapshot().last_error.unwrap();
    assert!(error.ends_with("refused the login: wrong user name or password"), "{error}");
    let _peer = broker.subscribed(false, 1).await;
    gateway.until(|s| s.connected && s.last_error.is_none()).await;
}

#[tokio::test]
async fn a_refused_filter_is_named_and_the_others_are_read() {
    let broker = Broker::start().await;
    let data = tempdir().unwrap();
    let mut gateway =
        Gateway::start(settings(broker.source()), vec![stream(0, &["a"]), stream(1, &["b"])], &data);
    let mut peer = broker.login(false).await;
    let refused = peer.subscribe().await;
    peer.suback(&refused, SubscribeReasonCode::NotAuthorized).await;
    peer.subscribes(1).await;
    gateway.until(|s| s.connected).await;
    assert_eq!(gateway.status.snapshot().refused_filters, ["a: NotAuthorized"]);
    peer.publish(1, "b", "m", &[]).await;
    let message = gateway.next(1).await;
    gateway.settle(1, &message);
    assert_eq!(peer.puback().await, 1);
}

#[tokio::test]
async fn a_shared_subscription_is_passed_through() {
    let broker = Broker::start().await;
    let data = tempdir().unwrap();
    let mut shared = settings(broker.source());
    shared.share = Some("group".into());
    let mut gateway = Gateway::start(shared, vec![stream(0, &["a/+"])], &data);
    let mut peer = broker.login(false).await;
    let (filter, id) = peer.subscribes(1).await.remove(0);
    assert_eq!(filter, "$share/group/a/+");
    peer.publish(1, "a/1", "m", &[id.unwrap()]).await;
    let message = gateway.next(0).await;
    gateway.settle(0, &message);
    assert_eq!(peer.puback().await, 1);
}

#[tokio::test]
async fn hundreds_of_filters_are_subscribed() {
    let broker = Broker::start().await;
    let data = tempdir().unwrap();
    let topics: Vec<String> = (0..300).map(|n| format!("t/{n}")).collect();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    let gateway = Gateway::start(settings(broker.source()), vec![stream(0, &topics)], &data);
    let mut peer = broker.login(false).await;
    let filters: HashSet<_> = peer.subscribes(300).await.into_iter().collect();
    assert_eq!(filters.len(), 300);
    gateway.until(|s| s.connected).await;
}

/// Far more messages than any queue holds, from a broker that does not keep to
/// the receive maximum, while nothing is committed: back-pressure pauses
/// reading, says so, and loses nothing when it continues.
#[tokio::test]
async fn a_full_window_holds_the_bus_back_and_lets_go() {
    const MESSAGES: u16 = 4_000;
    let broker = Broker::start().await;
    let data = tempdir().unwrap();
    let mut narrow = settings(broker.source());
    narrow.window_messages = 10;
    let mut gateway = Gateway::start(narrow, vec![stream(0, &["a/+"])], &data);
    let mut peer = broker.subscribed(false, 1).await;
    gateway.hold_commits();
    let packets: Vec<Packet> =
        (1..=MESSAGES).map(|pkid| publish(pkid, "a/1", &pkid.to_string(), &[])).collect();
    peer.send(&packets).await;
    gateway.until(|s| s.held_back).await;
    assert!(gateway.status.snapshot().received < u64::from(MESSAGES));

    gateway.commit();
    let pubacks = tokio::spawn(async move {
        for pkid in 1..=MESSAGES {
            assert_eq!(peer.puback().await, pkid);
        }
    });
    for pkid in 1..=MESSAGES {
        let (text, pending) = gateway.text(0).await;
        assert_eq!(text, pkid.to_string());
        gateway.settle(0, &pending);
    }
    soon(pubacks).await.unwrap();
    gateway.until(|s| !s.held_back && s.acknowledged == u64::from(MESSAGES)).await;
}

#[tokio::test]
async fn stop_acknowledges_appended_messages_and_takes_no_new_ones() {
    let (broker, gateway, _data) = one_stream().await;
    let mut peer = broker.subscribed(false, 1).await;
    gateway.hold_commits();
    // One append each, so that each has its own ticket.
    for pkid in 1..=3 {
        peer.publish(pkid, "a/1", "m", &[]).await;
        gateway.until(|s| s.received == u64::from(pkid)).await;
    }
    gateway.stop.reading.cancel();
    peer.publish(4, "a/1", "too late", &[]).await;
    gateway.until(|s| s.received == 4).await;
    // The commit comes after the stop, and all three may be acknowledged.
    gateway.commit();
    assert_eq!(gateway.journal.counters(StreamIndex(0)).read, 3);
    assert_eq!((peer.puback().await, peer.puback().await, peer.puback().await), (1, 2, 3));
    assert!(matches!(peer.read().await, Some(Packet::Disconnect(_))));
    assert!(peer.read().await.is_none());
    gateway.ended().await;
}

#[tokio::test]
async fn last_call_does_not_wait_for_uncommitted_messages() {
    let (broker, gateway, _data) = one_stream().await;
    let mut peer = broker.subscribed(false, 1).await;
    gateway.hold_commits();
    for pkid in 1..=2 {
        peer.publish(pkid, "a/1", "m", &[]).await;
    }
    gateway.until(|s| s.received == 2).await;
    gateway.stop.reading.cancel();
    gateway.stop.settling.cancel();
    // Neither is acknowledged.
    assert!(matches!(peer.read().await, Some(Packet::Disconnect(_))));
    gateway.ended().await;
}

#[tokio::test]
async fn a_login_is_tried_out_without_touching_the_session() {
    let broker = Broker::start().await;
    let tried = settings(broker.source());
    let server = async {
        let mut peer = broker.login(false).await;
        let connect = peer.connect.clone().unwrap();
        assert_eq!((connect.client_id.as_str(), connect.clean_start), ("gateway-test-check", true));
        assert!(matches!(peer.read().await, Some(Packet::Disconnect(_))));
    };
    let (result, ()) = tokio::join!(soon(try_login(&tried)), server);
    assert_eq!(result, Ok(()));

    let server = async {
        broker.accept().await.connack(false, ConnectReturnCode::NotAuthorized, None).await;
    };
    let (result, ()) = tokio::join!(soon(try_login(&tried)), server);
    assert!(result.unwrap_err().ends_with("refused the login: not authorized"));
}

#[cfg(feature = "embedded")]
/// The broker inside, end to end: what a client publishes arrives and the
/// session outlives a connection.
#[tokio::test]
async fn the_embedded_broker_serves_the_bus() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = free.local_addr().unwrap();
    drop(free);
    embedded::start(listen, 1 << 20).await.unwrap();
    let data = tempdir().unwrap();
    let mut gateway =
        Gateway::start(settings(BusSource::Embedded { listen }), vec![stream(0, &["a/+"])], &data);
    gateway.until(|s| s.connected).await;

    let mut options =
        rumqttc::MqttOptions::new("publisher", rumqttc::Broker::tcp("127.0.0.1", listen.port()));
    options.set_keep_alive(30);
    let (client, mut eventloop) = rumqttc::AsyncClient::builder(options).capacity(10).build();
    let poll = tokio::spawn(async move { while eventloop.poll().await.is_ok() {} });
    for n in 0..200 {
        let publish = rumqttc::PublishOptions::new(QoS::AtLeastOnce);
        client.publish("a/1", n.to_string(), publish).await.unwrap();
    }
    for n in 0..200 {
        let (text, pending) = gateway.text(0).await;
        assert_eq!(text, n.to_string());
        gateway.settle(0, &pending);
    }
    gateway.until(|s| s.acknowledged == 200).await;
    let taken = embedded::start(listen, 1 << 20).await.unwrap_err();
    assert!(matches!(taken, EmbeddedError::Listen { .. }), "{taken}");
    gateway.stop.reading.cancel();
    gateway.ended().await;
    poll.abort();
}
