//! From WebAssembly to machine code: compiled in a process of its own, which
//! cannot take more than its [`Bounds`], and kept in a folder.
//!
//! Scripts come from strangers, and a compiler is large: what is meant to keep
//! it busy for hours, fill the memory or crash it ends a process that nobody
//! misses. Its heap (some 100 MiB for a script of JavaScript) stays out of the
//! gateway, too.

mod cache;
mod child;
mod worker;

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cache::Cache;
use sha2::{Digest, Sha256};
use telemetry::event;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::error::LoadError;
use super::lift;
use super::version::Version;

pub use child::{Bounds, Child};
pub use worker::serve;

/// How scripts are compiled. The default: in this process, nothing kept.
#[derive(Clone, Debug, Default)]
pub struct Compilation {
    /// Compiles; none: this process does, without bounds.
    pub child: Option<Child>,
    /// Folder that keeps compiled code. Whoever can write there can run code
    /// in the gateway, so nobody else may: it is made with mode 0700.
    pub cache: Option<PathBuf>,
}

/// Bytes that the folder holds at most; what was not used for the longest time
/// goes first. An adapter has 0.5 MB of code, a script of JavaScript 37 MB.
const CACHE_BYTES: u64 = 512 << 20;

/// How long a script that was too much for the compiler is not tried again:
/// a stream asks for its script for ever.
const REFUSED_FOR: Duration = Duration::from_secs(600);

/// Scripts that are remembered as too much, at most.
const REFUSED: usize = 64;

/// Number of the way from a file to code, as far as the gateway decides it.
/// Raised when `lift` makes something else of the same bytes.
const WAY: u32 = 1;

/// Makes code of scripts, a few at a time.
pub(super) struct Compiler {
    /// Without a pool; the code that it makes runs in all of the gateway's.
    engine: wasmtime::Engine,
    child: Option<Child>,
    cache: Option<Cache>,
    /// What beside a script's bytes its code depends on.
    mark: String,
    permits: Semaphore,
    refused: Mutex<HashMap<Version, (LoadError, Instant)>>,
}

// ----- impl Compilation -----

impl Compilation {
    /// In a child process of this program.
    pub fn isolated() -> Self {
        Self { child: Some(Child::of_this_program()), cache: None }
    }

    /// The same, with code kept in a folder.
    #[must_use]
    pub fn cached_in(self, folder: impl Into<PathBuf>) -> Self {
        Self { cache: Some(folder.into()), ..self }
    }
}

// ----- impl Compiler -----

impl Compiler {
    pub(super) fn new(compilation: Compilation, engine: &wasmtime::Engine) -> Self {
        let Compilation { child, cache } = compilation;
        let cache = cache.and_then(|folder| match Cache::open(&folder, CACHE_BYTES) {
            Ok(cache) => Some(cache),
            Err(error) => {
                tracing::warn!(
                    folder = %folder.display(),
                    %error,
                    "no folder for compiled scripts: each is compiled anew at every start"
                );
                None
            }
        });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            engine: engine.clone(),
            child,
            cache,
            mark: mark(engine),
            permits: Semaphore::new(cores),
            refused: Mutex::default(),
        }
    }

    /// The code of a script, from the folder if it is there and whole.
    pub(super) async fn kept(&self, version: &Version) -> Option<Vec<u8>> {
        let cache = self.cache.clone()?;
        let name = self.name(version);
        let code = spawn_blocking(move || cache.get(&name)).await.ok().flatten()?;
        metrics::counter!("sluicegate_script_cache_hits_total").increment(1);
        Some(code)
    }

    /// Compiles a script and keeps its code. Dropping the future ends the
    /// child.
    pub(super) async fn compile(&self, version: &Version, wasm: Bytes) -> Result<Vec<u8>, LoadError> {
        if let Some(error) = self.refusal(version) {
            return Err(error);
        }
        // A closed semaphore would be one permit too many, nothing worse.
        let _permit = self.permits.acquire().await;
        let (start, size) = (Instant::now(), wasm.len());
        let outcome = match &self.child {
            Some(child) => child.compile(wasm).await,
            None => {
                let engine = self.engine.clone();
                spawn_blocking(move || worker::code_of(&engine, &wasm))
                    .await
                    .unwrap_or_else(|error| Err(LoadError::Compiler(error.to_string())))
            }
        };
        event::ScriptCompiled {
            version,
            bytes: size,
            took: start.elapsed(),
            error: outcome.as_ref().err().map(|error| error as &dyn std::fmt::Display),
        }
        .emit();
        match &outcome {
            Ok(code) => self.keep(version, code.clone()).await,
            Err(error) => self.remember(version, error),
        }
        outcome
    }

    async fn keep(&self, version: &Version, code: Vec<u8>) {
        let Some(cache) = self.cache.clone() else { return };
        let name = self.name(version);
        let kept = spawn_blocking(move || cache.put(&name, &code)).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(script = %version, %error, "the compiled script cannot be kept");
        }
    }

    /// The name of a script's code in the folder.
    fn name(&self, version: &Version) -> String {
        format!("{}-{}", version.full(), self.mark)
    }

    fn refusal(&self, version: &Version) -> Option<LoadError> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.retain(|_, (_, since)| since.elapsed() < REFUSED_FOR);
        refused.get(version).map(|(error, _)| error.clone())
    }

    /// Only what costs is worth remembering: other refusals take milliseconds.
    fn remember(&self, version: &Version, error: &LoadError) {
        if !matches!(error, LoadError::TooCostly(_)) {
            return;
        }
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() < REFUSED {
            refused.insert(version.clone(), (error.clone(), Instant::now()));
        }
    }
}

/// What code depends on beside the script: compiler and its settings,
/// processor, contract. Sixteen hexadecimal digits.
fn mark(engine: &wasmtime::Engine) -> String {
    let mut hasher = Sha(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    (WAY, env!("CARGO_PKG_VERSION"), lift::WIT).hash(&mut hasher);
    hasher.0.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of what is hashed: the standard hasher may be another one in the
/// next release of the compiler.
struct Sha(Sha256);

impl Hasher for Sha {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Not asked for: 64 bits are too few for a name.
    fn finish(&self) -> u64 {
        0
    }
}
