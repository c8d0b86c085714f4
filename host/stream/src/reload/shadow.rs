//! A new script beside the old one on messages that came lately: what would
//! change. Nothing is sent, and the state that both see is thrown away.

use std::time::Duration;

use bytes::Bytes;
use message::Message;
use script::{LogLevel, Mapping, Script, ScriptFault, State, purity};
use tokio::time::{Instant, timeout};

/// Messages that are mapped in one call where batches are tried.
const BATCH: usize = 64;
/// The comparison may take so long; what was compared until then has to do.
const PATIENCE: Duration = Duration::from_secs(10);
/// And so long the proof that the new script is pure, on the same messages:
/// three times as many calls, each of many messages.
pub(super) const PROOF: Duration = Duration::from_secs(30);
/// Failures of the new script after which there is nothing more to be known.
const ENOUGH_FAILURES: usize = 10;
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
    /// Its place among those that were compared, counted from 1.
    pub place: usize,
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
    /// The proof that it is pure did not come to its end in time.
    pub unvalidated: bool,
}

/// Lets both scripts map the messages, each beginning with the same state (the
/// new one with none, where it keeps another form of it).
pub(super) async fn compare(old: &Script, new: &Script, messages: &[Message], state: &State) -> Comparison {
    let of_new = match old.state_version() == new.state_version() {
        true => state.copy(),
        false => State::new(),
    };
    let mut comparison = Comparison::default();
    let (mut before, mut after) = (Alone::new(old, &state.copy()), Alone::new(new, &of_new));
    let end = Instant::now() + PATIENCE;
    for message in messages {
        if Instant::now() >= end || comparison.new_failures.len() >= ENOUGH_FAILURES {
            break;
        }
        let (old, new) = (before.fate(message).await, after.fate(message).await);
        comparison.add(message, old, new);
    }
    if comparison.new_failures.is_empty() {
        let compared = messages.get(..comparison.messages).unwrap_or_default();
        let batches: Vec<Vec<Message>> = compared.chunks(BATCH).map(<[Message]>::to_vec).collect();
        match timeout(PROOF, purity::check(new, &of_new, &batches)).await {
            Ok(Ok(_)) => {}
            Ok(Err(impurity)) => comparison.impure = Some(impurity.to_string()),
            Err(_) => comparison.unvalidated = true,
        }
    }
    comparison
}

fn silence() -> script::LogSink {
    std::sync::Arc::new(|_: LogLevel, _: &str| {})
}

/// A script that maps one message at a time.
struct Alone(script::Mapper);

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
        let difference = Difference { place: self.messages, message: message.clone(), old, new };
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

    use script::{Recipe, testing as scripts};

    use super::*;

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
        let found = compare(&one, &one, &messages(&["a", "b", "c"]), &State::new()).await;
        assert_eq!(found, Comparison { messages: 3, ..Comparison::default() });
    }

    #[tokio::test]
    async fn a_message_that_fails_now_is_told_with_both_fates() {
        let (old, new) = (script(PASS).await, script(TRAPS_ON_MARK).await);
        let found = compare(&old, &new, &messages(&["a", "!b", "c"]), &State::new()).await;
        assert_eq!((found.messages, found.differing, found.new_failures.len()), (3, 1, 1));
        let told = &found.new_failures[0];
        assert_eq!((told.place, &told.message.payload[..]), (2, &b"!b"[..]));
        assert!(matches!(&told.old, Fate::Delivered(sent) if &sent[0].body[..] == b"!b"));
        assert!(matches!(&told.new, Fate::Failed(why) if why.contains("unreachable")));
        // The other way round nothing stands in the way.
        let back = compare(&new, &old, &messages(&["a", "!b", "c"]), &State::new()).await;
        assert_eq!((back.differing, back.new_failures.len(), back.impure), (1, 0, None));
    }
}
