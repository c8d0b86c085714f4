//! A message inside a stream, and a delivery with the messages it carries.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use destination::Delivery;
use journal::{Pending, Position, Reading, StoredDelivery};
use message::{KeyRule, Message};
use script::{BeforeImage, Script};

/// A message on its way through a stream.
#[derive(Debug)]
pub(super) struct Entry {
    pub position: Position,
    pub message: Message,
    /// To be sent like this instead of being mapped.
    pub as_is: Option<Arc<StoredDelivery>>,
    reading: Reading,
    rule: Arc<KeyRule>,
    key: OnceLock<u64>,
}

/// How a message becomes deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The script maps it.
    Mapped,
    /// The script maps it in a fresh instance, and what it writes to the state
    /// is thrown away: it did so when it mapped the message first.
    Isolated,
    /// It has its delivery already.
    Stored,
}

/// A delivery above the script: it names messages by what they are, never by
/// their place in a batch.
#[derive(Clone, Debug)]
pub(super) struct OutgoingDelivery {
    pub delivery: Delivery,
    /// In the order of the script; never empty.
    pub carries: Vec<Arc<Entry>>,
    /// What made it.
    pub origin: Arc<Origin>,
    /// Deliveries of the same mapping before it that carry the same messages.
    pub ordinal: u32,
}

/// What has made deliveries out of messages. Whatever happens to the deliveries,
/// their messages are mapped with this script again and with no other.
#[derive(Clone, Debug, Default)]
pub(super) struct Origin {
    /// The script; none: the delivery was stored with its message.
    pub script: Option<Script>,
    /// Its state before these messages were mapped: what a second mapping of
    /// some of them must see.
    pub before: BeforeImage,
    /// How often the stream had been rewound when they were mapped.
    pub generation: u64,
}

// === impl Entry ===

impl Entry {
    pub(super) fn new(pending: Pending, rule: Arc<KeyRule>) -> Arc<Self> {
        let Pending { position, message, as_is, reading } = pending;
        Arc::new(Self { position, message, as_is, reading, rule, key: OnceLock::new() })
    }

    /// How it becomes deliveries.
    pub(super) fn way(&self) -> Way {
        match self.reading {
            _ if self.as_is.is_some() => Way::Stored,
            Reading::Replayed => Way::Isolated,
            Reading::First | Reading::Rewound => Way::Mapped,
        }
    }

    /// When the time began after which it is too old, Unix milliseconds: with
    /// its receipt, and never where somebody asked for it again.
    pub(super) fn waiting_since(&self) -> u64 {
        match self.reading {
            Reading::First => self.message.received_at,
            Reading::Replayed | Reading::Rewound => u64::MAX,
        }
    }

    /// Hash of the key that order is kept by. Worked out when first asked:
    /// with one lane and a willing destination nobody asks.
    pub(super) fn key(&self) -> u64 {
        *self.key.get_or_init(|| {
            let mut hasher = DefaultHasher::new();
            self.key_text().hash(&mut hasher);
            hasher.finish()
        })
    }

    /// The key that order is kept by, itself.
    pub(super) fn key_text(&self) -> Cow<'_, str> {
        self.rule.extract(&self.message.topic, &self.message.payload)
    }
}

// === impl OutgoingDelivery ===

impl OutgoingDelivery {
    /// When the youngest message that it carries began to wait, Unix milliseconds.
    pub(super) fn youngest(&self) -> u64 {
        self.carries.iter().map(|e| e.waiting_since()).max().unwrap_or_default()
    }

    /// The delivery that is stored with a message, if it is to be sent as it is.
    pub(super) fn as_is(entry: &Arc<Entry>, generation: u64) -> Option<Self> {
        let origin = Origin { generation, ..Origin::default() };
        let stored = entry.as_is.as_ref()?;
        Some(Self {
            delivery: Delivery {
                target: stored.target.clone(),
                headers: stored.headers.clone(),
                body: stored.body.clone(),
                identity: None,
            },
            carries: vec![entry.clone()],
            origin: Arc::new(origin),
            ordinal: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_again_never_grows_too_old() {
        let entry = |reading| {
            let position = Position { chunk: 1, index: 0 };
            let message = Message { topic: "t".into(), payload: "x".into(), received_at: 7 };
            Entry::new(Pending { position, message, as_is: None, reading }, Arc::new(KeyRule::Topic))
        };
        assert_eq!(entry(Reading::First).waiting_since(), 7);
        assert_eq!(entry(Reading::Replayed).waiting_since(), u64::MAX);
        assert_eq!(entry(Reading::Rewound).waiting_since(), u64::MAX);
    }
}
