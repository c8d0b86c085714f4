//! A scripted MQTT 5 broker on loopback, and a bus that reads it. Every wait
//! has a deadline.

#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use journal::{Journal, Outcome, Pending, ReadRules, Reader, Settlement, Simulated, StreamIndex};
use message::{KeyRule, TopicFilter};
use rumqttc::mqttbytes::Error as CodecError;
use rumqttc::{
    ConnAck, ConnAckProperties, Connect, ConnectReturnCode, Disconnect, DisconnectReasonCode, Packet,
    Publish, PublishProperties, QoS, SubAck, Subscribe, SubscribeReasonCode, UnsubAck, UnsubAckReason,
};
use settings_reader::{MqttUrl, TlsSettings};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use watch::Watch;

use super::{Bus, BusSnapshot, BusStatus, Route, Router, Routes, Stop};
use crate::{BusSettings, BusSource};

const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("nothing happened within 20 s")
}

pub(super) struct Broker(TcpListener);

impl Broker {
    pub(super) async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(super) fn source(&self) -> BusSource {
        let port = self.0.local_addr().unwrap().port();
        BusSource::Mqtt(MqttUrl { host: "127.0.0.1".into(), port, tls: false })
    }

    /// The next connection after its CONNECT.
    pub(super) async fn accept(&self) -> Peer {
        let (socket, _) = soon(self.0.accept()).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let mut peer = Peer { socket, buffer: BytesMut::new(), connect: None };
        let Some(Packet::Connect(connect, ..)) = peer.read().await else { panic!("expected CONNECT") };
        peer.connect = Some(connect);
        peer
    }

    /// The next connection, let in.
    pub(super) async fn login(&self, session_present: bool) -> Peer {
        let mut peer = self.accept().await;
        peer.connack(session_present, ConnectReturnCode::Success, None).await;
        peer
    }

    /// The next connection, let in, with its `count` filters subscribed.
    pub(super) async fn subscribed(&self, session_present: bool, count: usize) -> Peer {
        let mut peer = self.login(session_present).await;
        peer.subscribes(count).await;
        peer
    }
}

pub(super) struct Peer {
    socket: TcpStream,
    buffer: BytesMut,
    pub(super) connect: Option<Connect>,
}

impl Peer {
    /// The next packet that is no ping; none at the end.
    pub(super) async fn read(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.buffer, None) {
                Ok(Packet::PingReq) => self.send(&[Packet::PingResp]).await,
                Ok(packet) => return Some(packet),
                Err(CodecError::InsufficientBytes(_)) => {
                    if soon(self.socket.read_buf(&mut self.buffer)).await.unwrap_or(0) == 0 {
                        return None;
                    }
                }
                Err(error) => panic!("the client sent garbage: {error}"),
            }
        }
    }

    pub(super) async fn send(&mut self, packets: &[Packet]) {
        let mut wire = BytesMut::new();
        for packet in packets {
            packet.write(&mut wire, None).unwrap();
        }
        self.socket.write_all(&wire).await.unwrap();
    }

    pub(super) async fn connack(
        &mut self,
        session_present: bool,
        code: ConnectReturnCode,
        properties: Option<ConnAckProperties>,
    ) {
        self.send(&[Packet::ConnAck(ConnAck { session_present, code, properties })]).await;
    }

    pub(super) async fn subscribe(&mut self) -> Subscribe {
        match self.read().await {
            Some(Packet::Subscribe(subscribe)) => subscribe,
            other => panic!("expected SUBSCRIBE, got {other:?}"),
        }
    }

    pub(super) async fn suback(&mut self, subscribe: &Subscribe, code: SubscribeReasonCode) {
        let suback = SubAck { pkid: subscribe.pkid, return_codes: vec![code], properties: None };
        self.send(&[Packet::SubAck(suback)]).await;
    }

    /// Reads and grants `count` subscriptions: filter and identifier of each.
    pub(super) async fn subscribes(&mut self, count: usize) -> Vec<(String, Option<usize>)> {
        let mut filters = Vec::new();
        for _ in 0..count {
            let subscribe = self.subscribe().await;
            self.suback(&subscribe, SubscribeReasonCode::Success(QoS::AtLeastOnce)).await;
            assert_eq!(subscribe.filters.len(), 1, "one identifier serves one filter");
            filters.push((subscribe.filters[0].path.clone(), subscribe.properties.and_then(|p| p.id)));
        }
        filters
    }

    /// Reads and grants one UNSUBSCRIBE.
    pub(super) async fn unsubscribe(&mut self) -> Vec<String> {
        let Some(Packet::Unsubscribe(unsubscribe)) = self.read().await else {
            panic!("expected UNSUBSCRIBE")
        };
        let reasons = vec![UnsubAckReason::Success; unsubscribe.filters.len()];
        let unsuback = UnsubAck { pkid: unsubscribe.pkid, reasons, properties: None };
        self.send(&[Packet::UnsubAck(unsuback)]).await;
        unsubscribe.filters
    }

    pub(super) async fn publish(&mut self, pkid: u16, topic: &str, payload: &str, ids: &[usize]) {
        self.send(&[publish(pkid, topic, payload, ids)]).await;
    }

    /// The identifier of the next PUBACK.
    pub(super) async fn puback(&mut self) -> u16 {
        match self.read().await {
            Some(Packet::PubAck(puback)) => puback.pkid,
            other => panic!("expected PUBACK, got {other:?}"),
        }
    }

    pub(super) async fn disconnect(&mut self, code: DisconnectReasonCode) {
        self.send(&[Packet::Disconnect(Disconnect::new(code))]).await;
    }
}

/// QoS 1, or 0 with packet identifier 0.
pub(super) fn publish(pkid: u16, topic: &str, payload: &str, ids: &[usize]) -> Packet {
    let qos = if pkid == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
    let properties =
        PublishProperties { subscription_identifiers: ids.to_vec(), ..PublishProperties::default() };
    let mut publish = Publish::new(topic, qos, payload.to_owned(), Some(properties));
    publish.pkid = pkid;
    Packet::Publish(publish)
}

pub(super) fn stream(index: u32, topics: &[&str]) -> Route {
    Route {
        stream: StreamIndex(index),
        filters: topics.iter().map(|t| TopicFilter::new(t).unwrap()).collect(),
        key: KeyRule::Topic,
        selection: None,
    }
}

pub(super) fn settings(source: BusSource) -> BusSettings {
    BusSettings {
        source,
        client_id: "gateway-test".into(),
        username: None,
        password: None,
        tls: TlsSettings::default(),
        share: None,
        session_expiry: Duration::from_secs(7 * 86_400),
        keep_alive: Duration::from_secs(30),
        receive_maximum: 1_000,
        max_packet: 1024 * 1024,
        window_messages: 1_000,
        window_bytes: 1024 * 1024,
    }
}

/// A running bus with a reader for each stream.
pub(super) struct Gateway {
    pub(super) status: Arc<BusStatus>,
    pub(super) stop: Stop,
    pub(super) journal: Journal,
    pub(super) readers: Vec<Reader>,
    pub(super) routes: Routes,
    task: JoinHandle<()>,
}

impl Gateway {
    pub(super) fn start(settings: BusSettings, streams: Vec<Route>, data: &TempDir) -> Self {
        let journal = Journal::simulated(Simulated::new(streams.len()));
        let readers = streams.iter().map(|s| journal.reader(s.stream, ReadRules::default())).collect();
        let status = Arc::new(BusStatus::default());
        let stop = Stop::default();
        let routes = Routes::new(Router::new(streams));
        let bus = Bus {
            settings,
            data: data.path().to_owned(),
            routes: routes.clone(),
            journal: journal.clone(),
            status: status.clone(),
            stop: stop.clone(),
            watch: Watch::new(),
        };
        let task = tokio::spawn(bus.run());
        Self { status, stop, journal, readers, routes, task }
    }

    /// The next pending message of a stream.
    pub(super) async fn next(&mut self, stream: usize) -> Pending {
        soon(self.readers[stream].next(1)).await.remove(0)
    }

    /// The text of the next message, and how to settle it.
    pub(super) async fn text(&mut self, stream: usize) -> (String, Pending) {
        let pending = self.next(stream).await;
        (String::from_utf8(pending.message.payload.to_vec()).unwrap(), pending)
    }

    /// Delays the commits, and with them the acknowledgements.
    pub(super) fn hold_commits(&self) {
        self.journal.hold_commits(true);
    }

    /// Commits everything that was held.
    pub(super) fn commit(&self) {
        self.journal.hold_commits(false);
    }

    pub(super) fn settle(&self, stream: u32, pending: &Pending) {
        let ended = vec![(pending.position, Outcome::Delivered)];
        self.journal.settle(StreamIndex(stream), Settlement { ended, ..Settlement::default() });
    }

    /// Waits until the status is as wanted.
    pub(super) async fn until(&self, wanted: impl Fn(&BusSnapshot) -> bool) {
        soon(async {
            while !wanted(&self.status.snapshot()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Waits for the end after `stop`.
    pub(super) async fn ended(self) {
        soon(self.task).await.unwrap();
    }
}
