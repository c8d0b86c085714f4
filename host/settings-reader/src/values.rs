//! Values that several settings share.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::ClientConfig;
use secrecy::{ExposeSecret, SecretString};

use super::section::io_reason;

/// Longest secret in a file, bytes.
const MAX_SECRET: u64 = 64 * 1024;

/// A value that is never printed: `{ env = "NAME" }` or `{ file = "path" }`
/// in the files, or text where a setting may be either.
#[derive(Clone)]
pub struct Secret {
    text: SecretString,
    /// Where it was read, and can be read again.
    file: Option<Arc<Path>>,
}

/// Why a file holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error("cannot read {}: {}", .0.display(), io_reason(.1))]
    Read(PathBuf, io::Error),
    /// It has more than 64 KiB.
    #[error("the file `{}` is too long for a secret: more than 64 KiB", .0.display())]
    TooLong(PathBuf),
    /// There is nothing in it.
    #[error("the file `{}` is empty", .0.display())]
    Empty(PathBuf),
}

impl Secret {
    /// Takes the text over; one trailing line end, as files have it, is not part of it.
    pub fn new(text: &str) -> Self {
        Self { text: SecretString::from(text.trim_end_matches(['\r', '\n'])), file: None }
    }

    /// Reads it from a file. Blocks.
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(MAX_SECRET + 1).read_to_string(&mut text));
        match read {
            Ok(read) if read as u64 > MAX_SECRET => return Err(SecretError::TooLong(path.to_owned())),
            Ok(_) => {}
            Err(error) => return Err(SecretError::Read(path.to_owned(), error)),
        }
        let secret = Self { file: Some(path.into()), ..Self::new(&text) };
        if secret.expose().is_empty() { Err(SecretError::Empty(path.to_owned())) } else { Ok(secret) }
    }

    /// The file that it is in, if it is in one.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The secret as its file has it now; one without a file stays what it is.
    /// Blocks.
    pub fn renewed(&self) -> Result<Self, SecretError> {
        match &self.file {
            Some(path) => Self::read(path),
            None => Ok(self.clone()),
        }
    }

    /// The text, for handing to a protocol library; never for a log or an error.
    pub fn expose(&self) -> &str {
        self.text.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// The text of a file as it was read. Never printed: headers may be secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Source(Arc<str>);

impl Source {
    /// Takes the text over.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text, for keeping and comparing; never for a log or an error.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(text)")
    }
}

/// Where an MQTT broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MqttUrl {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port; 1883 or 8883 where the URL names none.
    pub port: u16,
    /// `mqtts://`.
    pub tls: bool,
}

impl fmt::Display for MqttUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// Files for TLS; paths are absolute or relative to the working directory
/// (the loader has resolved them against the file that named them).
///
/// They are read for the first connection. What was good then serves the later
/// ones and those of every clone, also when the files are bad meanwhile, until
/// [`TlsSettings::renewed`] takes its place.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    /// PEM with the certificate authorities to trust; none: the system's.
    pub ca: Option<PathBuf>,
    /// PEM with the client certificate chain, and PEM with its private key.
    pub identity: Option<ClientIdentity>,
    /// ALPN protocol names to offer.
    pub alpn: Vec<String>,
    /// What was read.
    pub read: Arc<OnceLock<Arc<ClientConfig>>>,
}

impl TlsSettings {
    /// The files that are named.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let identity = self.identity.iter().flat_map(|identity| [&identity.cert, &identity.key]);
        self.ca.iter().chain(identity).map(PathBuf::as_path)
    }

    /// Those of them that hold certificates.
    pub fn certificates(&self) -> impl Iterator<Item = &Path> {
        let certificate = self.identity.iter().map(|identity| &identity.cert);
        self.ca.iter().chain(certificate).map(PathBuf::as_path)
    }

    /// The same without what was read.
    pub fn renewed(&self) -> Self {
        Self { read: Arc::default(), ..self.clone() }
    }
}

/// A client certificate and its key.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// PEM, leaf first.
    pub cert: PathBuf,
    /// PEM: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_secret_from_a_file_can_be_read_again_and_is_never_printed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, "first\n").unwrap();
        let secret = Secret::read(&path).unwrap();
        assert_eq!((secret.expose(), secret.file()), ("first", Some(path.as_path())));
        std::fs::write(&path, "second\r\n").unwrap();
        assert_eq!(secret.renewed().unwrap().expose(), "second");
        assert_eq!(secret.expose(), "first");
        assert_eq!(format!("{secret:?}"), "(secret)");

        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(secret.renewed(), Err(SecretError::Empty(_))));
        std::fs::write(&path, "x".repeat(70_000)).unwrap();
        assert!(matches!(secret.renewed(), Err(SecretError::TooLong(_))));
        std::fs::remove_file(&path).unwrap();
        let told = secret.renewed().unwrap_err().to_string();
        assert_eq!(told, format!("cannot read {}: there is no such file", path.display()));
        assert_eq!(Secret::new("as it is").renewed().unwrap().expose(), "as it is");
    }
}
