//! Where messages come from.

mod filter;
mod key;
mod message;

pub use filter::{FilterError, TopicFilter};
pub use key::{KeyRule, KeyRuleError};
pub use message::{Message, unix_millis};
