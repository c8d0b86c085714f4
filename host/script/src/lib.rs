//! Scripts: WebAssembly that maps messages into deliveries.
//!
//! [`Engine`] compiles and runs them, one per process. [`Script::load`] turns
//! the bytes of a file into a compiled, linked and once configured script;
//! [`Script::lane`] gives each lane its own [`Mapper`], which keeps one
//! instance, replaces it after a fault and holds the script to its
//! [`Limits`]. What the script asks of the gateway is in `guest-sdk/wit`:
//! a log, a key-value [`State`] and lookup [`Tables`], nothing else.
//!
//! A [`Package`] is a script as its author ships it: with a manifest, which
//! says what its settings may be, and cases, which say what it does.
//!
//! This module knows nothing of journal, stream or destination: a mapping
//! carries positions in the batch, and what they mean is the caller's affair.

mod anatomy;
mod bindings;
pub mod cases;
pub mod compile;
mod engine;
mod fault;
mod imports;
mod instance;
mod lift;
mod limits;
pub mod lines;
mod load;
pub mod manifest;
mod mapper;
mod mapping;
pub mod package;
mod program;
pub mod purity;
pub mod schema;
mod sections;
mod state;
mod tables;
#[cfg(any(test, feature = "test-support"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod version;
mod wear;

use std::sync::Arc;

use bytes::Bytes;

pub use anatomy::Anatomy;
pub use engine::{Engine, EngineError};
pub use fault::{ScriptFault, one_line};
pub use lift::MAX_SIZE;
pub use limits::Limits;
pub use load::{LoadError, Recipe, Script};
pub use manifest::Manifest;
pub use mapper::Mapper;
pub use package::{Package, PackageError};
pub use state::{BeforeImage, State, Written};
pub use tables::{Columns, Table, TableError, TableProblem, TableSettings, Tables};
pub use version::Version;

/// Where the lines go that a script logs. They arrive already limited in rate
/// and length, without control characters. Called from within a mapping, so
/// it must not block.
pub type LogSink = Arc<dyn Fn(LogLevel, &str) + Send + Sync>;

/// The weight of a line that a script logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// For the author of the script.
    Debug,
    /// For whoever reads the log anyway.
    Info,
    /// Something is odd; the script goes on.
    Warn,
    /// Something is wrong; the script goes on.
    Error,
}

/// What a script made of one batch, checked: every message of the batch is in
/// at least one delivery, rejected or filtered, and in one of the three only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// What to transmit, in the script's order.
    pub deliveries: Vec<MappedDelivery>,
    /// Position in the batch and reason of each message that cannot be mapped.
    pub rejections: Vec<(u32, String)>,
    /// Positions in the batch of messages that the script leaves out.
    pub filtered: Vec<u32>,
    /// The values that the state had, before this call, under the keys that
    /// this call touched.
    pub before: BeforeImage,
    /// What it wrote to the state; nothing for a mapping apart.
    pub written: Written,
}

/// One thing to transmit, as the script made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedDelivery {
    /// Positions in the batch of the messages that it carries; not empty, none
    /// twice.
    pub messages: Vec<u32>,
    /// MQTT topic, or HTTP path and query; none: the stream's own.
    pub target: Option<String>,
    /// HTTP headers, MQTT 5 user properties, or what the destination consumes.
    pub headers: Vec<(String, String)>,
    /// The bytes to transmit.
    pub body: Bytes,
}
