//! Which keys a stream serves.

use std::collections::HashSet;
use std::sync::Arc;

/// Which keys a stream serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// These and no others.
    Only(Arc<HashSet<String>>),
    /// All but these.
    Except(Arc<HashSet<String>>),
}

impl Selection {
    /// Whether the stream serves messages of this key.
    pub fn admits(&self, key: &str) -> bool {
        match self {
            Self::Only(keys) => keys.contains(key),
            Self::Except(keys) => !keys.contains(key),
        }
    }
}
