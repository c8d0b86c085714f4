//! Which script, or which tables: a hash.

use std::fmt;

use sha2::{Digest, Sha256};

/// SHA-256: of a script's bytes as they were read (before lifting), or of what
/// is in tables. Shown as its first twelve hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Version([u8; 32]);

impl Version {
    /// The version of these bytes.
    pub fn of(wasm: &[u8]) -> Self {
        Self(Sha256::digest(wasm).into())
    }

    pub(super) fn of_hash(hash: Sha256) -> Self {
        Self(hash.finalize().into())
    }

    /// The hash itself, to make part of another.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// All 64 hexadecimal digits.
    pub fn full(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(6).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_sha_256_of_the_bytes() {
        let version = Version::of(b"abc");
        assert_eq!(version.to_string(), "ba7816bf8f01");
        assert_eq!(version.full(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
