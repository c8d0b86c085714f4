//! Which streams a message is for.
//!
//! Every distinct filter is subscribed once, under an identifier of its own,
//! and the broker names the identifier with each copy that it sends. Brokers
//! differ in what they do where filters overlap (mosquitto sends one copy per
//! filter, others one copy with all identifiers), so a copy goes only to the
//! streams that own a filter that it names: either way each stream gets each
//! message once.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use journal::StreamIndex;
use message::{KeyRule, Message, Selection, TopicFilter};
use sha2::{Digest, Sha256};

/// What routing has to know of a stream.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its number in the running configuration.
    pub stream: StreamIndex,
    /// What it subscribes to.
    pub filters: Vec<TopicFilter>,
    /// What its keys are.
    pub key: KeyRule,
    /// Which keys it serves; none: all.
    pub selection: Option<Selection>,
}

/// A filter to subscribe to, and the identifier to do it under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// As the streams wrote it.
    pub filter: TopicFilter,
    /// 1 to 268,435,455 (MQTT 5 section 3.8.2.1.2).
    pub id: usize,
}

/// Maps messages to streams. Does not change; another one takes its place
/// ([`super::Routes`]).
pub struct Router {
    subscriptions: Vec<Subscription>,
    /// Beside `subscriptions`: whose filter it is, as indexes into `streams`.
    owners: Vec<Vec<usize>>,
    by_id: HashMap<usize, usize>,
    streams: Vec<Route>,
}

impl Router {
    /// A router for these streams.
    pub fn new(streams: Vec<Route>) -> Self {
        let mut owners: BTreeMap<TopicFilter, Vec<usize>> = BTreeMap::new();
        for (index, stream) in streams.iter().enumerate() {
            for filter in &stream.filters {
                let owners = owners.entry(filter.clone()).or_default();
                if owners.last() != Some(&index) {
                    owners.push(index);
                }
            }
        }
        let mut router = Self { subscriptions: vec![], owners: vec![], by_id: HashMap::new(), streams };
        for (filter, owners) in owners {
            let mut id = identifier(&filter);
            while router.by_id.contains_key(&id) {
                id = id % MAX_IDENTIFIER + 1;
            }
            router.by_id.insert(id, router.subscriptions.len());
            router.subscriptions.push(Subscription { filter, id });
            router.owners.push(owners);
        }
        router
    }

    /// Every distinct filter.
    pub fn subscriptions(&self) -> &[Subscription] {
        &self.subscriptions
    }

    /// The streams that a copy with these identifiers is for, each once.
    ///
    /// Without a known identifier (the broker has none, or queued the message
    /// for a subscription of an earlier configuration) every filter that
    /// matches counts: rather twice than never.
    pub fn route(&self, ids: &[usize], message: &Message) -> Vec<StreamIndex> {
        let mut found: Vec<usize> = ids
            .iter()
            .filter_map(|id| self.by_id.get(id).copied())
            .filter(|index| self.matches(*index, &message.topic))
            .collect();
        if found.is_empty() {
            found = (0..self.subscriptions.len()).filter(|i| self.matches(*i, &message.topic)).collect();
        }
        let mut streams: Vec<usize> =
            found.iter().filter_map(|i| self.owners.get(*i)).flatten().copied().collect();
        streams.sort_unstable();
        streams.dedup();
        streams
            .into_iter()
            .filter_map(|index| self.streams.get(index))
            .filter(|stream| stream.wants(message))
            .map(|stream| stream.stream)
            .collect()
    }

    fn matches(&self, index: usize, topic: &str) -> bool {
        self.subscriptions.get(index).is_some_and(|s| s.filter.matches(topic))
    }
}

impl Route {
    fn wants(&self, message: &Message) -> bool {
        self.selection
            .as_ref()
            .is_none_or(|selection| selection.admits(&self.key.extract(&message.topic, &message.payload)))
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("subscriptions", &self.subscriptions).finish_non_exhaustive()
    }
}

const MAX_IDENTIFIER: usize = 268_435_455;

/// An identifier that follows from the filter alone, so that what the broker
/// queued before a restart with other streams still names the right filter.
fn identifier(filter: &TopicFilter) -> usize {
    let digest = Sha256::digest(filter.as_str().as_bytes());
    let number = digest.iter().take(4).fold(0, |number, byte| (number << 8) | usize::from(*byte));
    number % MAX_IDENTIFIER + 1
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashSet;
    use std::sync::Arc;

    use super::*;

    fn stream(index: u32, topics: &[&str]) -> Route {
        Route {
            stream: StreamIndex(index),
            filters: topics.iter().map(|t| TopicFilter::new(t).unwrap()).collect(),
            key: KeyRule::Field("ident".into()),
            selection: None,
        }
    }

    fn message(topic: &str, payload: &str) -> Message {
        Message::received_now(topic, payload.to_owned())
    }

    fn id(router: &Router, filter: &str) -> usize {
        router.subscriptions().iter().find(|s| s.filter.as_str() == filter).unwrap().id
    }

    fn routed(router: &Router, ids: &[usize], topic: &str) -> Vec<u32> {
        router.route(ids, &message(topic, "{}")).iter().map(|s| s.0).collect()
    }

    #[test]
    fn a_filter_that_streams_share_is_subscribed_once() {
        let router = Router::new(vec![stream(0, &["a/+"]), stream(1, &["a/+", "b"]), stream(2, &["a/#"])]);
        let filters: Vec<&str> = router.subscriptions().iter().map(|s| s.filter.as_str()).collect();
        assert_eq!(filters, ["a/#", "a/+", "b"]);
        let ids: HashSet<usize> = router.subscriptions().iter().map(|s| s.id).collect();
        assert_eq!(ids.len(), 3);
        assert!(ids.iter().all(|id| (1..=MAX_IDENTIFIER).contains(id)));
    }

    #[test]
    fn copies_of_overlapping_filters_reach_each_stream_once() {
        let router = Router::new(vec![stream(0, &["a/+"]), stream(1, &["a/#"])]);
        let (plus, hash) = (id(&router, "a/+"), id(&router, "a/#"));
        // mosquitto: two copies with one identifier each.
        assert_eq!(routed(&router, &[plus], "a/1"), [0]);
        assert_eq!(routed(&router, &[hash], "a/1"), [1]);
        // Others: one copy with both.
        assert_eq!(routed(&router, &[hash, plus], "a/1"), [0, 1]);
    }

    #[test]
    fn without_a_known_identifier_all_that_match_get_it() {
        let router = Router::new(vec![stream(0, &["a/+"]), stream(1, &["a/#", "b"]), stream(2, &["c"])]);
        assert_eq!(routed(&router, &[], "a/1"), [0, 1]);
        assert_eq!(routed(&router, &[7], "a/1"), [0, 1]);
        // An identifier that cannot have brought this topic is not believed.
        assert_eq!(routed(&router, &[id(&router, "c")], "a/1"), [0, 1]);
        assert_eq!(routed(&router, &[], "d"), Vec::<u32>::new());
    }

    #[test]
    fn identifiers_do_not_depend_on_the_other_streams() {
        let before = Router::new(vec![stream(0, &["a/+"]), stream(1, &["z"])]);
        let after = Router::new(vec![stream(0, &["0"]), stream(1, &["z"])]);
        assert_eq!(id(&before, "z"), id(&after, "z"));
    }

    #[test]
    fn a_selection_admits_by_key() {
        let keys = Arc::new(HashSet::from(["7001".to_owned()]));
        let mut only = stream(0, &["a"]);
        only.selection = Some(Selection::Only(keys.clone()));
        let mut except = stream(1, &["a"]);
        except.selection = Some(Selection::Except(keys));
        let router = Router::new(vec![only, except]);
        let routed = |payload| router.route(&[], &message("a", payload));
        assert_eq!(routed(r#"{"ident":"7001"}"#), [StreamIndex(0)]);
        assert_eq!(routed(r#"{"ident":"7002"}"#), [StreamIndex(1)]);
        // Without the field the topic is the key.
        assert_eq!(routed("{}"), [StreamIndex(1)]);
    }
}
