//! The MQTT 5 bus: one connection after another until it is told to stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::watch::Watch;
use ::watch::credentials::{self, CredentialReload};
use journal::Journal;
use message::Backoff;
use rumqttc::{
    ConnAck, ConnectionError, QoS, RetainForwardRule, SubscribeFilterInput, SubscribeProperties,
    SubscribeReasonCode,
};
use settings_reader::MqttUrl;
use telemetry::event;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::connection::{self, End, Login, explain};
use super::link::Link;
use super::receive::{self, Intake};
use super::route::Router;
use super::routes::{Changes, Routes};
use super::session::{Arrival, Session};
use super::status::BusStatus;
use crate::{BusSettings, BusSource};

/// The name of the bus in logs and metrics, beside the streams.
const BUS: &str = "bus";

/// Publishes between the connection and the journal beside those that the
/// journal itself holds.
const READ_AHEAD: usize = 1024;

/// Subscriptions on their way at a time: the event loop's own outgoing limit.
const SUBSCRIBE_AT_ONCE: usize = 8;

/// A refused filter is tried again after this time, for the operator may have
/// changed the broker's access rules meanwhile.
const RETRY_REFUSED: Duration = Duration::from_secs(60);

/// A connection that lived this long was a good one: the next attempt waits
/// no longer than the first.
const GOOD: Duration = Duration::from_secs(10);

/// Two gateways with one client id disconnect each other; this slows the cycle down.
const AFTER_TAKE_OVER: Duration = Duration::from_secs(10);

/// On a stop, and where a connection is replaced: longest wait for the
/// acknowledgements of what the streams still settle, and for the goodbye.
const DRAIN: Duration = Duration::from_secs(10);
const GOODBYE: Duration = Duration::from_secs(2);

/// How the bus is told to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Read nothing more; acknowledge what the streams still settle, for 10 s
    /// at most, then disconnect.
    pub reading: CancellationToken,
    /// The streams will settle nothing more: acknowledge what is settled now
    /// and disconnect. Means something only after `reading`.
    pub settling: CancellationToken,
}

/// Brings messages from the bus to the journal.
pub struct Bus {
    /// The broker and the limits.
    pub settings: BusSettings,
    /// The data folder, for `bus-filters.json`.
    pub data: PathBuf,
    /// The subscriptions follow it.
    pub routes: Routes,
    /// Where the messages go.
    pub journal: Journal,
    /// State and counters.
    pub status: Arc<BusStatus>,
    /// Stops it.
    pub stop: Stop,
    /// Notices that certificates or the password have changed.
    pub watch: Watch,
}

impl Bus {
    /// Runs until it is stopped. An embedded broker has to run already.
    pub async fn run(self) {
        let (running, supervisor) = self.start().await;
        running.run(supervisor).await;
    }

    /// Starts the tasks between the connection and the journal.
    async fn start(self) -> (Running, Supervisor) {
        let Self { settings, data, routes, journal, status, stop, watch } = self;
        let (current, reload) = credentials::begin(settings.clone(), &watch).await;
        let url = broker_url(&settings.source);
        let window = settings.window_messages.saturating_add(READ_AHEAD);
        let (intake, outlets) = receive::queues(
            window,
            settings.window_bytes,
            settings.receive_maximum,
            status.clone(),
            stop.reading.clone(),
        );
        let (settling, settled) = outlets.settling;
        let (arrivals, reading) = (outlets.arrivals, stop.reading.clone());
        let appender =
            receive::append_loop(arrivals, settling, routes.clone(), journal, status.clone(), reading);
        let acknowledger = receive::acknowledge(settled, status.clone(), stop.settling);

        let path = data.join("bus-filters.json");
        let session = match &settings.source {
            BusSource::Mqtt(_) => Session::load(&path, &settings.client_id, &url.to_string()).await,
            // It has just started and has no sessions.
            BusSource::Embedded { .. } => Session::unknown(&settings.client_id, &url.to_string()),
        };
        let running = Running {
            appender: tokio::spawn(appender),
            acknowledger: tokio::spawn(acknowledger),
            reload: reload.map(|reload| tokio::spawn(keep_credentials(reload, status.clone()))),
            status: status.clone(),
            stop: stop.reading,
        };
        let supervisor = Supervisor {
            changes: routes.changes(),
            wanted: Vec::new(),
            router: 0,
            settings,
            current,
            url,
            path,
            session,
            intake,
            capacity: receive::requests(window),
            status,
            connections: 0,
            last_told: None,
        };
        (running, supervisor)
    }
}

/// The tasks between the connection and the journal.
struct Running {
    appender: JoinHandle<()>,
    acknowledger: JoinHandle<()>,
    reload: Option<JoinHandle<()>>,
    status: Arc<BusStatus>,
    stop: CancellationToken,
}

impl Running {
    /// Reads the bus until the stop, then ends the tasks in order.
    async fn run(mut self, mut supervisor: Supervisor) {
        let last = supervisor.supervise(&self.stop).await;
        if let Some(reload) = self.reload {
            reload.abort();
        }
        // The appender ends at once, and with it the queue of the acknowledger.
        let _ = self.appender.await;
        if timeout(DRAIN, &mut self.acknowledger).await.is_err() {
            self.acknowledger.abort();
        }
        if let Some(connection) = last {
            connection.close().await;
        }
        self.status.set_disconnected(None);
    }
}

/// Keeps the credentials of the bus up to date, for ever.
async fn keep_credentials(reload: CredentialReload<BusSettings>, status: Arc<BusStatus>) {
    let reloaded = || event::Renewed { of: BUS }.emit();
    let refused = |why: &credentials::Refused| {
        status.set_last_error(format!("credentials not reloaded: {}", why.reason));
        event::RenewalRefused { of: BUS, reason: &why.reason }.emit();
    };
    reload.run(reloaded, refused).await;
}

fn broker_url(source: &BusSource) -> MqttUrl {
    match source {
        BusSource::Mqtt(url) => url.clone(),
        BusSource::Embedded { listen } => {
            MqttUrl { host: listen.ip().to_string(), port: listen.port(), tls: false }
        }
    }
}

/// Every filter as it is subscribed, with its identifier.
fn wanted(router: &Router, share: Option<&str>) -> Vec<(String, usize)> {
    let prefix = share.map(|group| format!("$share/{group}/")).unwrap_or_default();
    router.subscriptions().iter().map(|s| (format!("{prefix}{}", s.filter), s.id)).collect()
}

struct Supervisor {
    settings: BusSettings,
    /// The settings of the next connection.
    current: watch::Receiver<BusSettings>,
    url: MqttUrl,
    path: PathBuf,
    changes: Changes,
    /// The filters of the router that was seen last, and its number.
    wanted: Vec<(String, usize)>,
    router: u64,
    session: Session,
    intake: Intake,
    capacity: usize,
    status: Arc<BusStatus>,
    connections: u64,
    /// The last error that was logged: logged once, not at every attempt.
    last_told: Option<String>,
}

/// A connection that is being read.
struct Reading {
    link: Arc<Link>,
    reader: JoinHandle<ConnectionError>,
}

/// The next task while the connection works.
enum Next {
    /// There is another router.
    Routes,
    /// Refused filters are tried again.
    Refused,
    /// There are new certificates or credentials.
    Renewed,
}

/// Why waiting for something on a connection was interrupted.
enum Interrupt {
    /// The connection has ended.
    Ended(End),
    /// The bus is being stopped.
    Stopped,
}

impl Supervisor {
    /// Connects again and again until `stop`; the connection that is open then.
    async fn supervise(&mut self, stop: &CancellationToken) -> Option<Reading> {
        let mut backoff = Backoff::new(fastrand::u64(..));
        let mut failures = 0;
        while !stop.is_cancelled() {
            self.settings = self.current.borrow_and_update().clone();
            let began = Instant::now();
            let mut reading = None;
            let end = match self.one_connection(&mut reading, stop).await {
                Ok(()) => match self.leave(reading, stop).await {
                    None => continue,
                    reading => return reading,
                },
                Err(Interrupt::Ended(end)) => end,
                Err(Interrupt::Stopped) => return reading,
            };
            self.tell(&end);
            self.status.set_disconnected(Some(end.text));
            failures = if began.elapsed() >= GOOD { 1 } else { failures + 1 };
            let at_least = end.taken_over.then_some(AFTER_TAKE_OVER);
            self.status.take_overs.add(usize::from(end.taken_over));
            let pause = backoff.pause(failures, at_least);
            tokio::select! {
                () = sleep(pause) => {}
                Ok(()) = self.current.changed() => {}
                () = stop.cancelled() => {}
            }
        }
        None
    }

    /// Ends a connection so that nothing comes twice: no more is taken over,
    /// and what was is acknowledged before the goodbye. The connection where
    /// `stop` came first.
    async fn leave(&self, reading: Option<Reading>, stop: &CancellationToken) -> Option<Reading> {
        let mut reading = reading?;
        reading.link.leave();
        let link = reading.link.clone();
        let settled = timeout(DRAIN, async {
            self.intake.settled().await;
            link.until_acknowledged().await;
        });
        match reading.wait(settled, &self.url, stop).await {
            // Acknowledged, or not within the time.
            Ok(_) => {
                reading.close().await;
                None
            }
            Err(Interrupt::Ended(_)) => None,
            Err(Interrupt::Stopped) => Some(reading),
        }
    }

    /// One connection from login to end, or until there is something new to
    /// connect with. `open` holds it meanwhile.
    async fn one_connection(
        &mut self,
        open: &mut Option<Reading>,
        stop: &CancellationToken,
    ) -> Result<(), Interrupt> {
        self.look_at_routes();
        let login = Login { settings: &self.settings, url: &self.url };
        let (link, eventloop) = login
            .open(self.capacity)
            .map_err(|error| Interrupt::Ended(End { text: error.to_string(), taken_over: false }))?;
        let (logged_in, connack) = oneshot::channel();
        let read =
            connection::read(eventloop, link.clone(), self.intake.clone(), logged_in, self.wanted.len());
        let reading = open.insert(Reading { link: link.clone(), reader: tokio::spawn(read) });

        // Without a sender the reader has ended and knows the reason.
        let Ok(connack) = reading.wait(connack, &self.url, stop).await? else {
            return Err(reading.end(&self.url).await);
        };
        let unwanted = self.arrived(&connack).await;
        let with_ids = connack
            .properties
            .as_ref()
            .is_none_or(|properties| properties.subscription_identifiers_available != Some(0));

        let subscribed = subscribe(&link, &self.wanted, with_ids);
        let Some(mut refused) = reading.wait(subscribed, &self.url, stop).await? else {
            return Err(reading.end(&self.url).await);
        };
        self.connected(connack.session_present, &refused);

        let removed = reading.wait(unsubscribe(&link, unwanted), &self.url, stop).await?;
        self.removed(&removed).await;

        loop {
            let next = async {
                tokio::select! {
                    () = self.changes.next() => Next::Routes,
                    () = sleep(RETRY_REFUSED), if !refused.is_empty() => Next::Refused,
                    Ok(()) = self.current.changed() => Next::Renewed,
                }
            };
            let filters = match reading.wait(next, &self.url, stop).await? {
                Next::Routes => {
                    let before = std::mem::take(&mut self.wanted);
                    self.look_at_routes();
                    refused.retain(|r| self.wanted.iter().any(|(f, _)| *f == r.filter));
                    // With its identifier: one that is new is subscribed anew.
                    self.wanted.iter().filter(|w| !before.contains(w)).cloned().collect::<Vec<_>>()
                }
                Next::Refused => {
                    let again = std::mem::take(&mut refused);
                    let again = |filter: &String| again.iter().any(|r| r.filter == *filter);
                    self.wanted.iter().filter(|(f, _)| again(f)).cloned().collect()
                }
                Next::Renewed => return Ok(()),
            };
            // Before SUBSCRIBE, as at a CONNACK.
            let unwanted = self.session.want(&self.filters());
            self.save().await;
            let subscribed = subscribe(&link, &filters, with_ids);
            let Some(still) = reading.wait(subscribed, &self.url, stop).await? else {
                return Err(reading.end(&self.url).await);
            };
            refused.extend(still);
            self.status.set_connected(refused.iter().map(Refused::to_string).collect());
            let removed = reading.wait(unsubscribe(&link, unwanted), &self.url, stop).await?;
            self.removed(&removed).await;
        }
    }

    /// Takes over what is to be subscribed from now on.
    fn look_at_routes(&mut self) {
        let (number, router) = self.changes.current();
        self.router = number;
        self.wanted = wanted(&router, self.settings.share.as_deref());
    }

    fn filters(&self) -> Vec<String> {
        self.wanted.iter().map(|(filter, _)| filter.clone()).collect()
    }

    /// Everything is subscribed, and these are no longer.
    async fn removed(&mut self, filters: &[String]) {
        filters.iter().for_each(|filter| self.session.removed(filter));
        self.save().await;
        self.changes.subscribed(self.router);
    }

    /// Compares the CONNACK with what was expected; the filters to remove.
    async fn arrived(&mut self, connack: &ConnAck) -> Vec<String> {
        let Arrival { lost, unwanted } = self.session.arrive(connack.session_present, &self.filters());
        if lost {
            self.status.sessions_lost.add(1);
            tracing::error!(
                bus = %self.url,
                client_id = %self.settings.client_id,
                "the broker has lost the session: messages it had queued for the gateway are lost"
            );
        }
        // Before SUBSCRIBE: what may have been subscribed is written down, so
        // that a crash leaves no unknown subscription.
        self.save().await;
        unwanted
    }

    fn connected(&mut self, resumed: bool, refused: &[Refused]) {
        self.last_told = None;
        self.connections += 1;
        if self.connections > 1 {
            self.status.reconnects.add(1);
        }
        self.status.set_connected(refused.iter().map(Refused::to_string).collect());
        let session = if resumed { "resumed" } else { "new" };
        tracing::info!(bus = %self.url, session, filters = self.wanted.len() - refused.len(), "reading the bus");
    }

    async fn save(&self) {
        if let Err(error) = self.session.save(&self.path).await {
            tracing::warn!(
                "{}: {error}; after a restart, stale subscriptions cannot be removed",
                self.path.display()
            );
        }
    }

    fn tell(&mut self, end: &End) {
        if self.last_told.as_ref() != Some(&end.text) {
            tracing::warn!("bus: {}; retrying", end.text);
            self.last_told = Some(end.text.clone());
        }
    }
}

impl Reading {
    /// Waits for `future`, the end of the connection or `stop`.
    async fn wait<T>(
        &mut self,
        future: impl Future<Output = T>,
        url: &MqttUrl,
        stop: &CancellationToken,
    ) -> Result<T, Interrupt> {
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(Interrupt::Stopped),
            result = &mut self.reader => Err(Interrupt::Ended(ended(result, url))),
            done = future => Ok(done),
        }
    }

    /// Why the reader ended; it is known to be about to end.
    async fn end(&mut self, url: &MqttUrl) -> Interrupt {
        Interrupt::Ended(ended((&mut self.reader).await, url))
    }

    /// Writes out the acknowledgements that were handed over, says goodbye.
    async fn close(mut self) {
        if !self.link.over.is_cancelled() && self.link.client.disconnect_with_timeout(GOODBYE).await.is_ok() {
            let _ = timeout(GOODBYE, &mut self.reader).await;
        }
        self.reader.abort();
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn ended(result: Result<ConnectionError, tokio::task::JoinError>, url: &MqttUrl) -> End {
    match result {
        Ok(error) => explain(&error, url),
        Err(error) => End { text: format!("{url}: reading failed: {error}"), taken_over: false },
    }
}

/// A filter that the broker does not let us subscribe to.
struct Refused {
    filter: String,
    reason: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.filter, self.reason)
    }
}

/// Subscribes to each filter in a packet of its own, because a packet carries
/// one identifier. The filters that were refused; none if the connection ended.
///
/// Done at every connection, whether the broker has a session or not: one that
/// ended before its SUBSCRIBE leaves a session without subscriptions, and the
/// next CONNACK reports that session as present.
async fn subscribe(link: &Link, filters: &[(String, usize)], with_ids: bool) -> Option<Vec<Refused>> {
    let mut refused = Vec::new();
    for some in filters.chunks(SUBSCRIBE_AT_ONCE) {
        let mut notices = Vec::with_capacity(some.len());
        for (filter, id) in some {
            let input = SubscribeFilterInput::new(filter.clone(), QoS::AtLeastOnce)
                .retain_forward_rule(RetainForwardRule::Never);
            let properties = SubscribeProperties { id: with_ids.then_some(*id), user_properties: vec![] };
            let notice =
                link.client.subscribe_many_with_properties_tracked([input], properties).await.ok()?;
            notices.push((filter, notice));
        }
        for (filter, notice) in notices {
            let suback = notice.wait_async().await.ok()?;
            match suback.return_codes.first() {
                Some(SubscribeReasonCode::Success(QoS::AtMostOnce)) => {
                    tracing::warn!(%filter, "the broker grants only QoS 0: messages are lost while the gateway is disconnected");
                }
                Some(SubscribeReasonCode::Success(_)) => {}
                code => {
                    let reason = code.map_or("no reason code".to_owned(), |code| format!("{code:?}"));
                    tracing::error!(%filter, reason, "the broker rejected the subscription");
                    refused.push(Refused { filter: filter.clone(), reason });
                }
            }
        }
    }
    Some(refused)
}

/// Unsubscribes; the filters that the broker has confirmed. After SUBSCRIBE:
/// the other way round a message could fall between an old filter and the new
/// one that covers it.
async fn unsubscribe(link: &Link, filters: Vec<String>) -> Vec<String> {
    let mut removed = Vec::new();
    for filter in filters {
        let Ok(notice) = link.client.unsubscribe_tracked(filter.clone()).await else { break };
        match notice.wait_completion_async().await {
            Ok(()) => {
                tracing::info!(%filter, "unsubscribed: no stream needs this filter");
                removed.push(filter);
            }
            Err(error) => tracing::warn!(%filter, "cannot unsubscribe: {error}"),
        }
    }
    removed
}

#[cfg(test)]
mod tests;
