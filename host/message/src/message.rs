//! What the bus delivered.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

/// One message as the bus delivered it. Cloning is cheap: topic and payload
/// are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The topic it was published on, without wildcards.
    pub topic: Arc<str>,
    /// Usually one JSON object; never looked at by the gateway beyond the key.
    pub payload: Bytes,
    /// When the gateway received it: milliseconds since the Unix epoch.
    pub received_at: u64,
}

impl Message {
    /// A message received now.
    pub fn received_now(topic: impl Into<Arc<str>>, payload: impl Into<Bytes>) -> Self {
        Self { topic: topic.into(), payload: payload.into(), received_at: unix_millis() }
    }

    /// Bytes that it counts for in windows and limits: topic and payload.
    pub fn size(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

/// Milliseconds since the Unix epoch; 0 on a clock set before 1970.
pub fn unix_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
