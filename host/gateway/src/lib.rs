//! The gateway: connects bus, journal, streams, scripts and destinations, runs
//! them, and carries out what an operator orders.

mod admin;
pub mod apply;
mod certificates;
mod checker;
mod follow;
mod gateway;
pub mod operate;
mod run;
mod streams;
mod sums;
mod try_script;
pub mod wiring;

pub use run::{RunError, run};
pub use try_script::{try_script, try_script_alone};
