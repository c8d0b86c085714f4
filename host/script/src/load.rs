//! From the bytes of a file to a script that can be run.

use std::sync::Arc;

use serde_json::Value;

use super::engine::Engine;
use super::error::LoadError;
use super::instance::{Instance, StartError};
use super::limits::Limits;
use super::log::Log;
use super::program::Program;
use super::recipe::Recipe;
use super::tables::Tables;
use super::text::chain;
use super::version::Version;

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
