//! From the files that the settings name to what rustls wants.
//!
//! Files are read for the first connection and again when they have changed
//! ([`TlsSettings::renewed`]): a connection that ends while a certificate is
//! being replaced, or after it was replaced by a bad one, comes back with the
//! one before. The provider is always named: a process-wide default would
//! depend on which library was initialised first.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};

use super::section::io_reason;
use super::{ClientIdentity, TlsSettings};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {what}, expected {expected}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// Certificate and key do not belong together, or rustls refuses them.
    #[error("{} with {}: {what}", .cert.display(), .key.display())]
    Identity {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why not.
        what: String,
    },
    /// No certificate authority to trust.
    #[error("the system has no readable certificate authorities; set `ca` to a PEM file")]
    NoRoots,
    /// The provider offers no protocol version; does not happen with ring.
    #[error("TLS cannot be set up: {0}")]
    Provider(rustls::Error),
}

impl TlsError {
    /// The file that has to be put right, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Read { path, .. } | Self::Content { path, .. } | Self::Identity { key: path, .. } => {
                Some(path)
            }
            Self::NoRoots | Self::Provider(_) => None,
        }
    }

    /// The error without what was expected, for places that say that themselves.
    pub fn what(&self) -> String {
        match self {
            Self::Read { path, source } => format!("cannot read {}: {}", path.display(), io_reason(source)),
            Self::Content { path, what, .. } => format!("{}: {what}", path.display()),
            Self::NoRoots => "the system has no readable certificate authorities".to_owned(),
            Self::Identity { .. } | Self::Provider(_) => self.to_string(),
        }
    }
}

/// What a client of TLS needs: authorities, its own certificate, ALPN. Blocks
/// where the files have not been read yet.
pub fn client_config(settings: &TlsSettings) -> Result<Arc<ClientConfig>, TlsError> {
    if let Some(config) = settings.read.get() {
        return Ok(config.clone());
    }
    let mut config = configure(roots(settings)?, settings.identity.as_ref())?;
    config.alpn_protocols = settings.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(settings.read.get_or_init(|| Arc::new(config)).clone())
}

/// All that [`client_config`] would refuse, not only the first.
pub fn problems(settings: &TlsSettings) -> Vec<TlsError> {
    let authorities = roots(settings).err();
    let identity = configure(Arc::new(RootCertStore::empty()), settings.identity.as_ref()).err();
    // The certificate is read first, and where it is wrong the key may be, too.
    let certificate =
        |named: &&ClientIdentity| identity.as_ref().and_then(TlsError::file) == Some(&*named.cert);
    let key = settings.identity.as_ref().filter(certificate).and_then(|named| read_key(&named.key).err());
    authorities.into_iter().chain(identity).chain(key).collect()
}

fn roots(settings: &TlsSettings) -> Result<Arc<RootCertStore>, TlsError> {
    match &settings.ca {
        Some(path) => read_roots(path).map(Arc::new),
        None => system_roots(),
    }
}

fn configure(roots: Arc<RootCertStore>, identity: Option<&ClientIdentity>) -> Result<ClientConfig, TlsError> {
    let builder = builder()?.with_root_certificates(roots);
    let Some(identity) = identity else { return Ok(builder.with_no_client_auth()) };
    let (chain, key) = read_identity(identity)?;
    builder.with_client_auth_cert(chain, key).map_err(|e| TlsError::Identity {
        cert: identity.cert.clone(),
        key: identity.key.clone(),
        what: e.to_string(),
    })
}

/// A configuration that refuses every server: for connectors that want one
/// although the URL is not `https://`.
pub fn trust_nobody() -> Result<Arc<ClientConfig>, TlsError> {
    Ok(Arc::new(builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth()))
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, TlsError> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Provider)
}

/// The system's authorities, read once: some 150 certificates that a thousand
/// streams share.
fn system_roots() -> Result<Arc<RootCertStore>, TlsError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    if roots.is_empty() { Err(TlsError::NoRoots) } else { Ok(roots.clone()) }
}

fn read_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots.add(certificate).map_err(|e| content(path, e.to_string(), CERTIFICATES))?;
    }
    Ok(roots)
}

fn read_identity(
    identity: &ClientIdentity,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    Ok((read_certificates(&identity.cert)?, read_key(&identity.key)?))
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|e| content(path, told(&e), "a PEM private key (PKCS#8, PKCS#1 or SEC1)"))
}

const CERTIFICATES: &str = "one or more PEM certificates (-----BEGIN CERTIFICATE-----)";

pub(super) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let certificates = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| content(path, told(&e), CERTIFICATES))?;
    if certificates.is_empty() {
        return Err(content(path, "contains no certificate".into(), CERTIFICATES));
    }
    Ok(certificates)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn content(path: &Path, what: String, expected: &'static str) -> TlsError {
    TlsError::Content { path: path.to_owned(), what, expected }
}

/// An error of the PEM reader without the bytes of the file, which may be a
/// key's.
fn told(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a PEM section has no end line".into(),
        pem::Error::IllegalSectionStart { .. } => "invalid begin line".into(),
        pem::Error::Base64Decode(_) => "invalid base64".into(),
        pem::Error::NoItemsFound => "contains no such section".into(),
        _ => "not readable as PEM".into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn told_of(settings: &TlsSettings) -> String {
        client_config(settings).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_the_file_and_what_it_should_hold() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let settings = TlsSettings { ca: Some(path.clone()), ..TlsSettings::default() };
        assert!(told_of(&settings).starts_with(&format!("{}: No such file", path.display())));

        for (text, what) in [
            ("", "contains no certificate"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n", "a PEM section has no end line"),
            ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "invalid base64"),
        ] {
            std::fs::write(&path, text).unwrap();
            let expected = format!("{}: {what}, expected {CERTIFICATES}", path.display());
            assert_eq!(told_of(&settings), expected);
        }
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(told_of(&settings).ends_with(CERTIFICATES));
    }

    #[test]
    fn an_error_never_shows_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        std::fs::write(&cert, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        std::fs::write(&key, "-----BEGIN PRIVATE KEY-----\nc2VjcmV0LXRleHQ\n").unwrap();
        let identity = Some(ClientIdentity { cert, key: key.clone() });
        let told = told_of(&TlsSettings { identity, ..TlsSettings::default() });
        assert!(!told.contains("c2VjcmV0"), "{told}");
    }
}
