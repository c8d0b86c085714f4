//! Sluicegate: takes messages from a bus, lets a WebAssembly script shape them
//! for one destination per stream, and transmits them.
//!
//! Data flows one way, and imports follow it:
//! `bus -> journal -> stream -> script | destination`. The command line wires
//! the parts together.

mod backoff;
pub mod bus;
pub mod cli;
pub mod config;
pub mod destination;
pub mod journal;
mod renew;
pub mod script;
pub mod stream;
pub mod telemetry;
pub mod watch;
