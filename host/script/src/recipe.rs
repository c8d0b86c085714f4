//! Everything that decides how a script maps messages.

use bytes::Bytes;
use serde_json::Value;

use super::limits::Limits;
use super::tables::Tables;

/// Everything that decides what a script makes of messages.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// What the script is called in logs, errors and tables.
    pub name: String,
    /// The module or component, as its author's tool wrote it.
    pub wasm: Bytes,
    /// `[script.settings]` as a JSON object; null stands for an empty one.
    pub settings: Value,
    /// What it may use.
    pub limits: Limits,
    /// What it may look up.
    pub tables: Tables,
    /// Which form the script's state has: a script of another one begins with an
    /// empty state.
    pub state_version: u32,
}

impl Recipe {
    /// A script without settings and tables, under the usual limits.
    pub fn new(name: impl Into<String>, wasm: impl Into<Bytes>) -> Self {
        Self {
            name: name.into(),
            wasm: wasm.into(),
            settings: Value::Null,
            limits: Limits::default(),
            tables: Tables::default(),
            state_version: 0,
        }
    }
}
