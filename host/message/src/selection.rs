//! Which messages a stream takes.

use std::collections::HashSet;
use std::sync::Arc;

use crate::{KeyRule, Message, TopicFilter};

/// The keys that a stream serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// These keys and no others.
    Only(Arc<HashSet<String>>),
    /// All keys except these.
    Except(Arc<HashSet<String>>),
}

/// The messages that a stream takes, whatever subscription delivers them.
#[derive(Clone, Debug, PartialEq)]
pub struct Takes {
    /// The stream's topics.
    pub filters: Vec<TopicFilter>,
    /// The rule that finds the key of a message.
    pub key: KeyRule,
    /// The keys that the stream serves; `None` means all keys.
    pub selection: Option<Selection>,
}

// === impl Selection ===

impl Selection {
    /// Whether the stream serves messages of this key.
    pub fn admits(&self, key: &str) -> bool {
        match self {
            Self::Only(keys) => keys.contains(key),
            Self::Except(keys) => !keys.contains(key),
        }
    }
}

// === impl Takes ===

impl Takes {
    /// Whether the stream takes this message.
    pub fn admits(&self, message: &Message) -> bool {
        let admits_key =
            |selection: &Selection| selection.admits(&self.key.extract(&message.topic, &message.payload));
        self.filters.iter().any(|filter| filter.matches(&message.topic))
            && self.selection.as_ref().is_none_or(admits_key)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn stream_takes_its_topics_and_its_keys() {
        let message = |topic: &str| Message::received_now(topic, "x");
        let mut takes = Takes {
            filters: vec![TopicFilter::new("fleet/+").unwrap()],
            key: KeyRule::Topic,
            selection: None,
        };
        assert!(takes.admits(&message("fleet/1")) && !takes.admits(&message("other/1")));
        takes.selection = Some(Selection::Except(Arc::new(HashSet::from(["fleet/1".to_owned()]))));
        assert!(takes.admits(&message("fleet/2")) && !takes.admits(&message("fleet/1")));
    }
}
