//! Write Sluicegate scripts in
//! Rust: one struct for the settings, one function from a message to
//! deliveries, one macro line.
//!
//! ```
//! use sluicegate_sdk::{Mapped, Message, Result, Script, Template, json};
//!
//! #[derive(serde::Deserialize)]
//! struct Speed {
//!     /// `[script.settings] topic = "fleet/{ident}/speed"`
//!     topic: Template,
//! }
//!
//! impl Script for Speed {
//!     fn map(&self, message: &Message<'_>) -> Result<Mapped> {
//!         let Some(speed) = message.f64("position.speed")? else { return Ok(Mapped::Filtered) };
//!         let mut body = Vec::new();
//!         json::write_f64(&mut body, speed);
//!         Ok(message.delivery(body).to(self.topic.render_topic(message)?).into())
//!     }
//! }
//!
//! sluicegate_sdk::export!(Speed);
//! # fn main() {}
//! ```
//!
//! The contract is `guest-sdk/wit/mapper.wit`. Scripts are pure: the same
//! messages, settings, tables and state give the same deliveries.

#[doc(hidden)]
pub mod bindings;
mod delivery;
mod fields;
mod filter;
pub mod json;
pub mod log;
mod message;
mod notation;
mod script;
mod settings;
pub mod state;
pub mod table;
mod template;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
mod timestamp;
mod value;

pub use bindings::sluicegate::mapper::types::{Delivery, Mapping, Message as RawMessage, Rejection};
pub use fields::Fields;
pub use filter::Filter;
pub use message::{Field, Message, Position};
pub use notation::Notation;
pub use script::{BatchScript, Instance, Mapped, Output, Script};
pub use template::Template;
pub use timestamp::Timestamp;
pub use value::{Kind, Value};

use std::borrow::Cow;
use std::fmt;

/// Why a message cannot be mapped. It becomes a dead letter with this text, so
/// the text should name the field, its value and what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject(Cow<'static, str>);

/// What mapping code returns: a value, or the reason why the message is rejected.
pub type Result<T, E = Reject> = std::result::Result<T, E>;

impl Reject {
    /// A rejection with this reason.
    pub fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        Self(reason.into())
    }

    /// The reason as the operator reads it.
    pub fn reason(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Reject {}

impl From<String> for Reject {
    fn from(reason: String) -> Self {
        Self::new(reason)
    }
}

impl From<&'static str> for Reject {
    fn from(reason: &'static str) -> Self {
        Self::new(reason)
    }
}
