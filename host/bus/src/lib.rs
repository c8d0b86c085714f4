//! Where messages come from.

mod connection;
mod credentials;
pub mod embedded;
mod link;
mod mqtt;
mod receive;
mod route;
mod routes;
mod session;
mod settings;
mod split;
mod status;
#[cfg(test)]
mod testing;
mod wire;

pub use connection::try_login;
pub use mqtt::{Bus, Stop};
pub use route::{Route, Router, Subscription};
pub use routes::Routes;
pub use settings::{BusSettings, BusSource};
pub use status::{BusSnapshot, BusStatus};
