//! Replaces the script of a stream while messages flow.
//!
//! A new version is prepared beside the running one: it is loaded, configured
//! and compared in the [`shadow`] of the old one. Only then is it stored on
//! disk ([`versions`]) and put in place, where each lane takes it up between
//! two batches. A refused version ([`verdict`]) changes nothing.

pub mod first;
pub(crate) mod generation;
mod order;
mod reloader;
mod rollback;
pub mod shadow;
mod source;
pub mod verdict;
pub mod versions;

pub use generation::GuardWindow;
pub use order::{Orders, ReloadHandle, Reloaded};
pub(crate) use reloader::Reloader;
pub use source::{ReloadRules, ScriptFiles, ScriptSource};
pub use verdict::Refusal;
