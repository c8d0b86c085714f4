//! What a bus delivers, and the small things that every crate uses: messages
//! with their keys and topic filters, texts cut for a line of the log, pauses
//! between attempts.

mod backoff;
mod filter;
mod key;
#[allow(clippy::module_inception)]
mod message;
mod selection;
pub mod text;

pub use backoff::Backoff;
pub use filter::{FilterError, TopicFilter};
pub use key::{KeyRule, KeyRuleError};
pub use message::{Message, unix_millis};
pub use selection::{Selection, Takes};
