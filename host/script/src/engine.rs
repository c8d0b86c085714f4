//! The WebAssembly engine: wasmtime, configured once for all scripts.

use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use tokio::task::spawn_blocking;
use wasmtime::{EngineWeak, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::compile::{Compilation, Compiler};
use super::config::config;
use super::error::LoadError;
use super::limits::TICK;
use super::program::{Program, Programs};
use super::version::Version;

/// Compiles and runs scripts. Cloning is cheap; one serves the whole process.
#[derive(Clone)]
pub struct Engine(Arc<Engines>);

struct Engines {
    /// Instances in slots made ready beforehand: 6 us instead of 16 for a
    /// fresh one. Absent where the address space for the slots is refused.
    pooled: Option<wasmtime::Engine>,
    /// For scripts that do not fit a slot.
    roomy: wasmtime::Engine,
    programs: Programs,
    compiler: Compiler,
}

/// The engine cannot run on this machine.
#[derive(Debug, thiserror::Error)]
#[error("the WebAssembly engine cannot start: {0}")]
pub struct EngineError(String);

/// Bytes of linear memory in a slot of the pool.
const POOL_MEMORY: usize = 64 << 20;

/// Slots at most: each reserves 4 GiB of a 128 TiB address space.
const POOL_SLOTS: u32 = 10_000;

impl Engine {
    /// An engine for about so many instances at a time (lanes of all streams)
    /// that compiles in this process: for scripts that are the user's own.
    pub fn new(max_instances: u32) -> Result<Self, EngineError> {
        Self::with(max_instances, Compilation::default())
    }

    /// The same with scripts compiled as `compilation` says. Starts one thread
    /// that gives the time; it ends with the last clone.
    pub fn with(max_instances: u32, compilation: Compilation) -> Result<Self, EngineError> {
        // Twice as many as there are lanes: a reload and a bisection hold a
        // second instance for a while.
        let slots = max_instances.saturating_mul(2).saturating_add(16).min(POOL_SLOTS);
        let pooled = match wasmtime::Engine::new(config().allocation_strategy(pool(slots))) {
            Ok(engine) => Some(engine),
            Err(error) => {
                tracing::warn!(
                    slots,
                    error = %error.root_cause(),
                    "no address space for a pool of script instances; instances are made one by one instead"
                );
                None
            }
        };
        let roomy = wasmtime::Engine::new(&config()).map_err(|e| EngineError(format!("{e:#}")))?;
        start_ticker(pooled.iter().chain([&roomy]).map(wasmtime::Engine::weak).collect())?;
        let compiler = Compiler::new(compilation, &roomy);
        Ok(Self(Arc::new(Engines { pooled, roomy, programs: Programs::default(), compiler })))
    }

    /// The compiled form of a script that may have so much memory.
    pub(super) async fn program(
        &self,
        wasm: Bytes,
        memory: usize,
    ) -> Result<(Version, Arc<Program>), LoadError> {
        let hashed = wasm.clone();
        let version = blocking(move || Ok(Version::of(&hashed))).await?;
        let roomy = memory > POOL_MEMORY;
        let program = self.0.programs.get(&version, roomy, self.make(&version, wasm, roomy)).await?;
        Ok((version, program))
    }

    /// Takes the code that is kept, or compiles.
    async fn make(&self, version: &Version, wasm: Bytes, roomy: bool) -> Result<Program, LoadError> {
        if let Some(code) = self.0.compiler.kept(version).await
            // What was kept and cannot be taken is of no use to anybody.
            && let Ok(program) = self.link(code, roomy).await
        {
            return Ok(program);
        }
        let code = self.0.compiler.compile(version, wasm).await?;
        self.link(code, roomy).await
    }

    /// Links code in the first engine that it fits: only there it shows
    /// whether a slot of the pool is large enough.
    async fn link(&self, code: Vec<u8>, roomy: bool) -> Result<Program, LoadError> {
        let pooled = self.0.pooled.iter().filter(|_| !roomy);
        let engines: Vec<wasmtime::Engine> = pooled.chain([&self.0.roomy]).cloned().collect();
        blocking(move || Program::link(&engines, &code)).await
    }
}

/// Off the threads of the runtime.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LoadError> + Send + 'static,
) -> Result<T, LoadError> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(LoadError::Compiler(error.to_string())))
}

fn pool(slots: u32) -> InstanceAllocationStrategy {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_memories(slots)
        .total_stacks(slots)
        // A lifted core module with imports is three core instances (itself,
        // a shim and the module that fills the shim's table) and two tables.
        .total_core_instances(slots.saturating_mul(3))
        .total_tables(slots.saturating_mul(2))
        .max_core_instances_per_component(8)
        .max_tables_per_component(4)
        .max_memories_per_component(1)
        .max_memory_size(POOL_MEMORY)
        .table_elements(20_000)
        .linear_memory_keep_resident(128 << 10)
        .table_keep_resident(16 << 10);
    InstanceAllocationStrategy::Pooling(pool)
}

/// Advances the epoch of the engines until all of them are gone. The thread
/// holds them weakly, so it never keeps one alive for longer than a tick.
#[expect(clippy::disallowed_methods, reason = "the ticker has a thread of its own, outside the runtime")]
fn start_ticker(engines: Vec<EngineWeak>) -> Result<(), EngineError> {
    let tick = move || {
        loop {
            let mut alive = false;
            for engine in engines.iter().filter_map(EngineWeak::upgrade) {
                engine.increment_epoch();
                alive = true;
            }
            if !alive {
                return;
            }
            thread::sleep(TICK);
        }
    };
    thread::Builder::new()
        .name("script-ticker".into())
        .spawn(tick)
        .map(drop)
        .map_err(|e| EngineError(format!("its thread could not be started: {e}")))
}
