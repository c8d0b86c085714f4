//! The log that every message enters before the bus is acknowledged.
//!
//! `append` returns a [`Ticket`] that resolves when the messages may be
//! acknowledged. A [`Reader`] gives each stream its pending messages in order.
//! `settle` is the only way out. Crates above this one do not know how the
//! messages are stored.

mod chunk;
mod counters;
mod disk;
mod front;
mod handle;
mod index;
mod letter;
mod policy;
mod rows;
mod settings;
mod store;
mod stream_front;
mod types;
mod writer;

pub use counters::{Counters, Outcome};
pub use handle::{DeadLetterRoom, Journal, LOOK_BACK, Reader, Rewinding, Ticket};
pub use settings::{JournalSettings, SyncMode};
#[cfg(any(test, feature = "test-support"))]
pub use store::Simulated;
pub use store::{Difference, OpenError};
pub use types::*;

#[cfg(test)]
mod disk_tests;
#[cfg(test)]
mod tests;
