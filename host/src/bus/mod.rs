//! Where messages come from.

mod message;

pub use message::{Message, unix_millis};
