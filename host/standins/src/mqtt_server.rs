//! A small MQTT 5 server under the stand-ins: sessions, QoS 0 and 1, answers
//! decided by [`Rules`]. Not a broker: it keeps no session beyond its
//! connection and forwards no publish of one client to another.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::v5::{
    ConnAck, ConnAckProperties, Connect, ConnectAuth, ConnectReturnCode, Disconnect, DisconnectReasonCode,
    Packet, PubAck, PubAckProperties, PubAckReason, Publish, SubAck, SubscribeReasonCode, UnsubAck,
    UnsubAckReason,
};
use rumqttc::mqttbytes::{self, QoS, valid_filter};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::lock;
use super::plug::Plug;

/// Time for the TLS handshake and the CONNECT packet.
const LOGIN_TIME: Duration = Duration::from_secs(5);
/// Largest packet that is read at all.
const MAX_PACKET: u32 = 1024 * 1024;
/// Publishes that may wait for one client; a client that leaves more is cut.
const OUTBOX: usize = 1024;

/// Who is connected.
#[derive(Clone, Debug)]
pub struct Client {
    /// Number of the connection, from 1.
    pub session: u64,
    /// The client id of the CONNECT.
    pub client_id: String,
    /// The user name.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Bytes>,
    /// Whether it asked for a fresh session.
    pub clean_start: bool,
    /// Seconds between pings; 0: none.
    pub keep_alive: u16,
    /// What TLS showed; none on a plain connection.
    pub tls: Option<Tls>,
}

/// What the TLS handshake showed.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The server name that the client asked for.
    pub sni: Option<String>,
    /// The ALPN name agreed on.
    pub alpn: Option<String>,
    /// The client's own certificate as DER, where it presented one (that was
    /// verified).
    pub certificate: Option<Vec<u8>>,
}

/// What the server does with one PUBLISH.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What the publisher hears.
    pub reply: Reply,
    /// Published, after the reply, to every client with a matching subscription.
    pub publish: Vec<(String, Bytes)>,
}

/// What the publisher hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// PUBACK with this reason and this reason string (nothing at QoS 0).
    Ack(PubAckReason, Option<String>),
    /// PUBACK with success, so many times.
    Acks(u8),
    /// Nothing; the connection stays.
    Silence,
    /// The connection is cut without a word.
    Close,
    /// PUBACK with this reason, where one is given, then DISCONNECT.
    Disconnect(Option<PubAckReason>, DisconnectReasonCode),
}

impl Answer {
    /// PUBACK with success.
    pub fn accept() -> Self {
        Self::ack(PubAckReason::Success, None)
    }

    /// PUBACK with a reason and, for people, a text.
    pub fn ack(reason: PubAckReason, text: Option<String>) -> Self {
        Self { reply: Reply::Ack(reason, text), publish: Vec::new() }
    }

    /// Any other reply.
    pub fn reply(reply: Reply) -> Self {
        Self { reply, publish: Vec::new() }
    }
}

/// The decisions of one stand-in. Called from the connections' tasks; quick.
pub trait Rules: Send + Sync + 'static {
    /// Whether the client may enter.
    fn connect(&self, _client: &Client) -> ConnectReturnCode {
        ConnectReturnCode::Success
    }

    /// Whether it may subscribe to this (valid) filter.
    fn subscribe(&self, _client: &Client, _filter: &str, qos: QoS) -> SubscribeReasonCode {
        SubscribeReasonCode::Success(if qos == QoS::AtMostOnce { qos } else { QoS::AtLeastOnce })
    }

    /// What becomes of a publish.
    fn publish(&self, client: &Client, publish: &Publish) -> Answer;

    /// The client broke MQTT itself (or the keep-alive); its connection ends.
    fn broke(&self, _client: &Client, _how: String) {}

    /// The connection of a client that had entered has ended.
    fn gone(&self, _client: &Client) {}
}

/// The running server; ends with the last clone.
#[derive(Clone)]
pub struct MqttServer {
    plug: Plug,
}

struct Shared<R> {
    rules: Arc<R>,
    tls: Option<TlsAcceptor>,
    sessions: AtomicU64,
    entered: Mutex<HashMap<u64, Entered>>,
}

struct Entered {
    client_id: String,
    filters: Vec<(String, QoS)>,
    outbox: mpsc::Sender<Publish>,
}

impl MqttServer {
    /// Starts on a free port of 127.0.0.1; with `tls` every connection is TLS.
    pub async fn start<R: Rules>(rules: Arc<R>, tls: Option<Arc<rustls::ServerConfig>>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            rules,
            tls: tls.map(TlsAcceptor::from),
            sessions: AtomicU64::new(0),
            entered: Mutex::new(HashMap::new()),
        });
        let plug = Plug::start(move |stream| connection(Arc::clone(&shared), stream)).await?;
        Ok(Self { plug })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.plug.address()
    }

    /// Its socket: connections counted, unplug and plug.
    pub fn plug(&self) -> &Plug {
        &self.plug
    }
}

async fn connection<R: Rules>(shared: Arc<Shared<R>>, stream: TcpStream) {
    let session = shared.sessions.fetch_add(1, Ordering::Relaxed) + 1;
    match &shared.tls {
        None => Session::run(&shared, stream, session, None).await,
        Some(acceptor) => {
            // A failed handshake is the client's to report: it knows the alert.
            let Ok(Ok(stream)) = tokio::time::timeout(LOGIN_TIME, acceptor.accept(stream)).await else {
                return;
            };
            let (_, state) = stream.get_ref();
            let tls = Tls {
                sni: state.server_name().map(str::to_owned),
                alpn: state.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
                certificate: state
                    .peer_certificates()
                    .and_then(|chain| chain.first())
                    .map(|leaf| leaf.to_vec()),
            };
            Session::run(&shared, stream, session, Some(tls)).await;
        }
    }
}

/// Packets over a byte stream.
struct Wire<S> {
    stream: S,
    input: BytesMut,
    output: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// The next packet; none at the end of the stream. Safe to cancel.
    async fn read(&mut self) -> Result<Option<Packet>, String> {
        loop {
            match Packet::read(&mut self.input, Some(MAX_PACKET)) {
                Ok(packet) => return Ok(Some(packet)),
                Err(mqttbytes::Error::InsufficientBytes(_)) => {}
                Err(error) => return Err(error.to_string()),
            }
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) => {}
            }
        }
    }

    async fn write(&mut self, packet: Packet) -> io::Result<()> {
        packet.write(&mut self.output, None).map_err(io::Error::other)?;
        self.stream.write_all_buf(&mut self.output).await?;
        self.stream.flush().await
    }
}

struct Session<'a, R: Rules, S> {
    shared: &'a Shared<R>,
    client: Client,
    wire: Wire<S>,
    packet_id: u16,
}

/// Whether a session continues after one packet.
enum Next {
    On,
    End,
}

impl<R: Rules, S: AsyncRead + AsyncWrite + Unpin> Session<'_, R, S> {
    async fn run(shared: &Shared<R>, stream: S, session: u64, tls: Option<Tls>) {
        let mut wire = Wire { stream, input: BytesMut::new(), output: BytesMut::new() };
        let Ok(Ok(Some(Packet::Connect(connect, _, auth)))) =
            tokio::time::timeout(LOGIN_TIME, wire.read()).await
        else {
            return;
        };
        let client = client_of(session, connect, auth, tls);
        let code = shared.rules.connect(&client);
        let properties = ConnAckProperties { max_qos: Some(1), ..no_properties() };
        let connack = ConnAck { session_present: false, code, properties: Some(properties) };
        if wire.write(Packet::ConnAck(connack)).await.is_err() || code != ConnectReturnCode::Success {
            return;
        }

        let (outbox, publishes) = mpsc::channel(OUTBOX);
        let entered = Entered { client_id: client.client_id.clone(), filters: Vec::new(), outbox };
        {
            let mut all = lock(&shared.entered);
            // One client id, one connection: the older one is closed.
            all.retain(|_, other| other.client_id != entered.client_id);
            all.insert(session, entered);
        }
        let guard = Leaving { shared, client: &client };
        Session { shared, client: client.clone(), wire, packet_id: 0 }.serve(publishes).await;
        drop(guard);
    }

    async fn serve(mut self, mut publishes: mpsc::Receiver<Publish>) {
        // The client must be heard within one and a half keep-alives.
        let patience = match self.client.keep_alive {
            0 => Duration::MAX,
            seconds => Duration::from_millis(u64::from(seconds) * 1500),
        };
        loop {
            let next = tokio::select! {
                packet = timeout(patience, self.wire.read()) => match packet {
                    Some(Ok(Some(packet))) => self.handle(packet).await,
                    Some(Ok(None)) => return,
                    Some(Err(error)) => {
                        self.shared.rules.broke(&self.client, error);
                        self.bye(DisconnectReasonCode::MalformedPacket).await
                    }
                    None => {
                        self.shared.rules.broke(&self.client, "sent nothing for 1.5 keep-alives".to_owned());
                        self.bye(DisconnectReasonCode::KeepAliveTimeout).await
                    }
                },
                publish = publishes.recv() => match publish {
                    Some(publish) => self.forward(publish).await,
                    None => self.bye(DisconnectReasonCode::SessionTakenOver).await,
                },
            };
            if !matches!(next, Ok(Next::On)) {
                return;
            }
        }
    }

    async fn handle(&mut self, packet: Packet) -> io::Result<Next> {
        match packet {
            Packet::PingReq => self.wire.write(Packet::PingResp).await?,
            Packet::Publish(publish) => return self.publish(publish).await,
            Packet::Subscribe(subscribe) => {
                let mut return_codes = Vec::new();
                for filter in &subscribe.filters {
                    return_codes.push(self.subscribe(&filter.path, filter.qos));
                }
                let suback = SubAck { pkid: subscribe.pkid, return_codes, properties: None };
                self.wire.write(Packet::SubAck(suback)).await?;
            }
            Packet::Unsubscribe(unsubscribe) => {
                if let Some(entered) = lock(&self.shared.entered).get_mut(&self.client.session) {
                    entered.filters.retain(|(filter, _)| !unsubscribe.filters.contains(filter));
                }
                let reasons = vec![UnsubAckReason::Success; unsubscribe.filters.len()];
                let unsuback = UnsubAck { pkid: unsubscribe.pkid, reasons, properties: None };
                self.wire.write(Packet::UnsubAck(unsuback)).await?;
            }
            // The answer to one of our own QoS 1 publishes: nothing depends on it.
            Packet::PubAck(_) => {}
            Packet::Disconnect(_) => return Ok(Next::End),
            other => {
                self.shared
                    .rules
                    .broke(&self.client, format!("sent an unexpected {:?}", other.packet_type()));
                return self.bye(DisconnectReasonCode::ProtocolError).await;
            }
        }
        Ok(Next::On)
    }

    fn subscribe(&self, filter: &str, qos: QoS) -> SubscribeReasonCode {
        if !valid_filter(filter) {
            return SubscribeReasonCode::TopicFilterInvalid;
        }
        let code = self.shared.rules.subscribe(&self.client, filter, qos);
        if let SubscribeReasonCode::Success(granted) = code
            && let Some(entered) = lock(&self.shared.entered).get_mut(&self.client.session)
        {
            entered.filters.push((filter.to_owned(), granted));
        }
        code
    }

    async fn publish(&mut self, publish: Publish) -> io::Result<Next> {
        if publish.qos == QoS::ExactlyOnce {
            self.shared.rules.broke(&self.client, "published with QoS 2".to_owned());
            return self.bye(DisconnectReasonCode::QoSNotSupported).await;
        }
        let answer = self.shared.rules.publish(&self.client, &publish);
        let mut next = Next::On;
        match answer.reply {
            Reply::Ack(reason, text) => self.puback(&publish, reason, text).await?,
            Reply::Acks(times) => {
                for _ in 0..times {
                    self.puback(&publish, PubAckReason::Success, None).await?;
                }
            }
            Reply::Silence => {}
            Reply::Close => next = Next::End,
            Reply::Disconnect(ack, reason) => {
                if let Some(ack) = ack {
                    self.puback(&publish, ack, None).await?;
                }
                next = self.bye(reason).await?;
            }
        }
        for (topic, payload) in answer.publish {
            self.spread(&topic, &payload);
        }
        Ok(next)
    }

    async fn puback(
        &mut self,
        publish: &Publish,
        reason: PubAckReason,
        text: Option<String>,
    ) -> io::Result<()> {
        if publish.qos == QoS::AtMostOnce {
            return Ok(());
        }
        let properties =
            text.map(|text| PubAckProperties { reason_string: Some(text), user_properties: Vec::new() });
        self.wire.write(Packet::PubAck(PubAck { pkid: publish.pkid, reason, properties })).await
    }

    /// Publishes to every client with a matching subscription, at its QoS.
    fn spread(&self, topic: &str, payload: &Bytes) {
        lock(&self.shared.entered).retain(|_, entered| {
            let matching = entered.filters.iter().filter(|(filter, _)| matches(topic, filter));
            // The highest QoS of the matching subscriptions counts.
            let Some(qos) = matching.map(|(_, qos)| *qos).max_by_key(|qos| *qos as u8) else { return true };
            // Full: the client does not read. It loses its connection, never a publish in silence.
            entered.outbox.try_send(Publish::new(topic, qos, payload.clone(), None)).is_ok()
        });
    }

    async fn forward(&mut self, mut publish: Publish) -> io::Result<Next> {
        if publish.qos != QoS::AtMostOnce {
            self.packet_id = self.packet_id.checked_add(1).unwrap_or(1);
            publish.pkid = self.packet_id;
        }
        self.wire.write(Packet::Publish(publish)).await?;
        Ok(Next::On)
    }

    async fn bye(&mut self, reason_code: DisconnectReasonCode) -> io::Result<Next> {
        self.wire.write(Packet::Disconnect(Disconnect { reason_code, properties: None })).await?;
        self.wire.stream.shutdown().await?;
        Ok(Next::End)
    }
}

/// Takes the client out when its task ends, however it ends (unplugging
/// aborts it).
struct Leaving<'a, R: Rules> {
    shared: &'a Shared<R>,
    client: &'a Client,
}

impl<R: Rules> Drop for Leaving<'_, R> {
    fn drop(&mut self) {
        lock(&self.shared.entered).remove(&self.client.session);
        self.shared.rules.gone(self.client);
    }
}

fn client_of(session: u64, connect: Connect, auth: ConnectAuth, tls: Option<Tls>) -> Client {
    let (username, password) = match auth {
        ConnectAuth::None => (None, None),
        ConnectAuth::Username { username } => (Some(username), None),
        ConnectAuth::Password { password } => (None, Some(password)),
        ConnectAuth::UsernamePassword { username, password } => (Some(username), Some(password)),
    };
    Client {
        session,
        client_id: connect.client_id,
        username,
        password,
        clean_start: connect.clean_start,
        keep_alive: connect.keep_alive,
        tls,
    }
}

fn no_properties() -> ConnAckProperties {
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

/// Whether a topic matches a filter. (That of the codec's crate answers no for
/// every topic that begins with `$`, also where the filter names it.)
fn matches(topic: &str, filter: &str) -> bool {
    if topic.starts_with('$') && !filter.starts_with('$') {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// `tokio::time::timeout` for which `Duration::MAX` means for ever.
async fn timeout<F: Future>(patience: Duration, future: F) -> Option<F::Output> {
    if patience == Duration::MAX {
        return Some(future.await);
    }
    tokio::time::timeout(patience, future).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_mqtt_says() {
        for (topic, filter, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/+", true),
            ("a/b", "a/b/#", true),
            ("a/b/c", "a/+", false),
            ("a", "a/+", false),
            ("$aws/x", "#", false),
            ("$aws/x", "+/x", false),
            ("$aws/things/t/shadow/update/rejected", "$aws/things/+/shadow/update/rejected", true),
        ] {
            assert_eq!(matches(topic, filter), expected, "{topic} {filter}");
        }
    }
}
