//! From the bytes of a file to a script that can be run.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::engine::Engine;
use super::fault::ScriptFault;
use super::imports::Log;
use super::instance::{Instance, StartError};
use super::lift::MAX_SIZE;
use super::mapper::Mapper;
use super::program::{Program, chain};
use super::state::State;
use super::tables::Tables;
use super::version::Version;
use super::{Limits, LogSink};

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

/// A script that is compiled, linked and has accepted its settings once.
/// Cloning is cheap.
#[derive(Clone)]
pub struct Script(Arc<Inner>);

struct Inner {
    /// Keeps the ticker running.
    _engine: Engine,
    name: String,
    version: Version,
    program: Arc<Program>,
    /// The settings as the script gets them.
    settings: String,
    limits: Limits,
    tables: Tables,
    state_version: u32,
    /// Name and version, its own and that of its tables.
    label: String,
}

/// Why a file is no usable script. The caller adds which file.
///
/// What the compiler says comes from another process as JSON; what is skipped
/// there is found out in this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum LoadError {
    /// Above the size limit. How much above is not known: no more is read.
    #[error("it has more than {} MiB, the most that a script may have", MAX_SIZE >> 20)]
    TooLarge,
    /// It does not begin as WebAssembly does.
    #[error(
        "it is no WebAssembly: it begins with {}, expected `\\0asm` (a .wasm file, not its text form)",
        if .start.is_empty() { "nothing (the file is empty)".into() } else { format!("{:02x?}", .start) }
    )]
    NotWasm {
        /// The first bytes, at most four.
        start: Vec<u8>,
    },
    /// It is what a compiler has made for one kind of processor.
    #[error(
        "it is machine code, compiled already; a script is the .wasm that it was made from, \
         which the gateway compiles itself and holds to its limits"
    )]
    Compiled,
    /// It begins like WebAssembly, but the rest is broken or uses a feature
    /// that is switched off.
    #[error("it is no valid WebAssembly: {0}")]
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
    #[error("it does not keep the contract `sluicegate:mapper@0.1.0`: {0}")]
    Contract(String),
    /// The compiler met a bound of its own; which one.
    #[error("compiling it takes more than {0}; it was given up")]
    TooCostly(String),
    /// The compiler came to no answer; why.
    #[error("the compiler failed: {0}")]
    Compiler(String),
    /// The gateway could not make an instance of it (no room for one more).
    #[error("no instance of it could be made: {0}")]
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

// ----- impl Script -----

impl Script {
    /// Compiles (some 100 ms, seconds for JavaScript and Python; a millisecond
    /// if its code is kept, nothing if another script of the same bytes is
    /// loaded), links, starts one instance and configures it.
    pub async fn load(engine: &Engine, recipe: Recipe) -> Result<Self, LoadError> {
        let Recipe { name, wasm, settings, limits, tables, state_version } = recipe;
        let settings = settings_text(&settings);
        let (version, program) = engine.program(wasm, limits.memory).await?;
        let label = match tables.is_empty() {
            true => format!("{name} {version}"),
            false => format!("{name} {version} with tables {}", tables.version()),
        };
        let script = Self(Arc::new(Inner {
            _engine: engine.clone(),
            name,
            version,
            program,
            settings,
            limits,
            tables,
            state_version,
            label,
        }));
        match script.start(Log::silent()).await {
            Ok(_) => Ok(script),
            Err(StartError::Instantiate(error)) => Err(LoadError::Instantiate(chain(&error))),
            Err(StartError::Fault(fault)) => Err(LoadError::Start(fault)),
            Err(StartError::Refused(text)) => Err(LoadError::Settings(text)),
        }
    }

    /// The name that it was loaded under.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The hash of its bytes.
    pub fn version(&self) -> &Version {
        &self.0.version
    }

    /// Name and version, its own and that of its tables, as dead letters have it.
    pub fn label(&self) -> &str {
        &self.0.label
    }

    /// The settings as the script gets them: JSON.
    pub fn settings(&self) -> &str {
        &self.0.settings
    }

    /// Which form its state has.
    pub fn state_version(&self) -> u32 {
        self.0.state_version
    }

    /// Whether settings, limits and tables are those of the recipe. The bytes are
    /// told apart by the [`Script::version`].
    pub fn is_of(&self, recipe: &Recipe) -> bool {
        self.0.settings == settings_text(&recipe.settings)
            && self.0.limits == recipe.limits
            && self.0.tables.version() == recipe.tables.version()
            && self.0.state_version == recipe.state_version
    }

    /// What it may use.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// What it may look up.
    pub fn tables(&self) -> &Tables {
        &self.0.tables
    }

    /// A mapper for lane number `lane`, which takes part in the stream's
    /// `state` and logs to `log`. The instance is made with the first batch.
    pub fn lane(&self, lane: u32, state: &State, log: LogSink) -> Mapper {
        Mapper::new(self.clone(), lane, state, log)
    }

    #[cfg(test)]
    pub(super) fn shares_code_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0.program, &other.0.program)
    }

    pub(super) async fn start(&self, log: Log) -> Result<Instance, StartError> {
        let Inner { program, settings, limits, tables, .. } = &*self.0;
        Instance::start(program.pre(), settings, limits, tables, log).await
    }
}

/// As the script gets them.
fn settings_text(settings: &Value) -> String {
    if settings.is_null() { "{}".to_owned() } else { settings.to_string() }
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Script({})", self.0.label)
    }
}
