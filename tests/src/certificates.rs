//! Certificates as PEM files, as programs want them.

use std::path::{Path, PathBuf};

use standins::certificates::{Authority, Identity};

/// An authority with a server certificate for `localhost` and 127.0.0.1 and a
/// client certificate, as files in one folder.
pub struct Certificates {
    /// The authority.
    pub authority: Authority,
    /// The server's identity.
    pub server: Identity,
    folder: PathBuf,
}

impl Certificates {
    /// Makes all three and writes `ca.pem`, `server.pem`, `server.key`,
    /// `client.pem` and `client.key`.
    ///
    /// # Panics
    /// When they cannot be made or written.
    pub fn create(folder: &Path) -> Self {
        let authority = Authority::new("test authority").expect("an authority");
        let server = authority.server(&["localhost", "127.0.0.1"]).expect("a server certificate");
        let client = authority.client("gateway").expect("a client certificate");
        for (name, text) in [
            ("ca.pem", &authority.certificate),
            ("server.pem", &server.certificate),
            ("server.key", &server.key),
            ("client.pem", &client.certificate),
            ("client.key", &client.key),
        ] {
            std::fs::write(folder.join(name), text).expect("a file in the test's folder");
        }
        Self { authority, server, folder: folder.to_owned() }
    }

    /// The path of one of the files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The lines `ca`, `cert` and `key` of a client for a configuration file.
    pub fn client_lines(&self) -> String {
        format!(
            "ca = \"{}\"\ncert = \"{}\"\nkey = \"{}\"",
            self.file("ca.pem").display(),
            self.file("client.pem").display(),
            self.file("client.key").display()
        )
    }
}
