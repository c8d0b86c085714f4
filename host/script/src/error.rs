//! The reasons why a script cannot be loaded.

use serde::{Deserialize, Serialize};

use super::fault::ScriptFault;
use super::limits::MAX_SIZE;

/// Why a file is no usable script. The caller adds which file.
///
/// What the compiler says comes from another process as JSON; what is skipped
/// there is found out in this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum LoadError {
    /// Above the size limit. How much above is not known: no more is read.
    #[error("it is larger than {} MiB, the maximum size of a script", MAX_SIZE >> 20)]
    TooLarge,
    /// It does not begin as WebAssembly does.
    #[error(
        "it is not WebAssembly: it begins with {}, expected `\\0asm` (a .wasm file, not its text form)",
        if .start.is_empty() { "nothing (the file is empty)".into() } else { format!("{:02x?}", .start) }
    )]
    NotWasm {
        /// The first bytes, at most four.
        start: Vec<u8>,
    },
    /// It is what a compiler has made for one kind of processor.
    #[error(
        "it is compiled machine code; a script is the .wasm that it was made from, \
         which the gateway compiles and limits itself"
    )]
    Compiled,
    /// It begins like WebAssembly, but the rest is broken or uses a feature
    /// that is switched off.
    #[error("it is not valid WebAssembly: {0}")]
    Invalid(String),
    /// It asks for the outside world.
    #[error(
        "it imports {imports}, but a script gets no WASI (no files, clocks, sockets, random numbers). \
         Build it without: Rust `--target wasm32-unknown-unknown`; \
         JavaScript componentize-js `disableFeatures: ['stdio', 'random', 'clocks', 'http', 'fetch-event']`, \
         componentize-qjs `--stub-wasi`; Python componentize-py `--stub-wasi`; Zig `-target wasm32-freestanding`"
    )]
    Wasi {
        /// The imports, with commas.
        imports: String,
    },
    /// Its imports or exports are not those of the world `mapper`.
    #[error("it breaks the contract `sluicegate:mapper@0.1.0`: {0}")]
    Contract(String),
    /// The compiler met a bound of its own; which one.
    #[error("compiling it takes more than {0}; the compiler was stopped")]
    TooCostly(String),
    /// The compiler came to no answer; why.
    #[error("the compiler failed: {0}")]
    Compiler(String),
    /// The gateway could not make an instance of it (no room for one more).
    #[error("no instance of it could be created: {0}")]
    #[serde(skip)]
    Instantiate(String),
    /// It failed before its first message.
    #[error("it cannot be started: {0}")]
    #[serde(skip)]
    Start(ScriptFault),
    /// `configure` refused the settings; in the script's words.
    #[error("it refuses its settings: {0}")]
    #[serde(skip)]
    Settings(String),
}
