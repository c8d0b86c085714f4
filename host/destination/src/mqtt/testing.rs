//! A scripted MQTT 5 server on loopback, for the tests of the three
//! destinations that speak MQTT. A test says line by line what the server
//! reads and what it answers; every wait has a deadline.

#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{Error as CodecError, QoS};
use rumqttc::{
    ConnAck, ConnAckProperties, Connect, ConnectAuth, ConnectReturnCode, Disconnect, DisconnectReasonCode,
    Packet, PubAck, PubAckReason, Publish, SubAck, Subscribe, SubscribeReasonCode,
};
use rustls::pki_types::PrivateKeyDer;
use settings_reader::{MqttUrl, TlsSettings};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::MqttAccess;
use crate::{Connection, Delivery, Destination, Fault, Verdict};

/// No step of a test takes this long unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for `future`, but not for ever.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("nothing happened within 20 s")
}

trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

/// A listening server.
pub struct Server {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl Server {
    pub async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap(), tls: None }
    }

    /// With a certificate for `127.0.0.1`.
    pub async fn start_tls(authority: &Authority) -> Self {
        Self { tls: Some(authority.acceptor()), ..Self::start().await }
    }

    /// How to reach it: window 8, time-outs of 10 s.
    pub fn access(&self) -> MqttAccess {
        MqttAccess {
            url: MqttUrl {
                host: "127.0.0.1".to_owned(),
                port: self.listener.local_addr().unwrap().port(),
                tls: self.tls.is_some(),
            },
            client_id: "gateway-test".to_owned(),
            username: None,
            password: None,
            tls: TlsSettings::default(),
            keep_alive: Duration::from_secs(30),
            timeout: Duration::from_secs(10),
            in_flight: 8,
        }
    }

    /// Takes the next connection and reads its CONNECT; none when the TLS
    /// handshake fails or the client goes away.
    pub async fn accept(&self) -> Option<Peer> {
        let (tcp, _) = soon(self.listener.accept()).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let stream: Box<dyn Socket> = match &self.tls {
            None => Box::new(tcp),
            Some(acceptor) => Box::new(soon(acceptor.accept(tcp)).await.ok()?),
        };
        let mut peer = Peer { stream, buffer: BytesMut::new(), login: None };
        let Packet::Connect(connect, _, auth) = peer.read().await? else { panic!("expected CONNECT") };
        peer.login = Some((connect, auth));
        Some(peer)
    }

    /// Takes the next connection and lets it in.
    pub async fn login(&self) -> Peer {
        self.login_with(limits()).await
    }

    /// Takes the next connection and lets it in with these limits.
    pub async fn login_with(&self, properties: ConnAckProperties) -> Peer {
        let mut peer = self.accept().await.unwrap();
        peer.connack(ConnectReturnCode::Success, Some(properties)).await;
        peer
    }

    /// Opens the destination's lane 0 and returns both ends.
    pub async fn open(&self, destination: &impl Destination) -> (Box<dyn Connection>, Peer) {
        let (connection, peer) = tokio::join!(soon(destination.connect(0)), self.login());
        (connection.unwrap(), peer)
    }

    /// What the destination makes of a refused login.
    pub async fn refuse(&self, destination: &impl Destination, code: ConnectReturnCode) -> Fault {
        let (result, ()) = tokio::join!(soon(destination.connect(0)), async {
            self.accept().await.unwrap().connack(code, None).await;
        });
        result.err().unwrap()
    }
}

/// The server's end of one connection.
pub struct Peer {
    stream: Box<dyn Socket>,
    buffer: BytesMut,
    login: Option<(Connect, ConnectAuth)>,
}

impl Peer {
    /// CONNECT as it came in.
    pub fn login(&self) -> &(Connect, ConnectAuth) {
        self.login.as_ref().unwrap()
    }

    /// The next packet that is not a ping; none at the end of the connection.
    pub async fn read(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.buffer, None) {
                Ok(Packet::PingReq) => self.send(Packet::PingResp).await,
                Ok(packet) => return Some(packet),
                Err(CodecError::InsufficientBytes(_)) => {
                    if soon(self.stream.read_buf(&mut self.buffer)).await.unwrap_or(0) == 0 {
                        return None;
                    }
                }
                Err(error) => panic!("the client sent garbage: {error}"),
            }
        }
    }

    /// Whether the client has written nothing beyond what was read.
    pub fn nothing_more(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next publish, QoS 1 and not retained.
    pub async fn publish(&mut self) -> Publish {
        match self.read().await {
            Some(Packet::Publish(p)) => {
                assert_eq!((p.qos, p.retain, p.dup), (QoS::AtLeastOnce, false, false));
                p
            }
            other => panic!("expected PUBLISH, got {other:?}"),
        }
    }

    pub async fn subscribe(&mut self) -> Subscribe {
        match self.read().await {
            Some(Packet::Subscribe(s)) => s,
            other => panic!("expected SUBSCRIBE, got {other:?}"),
        }
    }

    pub async fn send(&mut self, packet: Packet) {
        self.send_all(&[packet]).await;
    }

    /// All packets in one write, so that the client reads them together.
    pub async fn send_all(&mut self, packets: &[Packet]) {
        let mut wire = BytesMut::new();
        for packet in packets {
            packet.write(&mut wire, None).unwrap();
        }
        self.stream.write_all(&wire).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    async fn connack(&mut self, code: ConnectReturnCode, properties: Option<ConnAckProperties>) {
        self.send(Packet::ConnAck(ConnAck { session_present: false, code, properties })).await;
    }

    pub async fn puback(&mut self, publish: &Publish, reason: PubAckReason) {
        self.send(puback(publish, reason)).await;
    }

    pub async fn suback(&mut self, subscribe: &Subscribe, codes: &[SubscribeReasonCode]) {
        let suback = SubAck { pkid: subscribe.pkid, return_codes: codes.to_vec(), properties: None };
        self.send(Packet::SubAck(suback)).await;
    }

    pub async fn message(&mut self, topic: &str, body: &str) {
        self.send(Packet::Publish(Publish::new(topic, QoS::AtMostOnce, body.to_owned(), None))).await;
    }

    pub async fn disconnect(&mut self, code: DisconnectReasonCode) {
        self.send(Packet::Disconnect(Disconnect::new(code))).await;
    }
}

/// CONNACK properties that set no limit.
pub fn limits() -> ConnAckProperties {
    ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}

pub fn puback(publish: &Publish, reason: PubAckReason) -> Packet {
    Packet::PubAck(PubAck { pkid: publish.pkid, reason, properties: None })
}

pub fn topic(publish: &Publish) -> &str {
    std::str::from_utf8(&publish.topic).unwrap()
}

pub fn user_properties(publish: &Publish) -> &[(String, String)] {
    publish.properties.as_ref().map_or(&[], |p| &p.user_properties)
}

pub fn delivery(target: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Delivery {
    Delivery {
        target: Some(target.to_owned()),
        headers: headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        body: body.into(),
        identity: None,
    }
}

/// The words of a refusal.
pub fn refused(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Refused(reply) => &reply.0,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// The fault of a deferral.
pub fn deferred(verdict: Verdict) -> Fault {
    match verdict {
        Verdict::Deferred(fault) => fault,
        other => panic!("expected a deferral, got {other:?}"),
    }
}

/// A certificate authority of the test's own, with a certificate for `127.0.0.1`.
pub struct Authority {
    folder: tempfile::TempDir,
    certificate: rcgen::Certificate,
    key: rcgen::KeyPair,
}

impl Authority {
    pub fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { folder, certificate, key }
    }

    /// PEM file to trust it by.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn acceptor(&self) -> TlsAcceptor {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![self.certificate.der().clone()], key)
                .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}
