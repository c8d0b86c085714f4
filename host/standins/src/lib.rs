//! Strict fake receivers for the five network destinations, on real sockets.
//!
//! Each checks by rules of its own, written from the protocols' documents and
//! not from the gateway's code, every byte that it gets, and records in an
//! [`Inbox`] what it accepted and what broke a rule. The `demo` command and the
//! end-to-end tests use the same ones. A stand-in records before it
//! acknowledges: what was acknowledged is in the inbox.

pub mod aws;
pub mod certificates;
pub mod http;
pub mod json;
pub mod mqtt;
pub mod mqtt_server;
pub mod plug;
pub mod thingsboard;
pub mod wialon;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::sync::Notify;

/// One thing that a stand-in got.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// An accepted update of an AWS shadow.
    Shadow(ShadowUpdate),
    /// A device entered through `v1/gateway/connect`.
    DeviceConnected {
        /// Name of the device.
        device: String,
        /// Name of its profile; none: the platform's default.
        device_type: Option<String>,
    },
    /// One entry of `v1/gateway/telemetry`.
    Telemetry {
        /// Name of the device.
        device: String,
        /// Milliseconds since the Unix epoch.
        ts: i64,
        /// The values under their keys.
        values: Map<String, Value>,
    },
    /// One device's object of `v1/gateway/attributes`.
    Attributes {
        /// Name of the device.
        device: String,
        /// The values under their keys.
        values: Map<String, Value>,
    },
    /// One Wialon Retranslator packet.
    Packet(wialon::Packet),
    /// One HTTP request that was answered with 200.
    Request {
        /// Path and query.
        target: String,
        /// Names in lower case, in the order of arrival.
        headers: Vec<(String, String)>,
        /// The elements of the JSON list that is the body.
        objects: Vec<Value>,
    },
    /// One MQTT publish.
    Publish {
        /// Its topic.
        topic: String,
        /// Its payload.
        payload: Bytes,
        /// Its MQTT 5 user properties.
        properties: Vec<(String, String)>,
    },
    /// A rule of the destination was broken; the text says which and where.
    Violation(String),
}

/// An accepted update of an AWS shadow.
#[derive(Clone, Debug, PartialEq)]
pub struct ShadowUpdate {
    /// Name of the thing.
    pub thing: String,
    /// Name of the shadow; none: the classic one.
    pub shadow: Option<String>,
    /// `state.reported` of the request.
    pub update: Value,
    /// `reported` of the shadow after merging.
    pub merged: Value,
    /// The shadow's version after the update; the first one is 1.
    pub version: u64,
    /// `clientToken` of the request.
    pub client_token: Option<String>,
}

/// Where a stand-in records. Cloning gives another handle of the same inbox.
///
/// It grows until [`Inbox::drain`] is called: the demo does several times
/// a second, a test keeps everything.
#[derive(Clone, Default)]
pub struct Inbox {
    shared: Arc<InboxShared>,
}

#[derive(Default)]
struct InboxShared {
    received: Mutex<Vec<Received>>,
    changed: Notify,
}

impl Inbox {
    /// Adds one entry.
    pub fn record(&self, received: Received) {
        lock(&self.shared.received).push(received);
        self.shared.changed.notify_waiters();
    }

    /// Adds a broken rule.
    pub fn violation(&self, text: impl Into<String>) {
        self.record(Received::Violation(text.into()));
    }

    /// Takes everything out.
    pub fn drain(&self) -> Vec<Received> {
        std::mem::take(&mut *lock(&self.shared.received))
    }

    /// A copy of everything that is in it.
    pub fn all(&self) -> Vec<Received> {
        lock(&self.shared.received).clone()
    }

    /// The texts of the broken rules.
    pub fn violations(&self) -> Vec<String> {
        let violation = |received: &Received| match received {
            Received::Violation(text) => Some(text.clone()),
            _ => None,
        };
        lock(&self.shared.received).iter().filter_map(violation).collect()
    }

    /// Waits until `enough` holds for what is in it; false: it did not within
    /// `patience`.
    pub async fn wait_until(&self, patience: Duration, enough: impl Fn(&[Received]) -> bool) -> bool {
        let wait = async {
            loop {
                let changed = self.shared.changed.notified();
                tokio::pin!(changed);
                // Registered before the look, so that no change falls between the two.
                changed.as_mut().enable();
                if enough(&lock(&self.shared.received)) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(patience, wait).await.is_ok()
    }
}

/// A stand-in whose thread panicked must not take the others' locks along.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
