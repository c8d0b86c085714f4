//! A message inside a stream, and a delivery with the messages it carries.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use crate::bus::{KeyRule, Message};
use crate::destination::Delivery;
use crate::journal::{Pending, Position};
use crate::script::BeforeImage;

/// A message on its way through a stream.
#[derive(Debug)]
pub(super) struct Entry {
    pub position: Position,
    pub message: Message,
    rule: Arc<KeyRule>,
    key: OnceLock<u64>,
}

/// A delivery above the script: it names messages by what they are, never by
/// their place in a batch.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    pub delivery: Delivery,
    /// In the order of the script; never empty.
    pub carries: Vec<Arc<Entry>>,
    /// The script's state before these messages were mapped: what a second
    /// mapping of some of them must see.
    pub before: Arc<BeforeImage>,
}

// === impl Entry ===

impl Entry {
    pub(super) fn new(pending: Pending, rule: Arc<KeyRule>) -> Arc<Self> {
        Arc::new(Self { position: pending.position, message: pending.message, rule, key: OnceLock::new() })
    }

    /// Hash of the key that order is kept by. Worked out when first asked:
    /// with one lane and a willing destination nobody asks.
    pub(super) fn key(&self) -> u64 {
        *self.key.get_or_init(|| {
            let mut hasher = DefaultHasher::new();
            self.rule.extract(&self.message.topic, &self.message.payload).hash(&mut hasher);
            hasher.finish()
        })
    }
}
