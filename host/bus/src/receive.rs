//! From the connection to the journal and back: three tasks and two queues.
//!
//! ```text
//! read --Arrival--> append_loop --append--> journal
//!                            '--Settling--> acknowledge --PUBACK--> connection
//! ```
//!
//! Acknowledgements leave in the order of arrival (MQTT 5 section 4.6), each
//! when the ticket of its batch has resolved. A slot is held by every publish
//! from its arrival until its acknowledgement is handed to the connection.
//! Both queues and the connection's own have room for all slots, so the only
//! place where anything waits for room is [`Intake::take`]; were the other two
//! tasks to wait as well, they could wait for each other in a circle.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use journal::{Append, Journal, Ticket};
use rumqttc::{ManualAck, Publish};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::connection::{BATCH, Link};
use super::route::Router;
use super::routes::Routes;
use super::split;
use super::status::BusStatus;

/// Maximum messages and bytes of one append, which the journal commits at once.
const APPEND_MESSAGES: usize = 256;
const APPEND_BYTES: usize = 240 * 1024;

/// A wait for room that is long enough to be logged.
const NOTABLE_WAIT: Duration = Duration::from_secs(1);

/// A slot, and the bytes of one publish.
type Room = (OwnedSemaphorePermit, OwnedSemaphorePermit);

/// A publish on its way to the journal.
pub(super) struct Arrival {
    link: Arc<Link>,
    publish: Publish,
    slot: OwnedSemaphorePermit,
    bytes: OwnedSemaphorePermit,
}

/// Publishes on their way to being acknowledged.
pub(super) struct Settling {
    link: Arc<Link>,
    acks: Vec<ManualAck>,
    /// None: nothing of it concerns the journal.
    ticket: Option<Ticket>,
    slots: Option<OwnedSemaphorePermit>,
}

/// The end where publishes go in. Cloning gives another handle.
#[derive(Clone)]
pub(super) struct Intake {
    arrivals: mpsc::Sender<Arrival>,
    slots: Arc<Semaphore>,
    /// How many there are.
    all: u32,
    bytes: Arc<Semaphore>,
    /// Permits of `bytes`.
    window_bytes: usize,
    status: Arc<BusStatus>,
    stopping: CancellationToken,
}

/// The ends where the other two tasks take.
pub(super) struct Outlets {
    pub(super) arrivals: mpsc::Receiver<Arrival>,
    pub(super) settling: (mpsc::Sender<Settling>, mpsc::Receiver<Settling>),
}

/// Queues for `window` publishes that are not acknowledged yet, of which the
/// broker is told that it may send `receive_maximum`, and for `window_bytes`
/// that the journal has not let in. After `stopping` nothing more is taken.
pub(super) fn queues(
    window: usize,
    window_bytes: usize,
    receive_maximum: u16,
    status: Arc<BusStatus>,
    stopping: CancellationToken,
) -> (Intake, Outlets) {
    let window = window.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
    let window_bytes = window_bytes.clamp(1, Semaphore::MAX_PERMITS);
    let (arrivals, arriving) = mpsc::channel(window);
    let slots = Arc::new(Semaphore::new(window));
    status.set_window(slots.clone(), window, receive_maximum);
    let bytes = Arc::new(Semaphore::new(window_bytes));
    let all = u32::try_from(window).unwrap_or(u32::MAX);
    let intake = Intake { arrivals, slots, all, bytes, window_bytes, status, stopping };
    (intake, Outlets { arrivals: arriving, settling: mpsc::channel(window) })
}

/// Requests that a connection must have room for, so that handing over an
/// acknowledgement never waits for the reading, which may be waiting for a
/// slot: the slots, and what arrives while the event loop works through one
/// batch. (It writes as many requests as it reads packets between two looks.)
pub(super) fn requests(window: usize) -> usize {
    window.saturating_add(8 * BATCH)
}

impl Intake {
    /// Takes a publish over; waits while there is no room. After `stopping`,
    /// and where the link is left, the publish is dropped: the broker keeps it
    /// until the next connection.
    pub(super) async fn take(&self, link: &Arc<Link>, publish: Publish) {
        self.status.received.add(1);
        let size = publish.topic.len().saturating_add(publish.payload.len());
        // One that is larger than the window has it for itself.
        let size = u32::try_from(size.min(self.window_bytes)).unwrap_or(u32::MAX);
        let room = match self.room_now(size) {
            Some(room) => Some(room),
            None => tokio::select! {
                biased;
                () = self.stopping.cancelled() => None,
                room = self.wait_for_room(size) => room,
            },
        };
        let over = self.stopping.is_cancelled() || link.is_leaving();
        let Some((slot, bytes)) = room.filter(|_| !over) else { return };
        let arrival = Arrival { link: link.clone(), publish, slot, bytes };
        // Has room by construction; an error means that the bus is being stopped.
        let _ = self.arrivals.send(arrival).await;
    }

    /// Waits until everything that was taken over is acknowledged.
    pub(super) async fn settled(&self) {
        // The semaphore is never closed; the slots are given back at once.
        let _ = self.slots.acquire_many(self.all).await;
    }

    fn room_now(&self, size: u32) -> Option<Room> {
        let slot = self.slots.clone().try_acquire_owned().ok()?;
        let bytes = self.bytes.clone().try_acquire_many_owned(size).ok()?;
        Some((slot, bytes))
    }

    async fn wait_for_room(&self, size: u32) -> Option<Room> {
        let mut room = std::pin::pin!(async {
            let slot = self.slots.clone().acquire_owned().await.ok()?;
            let bytes = self.bytes.clone().acquire_many_owned(size).await.ok()?;
            Some((slot, bytes))
        });
        if let Ok(room) = tokio::time::timeout(NOTABLE_WAIT, room.as_mut()).await {
            return room;
        }
        self.status.set_held_back(true);
        tracing::warn!(
            "back-pressure: reading from the bus paused, window of unacknowledged messages is full"
        );
        let room = room.await;
        self.status.set_held_back(false);
        tracing::info!("back-pressure ended: reading from the bus resumed");
        room
    }
}

/// Appends what arrives to the journal, in order, until `stopping`.
pub(super) async fn append_loop(
    mut arrivals: mpsc::Receiver<Arrival>,
    settling: mpsc::Sender<Settling>,
    routes: Routes,
    journal: Journal,
    status: Arc<BusStatus>,
    stopping: CancellationToken,
) {
    let mut waiting = Vec::with_capacity(APPEND_MESSAGES);
    loop {
        let arrived = tokio::select! {
            biased;
            () = stopping.cancelled() => 0,
            arrived = arrivals.recv_many(&mut waiting, APPEND_MESSAGES) => arrived,
        };
        if arrived == 0 {
            return;
        }
        let mut arrived = waiting.drain(..).peekable();
        while let Some(first) = arrived.next() {
            let link = first.link.clone();
            let mut batch = Batch::new(first);
            while let Some(next) =
                arrived.next_if(|a| batch.bytes < APPEND_BYTES && Arc::ptr_eq(&a.link, &link))
            {
                batch.push(next);
            }
            let router = routes.current();
            let Some(settled) = batch.append(&router, &journal, &status, &stopping).await else { continue };
            // Has room by construction; an error means that the bus is being stopped.
            if settling.send(settled).await.is_err() {
                return;
            }
        }
    }
}

/// Publishes of one connection that are appended together.
struct Batch {
    link: Arc<Link>,
    arrivals: Vec<Arrival>,
    bytes: usize,
}

impl Batch {
    fn new(first: Arrival) -> Self {
        let mut batch = Self { link: first.link.clone(), arrivals: vec![], bytes: 0 };
        batch.push(first);
        batch
    }

    fn push(&mut self, arrival: Arrival) {
        self.bytes += arrival.publish.payload.len();
        self.arrivals.push(arrival);
    }

    /// None: nothing was appended, and the broker sends all of it again.
    async fn append(
        self,
        router: &Router,
        journal: &Journal,
        status: &BusStatus,
        stopping: &CancellationToken,
    ) -> Option<Settling> {
        let count = self.arrivals.len();
        if self.link.is_dead() {
            status.abandoned.add(count);
            return None;
        }
        let mut acks = Vec::with_capacity(count);
        let mut appends = Vec::with_capacity(count);
        let mut slots: Option<OwnedSemaphorePermit> = None;
        // Kept until the journal has let the batch in: that is what they bound.
        let mut bytes = Vec::with_capacity(count);
        for arrival in self.arrivals {
            acks.extend(self.link.client.prepare_ack(&arrival.publish));
            route(arrival.publish, router, status, &mut appends);
            match &mut slots {
                Some(slots) => slots.merge(arrival.slot),
                None => slots = Some(arrival.slot),
            }
            bytes.push(arrival.bytes);
        }
        let ticket = if appends.is_empty() {
            None
        } else {
            // While it waits for room nothing is in the journal yet. If the
            // connection ends meanwhile, the broker sends everything again,
            // and appending this copy as well would deliver it twice.
            tokio::select! {
                biased;
                ticket = journal.append_in(&self.link.sequence, appends) => Some(ticket),
                () = self.link.over.cancelled() => {
                    status.abandoned.add(count);
                    return None;
                }
                () = stopping.cancelled() => return None,
            }
        };
        Some(Settling { link: self.link, acks, ticket, slots })
    }
}

/// Adds the messages of a publish that at least one stream wants.
fn route(publish: Publish, router: &Router, status: &BusStatus, appends: &mut Vec<Append>) {
    let Ok(topic) = std::str::from_utf8(&publish.topic) else {
        // The standard forbids it; no filter can match it.
        status.unwanted.add(1);
        return;
    };
    let ids = publish.properties.as_ref().map_or(&[][..], |p| &p.subscription_identifiers);
    for message in split::messages(topic.into(), publish.payload) {
        let streams = router.route(ids, &message);
        if streams.is_empty() {
            status.unwanted.add(1);
        } else {
            appends.push(Append { message, streams });
        }
    }
}

/// Acknowledges in the order of arrival what the journal has settled, until
/// the queue ends. After `last_call` it waits for no ticket any more and ends
/// at the first that has not resolved.
pub(super) async fn acknowledge(
    mut settling: mpsc::Receiver<Settling>,
    status: Arc<BusStatus>,
    last_call: CancellationToken,
) {
    while let Some(Settling { link, acks, ticket, slots }) = settling.recv().await {
        let settled = match ticket {
            None => true,
            Some(mut ticket) => tokio::select! {
                biased;
                // Its acknowledgements can go nowhere: the next connection's
                // must not wait for them.
                () = link.over.cancelled() => false,
                result = &mut ticket => match result {
                    Ok(()) => true,
                    Err(error) => {
                        tracing::error!("journal append failed: {error}; the broker will redeliver");
                        link.break_off();
                        false
                    }
                },
                () = last_call.cancelled() => match ticket.now_or_never() {
                    Some(Ok(())) => true,
                    Some(Err(_)) | None => return,
                },
            },
        };
        let mut sent = 0;
        if settled {
            for ack in &acks {
                if !link.acknowledge(ack.clone()).await {
                    break;
                }
                sent += 1;
            }
        }
        if sent > 0 {
            status.acknowledged(sent);
        }
        status.abandoned.add(acks.len() - sent);
        drop(slots);
    }
}

#[cfg(test)]
#[path = "receive_model.rs"]
mod model;
