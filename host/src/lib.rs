//! Sluicegate: takes messages from a bus, lets a WebAssembly script shape them
//! for one destination per stream, and transmits them.
//!
//! Data flows one way, and calls follow it:
//! `bus -> journal -> stream -> script | destination`. The command line wires
//! the parts together.
//!
//! Plain data is shared across these arrows, and nothing that acts: all know
//! what a [`bus::Message`] is and read the clock by [`bus::unix_millis`].
//! [`config`] makes the settings of every part from files, and so names the
//! types that they are made of where these belong: filters and keys of `bus`,
//! quotas of `journal`, rules of a reload of `stream`, tables and schemas of
//! `script`. A destination reads the keys of its own settings with `config`'s
//! readers, so `config` knows the five, too. In turn the parts take their
//! settings, secrets and TLS files from `config`. None of that is a way from a
//! later part back to an earlier one: `journal` never asks the bus, `config`
//! never starts anything.

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
mod words;
