//! Values that several settings share.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

/// A value that is never printed: `{ env = "NAME" }` or `{ file = "path" }`
/// in the files, or text where a setting may be either.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes the text over; one trailing line end, as files have it, is not part of it.
    pub fn new(text: &str) -> Self {
        Self(SecretString::from(text.trim_end_matches(['\r', '\n'])))
    }

    /// The text, for handing to a protocol library; never for a log or an error.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
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
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    /// PEM with the certificate authorities to trust; none: the system's.
    pub ca: Option<PathBuf>,
    /// PEM with the client certificate chain, and PEM with its private key.
    pub identity: Option<ClientIdentity>,
    /// ALPN protocol names to offer.
    pub alpn: Vec<String>,
}

/// A client certificate and its key.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// PEM, leaf first.
    pub cert: PathBuf,
    /// PEM: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}
