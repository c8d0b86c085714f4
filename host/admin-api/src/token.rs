//! The token of the admin listener: a user who can read its file can change what
//! the gateway does and see what it carries.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Characters of a token: 32 random bytes, hexadecimal.
const LENGTH: usize = 64;

/// The token. Never shown by `Debug`.
#[derive(Clone)]
pub struct AdminToken(String);

/// Why the token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("the token file {}: {source}{}", path.display(), hint(source))]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file holds something else.
    #[error(
        "the token file {} does not contain a token; expected {LENGTH} hexadecimal digits (remove the file and restart the \
         gateway: it creates a new one)",
        .0.display()
    )]
    NoToken(PathBuf),
    /// The file cannot be made.
    #[error("cannot create the token file {}: {source}", path.display())]
    Unmade {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Where the token of a gateway with this data folder is.
pub fn path(data: &Path) -> PathBuf {
    data.join("admin.token")
}

impl AdminToken {
    /// The token in the file; made, readable by its owner alone, where there
    /// is none.
    pub fn read_or_make(data: &Path) -> Result<Self, TokenError> {
        match Self::read(data) {
            Err(TokenError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Self::make(&path(data))
            }
            other => other,
        }
    }

    /// The token in the file.
    pub fn read(data: &Path) -> Result<Self, TokenError> {
        let path = path(data);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => return Err(TokenError::Unreadable { path, source }),
        };
        let text = text.trim();
        if text.len() == LENGTH && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(TokenError::NoToken(path))
        }
    }

    /// Compares without telling by the time that it takes how much is right.
    pub fn is(&self, given: &str) -> bool {
        let (ours, theirs) = (Sha256::digest(&self.0), Sha256::digest(given));
        ours.iter().zip(theirs).fold(0, |different, (a, b)| different | (a ^ b)) == 0
    }

    /// The value of the header `Authorization`.
    pub fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    fn make(path: &Path) -> Result<Self, TokenError> {
        let unmade = |source| TokenError::Unmade { path: path.to_owned(), source };
        let mut bytes = [0; LENGTH / 2];
        rustls::crypto::ring::default_provider()
            .secure_random
            .fill(&mut bytes)
            .map_err(|_| unmade(io::Error::other("the system gives no random bytes")))?;
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        // Under its name only when it is whole: a crash leaves no half token.
        let unfinished = path.with_extension("token.new");
        let write = || -> io::Result<()> {
            match fs::remove_file(&unfinished) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
            writeln!(file, "{text}")?;
            file.sync_all()?;
            fs::rename(&unfinished, path)
        };
        write().map_err(unmade)?;
        Ok(Self(text))
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(..)")
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run the command as the user that the gateway runs as",
        io::ErrorKind::NotFound => "; a gateway with this data folder has never been started",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn is_made_once_for_its_owner_alone() {
        let data = tempfile::tempdir().unwrap();
        let made = AdminToken::read_or_make(data.path()).unwrap();
        assert_eq!(fs::metadata(path(data.path())).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(AdminToken::read_or_make(data.path()).unwrap().0, made.0);
        assert_eq!(AdminToken::read(data.path()).unwrap().0, made.0);
        assert_eq!(fs::read_dir(data.path()).unwrap().count(), 1);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(AdminToken::read_or_make(other.path()).unwrap().0, made.0);
        assert_eq!(format!("{made:?}"), "AdminToken(..)");
    }

    #[test]
    fn only_the_whole_token_is_right() {
        let token = AdminToken("ab".repeat(32));
        assert!(token.is(&"ab".repeat(32)));
        for wrong in ["", "ab", &"ab".repeat(31), &"AB".repeat(32), &"ab".repeat(33)] {
            assert!(!token.is(wrong), "{wrong}");
        }
    }

    #[test]
    fn errors_say_what_to_do() {
        let data = tempfile::tempdir().unwrap();
        let missing = AdminToken::read(data.path()).unwrap_err().to_string();
        assert!(missing.contains("admin.token") && missing.contains("never been started"), "{missing}");
        fs::write(path(data.path()), "hello\n").unwrap();
        let wrong = AdminToken::read_or_make(data.path()).unwrap_err().to_string();
        assert!(wrong.contains("64 hexadecimal digits") && !wrong.contains("hello"), "{wrong}");
    }
}
