//! An ordered worker of a stream: its own script instance, its own connection.
//! Here the actions are carried out that [`super::outbox`] and [`super::map`]
//! decide on.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::entry::{Entry, Parcel};
use super::identity::Identities;
use super::intake::Intake;
use super::map::{MapStep, Mapped, Split};
use super::outbox::{Ended, Outbox, Trouble};
use super::proof::ProofOfLife;
use super::remember::Unsaved;
use super::settle::Settling;
use super::status::{State, StreamStatus};
use crate::backoff::Backoff;
use crate::bus::unix_millis;
use crate::destination::{Connection, DeliveryId, Destination, Fault, FaultKind, Reply, Verdict};
use crate::journal::{DeadLetter, Journal, Outcome, Settlement, StoredDelivery, StreamIndex};
use crate::script::Mapper;
use crate::telemetry::event;

/// An instance that has nothing to do for so long is dropped; the next message
/// makes a new one in microseconds.
const IDLE: Duration = Duration::from_secs(10);
/// A connection that lasted so long did not fail.
const STEADY: Duration = Duration::from_secs(10);
/// How long a clean stop waits for what is in flight.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// What the lanes of a stream share.
pub(super) struct Shared {
    pub name: String,
    pub index: StreamIndex,
    pub journal: Journal,
    pub destination: Arc<dyn Destination>,
    pub status: Arc<StreamStatus>,
    pub intake: Arc<Intake>,
    pub life: Arc<ProofOfLife>,
    /// Where the destination wants to know.
    pub identities: Option<Identities>,
    /// Name and version of the script, for dead letters.
    pub script: String,
}

pub(super) struct Lane {
    number: u32,
    shared: Arc<Shared>,
    map: MapStep,
    outbox: Outbox,
    settling: Settling,
    settlement: Settlement,
    unsaved: Unsaved,
    link: Link,
    backoff: Backoff,
    /// Messages that the script could not map, why, and when to try again.
    stuck: Option<Stuck>,
    idle_at: Option<Instant>,
    stopping: bool,
    /// What the status says of this lane.
    shown: State,
}

struct Stuck {
    batch: Vec<Arc<Entry>>,
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
    /// A time has come, or messages or a proof have arrived: look again.
    Look,
}

impl Lane {
    pub(super) fn new(number: u32, shared: Arc<Shared>, mapper: Mapper) -> Self {
        let seed = fastrand::u64(..);
        Self {
            number,
            map: MapStep::new(mapper, &shared),
            outbox: Outbox::new(shared.destination.window(), shared.life.clone(), seed),
            settling: Settling::default(),
            settlement: Settlement::default(),
            unsaved: Unsaved::default(),
            link: Link::Down { until: Instant::now(), failures: 0, fault: None },
            backoff: Backoff::new(seed.wrapping_add(1)),
            stuck: None,
            idle_at: None,
            stopping: false,
            shown: State::Stopped,
            shared,
        }
    }

    /// Works until `stop`, then lets what is in flight settle.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut deadline = None;
        loop {
            self.connect_when_due();
            self.map_when_wanted().await;
            self.send().await;
            self.flush();
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
                Wake::Look => {}
            }
        }
        self.flush();
        if let Link::Up { connection, .. } = self.link {
            let _ = tokio::time::timeout(GOODBYE, connection.close()).await;
        }
        self.shared.status.set_lane(self.number, State::Stopped);
    }

    async fn wait(&mut self, stop: &CancellationToken, deadline: Option<Instant>) -> Wake {
        let wants_more = !self.stopping && self.stuck.is_none() && self.outbox.wants_more();
        // Only times at which this lane would do something: one that has
        // passed and changes nothing would make it spin.
        let working = !self.stopping;
        let (due, retry) = match &self.link {
            Link::Down { until, .. } => (Some(*until).filter(|_| working), None),
            Link::Connecting { .. } => (None, None),
            Link::Up { .. } => (None, self.outbox.wake_at().filter(|_| working)),
        };
        let stuck = self.stuck.as_ref().map(|s| s.until).filter(|_| working && self.outbox.wants_more());
        let idle = self.idle_at.filter(|_| working);
        let times = [due, retry, stuck, idle, deadline];
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
            () = at(next_time) => Wake::Look,
        }
    }

    // --- mapping ---

    async fn map_when_wanted(&mut self) {
        if self.idle_at.is_some_and(|at| at <= Instant::now()) {
            self.map.mapper.rest();
            self.idle_at = None;
        }
        while !self.stopping && self.outbox.wants_more() {
            let (batch, failures) = match self.stuck.take() {
                Some(stuck) if stuck.until > Instant::now() => {
                    self.stuck = Some(stuck);
                    return;
                }
                Some(stuck) => (stuck.batch, stuck.failures),
                None => (self.shared.intake.take(self.number), 0),
            };
            if batch.is_empty() {
                return;
            }
            let generation = self.shared.journal.generation(self.shared.index);
            let mapped = self.map.map(batch, generation).await;
            self.idle_at = Some(Instant::now() + IDLE);
            self.take_in(mapped, failures);
        }
    }

    fn take_in(&mut self, mapped: Mapped, failures: u32) {
        for (messages, written) in mapped.wrote {
            self.unsaved.begin(&messages, written);
        }
        // All deliveries of a message are known before the first one ends.
        for parcel in mapped.parcels.iter().chain(mapped.forbidden.iter().map(|(p, _)| p)) {
            for entry in &parcel.carries {
                self.settling.begin(entry.position);
            }
        }
        for entry in mapped.filtered {
            self.settlement.ended.push((entry.position, Outcome::Filtered));
        }
        for (entry, reason) in mapped.rejected {
            self.bury(&entry, &reason, None, None);
            self.settlement.ended.push((entry.position, Outcome::DeadLettered));
        }
        for (parcel, reason) in mapped.forbidden {
            self.dead(&parcel, &reason, None);
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
        if let Some((reason, batch)) = mapped.stuck {
            let failures = failures.saturating_add(1);
            let until = Instant::now() + self.backoff.pause(failures, None);
            self.stuck = Some(Stuck { batch, reason, until, failures });
        }
    }

    // --- sending and settling ---

    async fn send(&mut self) {
        while let Link::Up { connection, .. } = &mut self.link {
            // While stopping only what is in flight is of interest.
            if self.stopping {
                return;
            }
            let Some((id, parcel)) = self.outbox.next(Instant::now()) else { return };
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
                    for entry in &parcel.carries {
                        self.settlement.ended.extend(self.settling.end(entry.position, true));
                    }
                }
                Ended::Rejected(parcel, reply) => {
                    self.dead(&parcel, "refused by the destination", Some(&reply))
                }
                Ended::Split(id, parcel) => match self.map.split(&parcel).await {
                    Split::Halves(halves) => self.replace(id, &parcel, halves),
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

    fn replace(&mut self, id: DeliveryId, whole: &Parcel, halves: Vec<Parcel>) {
        // A message may be in several parts now where it was in one delivery.
        for entry in halves.iter().flat_map(|p| &p.carries) {
            self.settling.begin(entry.position);
        }
        for entry in &whole.carries {
            self.settling.end(entry.position, true);
        }
        let destination = &self.shared.destination;
        let mut checked = Vec::with_capacity(halves.len());
        let mut forbidden = Vec::new();
        for parcel in halves {
            match destination.check(&parcel.delivery) {
                Ok(()) => {
                    let slot = destination.slot(&parcel.delivery);
                    checked.push((parcel, slot));
                }
                Err(reason) => forbidden.push((parcel, reason)),
            }
        }
        self.outbox.replace(id, checked);
        for (parcel, reason) in forbidden {
            self.dead(&parcel, &reason, None);
        }
    }

    /// The delivery will never arrive: its messages are dead letters.
    fn dead(&mut self, parcel: &Parcel, reason: &str, reply: Option<&Reply>) {
        for entry in &parcel.carries {
            self.bury(entry, reason, reply, Some(parcel));
            self.settlement.ended.extend(self.settling.end(entry.position, false));
        }
    }

    fn bury(&mut self, entry: &Entry, reason: &str, reply: Option<&Reply>, parcel: Option<&Parcel>) {
        let letter = DeadLetter {
            position: entry.position,
            at: unix_millis(),
            reason: reason.to_owned(),
            script: self.shared.script.clone(),
            message: entry.message.clone(),
            delivery: parcel.map(|p| StoredDelivery {
                target: p.delivery.target.clone(),
                headers: p.delivery.headers.clone(),
                body: p.delivery.body.clone(),
            }),
            reply: reply.map(|r| r.0.clone()),
        };
        let reason = match reply {
            Some(reply) => format!("{reason}: {reply}"),
            None => reason.to_owned(),
        };
        event::DeadLettered {
            stream: &self.shared.name,
            position: &entry.position,
            reason: &reason,
            script: &self.shared.script,
            topic: &entry.message.topic,
            payload: &entry.message.payload,
            received_at: entry.message.received_at,
            delivery: parcel.map(|p| (p.delivery.target.as_deref(), &*p.delivery.body)),
        }
        .emit();
        self.shared.status.set_last_error(format!("dead letter {}: {reason}", entry.position));
        self.settlement.dead_letters.push(letter);
    }

    fn flush(&mut self) {
        if self.settlement == Settlement::default() {
            return;
        }
        let mut settlement = std::mem::take(&mut self.settlement);
        for (position, _) in &settlement.ended {
            self.unsaved.settled(*position);
        }
        let Shared { journal, index, status, .. } = &*self.shared;
        status.memory.save(&mut self.unsaved, |values| {
            settlement.state = values;
            journal.settle(*index, settlement);
        });
    }

    // --- connection ---

    fn connect_when_due(&mut self) {
        if self.stopping {
            return;
        }
        if let Link::Down { until, failures, fault } = &mut self.link
            && *until <= Instant::now()
        {
            let (failures, fault) = (*failures, fault.take());
            let destination = self.shared.destination.clone();
            let number = self.number;
            let attempt = Box::pin(async move { destination.connect(number).await });
            self.link = Link::Connecting { attempt, failures, fault };
        }
    }

    fn connected(&mut self, connection: Box<dyn Connection>) {
        let down = Link::Down { until: Instant::now(), failures: 0, fault: None };
        let (failures, fault) = match std::mem::replace(&mut self.link, down) {
            Link::Connecting { failures, fault, .. } => (failures, fault),
            Link::Down { .. } | Link::Up { .. } => (0, None),
        };
        self.link = Link::Up { connection, since: Instant::now(), failures, fault };
    }

    /// The connection ended: what it carried goes out again.
    async fn lost(&mut self, fault: Fault) {
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
        let state = if let Some(stuck) = &self.stuck {
            State::Blocked(format!("script: {}", stuck.reason))
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
                (Some(trouble @ Trouble::Blocked(_)), _) => trouble.into(),
                // What the far side says on this connection is newer than why
                // the one before it ended.
                (Some(trouble), _) if up => trouble.into(),
                (_, Some(fault)) if fault.kind == FaultKind::Persistent => {
                    State::Blocked(fault.reason.clone())
                }
                (_, Some(fault)) => State::Retrying(fault.reason.clone()),
                (Some(trouble), None) => trouble.into(),
                (None, None) if up => State::Running,
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
    fn failures(&self) -> u32 {
        match self {
            Self::Down { failures, .. } | Self::Connecting { failures, .. } | Self::Up { failures, .. } => {
                *failures
            }
        }
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
