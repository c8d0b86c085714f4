//! The data of one instance that its imports and guards work on.

use super::limits::{Budget, HostCalls, MemoryGuard};
use super::log::Log;
use super::state::StateCall;
use super::tables::Tables;

/// What an instance's imports and guards work on.
pub(super) struct Host {
    pub(super) memory: MemoryGuard,
    pub(super) memory_limit: usize,
    pub(super) output_limit: usize,
    pub(super) log: Log,
    /// There while `transform` runs.
    pub(super) state: Option<StateCall>,
    pub(super) calls: HostCalls,
    pub(super) tables: Tables,
    /// The latest error that the script logged in this call: an SDK says so
    /// why it is about to trap.
    pub(super) last_words: Option<String>,
    pub(super) budget: Budget,
}
