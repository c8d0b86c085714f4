//! One connection to an MQTT 5 broker: its options, its login, its reading.
//!
//! An `EventLoop` of rumqttc serves one connection and is dropped at its first
//! error. Used again, it would accept acknowledgements meant for the
//! connection before, and answer them with an error that ends the new one; or,
//! where the broker has given the packet identifier out again, acknowledge a
//! message that nobody has seen. So an acknowledgement goes to the client of
//! the connection that brought the message, and dies with it.

use std::error::Error as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use journal::Sequence;
use message::text::{SAID, one_line};
use rumqttc::{
    AckMode, AsyncClient, Broker, ConnAck, ConnectReturnCode, ConnectionError, DisconnectReasonCode, Event,
    EventLoop, ManualAck, MqttOptions, NetworkOptions, Packet, PersistedAckMode, PersistedSession,
    SessionStore, SessionStoreError, SessionStoreKey, StateError, TlsConfiguration, Transport,
};
use settings_reader::MqttUrl;
use settings_reader::tls::{self, TlsError};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::receive::Intake;
use super::wire::LateWriter;
use crate::BusSettings;

/// Longest wait for TCP, TLS and CONNACK.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Packets read, and requests written, in one go of the event loop.
pub(super) const BATCH: usize = 128;

/// We publish nothing here. The default costs 200 us for each message
/// received: every flush walks a table of this size.
const OUTGOING_LIMIT: u16 = 16;

/// Asked for by nobody, so that giving it up changes nothing.
const NEVER_SUBSCRIBED: &str = "sluicegate/never-subscribed";

/// A connection as the rest of the bus sees it: the way back for
/// acknowledgements.
pub(super) struct Link {
    pub(super) client: AsyncClient,
    /// Cancelled when nothing is read any more and no acknowledgement can leave.
    pub(super) over: CancellationToken,
    /// A message was lost on the way to the journal: later ones must not be
    /// acknowledged before it.
    broken: AtomicBool,
    /// What it appends to the journal is in order: one failure ends all.
    pub(super) sequence: Sequence,
    /// Nothing more is taken over: what is not acknowledged is for the next
    /// connection.
    leaving: AtomicBool,
}

impl Link {
    /// Ends the connection because its acknowledgements cannot go on.
    pub(super) fn break_off(&self) {
        self.broken.store(true, Ordering::Relaxed);
        // An error means that it is over already.
        let _ = self.client.try_disconnect_now();
    }

    /// Takes nothing more over; acknowledgements still go out.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Waits until the broker has read every acknowledgement that was queued:
    /// it answers in order. Who closes while the other side sends may reset the
    /// connection, and what was not read by then is lost.
    pub(super) async fn until_acknowledged(&self) {
        if let Ok(asked) = self.client.unsubscribe_tracked(NEVER_SUBSCRIBED).await {
            // That there was no such subscription is an answer as well.
            let _ = asked.wait_completion_async().await;
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    pub(super) fn is_dead(&self) -> bool {
        self.broken.load(Ordering::Relaxed) || self.over.is_cancelled()
    }

    /// Queues an acknowledgement; false when the connection is over.
    pub(super) async fn acknowledge(&self, ack: ManualAck) -> bool {
        !self.is_dead() && self.client.manual_ack(ack).await.is_ok()
    }
}

/// Where to log in, and as whom.
pub(super) struct Login<'a> {
    pub(super) settings: &'a BusSettings,
    pub(super) url: &'a MqttUrl,
}

impl Login<'_> {
    /// A client and its event loop, not connected yet. `capacity` bounds the
    /// requests that wait to be written.
    pub(super) fn open(&self, capacity: usize) -> Result<(Arc<Link>, EventLoop), TlsError> {
        let mut options = self.options(&self.settings.client_id)?;
        options
            .set_clean_start(false)
            .set_session_expiry_interval(Some(whole_seconds(self.settings.session_expiry)))
            .set_receive_maximum(Some(self.settings.receive_maximum))
            .set_ack_mode(AckMode::Manual)
            .set_session_store(NothingToResume);
        if !self.url.tls {
            options.set_socket_connector(|host, network| async {
                rumqttc::default_socket_connect(host, network).await.map(LateWriter::new)
            });
        }
        let (client, eventloop) = AsyncClient::builder(options).capacity(capacity).build();
        let link = Link {
            client,
            over: CancellationToken::new(),
            broken: AtomicBool::new(false),
            sequence: Sequence::default(),
            leaving: AtomicBool::new(false),
        };
        Ok((Arc::new(link), eventloop))
    }

    /// Logs in under another client id and leaves again: `Ok` says that
    /// address, TLS and credentials are right. The session is not touched.
    pub(super) async fn try_out(&self) -> Result<(), String> {
        let client_id = format!("{}-check", self.settings.client_id);
        let mut options = self.options(&client_id).map_err(|e| e.to_string())?;
        options.set_clean_start(true);
        let (client, mut eventloop) = AsyncClient::builder(options).capacity(1).build();
        loop {
            match eventloop.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => break,
                Ok(_) => {}
                Err(error) => return Err(explain(&error, self.url).text),
            }
        }
        if client.disconnect().await.is_ok() {
            let goodbye = async { while eventloop.poll().await.is_ok() {} };
            // The answer is known; a goodbye that does not get through changes nothing.
            let _ = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
        }
        Ok(())
    }

    fn options(&self, client_id: &str) -> Result<MqttOptions, TlsError> {
        let BusSettings { username, password, keep_alive, max_packet, .. } = self.settings;
        let mut options = MqttOptions::new(client_id, Broker::tcp(self.url.host.clone(), self.url.port));
        if self.url.tls {
            let config = tls::client_config(&self.settings.tls)?;
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(config)));
        }
        let secret = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        match (username, password) {
            (Some(user), Some(password)) => {
                options.set_credentials(user.expose(), secret(password.expose()));
            }
            (Some(user), None) => {
                options.set_username(user.expose());
            }
            (None, Some(password)) => {
                options.set_password(secret(password.expose()));
            }
            (None, None) => {}
        }
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        options
            .set_network_options(network)
            .set_connect_timeout(CONNECT_TIMEOUT)
            .set_keep_alive(u16::try_from(keep_alive.as_secs()).unwrap_or(u16::MAX))
            .set_max_packet_size(Some(*max_packet))
            .set_outgoing_inflight_upper_limit(OUTGOING_LIMIT)
            .set_max_request_batch(BATCH)
            .set_read_batch_size(BATCH);
        Ok(options)
    }
}

/// The longest expiry that MQTT can say means "never".
fn whole_seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

/// Reads the connection until it ends. `connack` gets the login; every publish
/// goes to `intake`, whose bounds hold the reading back. `subacks`: how many
/// answers to the first subscriptions to expect.
///
/// `poll` is never raced against anything: it is not safe to cancel.
pub(super) async fn read(
    mut eventloop: EventLoop,
    link: Arc<Link>,
    intake: Intake,
    connack: oneshot::Sender<ConnAck>,
    mut subacks: usize,
) -> ConnectionError {
    let mut connack = Some(connack);
    let error = loop {
        match eventloop.poll().await {
            Ok(Event::Incoming(Packet::Publish(publish))) => intake.take(&link, publish).await,
            Ok(Event::Incoming(Packet::ConnAck(packet))) => {
                if let Some(connack) = connack.take() {
                    // An error means that the bus is being stopped.
                    let _ = connack.send(packet);
                }
            }
            Ok(Event::Incoming(Packet::SubAck(_))) => {
                subacks = subacks.saturating_sub(1);
                if subacks == 0 {
                    // From now on it would only be asked to store an empty
                    // session at every flush, 1 to 2 us a message.
                    eventloop.options.clear_session_store();
                }
            }
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    drop(eventloop);
    link.over.cancel();
    error
}

/// Says that this client holds nothing of the session that the broker keeps,
/// which is true for one that only receives. Without it the library takes a
/// session on the broker and an empty client for a contradiction and refuses
/// every connection after a restart.
#[derive(Debug)]
struct NothingToResume;

type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, SessionStoreError>> + Send + 'a>>;

impl SessionStore for NothingToResume {
    fn load<'a>(&'a self, key: &'a SessionStoreKey) -> StoreFuture<'a, Option<PersistedSession>> {
        Box::pin(async {
            Ok(Some(PersistedSession {
                format_version: 1,
                client_id: key.client_id().to_owned(),
                clean_start: false,
                session_expiry_interval: None,
                outgoing_inflight_upper_limit: Some(OUTGOING_LIMIT),
                ack_mode: PersistedAckMode::Manual,
                last_pkid: 0,
                last_puback: 0,
                replay: vec![],
                incoming_qos2: vec![],
            }))
        })
    }

    fn save<'a>(&'a self, _: &'a SessionStoreKey, _: &'a PersistedSession) -> StoreFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn clear<'a>(&'a self, _: &'a SessionStoreKey) -> StoreFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// For a person.
    pub(super) text: String,
    /// Another client uses the same client id.
    pub(super) taken_over: bool,
}

/// What an error of the library means.
pub(super) fn explain(error: &ConnectionError, url: &MqttUrl) -> End {
    let text = match error {
        ConnectionError::ConnectionRefused(code)
        | ConnectionError::MqttState(StateError::ConnFail { reason: code }) => {
            format!("{url} refused the login: {}", refusal(*code))
        }
        ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code: DisconnectReasonCode::SessionTakenOver,
            ..
        }) => {
            return End {
                text: format!(
                    "another client took over the session at {url}; every gateway needs its own client_id"
                ),
                taken_over: true,
            };
        }
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
            let said = reason_string
                .as_deref()
                .map(|text| format!(" ({})", one_line(text, SAID)))
                .unwrap_or_default();
            format!("{url} ended the connection: {reason_code:?}{said}")
        }
        ConnectionError::Timeout(_) => format!("no answer from {url} within {CONNECT_TIMEOUT:?}"),
        ConnectionError::Io(error) | ConnectionError::MqttState(StateError::Io(error)) => {
            format!("{url}: {error}")
        }
        ConnectionError::MqttState(StateError::ConnectionAborted) => format!("{url} closed the connection"),
        ConnectionError::MqttState(StateError::AwaitPingResp) => format!("{url} does not answer pings"),
        ConnectionError::RequestsDone => format!("the connection to {url} was closed here"),
        ConnectionError::Tls(error) => {
            let mut cause: &dyn std::error::Error = error;
            while let Some(source) = cause.source() {
                cause = source;
            }
            format!("{url}: TLS: {cause}")
        }
        other => match other.source() {
            Some(source) if !other.to_string().contains(&source.to_string()) => {
                format!("{url}: {other}: {source}")
            }
            _ => format!("{url}: {other}"),
        },
    };
    End { text, taken_over: false }
}

fn refusal(code: ConnectReturnCode) -> String {
    match code {
        ConnectReturnCode::BadUserNamePassword => "wrong user name or password".to_owned(),
        ConnectReturnCode::NotAuthorized => "not authorized".to_owned(),
        ConnectReturnCode::ClientIdentifierNotValid | ConnectReturnCode::BadClientId => {
            "it does not accept the client_id".to_owned()
        }
        ConnectReturnCode::UnsupportedProtocolVersion | ConnectReturnCode::RefusedProtocolVersion => {
            "it does not speak MQTT 5".to_owned()
        }
        other => format!("{other:?}"),
    }
}
