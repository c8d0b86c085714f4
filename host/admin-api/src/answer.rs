//! Requests and answers of the admin listener, as JSON. Server and client use
//! the same types, so they cannot disagree. Times are Unix milliseconds.
//!
//! Compatibility: within a version 0.x answers only gain fields, and clients
//! ignore fields that they do not know; fields that a release adds have a
//! default, so a newer client can read an older gateway. Requests reject unknown
//! fields, because an ignored filter would act on too much. Paths and JSON names
//! stay as they are; a renamed Rust field keeps its old JSON name.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use message::Message;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Maximum dead letters of one answer.
pub const MAX_LETTERS: usize = 1_000;
/// Dead letters of an answer when the request gives no number.
pub const USUAL_LETTERS: usize = 100;
/// An answer holds no further dead letter once it has so many bytes of
/// messages and deliveries.
pub const MAX_BYTES: usize = 8 << 20;

/// One stream of `GET /streams`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StreamLine {
    /// Its name.
    pub name: String,
    /// `running`, `retrying`, `blocked`, ...; `stopped` where no gateway runs.
    pub state: String,
    /// Why, where there is a why.
    pub reason: Option<String>,
    /// The reason in one word, where the stream is blocked.
    pub code: Option<String>,
    /// An operator has paused it.
    pub paused: bool,
    /// The script that runs.
    pub script: Option<ScriptLine>,
    /// Messages read, those of `reread` included.
    pub read: u64,
    /// How many of them came by replay and rewind.
    pub reread: u64,
    /// How many ended as delivered.
    pub delivered: u64,
    /// As filtered.
    pub filtered: u64,
    /// As expired.
    pub expired: u64,
    /// As superseded.
    pub superseded: u64,
    /// As dead letters.
    pub dead_lettered: u64,
    /// How many have not ended yet.
    pub queued: u64,
    /// Whether `read` is the sum of the six above.
    #[serde(rename = "books_balance")]
    pub counters_balance: bool,
    /// Deliveries that were sent again.
    pub retries: u64,
    /// Age of the oldest queued message in seconds; 0 with an empty queue.
    pub lag: f64,
    /// Whether its backlog keeps the bus waiting, and with it the other streams.
    pub holds_bus: bool,
    /// The last thing that went wrong, also when all is well again.
    pub last_error: Option<String>,
    /// A note for the operator when the file differs from the running stream.
    pub note: Option<String>,
    /// Why the newest version of its script is not what runs.
    #[serde(default)]
    pub refused: Option<String>,
}

/// The script of a [`StreamLine`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScriptLine {
    /// The adapter's, or the file's.
    pub name: String,
    /// The beginning of its content's hash.
    pub version: String,
}

/// `GET /journal`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JournalLine {
    /// Unsettled messages of all streams.
    pub messages: u64,
    /// Bytes that it takes.
    pub bytes: u64,
    /// Bytes that it may take.
    pub max_bytes: u64,
    /// Bytes of it that are dead letters.
    #[serde(default)]
    pub dead_letter_bytes: u64,
    /// How many there may be.
    #[serde(default)]
    pub max_dead_letter_bytes: u64,
    /// The highest of 50, 80 and 100 (percent of `max_bytes`) that is reached.
    pub alarm: Option<u8>,
    /// An append waits for room: the bus is held back.
    pub full: bool,
    /// The stream with the largest backlog, while `full`.
    pub holder: Option<String>,
    /// Why nothing can be appended, where the disk is the reason.
    pub broken: Option<String>,
    /// Streams with messages here and no file any more.
    #[serde(rename = "orphans")]
    pub detached: Vec<DetachedStream>,
}

/// A stream whose file is gone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DetachedStream {
    /// What it was called.
    pub name: String,
    /// Since when there is no file.
    pub since: u64,
}

/// The answer to `POST /streams/{name}/pause` and `/resume`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Paused {
    /// The stream.
    pub stream: String,
    /// Whether it is paused now.
    pub paused: bool,
}

/// The body of `POST /streams/{name}/rewind`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewindRequest {
    /// Messages received at this time or later: RFC 3339, or an age.
    pub to: String,
    /// And before this time; none: now.
    #[serde(default)]
    pub until: Option<String>,
    /// Only messages of these keys.
    #[serde(default)]
    pub keys: Option<Vec<String>>,
    /// Maximum rate: `100/s`.
    #[serde(default)]
    pub rate: Option<String>,
    /// Leave the script's state as it is.
    #[serde(default)]
    pub keep_state: bool,
    /// Only say what would be sent again.
    #[serde(default)]
    pub dry_run: bool,
}

/// The answer to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rewound {
    /// The stream.
    pub stream: String,
    /// Type and address of where it sends.
    pub destination: String,
    /// Whether nothing was done.
    pub dry_run: bool,
    /// The asked time.
    pub from: u64,
    /// The end of it.
    pub until: u64,
    /// Messages that are read again.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the first of them was received.
    pub oldest: Option<u64>,
    /// The last.
    pub newest: Option<u64>,
    /// The journal has kept everything since then.
    pub kept_since: Option<u64>,
}

/// The answer to `DELETE /streams/{name}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Forgotten {
    /// The stream that there was.
    pub forgotten: String,
}

/// The answer to `POST /plan` and `POST /apply`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Whether it was done.
    pub applied: bool,
    /// Every stream that runs or has a file, in the order of the names.
    pub streams: Vec<PlanLine>,
    /// Keys of `sluicegate.toml` that differ from what runs.
    pub restart: Vec<String>,
    /// What was applied and is not in effect yet.
    pub waiting: Option<String>,
}

/// What becomes of one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanLine {
    /// Its name.
    pub stream: String,
    /// What.
    pub change: Change,
    /// The keys that differ, as paths with dots.
    pub keys: Vec<String>,
    /// Which script it begins with, and why, where that is not the one that was
    /// accepted last.
    #[serde(default)]
    pub script: Option<String>,
}

/// The word for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It starts.
    New,
    /// It continues with other settings.
    Changed,
    /// It continues without a change.
    Unchanged,
    /// Its file is gone: it stops.
    #[serde(rename = "orphaned")]
    Detached,
}

/// The body of `POST /streams/{name}/rollback`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// The beginning of a version's hash; none: the version before.
    #[serde(default)]
    pub to: Option<String>,
}

/// The answer to `POST /streams/{name}/reload`, `/update`, `/rollback` and
/// `/compare`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptChange {
    /// The stream.
    pub stream: String,
    /// Name and version of the script that ran before; none: none did.
    pub before: Option<String>,
    /// Of the one that runs now, or was compared.
    pub after: String,
    /// Whether it runs now, and another one did before.
    pub taken: bool,
    /// Why it would be refused, where it was only compared.
    pub refusal: Option<String>,
    /// Messages that both have mapped; none: they were not compared.
    pub compared: Option<usize>,
    /// For how many of them the output differs.
    pub differing: usize,
    /// The first few of those.
    pub differences: Vec<Difference>,
}

/// A message of which two scripts make something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The message.
    pub message: MessageLine,
    /// What becomes of it with the old script, each as `sluicegate map` prints
    /// it.
    pub old: Vec<Value>,
    /// And with the new one.
    pub new: Vec<Value>,
}

/// The answer to `GET /messages`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Messages {
    /// The oldest first.
    pub messages: Vec<MessageLine>,
}

/// A message of the bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageLine {
    /// Its topic.
    pub topic: String,
    /// When it was received.
    pub received_at: u64,
    /// Its payload, where that is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// And where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
}

/// The answer to `GET /streams/{name}/versions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The stream.
    pub stream: String,
    /// What it has run, what it runs now last.
    pub versions: Vec<VersionLine>,
}

/// A version of a script that was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionLine {
    /// SHA-256 of the file, 64 hexadecimal digits.
    pub version: String,
    /// What it is called.
    pub name: String,
    /// Where it came from: a file, or an official adapter.
    pub source: String,
    /// When it was accepted last.
    pub accepted_at: u64,
}

/// Which dead letters, in requests; every field that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LetterFilter {
    /// Of this stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// Whose reason or reply contains this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Given up at this time or later: RFC 3339, or an age.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// These.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<u64>>,
    /// The N oldest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// The body of `POST /dead-letters/replay`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayRequest {
    /// Which; `{}` for all.
    pub filter: LetterFilter,
    /// Send what was refused as it was, instead of mapping the message again.
    #[serde(default)]
    pub as_is: bool,
}

/// The body of `POST /dead-letters/drop`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropRequest {
    /// Which; `{}` for all.
    pub filter: LetterFilter,
}

/// How many dead letters a replay or a drop took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Taken {
    /// So many.
    pub dead_letters: u64,
}

/// `GET /dead-letters`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Letters {
    /// The oldest first.
    pub dead_letters: Vec<Letter>,
    /// There are further ones: ask with `since` or a higher `limit`.
    pub more: bool,
}

/// A dead letter, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// Its number.
    pub id: u64,
    /// The stream.
    pub stream: String,
    /// When it was given up.
    pub at: u64,
    /// Why.
    pub reason: String,
    /// What the far side said.
    pub reply: Option<String>,
    /// Name and version of the script.
    pub script: String,
    /// Where the message was in the journal.
    pub position: String,
    /// The message's topic.
    pub topic: String,
    /// When it was received.
    pub received_at: u64,
    /// Its payload, where that is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// And where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
    /// What was refused, if it got that far.
    pub delivery: Option<LetterDelivery>,
}

/// The refused delivery of a [`Letter`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetterDelivery {
    /// Topic, or path and query; none: the destination's own.
    pub target: Option<String>,
    /// As the script made them.
    pub headers: Vec<(String, String)>,
    /// What was transmitted, where that is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// And where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
}

/// The body of every error answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// What is wrong and what was expected.
    pub error: String,
}

impl MessageLine {
    /// Of a message.
    pub fn of(message: &Message) -> Self {
        let (payload, payload_base64) = text_or_base64(&message.payload);
        Self { topic: message.topic.to_string(), received_at: message.received_at, payload, payload_base64 }
    }

    /// The message again; an error where its base64 is none.
    pub fn message(self) -> Result<Message, base64::DecodeError> {
        let payload = match (self.payload, self.payload_base64) {
            (Some(text), _) => text.into(),
            (None, Some(base64)) => BASE64.decode(base64)?.into(),
            (None, None) => Bytes::new(),
        };
        Ok(Message { topic: self.topic.into(), payload, received_at: self.received_at })
    }
}

impl Versions {
    /// Of a stream that has had none.
    pub fn none(stream: &str) -> Self {
        Self { stream: stream.to_owned(), versions: Vec::new() }
    }
}

/// The text that the bytes are, or else their base64. Bytes with control
/// characters are no text: a terminal would obey them.
pub fn text_or_base64(bytes: &[u8]) -> (Option<String>, Option<String>) {
    let is_plain = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    match std::str::from_utf8(bytes) {
        Ok(text) if text.chars().all(is_plain) => (Some(text.to_owned()), None),
        _ => (None, Some(BASE64.encode(bytes))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_payload_is_shown_as_base64() {
        for text in ["", "{\"a\":\"ü\"}", "two\n\tlines"] {
            assert_eq!(text_or_base64(text.as_bytes()), (Some(text.to_owned()), None));
        }
        for (bytes, shown) in [(&b"\x1b[2J"[..], "G1sySg=="), (b"\xff", "/w=="), (b"a\0", "YQA=")] {
            assert_eq!(text_or_base64(bytes), (None, Some(shown.to_owned())));
        }
    }
}
