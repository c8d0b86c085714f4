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
mod case;
pub mod cases;
pub mod compile;
mod config;
mod engine;
mod error;
mod fault;
mod host;
mod imports;
mod instance;
mod lift;
mod limits;
pub mod lines;
mod load;
mod log;
pub mod manifest;
mod mapper;
mod mapping;
pub mod package;
mod program;
pub mod purity;
mod recipe;
mod recycling;
pub mod schema;
mod sections;
mod state;
mod tables;
#[cfg(any(test, feature = "test-support"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod text;
mod version;

pub use anatomy::Anatomy;
pub use engine::{Engine, EngineError};
pub use error::LoadError;
pub use fault::ScriptFault;
pub use limits::{Limits, MAX_SIZE};
pub use load::Script;
pub use log::{LogLevel, LogSink};
pub use manifest::Manifest;
pub use mapper::Mapper;
pub use mapping::{MappedDelivery, Mapping};
pub use package::{Package, PackageError};
pub use recipe::Recipe;
pub use state::{BeforeImage, State, Written};
pub use tables::{Columns, Table, TableError, TableProblem, TableSettings, Tables};
pub use text::one_line;
pub use version::Version;
