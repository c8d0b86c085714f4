//! How the bus is doing, for the admin listener and the metrics.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use metrics::{Counter, Gauge};
use serde::Serialize;

/// State and counters of the bus, shared by its tasks. Metrics are registered
/// when it is made, so the recorder is installed first.
pub struct BusStatus {
    connected: AtomicBool,
    held_back: AtomicBool,
    connected_metric: Gauge,
    held_back_metric: Gauge,
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
    /// The next message waits for room in the window: the broker is not read.
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

/// A counter that can be read back.
pub(super) struct Count {
    value: AtomicU64,
    metric: Counter,
}

impl Count {
    fn new(metric: Counter) -> Self {
        Self { value: AtomicU64::new(0), metric }
    }

    pub(super) fn add(&self, n: usize) {
        let n = n as u64;
        self.value.fetch_add(n, Ordering::Relaxed);
        self.metric.increment(n);
    }

    fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

impl Default for BusStatus {
    fn default() -> Self {
        Self::new()
    }
}

impl BusStatus {
    /// Nothing has happened yet.
    pub fn new() -> Self {
        Self {
            connected: AtomicBool::new(false),
            held_back: AtomicBool::new(false),
            connected_metric: metrics::gauge!("sluicegate_bus_connected"),
            held_back_metric: metrics::gauge!("sluicegate_bus_held_back"),
            last_error: Mutex::default(),
            refused_filters: Mutex::default(),
            received: Count::new(metrics::counter!("sluicegate_bus_received_total")),
            unwanted: Count::new(metrics::counter!("sluicegate_bus_unwanted_total")),
            acknowledged: Count::new(metrics::counter!("sluicegate_bus_acknowledged_total")),
            abandoned: Count::new(metrics::counter!("sluicegate_bus_abandoned_total")),
            sessions_lost: Count::new(metrics::counter!("sluicegate_bus_sessions_lost_total")),
            take_overs: Count::new(metrics::counter!("sluicegate_bus_take_overs_total")),
            reconnects: Count::new(metrics::counter!("sluicegate_bus_reconnects_total")),
        }
    }

    /// All of it.
    pub fn snapshot(&self) -> BusSnapshot {
        BusSnapshot {
            connected: self.connected.load(Ordering::Relaxed),
            held_back: self.held_back.load(Ordering::Relaxed),
            last_error: lock(&self.last_error).clone(),
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
        self.connected_metric.set(1.0);
        *lock(&self.last_error) = None;
        *lock(&self.refused_filters) = refused_filters;
    }

    pub(super) fn set_disconnected(&self, error: Option<String>) {
        self.connected.store(false, Ordering::Relaxed);
        self.connected_metric.set(0.0);
        if error.is_some() {
            *lock(&self.last_error) = error;
        }
    }

    pub(super) fn set_held_back(&self, held_back: bool) {
        self.held_back.store(held_back, Ordering::Relaxed);
        self.held_back_metric.set(if held_back { 1.0 } else { 0.0 });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
