//! A new script beside the old one on messages that came lately: what would
//! change. Nothing is sent, and the state that both see is thrown away.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::bus::Message;
use crate::script::{LogLevel, Mapping, Script, ScriptFault, State};

/// Messages that are mapped in one call where batches are tried.
const BATCH: usize = 64;
/// When so much time has passed, what was compared until then has to do.
const PATIENCE: Duration = Duration::from_secs(10);
/// Differences that are told in full.
pub(super) const TOLD: usize = 20;

/// What became of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It would be transmitted, as these.
    Delivered(Vec<Sent>),
    /// It would be left out.
    Filtered,
    /// It would be a dead letter; the script's reason.
    Rejected(String),
    /// The script failed on it.
    Failed(String),
}

/// A delivery without the place of its messages in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// MQTT topic, or HTTP path and query; none: the stream's own.
    pub target: Option<String>,
    /// As the script made them.
    pub headers: Vec<(String, String)>,
    /// The bytes to transmit.
    pub body: Bytes,
}

/// A message of which the two scripts make something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The message.
    pub message: Message,
    /// What the old script makes of it.
    pub old: Fate,
    /// What the new one makes of it.
    pub new: Fate,
}

/// What a new script would change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Messages that both have mapped.
    pub messages: usize,
    /// How many of them come out otherwise.
    pub differing: usize,
    /// The first few of those.
    pub differences: Vec<Difference>,
    /// Mapped by the old script, and the new one fails.
    pub new_failures: Vec<Difference>,
    /// Not rejected by the old script, and rejected by the new one.
    pub new_rejections: Vec<Difference>,
    /// The new script maps a batch otherwise in a used instance than in a fresh
    /// one, or fails on it; what was seen.
    pub impure: Option<String>,
}

/// Lets both scripts map the messages, each beginning with the same state (the
/// new one with none, where it keeps another form of it).
pub(super) async fn compare(
    old: &Script,
    new: &Script,
    messages: &[Message],
    state: &[(String, Bytes)],
) -> Comparison {
    let end = Instant::now() + PATIENCE;
    let of_new = || match old.state_version() == new.state_version() {
        true => State::of(state.to_vec()),
        false => State::new(),
    };
    let mut comparison =
        Comparison { impure: purity(new, messages, of_new, end).await, ..Comparison::default() };
    let (state_of_old, state_of_new) = (State::of(state.to_vec()), of_new());
    let (mut old, mut new) = (Alone::new(old, &state_of_old), Alone::new(new, &state_of_new));
    for message in messages {
        if Instant::now() >= end {
            break;
        }
        let (old, new) = (old.fate(message).await, new.fate(message).await);
        comparison.add(message, old, new);
    }
    comparison
}

/// Whether a used instance maps as a fresh one does; what differs.
async fn purity(
    script: &Script,
    messages: &[Message],
    state: impl Fn() -> State,
    end: Instant,
) -> Option<String> {
    let (used_state, fresh_state) = (state(), state());
    let mut used = script.lane(0, &used_state, silence());
    let mut fresh = script.lane(0, &fresh_state, silence());
    for batch in messages.chunks(BATCH) {
        if Instant::now() >= end {
            break;
        }
        fresh.rest();
        let outcomes = (used.transform(batch).await, fresh.transform(batch).await);
        match outcomes {
            (Ok(used), Ok(fresh)) if essence(&used) == essence(&fresh) => {}
            (Ok(_), Ok(_)) => {
                return Some("a used instance maps a batch otherwise than a fresh one".to_owned());
            }
            // On a message that it cannot map both fail, and in the same way.
            (Err(used), Err(fresh)) if used == fresh => {}
            (Err(fault), _) => return Some(format!("in a used instance {fault}")),
            (_, Err(fault)) => return Some(format!("in a fresh instance {fault}")),
        }
    }
    None
}

/// What has to be equal for the same messages and state.
fn essence(mapping: &Mapping) -> impl PartialEq + '_ {
    let mut written: Vec<_> = mapping.written.values.iter().collect();
    written.sort();
    (&mapping.deliveries, &mapping.rejections, &mapping.filtered, written)
}

fn silence() -> crate::script::LogSink {
    std::sync::Arc::new(|_: LogLevel, _: &str| {})
}

/// A script that maps one message at a time.
struct Alone(crate::script::Mapper);

// === impl Alone ===

impl Alone {
    fn new(script: &Script, state: &State) -> Self {
        Self(script.lane(0, state, silence()))
    }

    async fn fate(&mut self, message: &Message) -> Fate {
        match self.0.transform(std::slice::from_ref(message)).await {
            Ok(mapping) => Fate::of(mapping),
            Err(fault) => self.once_more(message, &fault).await,
        }
    }

    /// As a lane does: what failed alone is tried in a fresh instance.
    async fn once_more(&mut self, message: &Message, fault: &ScriptFault) -> Fate {
        self.0.rest();
        match self.0.transform(std::slice::from_ref(message)).await {
            Ok(mapping) => Fate::of(mapping),
            Err(_) => Fate::Failed(fault.to_string()),
        }
    }
}

// === impl Fate ===

impl Fate {
    /// Of a mapping of one message.
    fn of(mapping: Mapping) -> Self {
        if let Some((_, reason)) = mapping.rejections.into_iter().next() {
            return Self::Rejected(reason);
        }
        if !mapping.filtered.is_empty() {
            return Self::Filtered;
        }
        let sent = mapping.deliveries.into_iter();
        Self::Delivered(sent.map(|d| Sent { target: d.target, headers: d.headers, body: d.body }).collect())
    }
}

// === impl Comparison ===

impl Comparison {
    fn add(&mut self, message: &Message, old: Fate, new: Fate) {
        self.messages += 1;
        if old == new {
            return;
        }
        self.differing += 1;
        let difference = Difference { message: message.clone(), old, new };
        match (&difference.old, &difference.new) {
            (Fate::Failed(_), _) => {}
            (_, Fate::Failed(_)) => self.new_failures.push(difference.clone()),
            (Fate::Rejected(_), _) => {}
            (_, Fate::Rejected(_)) => self.new_rejections.push(difference.clone()),
            _ => {}
        }
        if self.differences.len() < TOLD {
            self.differences.push(difference);
        }
    }
}

/// An old and a new script under test.
#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::script::{Recipe, tests as scripts};

    async fn script(transform: &str) -> Script {
        Script::load(scripts::engine(), Recipe::new("t", scripts::transform(transform))).await.unwrap()
    }

    fn messages(payloads: &[&str]) -> Vec<Message> {
        payloads
            .iter()
            .map(|p| Message { topic: "t".into(), payload: (*p).to_owned().into(), received_at: 0 })
            .collect()
    }

    const PASS: &str = "(call $pass (local.get $batch) (local.get $n))";
    const TRAPS_ON_MARK: &str = r#"
        (if (i32.eq (i32.load8_u (i32.load offset=8 (local.get $batch))) (i32.const 33)) (then unreachable))
        (call $pass (local.get $batch) (local.get $n))"#;

    #[tokio::test]
    async fn the_same_script_changes_nothing() {
        let one = script(PASS).await;
        let found = compare(&one, &one, &messages(&["a", "b", "c"]), &[]).await;
        assert_eq!(found, Comparison { messages: 3, ..Comparison::default() });
    }

    #[tokio::test]
    async fn a_message_that_fails_now_is_told_with_both_fates() {
        let (old, new) = (script(PASS).await, script(TRAPS_ON_MARK).await);
        let found = compare(&old, &new, &messages(&["a", "!b", "c"]), &[]).await;
        assert_eq!((found.messages, found.differing, found.new_failures.len()), (3, 1, 1));
        let told = &found.new_failures[0];
        assert_eq!(&told.message.payload[..], b"!b");
        assert!(matches!(&told.old, Fate::Delivered(sent) if &sent[0].body[..] == b"!b"));
        assert!(matches!(&told.new, Fate::Failed(why) if why.contains("unreachable")));
        // The other way round nothing stands in the way.
        let back = compare(&new, &old, &messages(&["a", "!b", "c"]), &[]).await;
        assert_eq!((back.differing, back.new_failures.len(), back.impure), (1, 0, None));
    }
}
