//! An ordered worker of a stream: its own script instance, its own connection.
//! Here the actions are carried out that [`super::outbox`] and [`super::map`]
//! decide on.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use destination::{Connection, DeliveryId, Fault, FaultKind, Verdict};
use futures_util::FutureExt;
use journal::Outcome;
use message::Backoff;
use telemetry::event;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::code::Code;
use super::credentials::Current;
use super::endings::Endings;
use super::entry::{Entry, OutgoingDelivery};
use super::identity::identified;
use super::map::{self, MapStep, Mapped, Sifted, Split};
use super::outbox::{Ended, Outbox, Trouble};
use super::shared::Shared;
use super::status::State;

/// An instance that has nothing to do for so long is dropped; the next message
/// makes a new one in microseconds.
const IDLE: Duration = Duration::from_secs(10);
/// A connection that lasted so long did not fail.
const STEADY: Duration = Duration::from_secs(10);
/// How long a clean stop waits for what is in flight.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// The same for the one delivery of a destination that takes one at a time: it
/// holds nothing up, and the destination's own time-out is never longer.
const ONE_ANSWER: Duration = Duration::from_secs(600);
/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// An ordered worker of a stream.
pub(super) struct Lane {
    number: u32,
    shared: Arc<Shared>,
    map: MapStep,
    outbox: Outbox,
    endings: Endings,
    link: Link,
    current: Current,
    /// Nothing more goes out on this connection, which is closed when what is
    /// in flight has settled, or then.
    draining: Option<Instant>,
    backoff: Backoff,
    /// Messages that the script could not map, why, and when to try again.
    stuck: Option<Stuck>,
    idle_at: Option<Instant>,
    /// When to ask the rate limits again.
    send_at: Option<Instant>,
    pause: watch::Receiver<bool>,
    paused: bool,
    stopping: bool,
    /// What the status says of this lane.
    shown: State,
}

/// A batch that waits for its next mapping.
struct Stuck {
    inner: map::Stuck,
    until: Instant,
    failures: u32,
}

type Connecting = Pin<Box<dyn Future<Output = Result<Box<dyn Connection>, Fault>> + Send>>;

/// The connection of a lane, and the failures before it.
struct Link {
    state: LinkState,
    /// Failures in a row, and the last of them. A delivery clears both, a new
    /// connection alone does not.
    failures: u32,
    fault: Option<Fault>,
}

enum LinkState {
    /// Not connected; the next attempt is due then.
    Down {
        until: Instant,
    },
    Connecting(Connecting),
    Up {
        connection: Box<dyn Connection>,
        since: Instant,
    },
}

/// What the lane waits for.
enum Wake {
    Stop,
    Connected(Result<Box<dyn Connection>, Fault>),
    Verdict(Result<(DeliveryId, Verdict), Fault>),
    /// There is something new to connect with.
    NewCredentials,
    /// Another script is in place: what was stuck may be mapped.
    Replaced,
    /// A time has come, or messages or a proof have arrived: look again.
    Look,
}

impl From<Trouble> for State {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Retrying(reason) => Self::Retrying(reason),
            Trouble::Blocked(code, reason) => Self::Blocked(code, reason),
        }
    }
}

// === impl Lane ===

impl Lane {
    pub(super) fn new(number: u32, shared: Arc<Shared>) -> Self {
        let seed = fastrand::u64(..);
        Self {
            number,
            map: shared.map_step(number),
            outbox: Outbox::new(shared.destination.window(), shared.life.clone(), seed),
            endings: shared.endings(),
            link: Link::down(),
            current: shared.current.clone(),
            draining: None,
            backoff: Backoff::new(seed.wrapping_add(1)),
            stuck: None,
            idle_at: None,
            send_at: None,
            pause: shared.journal.paused(shared.index),
            paused: false,
            stopping: false,
            shown: State::Stopped,
            shared,
        }
    }

    /// Works until `stop`, then lets what is in flight settle.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut deadline = None;
        loop {
            self.paused = *self.pause.borrow_and_update();
            self.close_when_drained().await;
            self.connect_when_due();
            self.expire();
            self.map_when_wanted().await;
            let wanted_more = self.wants_more();
            self.send().await;
            self.endings.flush();
            if self.wants_more() && !wanted_more {
                // Room was made since, and what waits for it arrived before.
                continue;
            }
            self.show();
            if self.stopping
                && (self.outbox.in_flight() == 0 || deadline.is_some_and(|d| d <= Instant::now()))
            {
                break;
            }
            match self.wait(&stop, deadline).await {
                Wake::Stop => {
                    self.stopping = true;
                    deadline = Some(Instant::now() + LAST_ANSWERS);
                }
                Wake::Connected(Ok(connection)) => self.connected(connection),
                Wake::Connected(Err(fault)) => self.disconnected(&fault),
                Wake::Verdict(verdict) => self.verdicts(verdict).await,
                Wake::NewCredentials => self.reconnect(),
                Wake::Replaced => {
                    if let Some(stuck) = &mut self.stuck {
                        stuck.until = Instant::now();
                    }
                }
                Wake::Look => {}
            }
        }
        self.endings.flush();
        if let LinkState::Up { connection, .. } = self.link.state {
            let _ = tokio::time::timeout(GOODBYE, connection.close()).await;
        }
        self.shared.status.set_lane(self.number, State::Stopped);
    }

    async fn wait(&mut self, stop: &CancellationToken, deadline: Option<Instant>) -> Wake {
        // Only times at which this lane would do something: one that has
        // passed and changes nothing would make it spin.
        let working = !self.stopping && !self.paused;
        let may_map = working && self.wants_more();
        let wants_more = may_map && self.stuck.is_none();
        let (due, retry) = match &self.link.state {
            LinkState::Down { until } => (Some(*until).filter(|_| working), None),
            LinkState::Connecting(_) => (None, None),
            LinkState::Up { .. } if self.draining.is_some() => (self.draining, None),
            // Nothing goes out before `send_at`, whatever else is due.
            LinkState::Up { .. } => {
                (None, self.send_at.or_else(|| self.outbox.wake_at()).filter(|_| working))
            }
        };
        let stuck = self.stuck.as_ref().map(|s| s.until).filter(|_| may_map);
        let handed_out = self.shared.intake.due(self.number).filter(|_| wants_more);
        let expiry = self.next_expiry().filter(|_| working);
        let dead_letters = self.endings.dead_letters.look_at().filter(|_| !self.stopping);
        let idle = self.idle_at.filter(|_| !self.stopping);
        let times = [due, retry, stuck, handed_out, expiry, dead_letters, idle, deadline];
        let next_time = times.into_iter().flatten().min();
        let shared = &self.shared;
        let (connecting, connection) = match &mut self.link.state {
            LinkState::Down { .. } => (None, None),
            LinkState::Connecting(attempt) => (Some(attempt), None),
            LinkState::Up { connection, .. } => (None, Some(connection)),
        };
        tokio::select! {
            biased;
            () = stop.cancelled(), if !self.stopping => Wake::Stop,
            verdict = next_verdict(connection) => Wake::Verdict(verdict),
            connected = attempt(connecting) => Wake::Connected(connected),
            () = shared.intake.arrived(self.number), if wants_more => Wake::Look,
            () = shared.life.changed(), if self.outbox.has_suspects() => Wake::Look,
            () = self.map.replaced(), if may_map && self.stuck.is_some() => Wake::Replaced,
            Ok(()) = self.pause.changed() => Wake::Look,
            Ok(()) = self.current.changed() => Wake::NewCredentials,
            () = at(next_time) => Wake::Look,
        }
    }

    async fn map_when_wanted(&mut self) {
        if self.idle_at.is_some_and(|at| at <= Instant::now()) {
            self.map.rest();
            self.idle_at = None;
        }
        while !self.stopping && !self.paused && self.wants_more() {
            let (batch, failures) = match self.stuck.take() {
                Some(stuck) if stuck.until > Instant::now() => {
                    self.stuck = Some(stuck);
                    return;
                }
                Some(stuck) => (stuck.inner.batch, stuck.failures),
                None => (self.shared.intake.take(self.number, Instant::now()), 0),
            };
            if batch.is_empty() {
                return;
            }
            let batch = self.fresh(batch);
            if batch.is_empty() {
                continue;
            }
            let generation = self.shared.journal.generation(self.shared.index);
            let mapped = self.map.map(batch, generation).await;
            self.idle_at = Some(Instant::now() + IDLE);
            self.take_in(mapped, failures);
            self.endings.flush();
        }
    }

    /// Whether the lane would map another batch. One that has dead letters to
    /// keep would only have more of them.
    fn wants_more(&self) -> bool {
        self.outbox.wants_more() && self.endings.dead_letters.look_at().is_none()
    }

    fn take_in(&mut self, mapped: Mapped, failures: u32) {
        for (messages, written) in mapped.wrote {
            self.endings.unsaved.begin(&messages, written);
        }
        // All deliveries of a message are known before the first one ends.
        for outgoing in mapped.outgoing.iter().chain(mapped.forbidden.iter().map(|(p, _)| p)) {
            self.endings.begin(outgoing);
        }
        for entry in mapped.filtered {
            self.endings.at_once(&entry, Outcome::Filtered);
        }
        for (entry, reason, script) in mapped.rejected {
            self.endings.rejected(&entry, &reason, &script);
        }
        for (outgoing, reason) in mapped.forbidden {
            self.endings.dead(&outgoing, &reason, None);
        }
        for outgoing in mapped.outgoing {
            let Shared { destination, identities, .. } = &*self.shared;
            let slot = destination.slot(&outgoing.delivery);
            self.outbox.push(outgoing, slot, |older, newer| {
                let delivery = destination.merge(&older.delivery, &newer.delivery)?;
                let carries = older.carries.iter().chain(&newer.carries).cloned().collect();
                Some(identified(OutgoingDelivery { delivery, carries, ..older.clone() }, identities.as_ref()))
            });
        }
        if let Some(inner) = mapped.stuck {
            let failures = failures.saturating_add(1);
            let until = Instant::now() + self.backoff.pause(failures, None);
            self.stuck = Some(Stuck { inner, until, failures });
        }
    }

    async fn send(&mut self) {
        while let LinkState::Up { connection, .. } = &mut self.link.state {
            // While stopping, paused or draining only what is in flight is of interest.
            let now = Instant::now();
            let idle = self.stopping || self.paused || self.draining.is_some();
            if idle || self.send_at.is_some_and(|at| at > now) {
                return;
            }
            self.send_at = None;
            let horizon = self.shared.horizon();
            let Some((id, outgoing)) = self.outbox.next(now) else { return };
            if horizon.is_some_and(|horizon| outgoing.youngest() < horizon) {
                self.expire();
                continue;
            }
            if let Err(again) = self.shared.pressure.rate_limits.take(now) {
                self.send_at = Some(again);
                return;
            }
            match connection.send(id, &outgoing.delivery).await {
                Ok(()) => self.outbox.sent(id),
                Err(fault) => {
                    self.outbox.sent(id);
                    self.lost(fault).await;
                    return;
                }
            }
        }
    }

    /// Takes the verdict, and those that are there already, so that they are
    /// settled together.
    async fn verdicts(&mut self, first: Result<(DeliveryId, Verdict), Fault>) {
        let mut next = Some(first);
        while let Some(verdict) = next {
            match verdict {
                Ok((id, verdict)) => {
                    if matches!(verdict, Verdict::Delivered) {
                        self.link.failures = 0;
                        self.link.fault = None;
                    }
                    if matches!(verdict, Verdict::Deferred(_)) {
                        self.shared.status.count_retries(1);
                    }
                    let ended = self.outbox.verdict(id, verdict, Instant::now());
                    self.end(ended).await;
                }
                Err(fault) => {
                    self.lost(fault).await;
                    return;
                }
            }
            next = match &mut self.link.state {
                LinkState::Up { connection, .. } => connection.next().now_or_never(),
                LinkState::Down { .. } | LinkState::Connecting(_) => None,
            };
        }
    }

    async fn end(&mut self, ended: Option<Ended>) {
        let mut ended = ended;
        while let Some(now) = ended.take() {
            match now {
                Ended::Delivered(outgoing) => {
                    self.endings.ended(&outgoing, Outcome::Delivered);
                }
                Ended::Rejected(outgoing, reply) => {
                    self.endings.dead(&outgoing, "refused by the destination", Some(&reply))
                }
                Ended::Split(id, outgoing) => match self.map.split(&outgoing).await {
                    Split::Halves(halves) => self.replace(id, &outgoing, halves).await,
                    Split::Indivisible => ended = self.outbox.indivisible(id, Instant::now()),
                    Split::Faulted(fault) => {
                        let stream = &self.shared.name;
                        event::ScriptFaulted { stream, messages: outgoing.carries.len(), fault: &fault }
                            .emit();
                        self.outbox.postpone(id, fault.to_string(), Instant::now());
                    }
                },
            }
        }
    }

    async fn replace(&mut self, id: DeliveryId, whole: &OutgoingDelivery, halves: Vec<OutgoingDelivery>) {
        let Sifted { allowed, forbidden } = self.map.sift(halves, whole.carries.len()).await;
        // A message may be in several parts now where it was in one delivery.
        for part in allowed.iter().chain(forbidden.iter().map(|(p, _)| p)) {
            self.endings.begin(part);
        }
        self.endings.replaced(whole);
        let destination = &self.shared.destination;
        let with_slot = |outgoing: OutgoingDelivery| {
            let slot = destination.slot(&outgoing.delivery);
            (outgoing, slot)
        };
        self.outbox.replace(id, allowed.into_iter().map(with_slot).collect());
        for (outgoing, reason) in forbidden {
            self.endings.dead(&outgoing, &reason, None);
        }
    }

    /// What waits and is too old to be sent ends.
    fn expire(&mut self) {
        if self.stopping || self.paused {
            return;
        }
        let Some(horizon) = self.shared.horizon() else { return };
        for outgoing in self.outbox.expire(horizon) {
            self.endings.ended(&outgoing, Outcome::Expired);
        }
        for entry in self.shared.intake.expire(self.number, horizon) {
            self.endings.at_once(&entry, Outcome::Expired);
        }
    }

    /// The messages that are not too old; the others end.
    fn fresh(&mut self, batch: Vec<Arc<Entry>>) -> Vec<Arc<Entry>> {
        let Some(horizon) = self.shared.horizon() else { return batch };
        let (old, fresh): (Vec<_>, Vec<_>) = batch.into_iter().partition(|e| e.waiting_since() < horizon);
        old.iter().for_each(|entry| self.endings.at_once(entry, Outcome::Expired));
        fresh
    }

    /// When the next of what waits will be too old.
    fn next_expiry(&self) -> Option<Instant> {
        let horizon = self.shared.horizon()?;
        let oldest =
            [self.outbox.oldest(), self.shared.intake.oldest(self.number)].into_iter().flatten().min()?;
        // What is read again never grows too old.
        if oldest == u64::MAX {
            return None;
        }
        // One more: at the horizon itself it may still be sent.
        Some(Instant::now() + Duration::from_millis(oldest.saturating_sub(horizon) + 1))
    }

    fn connect_when_due(&mut self) {
        if self.stopping || self.paused {
            return;
        }
        if let LinkState::Down { until } = &self.link.state
            && *until <= Instant::now()
        {
            let destination = self.current.borrow_and_update().destination.clone();
            let number = self.number;
            let attempt = Box::pin(async move { destination.connect(number).await });
            self.link.state = LinkState::Connecting(attempt);
        }
    }

    fn connected(&mut self, connection: Box<dyn Connection>) {
        self.link.state = LinkState::Up { connection, since: Instant::now() };
    }

    /// The credentials are new: the lane connects again with them.
    fn reconnect(&mut self) {
        match &self.link.state {
            LinkState::Up { .. } => {
                let window = self.shared.destination.window();
                self.draining = Some(Instant::now() + if window == 1 { ONE_ANSWER } else { LAST_ANSWERS });
            }
            LinkState::Down { .. } | LinkState::Connecting(_) => self.link.state = LinkState::down(),
        }
    }

    async fn close_when_drained(&mut self) {
        let now = Instant::now();
        if self.draining.is_none_or(|until| until > now && self.outbox.in_flight() > 0) {
            return;
        }
        self.draining = None;
        if let Link { state: LinkState::Up { connection, .. }, .. } =
            std::mem::replace(&mut self.link, Link::down())
        {
            let late = Fault::transient("no answer before the connection was replaced");
            let (again, ended) = self.outbox.down(&late, now);
            self.shared.status.count_retries(again);
            self.end(ended).await;
            let _ = tokio::time::timeout(GOODBYE, connection.close()).await;
        }
    }

    /// The connection ended: what it carried goes out again.
    async fn lost(&mut self, fault: Fault) {
        self.draining = None;
        let (again, ended) = self.outbox.down(&fault, Instant::now());
        self.shared.status.count_retries(again);
        self.end(ended).await;
        let lasted = match &self.link.state {
            LinkState::Up { since, .. } => since.elapsed() >= STEADY,
            LinkState::Down { .. } | LinkState::Connecting(_) => false,
        };
        if again == 0 && fault.kind == FaultKind::Unexplained && (lasted || self.link.failures == 0) {
            // An idle connection that the far side closes is no trouble.
            self.link = Link { failures: 1, ..Link::down() };
        } else {
            self.disconnected(&fault);
        }
    }

    fn disconnected(&mut self, fault: &Fault) {
        let failures = self.link.failures.saturating_add(1);
        let until = Instant::now() + self.backoff.pause(failures, fault.retry_after);
        self.link = Link { state: LinkState::Down { until }, failures, fault: Some(fault.clone()) };
    }

    fn show(&mut self) {
        let state = if self.paused {
            State::Paused
        } else if let Some(reason) = self.endings.dead_letters.reason() {
            State::Blocked(Code::DeadLettersFull, reason)
        } else if let Some(stuck) = &self.stuck {
            State::Blocked(stuck.inner.code, format!("script: {}", stuck.inner.reason))
        } else {
            // After a failure the far side has to deliver before all is well,
            // unless there is nothing to deliver.
            let up = matches!(self.link.state, LinkState::Up { .. });
            let fault = self.link.fault.as_ref().filter(|_| !up || !self.outbox.is_empty());
            match (self.outbox.trouble(), fault) {
                (Some(trouble @ Trouble::Blocked(..)), _) => trouble.into(),
                // What the far side says on this connection is newer than why
                // the one before it ended.
                (Some(trouble), _) if up => trouble.into(),
                (_, Some(fault)) if fault.kind == FaultKind::Persistent => {
                    State::Blocked(fault.into(), fault.reason.clone())
                }
                (_, Some(fault)) => State::Retrying(fault.reason.clone()),
                (Some(trouble), None) => trouble.into(),
                // Between two connections nothing need be in the way.
                (None, None) if up || self.shown == State::Running => State::Running,
                (None, None) => State::Starting,
            }
        };
        if state != self.shown {
            self.shown = state.clone();
            self.shared.status.set_lane(self.number, state);
        }
    }
}

// === impl Link ===

impl Link {
    /// To be connected at once.
    fn down() -> Self {
        Self { state: LinkState::down(), failures: 0, fault: None }
    }
}

impl LinkState {
    /// To be connected at once.
    fn down() -> Self {
        Self::Down { until: Instant::now() }
    }
}

async fn next_verdict(connection: Option<&mut Box<dyn Connection>>) -> Result<(DeliveryId, Verdict), Fault> {
    match connection {
        Some(connection) => connection.next().await,
        None => std::future::pending().await,
    }
}

async fn attempt(connecting: Option<&mut Connecting>) -> Result<Box<dyn Connection>, Fault> {
    match connecting {
        Some(connecting) => connecting.await,
        None => std::future::pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
