//! Everything that the rest of the gateway knows of one kind of destination.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use message::TopicFilter;
use serde_json::Value;
use settings_reader::section::Section;
use settings_reader::{MqttUrl, TlsSettings};

use crate::contract::Destination;

/// One kind of destination.
pub struct Kind {
    /// The word of `[destination] type`.
    pub name: &'static str,
    /// The official adapter that a stream runs unless its file names a script.
    pub adapter: &'static str,
    /// Maximum number of lanes of a stream.
    pub max_lanes: u64,
    /// How many deliveries a lane may have under way.
    pub in_flight: InFlight,
    /// The keys of `[destination]` beside `type`, for the documentation.
    pub keys: &'static [Key],
    /// Shows a body to people; none where it is text.
    pub decode: Option<fn(&[u8]) -> Value>,
    /// Reads `[destination]`. None where the settings are unusable; the
    /// document has the errors then.
    pub read: fn(&mut Section<'_>, &Lanes) -> Option<Arc<dyn DestinationSettings>>,
}

/// [`Kind::max_lanes`] where nothing but the gateway sets a limit.
pub const MAX_LANES: u64 = 1024;

/// How many deliveries a lane of a kind may have under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InFlight {
    /// One; `[delivery] in_flight` is refused.
    One,
    /// As many as `[delivery] in_flight` says.
    Settable {
        /// Without `in_flight`.
        default: usize,
        /// Maximum.
        max: u64,
    },
}

/// A key of `[destination]`, as the documentation shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The key.
    pub name: &'static str,
    /// Its default as the file would spell it, or `required`, or empty.
    pub default: &'static str,
    /// One line.
    pub meaning: &'static str,
}

/// The rest of a stream's file that a kind needs to read its own part.
pub struct Lanes {
    /// `<bus client_id>-<stream>`.
    pub client_id: String,
    /// Lanes of the stream.
    pub count: u32,
    /// Maximum number of deliveries that a lane has under way.
    pub in_flight: usize,
}

/// The rest of a stream's file that settings are checked against.
pub struct StreamFacts<'a> {
    /// The topics that the stream subscribes to.
    pub topics: &'a [TopicFilter],
    /// Whether the bus is the broker at this address.
    pub is_bus: &'a dyn Fn(&MqttUrl) -> bool,
    /// The official adapter that maps its messages; none: another script.
    pub adapter: Option<&'a str>,
    /// `[script.settings]`, without the defaults.
    pub script_settings: &'a Value,
}

/// `[destination]` of one stream, checked.
pub trait DestinationSettings: Any + fmt::Debug + Send + Sync {
    /// The row of [`crate::KINDS`] that has read it.
    fn kind(&self) -> &'static Kind;

    /// Where the destination is, without secrets: a URL has no query.
    fn address(&self) -> String;

    /// The files for TLS; none where the protocol has no TLS.
    fn tls(&self) -> Option<&TlsSettings> {
        None
    }

    /// Reports what does not go together with the rest of the stream's file.
    fn check(&self, _section: &Section<'_>, _stream: &StreamFacts<'_>) {}

    /// The destination; nothing is opened yet.
    fn build(&self) -> Arc<dyn Destination>;

    /// The word of `type`.
    fn type_name(&self) -> &'static str {
        self.kind().name
    }
}

// === impl Kind ===

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

// === impl DestinationSettings ===

impl dyn DestinationSettings {
    /// The settings of one kind; none if they are those of another.
    pub fn as_kind<T: DestinationSettings>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }
}
