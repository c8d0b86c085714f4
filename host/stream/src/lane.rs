//! An ordered worker of a stream: its own script instance, its own connection.
//! Here the actions are carried out that [`super::outbox`] and [`super::map`]
//! decide on.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use destination::{Connection, DeliveryId, Destination, Fault, FaultKind, Verdict};
use futures_util::FutureExt;
use journal::{Journal, Outcome, StreamIndex};
use message::Backoff;
use script::{Mapper, Script};
use telemetry::event;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::code::Code;
use super::edition::Slot;
use super::endings::Endings;
use super::entry::{Entry, Parcel};
use super::identity::Identities;
use super::intake::Intake;
use super::map::{MapStep, Mapped, Sifted, Split};
use super::outbox::{Ended, Outbox, Trouble};
use super::proof::ProofOfLife;
use super::renew::Current;
use super::status::{State, StreamStatus};
use super::{Pressure, log_sink};

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

/// What the lanes of a stream share.
pub(super) struct Shared {
    pub name: String,
    pub index: StreamIndex,
    pub journal: Journal,
    /// Its rules, which are the same whatever its files say.
    pub destination: Arc<dyn Destination>,
    /// What to connect with.
    pub current: Current,
    pub status: Arc<StreamStatus>,
    pub intake: Arc<Intake>,
    pub pressure: Pressure,
    pub life: Arc<ProofOfLife>,
    /// Where the destination wants to know.
    pub identities: Option<Identities>,
    /// The script that the lanes run.
    pub slot: Arc<Slot>,
}

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

struct Stuck {
    batch: Vec<Arc<Entry>>,
    code: Code,
    reason: String,
    until: Instant,
    failures: u32,
}

type Connecting = Pin<Box<dyn Future<Output = Result<Box<dyn Connection>, Fault>> + Send>>;

enum Link {
    /// Not connected; the next attempt is due then.
    Down {
        until: Instant,
        failures: u32,
        fault: Option<Fault>,
    },
    Connecting {
        attempt: Connecting,
        failures: u32,
        fault: Option<Fault>,
    },
    /// `failures` and `fault` are of the connections before it, until something
    /// is delivered on this one.
    Up {
        connection: Box<dyn Connection>,
        since: Instant,
        failures: u32,
        fault: Option<Fault>,
    },
}

/// What the lane waits for.
enum Wake {
    Stop,
    Connected(Result<Box<dyn Connection>, Fault>),
    Verdict(Result<(DeliveryId, Verdict), Fault>),
    /// There is something new to connect with.
    Renewed,
    /// Another script is in place: what was stuck may be mapped.
    Replaced,
    /// A time has come, or messages or a proof have arrived: look again.
    Look,
}

impl Shared {
    /// A mapper of a lane.
    pub(super) fn mapper(&self, lane: u32, script: &Script) -> Mapper {
        script.lane(lane, &self.status.memory.state, log_sink(&self.name))
    }
}

impl Lane {
    pub(super) fn new(number: u32, shared: Arc<Shared>) -> Self {
        let seed = fastrand::u64(..);
        Self {
            number,
            map: MapStep::new(number, &shared),
            outbox: Outbox::new(shared.destination.window(), shared.life.clone(), seed),
            endings: Endings::new(shared.clone()),
            link: Link::new(),
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
                Wake::Renewed => self.renewed(),
                Wake::Replaced => {
                    if let Some(stuck) = &mut self.stuck {
                        stuck.until = Instant::now();
                    }
                }
                Wake::Look => {}
            }
        }
        self.endings.flush();
        if let Link::Up { connection, .. } = self.link {
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
        let (due, retry) = match &self.link {
            Link::Down { until, .. } => (Some(*until).filter(|_| working), None),
            Link::Connecting { .. } => (None, None),
            Link::Up { .. } if self.draining.is_some() => (self.draining, None),
            // Nothing goes out before `send_at`, whatever else is due.
            Link::Up { .. } => (None, self.send_at.or_else(|| self.outbox.wake_at()).filter(|_| working)),
        };
        let stuck = self.stuck.as_ref().map(|s| s.until).filter(|_| may_map);
        let handed_out = self.shared.intake.due(self.number).filter(|_| wants_more);
        let expiry = self.next_expiry().filter(|_| working);
        let burial = self.endings.burial.look_at().filter(|_| !self.stopping);
        let idle = self.idle_at.filter(|_| !self.stopping);
        let times = [due, retry, stuck, handed_out, expiry, burial, idle, deadline];
        let next_time = times.into_iter().flatten().min();
        let shared = &self.shared;
        let (connecting, connection) = match &mut self.link {
            Link::Down { .. } => (None, None),
            Link::Connecting { attempt, .. } => (Some(attempt), None),
            Link::Up { connection, .. } => (None, Some(connection)),
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
            Ok(()) = self.current.changed() => Wake::Renewed,
            () = at(next_time) => Wake::Look,
        }
    }

    // --- mapping ---

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
                Some(stuck) => (stuck.batch, stuck.failures),
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
        self.outbox.wants_more() && self.endings.burial.look_at().is_none()
    }

    fn take_in(&mut self, mapped: Mapped, failures: u32) {
        for (messages, written) in mapped.wrote {
            self.endings.unsaved.begin(&messages, written);
        }
        // All deliveries of a message are known before the first one ends.
        for parcel in mapped.parcels.iter().chain(mapped.forbidden.iter().map(|(p, _)| p)) {
            self.endings.begin(parcel);
        }
        for entry in mapped.filtered {
            self.endings.at_once(&entry, Outcome::Filtered);
        }
        for (entry, reason, script) in mapped.rejected {
            self.endings.rejected(&entry, &reason, &script);
        }
        for (parcel, reason) in mapped.forbidden {
            self.endings.dead(&parcel, &reason, None);
        }
        for parcel in mapped.parcels {
            let Shared { destination, identities, .. } = &*self.shared;
            let slot = destination.slot(&parcel.delivery);
            self.outbox.push(parcel, slot, |older, newer| {
                let delivery = destination.merge(&older.delivery, &newer.delivery)?;
                let carries = older.carries.iter().chain(&newer.carries).cloned().collect();
                Some(Parcel { delivery, carries, ..older.clone() }.identified(identities.as_ref()))
            });
        }
        if let Some((code, reason, batch)) = mapped.stuck {
            let failures = failures.saturating_add(1);
            let until = Instant::now() + self.backoff.pause(failures, None);
            self.stuck = Some(Stuck { batch, code, reason, until, failures });
        }
    }

    // --- sending and settling ---

    async fn send(&mut self) {
        while let Link::Up { connection, .. } = &mut self.link {
            // While stopping, paused or draining only what is in flight is of interest.
            let now = Instant::now();
            let idle = self.stopping || self.paused || self.draining.is_some();
            if idle || self.send_at.is_some_and(|at| at > now) {
                return;
            }
            self.send_at = None;
            let horizon = horizon(&self.shared.pressure);
            let Some((id, parcel)) = self.outbox.next(now) else { return };
            if horizon.is_some_and(|horizon| parcel.youngest() < horizon) {
                self.expire();
                continue;
            }
            if let Err(again) = self.shared.pressure.rate_limits.take(now) {
                self.send_at = Some(again);
                return;
            }
            match connection.send(id, &parcel.delivery).await {
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
                    if let (Verdict::Delivered, Link::Up { failures, fault, .. }) = (&verdict, &mut self.link)
                    {
                        *failures = 0;
                        *fault = None;
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
            next = match &mut self.link {
                Link::Up { connection, .. } => connection.next().now_or_never(),
                Link::Down { .. } | Link::Connecting { .. } => None,
            };
        }
    }

    async fn end(&mut self, ended: Option<Ended>) {
        let mut ended = ended;
        while let Some(now) = ended.take() {
            match now {
                Ended::Delivered(parcel) => {
                    self.endings.ended(&parcel, Outcome::Delivered);
                }
                Ended::Rejected(parcel, reply) => {
                    self.endings.dead(&parcel, "refused by the destination", Some(&reply))
                }
                Ended::Split(id, parcel) => match self.map.split(&parcel).await {
                    Split::Halves(halves) => self.replace(id, &parcel, halves).await,
                    Split::Indivisible => ended = self.outbox.indivisible(id, Instant::now()),
                    Split::Faulted(fault) => {
                        let stream = &self.shared.name;
                        event::ScriptFaulted { stream, messages: parcel.carries.len(), fault: &fault }.emit();
                        self.outbox.postpone(id, fault.to_string(), Instant::now());
                    }
                },
            }
        }
    }

    async fn replace(&mut self, id: DeliveryId, whole: &Parcel, halves: Vec<Parcel>) {
        let Sifted { allowed, forbidden } = self.map.sift(halves, whole.carries.len()).await;
        // A message may be in several parts now where it was in one delivery.
        for part in allowed.iter().chain(forbidden.iter().map(|(p, _)| p)) {
            self.endings.begin(part);
        }
        self.endings.replaced(whole);
        let destination = &self.shared.destination;
        let with_slot = |parcel: Parcel| {
            let slot = destination.slot(&parcel.delivery);
            (parcel, slot)
        };
        self.outbox.replace(id, allowed.into_iter().map(with_slot).collect());
        for (parcel, reason) in forbidden {
            self.endings.dead(&parcel, &reason, None);
        }
    }

    /// What waits and is too old to be sent ends.
    fn expire(&mut self) {
        if self.stopping || self.paused {
            return;
        }
        let Some(horizon) = horizon(&self.shared.pressure) else { return };
        for parcel in self.outbox.expire(horizon) {
            self.endings.ended(&parcel, Outcome::Expired);
        }
        for entry in self.shared.intake.expire(self.number, horizon) {
            self.endings.at_once(&entry, Outcome::Expired);
        }
    }

    /// The messages that are not too old; the others end.
    fn fresh(&mut self, batch: Vec<Arc<Entry>>) -> Vec<Arc<Entry>> {
        let Some(horizon) = horizon(&self.shared.pressure) else { return batch };
        let (old, fresh): (Vec<_>, Vec<_>) = batch.into_iter().partition(|e| e.waiting_since() < horizon);
        old.iter().for_each(|entry| self.endings.at_once(entry, Outcome::Expired));
        fresh
    }

    /// When the next of what waits will be too old.
    fn next_expiry(&self) -> Option<Instant> {
        let horizon = horizon(&self.shared.pressure)?;
        let oldest =
            [self.outbox.oldest(), self.shared.intake.oldest(self.number)].into_iter().flatten().min()?;
        // What is read again never grows too old.
        if oldest == u64::MAX {
            return None;
        }
        // One more: at the horizon itself it may still be sent.
        Some(Instant::now() + Duration::from_millis(oldest.saturating_sub(horizon) + 1))
    }

    // --- connection ---

    fn connect_when_due(&mut self) {
        if self.stopping || self.paused {
            return;
        }
        if let Link::Down { until, failures, fault } = &mut self.link
            && *until <= Instant::now()
        {
            let (failures, fault) = (*failures, fault.take());
            let destination = self.current.borrow_and_update().clone();
            let number = self.number;
            let attempt = Box::pin(async move { destination.connect(number).await });
            self.link = Link::Connecting { attempt, failures, fault };
        }
    }

    fn connected(&mut self, connection: Box<dyn Connection>) {
        let (failures, fault) = match std::mem::replace(&mut self.link, Link::new()) {
            Link::Connecting { failures, fault, .. } => (failures, fault),
            Link::Down { .. } | Link::Up { .. } => (0, None),
        };
        self.link = Link::Up { connection, since: Instant::now(), failures, fault };
    }

    /// From now on this is what to connect with.
    fn renewed(&mut self) {
        self.link = match std::mem::replace(&mut self.link, Link::new()) {
            up @ Link::Up { .. } => {
                let window = self.shared.destination.window();
                self.draining = Some(Instant::now() + if window == 1 { ONE_ANSWER } else { LAST_ANSWERS });
                up
            }
            Link::Down { failures, fault, .. } | Link::Connecting { failures, fault, .. } => {
                Link::Down { until: Instant::now(), failures, fault }
            }
        };
    }

    async fn close_when_drained(&mut self) {
        let now = Instant::now();
        if self.draining.is_none_or(|until| until > now && self.outbox.in_flight() > 0) {
            return;
        }
        self.draining = None;
        if let Link::Up { connection, .. } = std::mem::replace(&mut self.link, Link::new()) {
            let late = Fault::transient("no answer before the connection was renewed");
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
        let lasted = match &self.link {
            Link::Up { since, .. } => since.elapsed() >= STEADY,
            Link::Down { .. } | Link::Connecting { .. } => false,
        };
        if again == 0 && fault.kind == FaultKind::Unexplained && (lasted || self.link.failures() == 0) {
            // An idle connection that the far side closes is no trouble.
            self.link = Link::Down { until: Instant::now(), failures: 1, fault: None };
        } else {
            self.disconnected(&fault);
        }
    }

    fn disconnected(&mut self, fault: &Fault) {
        let failures = self.link.failures().saturating_add(1);
        let until = Instant::now() + self.backoff.pause(failures, fault.retry_after);
        self.link = Link::Down { until, failures, fault: Some(fault.clone()) };
    }

    // --- telling ---

    fn show(&mut self) {
        let state = if self.paused {
            State::Paused
        } else if let Some(reason) = self.endings.burial.reason() {
            State::Blocked(Code::DeadLettersFull, reason)
        } else if let Some(stuck) = &self.stuck {
            State::Blocked(stuck.code, format!("script: {}", stuck.reason))
        } else {
            // After a failure the far side has to deliver before all is well,
            // unless there is nothing to deliver.
            let fault = match &self.link {
                Link::Up { fault, .. } if !self.outbox.is_empty() => fault.as_ref(),
                Link::Up { .. } => None,
                Link::Down { fault, .. } | Link::Connecting { fault, .. } => fault.as_ref(),
            };
            let up = matches!(self.link, Link::Up { .. });
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

impl Link {
    /// To be connected at once.
    fn new() -> Self {
        Self::Down { until: Instant::now(), failures: 0, fault: None }
    }

    fn failures(&self) -> u32 {
        match self {
            Self::Down { failures, .. } | Self::Connecting { failures, .. } | Self::Up { failures, .. } => {
                *failures
            }
        }
    }
}

/// Messages that were received before are too old to be sent, Unix milliseconds.
fn horizon(pressure: &Pressure) -> Option<u64> {
    let ttl = u64::try_from(pressure.queue_ttl?.as_millis()).unwrap_or(u64::MAX);
    Some((pressure.clock)().saturating_sub(ttl))
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
