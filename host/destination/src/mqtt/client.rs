//! One connection to an MQTT 5 server that only publishes at QoS 1 (and may
//! subscribe): shared by the destinations `mqtt`, `thingsboard` and `aws-iot`.
//!
//! The library's event loop runs in a task of its own, because its `poll` must
//! not be cancelled. Commands go to it through the library's bounded channel,
//! reports come back through a bounded one; the task ends with the connection
//! or with the [`Client`]. Nothing is ever published twice: the session is
//! clean, and the event loop is dropped at its first error.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::mem::take;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::mqttbytes::QoS;
use rumqttc::{
    AsyncClient, Broker, ConnAck, Event as LoopEvent, EventLoop, MqttOptions, NetworkOptions, Outgoing,
    Packet, Publish, PublishOptions, PublishProperties, SubscribeFilter, TlsConfiguration, Transport,
};
use settings_reader::tls;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::flight::Flight;
use super::rules::publish_size;
use super::{MqttAccess, reason};
use crate::{Cause, Fault, Reply, Verdict};

/// Largest packet that is accepted from a server, bytes.
const MAX_INCOMING: u32 = 1024 * 1024;
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// Publishes that the library may take over and write in one go.
const REQUEST_BATCH: usize = 128;

/// Maximum number of events in one report.
const REPORTED_TOGETHER: usize = 64;

/// What comes back from the server.
#[derive(Debug)]
pub enum Event<T> {
    /// The PUBACK of the publish with this tag.
    Acked(T, Verdict),
    /// A message on a subscription, or one that the server sends unasked.
    Message(Publish),
}

/// What the server said in one go.
struct Report<T> {
    events: Vec<Event<T>>,
    /// Nothing more will come.
    end: Option<Fault>,
}

/// An open connection. `T` is what the owner knows a publish by.
pub struct Client<T> {
    place: String,
    ack_timeout: Duration,
    max_packet: Option<usize>,
    requests: AsyncClient,
    flight: Arc<Mutex<Flight<T>>>,
    reports: mpsc::Receiver<Report<T>>,
    /// Reported and not taken yet.
    events: VecDeque<Event<T>>,
    task: Option<JoinHandle<()>>,
    ended: Option<Fault>,
}

impl<T: Send + 'static> Client<T> {
    /// Logs in as `<client_id>-<lane>` with a clean session and waits for the
    /// CONNACK. `publishes`: the maximum number that the owner has waiting.
    pub async fn connect(access: &MqttAccess, lane: u32, publishes: usize) -> Result<Self, Fault> {
        let place = access.url.to_string();
        match timeout(access.timeout, Self::open(access, lane, publishes, &place)).await {
            Ok(result) => result,
            Err(_) => Err(Fault::transient(format!("{place}: no CONNACK within {:?}", access.timeout))),
        }
    }

    async fn open(access: &MqttAccess, lane: u32, publishes: usize, place: &str) -> Result<Self, Fault> {
        let options = options(access, lane, place).await?;
        let (requests, mut events) = AsyncClient::builder(options).capacity(publishes + 8).build();
        let connack = loop {
            match events.poll().await {
                Ok(LoopEvent::Incoming(Packet::ConnAck(connack))) => break connack,
                Ok(_) => {}
                Err(error) => return Err(reason::of_connect_error(place, &error)),
            }
        };
        let max_packet = accepts_us(place, &connack)?;
        let flight = Arc::new(Mutex::new(Flight::default()));
        // Room for every PUBACK that can come, so that a slow owner does not
        // stop the pings; more can only be messages on subscriptions.
        let (sender, reports) = mpsc::channel(publishes + 64);
        let task = tokio::spawn(drive(events, Arc::clone(&flight), sender, place.to_owned()));
        Ok(Self {
            place: place.to_owned(),
            ack_timeout: access.timeout,
            max_packet,
            requests,
            flight,
            reports,
            events: VecDeque::new(),
            task: Some(task),
            ended: None,
        })
    }

    /// Subscribes at QoS 1 and waits for the SUBACK.
    pub async fn subscribe(&mut self, filters: &[&str]) -> Result<(), Fault> {
        let filters = filters.iter().map(|f| SubscribeFilter::new(*f, QoS::AtLeastOnce));
        let notice = match self.requests.subscribe_many_tracked(filters).await {
            Ok(notice) => notice,
            Err(_) => return Err(self.end().await),
        };
        match timeout(self.ack_timeout, notice.wait_completion_async()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(rumqttc::SubscribeNoticeError::Recv)) => Err(self.end().await),
            Ok(Err(error)) => Err(reason::of_subscribe_error(&self.place, &error)),
            Err(_) => {
                Err(Fault::transient(format!("{}: no SUBACK within {:?}", self.place, self.ack_timeout)))
            }
        }
    }

    /// Hands one publish over; its PUBACK comes from [`Self::next`] with `tag`.
    /// The error says why the server could never take it; nothing was sent.
    /// When the connection has ended, `next` says so.
    pub fn publish(
        &mut self,
        tag: T,
        topic: &str,
        headers: Vec<(String, String)>,
        body: Bytes,
    ) -> Result<(), Reply> {
        if let Some(max) = self.max_packet {
            let size = publish_size(topic, headers.iter().map(|(n, v)| (n.as_str(), v.as_str())), body.len());
            if size > max {
                return Err(Reply(format!("the publish has {size} bytes; the server takes {max} at most")));
            }
        }
        let mut options = PublishOptions::at_least_once();
        if !headers.is_empty() {
            options = options
                .properties(PublishProperties { user_properties: headers, ..PublishProperties::default() });
        }
        // Queued first: the task may see the publish go out before this line returns.
        self.flight().queue(tag);
        match self.requests.try_publish(topic, body, options) {
            // A dead connection keeps it in flight; the end follows from `next`.
            Ok(()) | Err(rumqttc::ClientError::RequestChannelDisconnected(_)) => Ok(()),
            Err(rumqttc::ClientError::RequestChannelFull(_)) => {
                self.flight().unqueue();
                self.ended =
                    Some(Fault::transient(format!("{}: more publishes than the window", self.place)));
                Ok(())
            }
            Err(error) => {
                self.flight().unqueue();
                Err(Reply(format!("the publish to {topic:?} cannot be sent: {error}")))
            }
        }
    }

    /// The next event; pending while there is none. Safe to cancel. The error
    /// is the end of the connection, or a PUBACK that did not come in time.
    pub async fn next(&mut self) -> Result<Event<T>, Fault> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            if let Some(fault) = &self.ended {
                return Err(fault.clone());
            }
            let report = match self.look_again_at() {
                None => self.reports.recv().await,
                Some(at) => match timeout_at(at, self.reports.recv()).await {
                    Ok(report) => report,
                    Err(_) if self.overdue() => {
                        let reason = format!("{}: no PUBACK within {:?}", self.place, self.ack_timeout);
                        return Err(self.ended.insert(Fault::unexplained(reason)).clone());
                    }
                    Err(_) => continue,
                },
            };
            match report {
                Some(report) => self.take_in(report),
                None => self.ended = Some(Fault::transient(format!("{}: connection closed", self.place))),
            }
        }
    }

    /// An event that has already arrived, whatever the clock and the
    /// scheduler say.
    pub fn arrived(&mut self) -> Option<Event<T>> {
        if self.events.is_empty()
            && let Ok(report) = self.reports.try_recv()
        {
            self.take_in(report);
        }
        self.events.pop_front()
    }

    fn take_in(&mut self, report: Report<T>) {
        self.events.extend(report.events);
        self.ended = self.ended.take().or(report.end);
    }

    /// Says goodbye and waits, for a moment, until it is on the wire.
    pub async fn close(mut self) {
        if self.requests.try_disconnect_now().is_err() {
            return;
        }
        // The owner is gone and reads no more reports; the task must not wait.
        self.reports.close();
        if let Some(task) = self.task.as_mut() {
            let _ = timeout(GOODBYE, task).await;
        }
    }

    /// When a missing PUBACK is to be looked for, should nothing happen.
    fn look_again_at(&self) -> Option<Instant> {
        let flight = self.flight();
        match flight.oldest() {
            Some(at) => Some(at + self.ack_timeout),
            // Not written yet: it will be in a moment, or when the server has
            // acknowledged others, and then has a time of its own.
            None => flight.waiting().then(|| Instant::now() + self.ack_timeout),
        }
    }

    fn overdue(&self) -> bool {
        self.flight().oldest().is_some_and(|at| at + self.ack_timeout <= Instant::now())
    }

    /// The fault that ended the connection; events before it are of no interest.
    async fn end(&mut self) -> Fault {
        loop {
            if let Err(fault) = self.next().await {
                return fault;
            }
        }
    }

    fn flight(&self) -> MutexGuard<'_, Flight<T>> {
        lock(&self.flight)
    }
}

impl<T> Drop for Client<T> {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// The state is whole between any two statements: a panic elsewhere leaves nothing half done.
fn lock<T>(flight: &Mutex<Flight<T>>) -> MutexGuard<'_, Flight<T>> {
    flight.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Turns the event loop until the connection ends, then reports why.
///
/// What has arrived together is reported together: the owner then refills its
/// window together, and the library writes that together. One by one they
/// would cost a wake-up and a system call a message for ever, since each
/// PUBACK makes room for just one publish.
async fn drive<T: Send>(
    mut events: EventLoop,
    flight: Arc<Mutex<Flight<T>>>,
    reports: mpsc::Sender<Report<T>>,
    place: String,
) {
    let mut refusal: Option<String> = None;
    let mut arrived = Vec::new();
    let end = loop {
        let polled = {
            let mut polling = pin!(events.poll());
            let look = poll_fn(|cx| Poll::Ready(polling.as_mut().poll(cx)));
            let ready = if arrived.len() < REPORTED_TOGETHER { look.await } else { Poll::Pending };
            match ready {
                Poll::Ready(polled) => polled,
                Poll::Pending => {
                    if !arrived.is_empty() {
                        // Fails when the owner has said goodbye: turn on until that is on the wire.
                        let _ = reports.send(Report { events: take(&mut arrived), end: None }).await;
                    }
                    polling.await
                }
            }
        };
        match polled {
            Ok(LoopEvent::Outgoing(Outgoing::Publish(packet))) => lock(&flight).sent(packet, Instant::now()),
            Ok(LoopEvent::Incoming(Packet::PubAck(ack))) => {
                let verdict = reason::of_puback(&ack);
                refusal = match &verdict {
                    Verdict::Delivered => None,
                    Verdict::Refused(reply) => Some(reply.to_string()),
                    Verdict::Deferred(fault) => Some(fault.to_string()),
                };
                let tag = lock(&flight).acked(ack.pkid);
                arrived.extend(tag.map(|tag| Event::Acked(tag, verdict)));
            }
            Ok(LoopEvent::Incoming(Packet::Publish(publish))) => arrived.push(Event::Message(publish)),
            Ok(_) => {}
            Err(error) => {
                let unacknowledged = lock(&flight).unacknowledged();
                break reason::of_end(&place, &error, unacknowledged, refusal.as_deref());
            }
        }
    };
    // Fails only when the owner is gone, which needs no answer.
    let _ = reports.send(Report { events: arrived, end: Some(end) }).await;
}

async fn options(access: &MqttAccess, lane: u32, place: &str) -> Result<MqttOptions, Fault> {
    let broker = Broker::tcp(access.url.host.clone(), access.url.port);
    let mut options = MqttOptions::new(format!("{}-{lane}", access.client_id), broker);
    if access.url.tls {
        let settings = access.tls.clone();
        // Reads files, and the system's certificates take their time.
        let config = tokio::task::spawn_blocking(move || tls::client_config(&settings))
            .await
            .map_err(|e| Fault::transient(format!("{place}: reading the TLS files was interrupted: {e}")))?
            .map_err(|e| Fault::persistent(Cause::Tls, format!("{place}: {e}")))?;
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(config)));
    }
    match (&access.username, &access.password) {
        (Some(user), Some(password)) => {
            options.set_credentials(user.expose(), Bytes::copy_from_slice(password.expose().as_bytes()));
        }
        (Some(user), None) => {
            options.set_username(user.expose());
        }
        (None, Some(password)) => {
            options.set_password(Bytes::copy_from_slice(password.expose().as_bytes()));
        }
        (None, None) => {}
    }
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options
        .set_network_options(network)
        .set_clean_start(true)
        .set_keep_alive(u16::try_from(access.keep_alive.as_secs()).unwrap_or(u16::MAX))
        .set_connect_timeout(access.timeout)
        .set_outgoing_inflight_upper_limit(window(access))
        .set_max_packet_size(Some(MAX_INCOMING))
        .set_max_request_batch(REQUEST_BATCH)
        // The library forgets the events of a read batch that ends in an error;
        // one packet at a time, a PUBACK just before a DISCONNECT is not lost.
        .set_read_batch_size(1);
    Ok(options)
}

/// Maximum number of unacknowledged publishes, as the protocol counts them.
pub fn window(access: &MqttAccess) -> u16 {
    u16::try_from(access.in_flight.max(1)).unwrap_or(u16::MAX)
}

/// The largest packet that the server takes, where it has a limit.
fn accepts_us(place: &str, connack: &ConnAck) -> Result<Option<usize>, Fault> {
    let Some(properties) = &connack.properties else { return Ok(None) };
    if properties.max_qos == Some(0) {
        return Err(Fault::persistent(
            Cause::UnexpectedAnswer,
            format!("{place}: the server acknowledges nothing (maximum QoS 0)"),
        ));
    }
    Ok(properties.max_packet_size.and_then(|m| usize::try_from(m).ok()))
}
