//! From files to typed, checked settings.
//!
//! `sluicegate.toml` holds the bus and the admin listener, the folder
//! `streams` beside it one file a stream. Everything that is wrong is reported
//! at once; an unusable stream leaves the others alone.

mod accepted;
mod admin;
mod load;
mod rate;
mod read_delivery;
mod read_script;
mod read_stream;
mod read_tables;
mod reload;
mod stream;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bus::BusSettings;
use journal::JournalSettings;
use settings_reader::{ConfigError, Source, TlsSettings};

pub use crate::stream::{DeliverySettings, ScriptLimits, ScriptSettings, ScriptSource, StreamSettings};
pub use accepted::{Accepted, AcceptedError, Note};
pub use admin::AdminSettings;
pub use load::Unusable;
pub use rate::{RATE, Rate, RateLimitGroups};
pub use read_stream::StreamScript;
pub use reload::{ReloadSettings, StreamFiles};

/// The files with certificates that the bus and these streams name, each once.
pub fn certificates<'s>(
    bus: &BusSettings,
    streams: impl IntoIterator<Item = &'s StreamEntry>,
) -> Vec<PathBuf> {
    let mut files: BTreeSet<&Path> = bus.tls.certificates().collect();
    for entry in streams {
        if let StreamEntry::Ready(settings) = entry {
            files.extend(settings.destination.tls().into_iter().flat_map(TlsSettings::certificates));
        }
    }
    files.into_iter().map(Path::to_owned).collect()
}

/// Everything that the files say.
#[derive(Clone, Debug)]
pub struct Config {
    /// `sluicegate.toml` itself.
    pub path: PathBuf,
    /// Its text.
    pub source: Source,
    /// Where messages come from.
    pub bus: BusSettings,
    /// The admin listener (default `127.0.0.1:8080`); none with `listen = "off"`.
    pub admin: Option<AdminSettings>,
    /// The data folder (default `data` beside `sluicegate.toml`).
    pub data: PathBuf,
    /// The journal and its dead letters.
    pub journal: JournalSettings,
    /// Rates that streams share.
    pub rate_limit_groups: RateLimitGroups,
    /// How changes come in while the gateway runs.
    pub reload: ReloadSettings,
    /// One entry a file in `streams`, in the order of their names.
    pub streams: Vec<StreamEntry>,
}

/// A stream's file as it was read.
#[derive(Clone, Debug)]
pub enum StreamEntry {
    /// It can run.
    Ready(Arc<StreamSettings>),
    /// It cannot: it is listed as blocked while the others run.
    Unusable {
        /// The file's name without `.toml`.
        name: String,
        /// All that is wrong with it, at least one.
        errors: Vec<ConfigError>,
    },
}

impl StreamEntry {
    /// The stream's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Ready(settings) => &settings.name,
            Self::Unusable { name, .. } => name,
        }
    }

    /// The stream's script, if it could be read. Blocks.
    pub fn script(&self) -> Option<StreamScript> {
        match self {
            Self::Ready(settings) => Some(StreamScript::of(settings)),
            Self::Unusable { errors, .. } => StreamScript::read(&errors.first()?.file),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
