//! Reads TOML into checked values. Each crate reads its own settings with
//! these readers; everything that is wrong is reported at once, with its place.

pub mod document;
mod error;
mod expiry;
mod hidden;
mod keys;
mod place;
pub mod section;
mod text;
pub mod tls;
pub mod units;
mod values;

use std::path::PathBuf;

pub use error::{ConfigError, ConfigErrors, Meanwhile};
pub use expiry::{Expiry, SOON};
pub use keys::changed_keys;
pub use place::Place;
pub use values::{ClientIdentity, MqttUrl, Secret, SecretError, Source, TlsSettings};

/// The files of TLS and of secrets that a connection makes use of.
pub fn files<'s>(tls: &'s TlsSettings, secrets: impl IntoIterator<Item = &'s Secret>) -> Vec<PathBuf> {
    let secrets = secrets.into_iter().filter_map(Secret::file);
    tls.files().chain(secrets).map(PathBuf::from).collect()
}
