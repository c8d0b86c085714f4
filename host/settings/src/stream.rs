//! One stream's file: what it says.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use destination::DestinationSettings;
use journal::{OnFull, Quota};
use message::{KeyRule, Selection, TopicFilter};
use script::TableSettings;
use settings_reader::Source;

use super::Rate;

/// What one stream's file says, checked.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// The file's name without `.toml`: 1 to 64 of `a-z 0-9 . _ -`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Its text.
    pub source: Source,
    /// What it subscribes to: at least one, no two overlap.
    pub topics: Vec<TopicFilter>,
    /// What order is kept by.
    pub key: KeyRule,
    /// Which keys it serves; none: all.
    pub selection: Option<Selection>,
    /// The file with the keys of the selection, if it is one of its own.
    pub key_list: Option<PathBuf>,
    /// What maps its messages.
    pub script: ScriptSettings,
    /// Where its deliveries go.
    pub destination: Arc<dyn DestinationSettings>,
    /// How they are sent.
    pub delivery: DeliverySettings,
}

/// The script of a stream.
#[derive(Clone, Debug)]
pub struct ScriptSettings {
    /// Where its component is.
    pub source: ScriptSource,
    /// The first number of the version that an official adapter is pinned to,
    /// by `adapter = "aws-shadow@1"`.
    pub pin: Option<u32>,
    /// `[script.settings]` as a JSON object, without the defaults; an empty one
    /// if the file has none.
    pub settings: serde_json::Value,
    /// `[script.limits]`; none: the default of the engine.
    pub limits: ScriptLimits,
    /// `[tables.NAME]`: what it may look up, in the order of the file.
    pub tables: Vec<TableSettings>,
}

/// Where a script's component is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScriptSource {
    /// An official adapter by its name, embedded in the binary.
    Official(String),
    /// A `.wasm` file, or the folder of an adapter.
    File(PathBuf),
}

/// Limits of a script that the file sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScriptLimits {
    /// Base time of one call.
    pub time: Option<Duration>,
    /// Memory of one instance, in bytes.
    pub memory: Option<usize>,
    /// Bytes that one call may return.
    pub output: Option<usize>,
    /// Bytes that the stream's state may hold.
    pub state: Option<usize>,
    /// Lines of a lane that reach the log each second.
    pub log_lines: Option<u32>,
}

/// How deliveries are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliverySettings {
    /// Ordered workers of the stream (default 1).
    pub lanes: u32,
    /// Maximum number of deliveries that a lane has under way; the kind of the
    /// destination has its default, and may allow one only.
    pub in_flight: usize,
    /// Most messages that one call of the script maps (default 128).
    pub batch_messages: usize,
    /// Most payload and topic bytes of one call (default 128 KiB); a single
    /// larger message is mapped alone.
    pub batch_bytes: usize,
    /// A message that was received longer ago is not sent any more.
    pub queue_ttl: Option<Duration>,
    /// Most deliveries of the stream, retries among them.
    pub rate_limit: Option<Rate>,
    /// A group of [`super::Config::rate_limit_groups`] that the stream shares
    /// a rate with.
    pub rate_limit_group: Option<String>,
    /// Most messages that have waited in the journal.
    pub backlog_rate_limit: Option<Rate>,
    /// New messages go before those that have waited in the journal.
    pub live_first: bool,
    /// Only the newest message of each key, and at most one in this time.
    pub conflate: Option<Duration>,
    /// How much of the journal the stream may hold (default a fifth of it).
    pub quota: Quota,
}

impl fmt::Display for ScriptSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Official(name) => f.write_str(name),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl Default for DeliverySettings {
    fn default() -> Self {
        Self {
            lanes: 1,
            in_flight: 64,
            batch_messages: 128,
            batch_bytes: 128 * 1024,
            queue_ttl: None,
            rate_limit: None,
            rate_limit_group: None,
            backlog_rate_limit: None,
            live_first: false,
            conflate: None,
            quota: Quota { max_backlog: 2 << 30, on_full: OnFull::default() },
        }
    }
}
