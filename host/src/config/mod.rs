//! From files to typed, checked settings.
//!
//! `sluicegate.toml` holds the bus and the admin listener, the folder
//! `streams` beside it one file a stream. Everything that is wrong is reported
//! at once; an unusable stream leaves the others alone.

mod accepted;
mod bus;
mod document;
mod error;
mod expiry;
mod hidden;
mod journal;
mod keys;
mod load;
mod rate;
mod read_delivery;
mod read_script;
mod read_stream;
mod read_tables;
mod reload;
pub(crate) mod section;
mod stream;
pub mod tls;
pub(crate) mod units;
mod values;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use accepted::{Accepted, AcceptedError, Note};
pub use bus::{AdminSettings, BusSettings, BusSource};
pub use error::{ConfigError, ConfigErrors, Meanwhile, Place};
pub use expiry::Expiry;
pub(crate) use expiry::SOON;
pub use journal::{JournalSettings, SyncMode};
pub use keys::changed_keys;
pub use load::Unusable;
pub(crate) use rate::RATE;
pub use rate::{Rate, RateLimitGroups};
#[cfg(test)]
pub(crate) use read_stream::ADAPTERS;
pub(crate) use read_stream::Lanes;
pub use read_stream::StreamScript;
pub use reload::{ReloadSettings, StreamFiles};
pub use stream::{
    DeliverySettings, DestinationSettings, ScriptLimits, ScriptSettings, ScriptSource, Selection,
    StreamSettings,
};
pub use values::{ClientIdentity, MqttUrl, Secret, SecretError, Source, TlsSettings};

/// The files of TLS and of secrets that a connection makes use of.
pub(crate) fn files<'s>(tls: &'s TlsSettings, secrets: impl IntoIterator<Item = &'s Secret>) -> Vec<PathBuf> {
    let secrets = secrets.into_iter().filter_map(Secret::file);
    tls.files().chain(secrets).map(PathBuf::from).collect()
}

/// The files with certificates that the bus and these streams name, each once.
pub(crate) fn certificates<'s>(
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
