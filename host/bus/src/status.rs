//! How the bus is doing, for the admin listener and the metrics.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use message::unix_millis;
use metrics::{counter, gauge};
use serde::Serialize;
use tokio::sync::Semaphore;

/// So long nothing is acknowledged, with the broker's window used up, before
/// the bus counts as held back: at full speed the window is always used up.
const NO_PROGRESS: u64 = 1_000;

/// State and counters of the bus, shared by its tasks.
#[derive(Debug, Default)]
pub struct BusStatus {
    connected: AtomicBool,
    held_back: AtomicBool,
    window: OnceLock<Window>,
    /// When something was acknowledged last, Unix milliseconds.
    progress: AtomicU64,
    last_error: Mutex<Option<String>>,
    refused_filters: Mutex<Vec<String>>,
    /// Publishes that arrived, copies of one message included.
    pub(super) received: Count,
    /// Messages that no stream wants.
    pub(super) unwanted: Count,
    /// PUBACKs handed to a connection.
    pub(super) acknowledged: Count,
    /// Publishes of a connection that had ended before they were journaled or
    /// acknowledged: the broker sends them again.
    pub(super) abandoned: Count,
    /// A session was expected and the broker had none.
    pub(super) sessions_lost: Count,
    /// Another client took the client id over.
    pub(super) take_overs: Count,
    /// Connections after the first one.
    pub(super) reconnects: Count,
}

/// What [`BusStatus`] says at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BusSnapshot {
    /// Logged in, and the broker has answered every SUBSCRIBE.
    pub connected: bool,
    /// The next message waits for room in the window of unacknowledged
    /// messages: the broker is not read, or may send nothing more.
    pub held_back: bool,
    /// What went wrong last; cleared by a connection that works.
    pub last_error: Option<String>,
    /// Filters that the broker refuses, with its reason.
    pub refused_filters: Vec<String>,
    /// Publishes that arrived, copies of one message included.
    pub received: u64,
    /// Messages that no stream wants.
    pub unwanted: u64,
    /// PUBACKs handed to a connection.
    pub acknowledged: u64,
    /// Publishes of a connection that ended too early; they come again.
    pub abandoned: u64,
    /// Times that a session was expected and the broker had none.
    pub sessions_lost: u64,
    /// Times that another client took the client id over.
    pub take_overs: u64,
    /// Connections after the first one.
    pub reconnects: u64,
}

/// Slots for publishes that are not acknowledged yet.
#[derive(Debug)]
struct Window {
    slots: Arc<Semaphore>,
    size: usize,
    /// What the broker may send without an acknowledgement.
    receive_maximum: usize,
}

#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl BusStatus {
    /// Logged in, and the broker has answered every SUBSCRIBE.
    pub fn connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// What went wrong last; none while the connection works.
    pub fn last_error(&self) -> Option<String> {
        lock(&self.last_error).clone()
    }

    /// Hands everything to the metrics recorder.
    pub fn measure(&self) {
        let now = self.snapshot();
        gauge!("sluicegate_bus_connected").set(f64::from(now.connected));
        gauge!("sluicegate_bus_held_back").set(f64::from(now.held_back));
        counter!("sluicegate_bus_received_total").absolute(now.received);
        counter!("sluicegate_bus_unwanted_total").absolute(now.unwanted);
        counter!("sluicegate_bus_acknowledged_total").absolute(now.acknowledged);
        counter!("sluicegate_bus_abandoned_total").absolute(now.abandoned);
        counter!("sluicegate_bus_sessions_lost_total").absolute(now.sessions_lost);
        counter!("sluicegate_bus_take_overs_total").absolute(now.take_overs);
        counter!("sluicegate_bus_reconnects_total").absolute(now.reconnects);
    }

    /// All of it.
    pub fn snapshot(&self) -> BusSnapshot {
        BusSnapshot {
            connected: self.connected(),
            held_back: self.held_back.load(Ordering::Relaxed) || self.used_up(),
            last_error: self.last_error(),
            refused_filters: lock(&self.refused_filters).clone(),
            received: self.received.get(),
            unwanted: self.unwanted.get(),
            acknowledged: self.acknowledged.get(),
            abandoned: self.abandoned.get(),
            sessions_lost: self.sessions_lost.get(),
            take_overs: self.take_overs.get(),
            reconnects: self.reconnects.get(),
        }
    }

    pub(super) fn set_connected(&self, refused_filters: Vec<String>) {
        self.connected.store(true, Ordering::Relaxed);
        self.progress.store(unix_millis(), Ordering::Relaxed);
        *lock(&self.last_error) = None;
        *lock(&self.refused_filters) = refused_filters;
    }

    pub(super) fn set_last_error(&self, error: String) {
        *lock(&self.last_error) = Some(error);
    }

    pub(super) fn set_disconnected(&self, error: Option<String>) {
        self.connected.store(false, Ordering::Relaxed);
        if error.is_some() {
            *lock(&self.last_error) = error;
        }
    }

    /// The slots, of which there are `size` in all; the broker stops by itself
    /// at `receive_maximum` of them (if it keeps to that).
    pub(super) fn set_window(&self, slots: Arc<Semaphore>, size: usize, receive_maximum: u16) {
        // Said once, by the one bus of the process.
        let _ = self.window.set(Window { slots, size, receive_maximum: receive_maximum.into() });
    }

    pub(super) fn acknowledged(&self, count: usize) {
        self.acknowledged.add(count);
        self.progress.store(unix_millis(), Ordering::Relaxed);
    }

    /// Whether the broker waits for acknowledgements that do not come.
    fn used_up(&self) -> bool {
        let used = self.window.get().is_some_and(|window| {
            let used = window.size.saturating_sub(window.slots.available_permits());
            used >= window.receive_maximum
        });
        used && unix_millis().saturating_sub(self.progress.load(Ordering::Relaxed)) > NO_PROGRESS
    }

    pub(super) fn set_held_back(&self, held_back: bool) {
        self.held_back.store(held_back, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
