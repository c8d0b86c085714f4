//! Where messages come from.

mod connection;
pub mod embedded;
mod filter;
mod intake;
mod key;
mod message;
mod mqtt;
mod renew;
mod route;
mod routes;
mod session;
mod split;
mod status;
#[cfg(test)]
mod testing;
mod wire;

pub use filter::{FilterError, TopicFilter};
pub use key::{KeyRule, KeyRuleError};
pub use message::{Message, unix_millis};
pub use mqtt::{Stop, run, try_login};
pub use route::{Route, Router, Subscription};
pub use routes::Routes;
pub use status::{BusSnapshot, BusStatus};
