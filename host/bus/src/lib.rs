//! Where messages come from.

mod connection;
pub mod embedded;
mod credentials;
mod intake;
mod mqtt;
mod route;
mod routes;
mod session;
mod settings;
mod split;
mod status;
#[cfg(test)]
mod testing;
mod wire;

pub use mqtt::{Stop, run, try_login};
pub use route::{Route, Router, Subscription};
pub use routes::Routes;
pub use settings::{BusSettings, BusSource};
pub use status::{BusSnapshot, BusStatus};
