//! The side of the child: takes away from itself what it does not need, reads
//! a script, writes its code.

use std::io::{self, Read, Write};

use rustix::process::{Resource, Rlimit, getrlimit, nice, setrlimit};
use serde::{Deserialize, Serialize};

use super::child::Bounds;
use crate::error::LoadError;
use crate::text::chain;
use crate::{config, lift, limits};

/// The first line of what the child writes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// So many bytes of code follow.
    Code(usize),
    /// There is none.
    Refused(LoadError),
}

/// How far the child steps back behind everything else on the machine: with
/// all cores busy it gets a tenth of one.
const NICE: i32 = 10;

/// What the kernel prefers to end when memory runs out, in thousandths.
const END_ME_FIRST: &str = "1000";

/// Serves one request: the script from standard input, an [`Answer`] and the
/// code to standard output. For a process that does nothing else.
pub fn serve(bounds: &Bounds) -> io::Result<()> {
    confine(bounds)?;
    let mut wasm = Vec::new();
    io::stdin().lock().take(limits::MAX_SIZE as u64 + 1).read_to_end(&mut wasm)?;
    let code = wasmtime::Engine::new(&config::config())
        .map_err(|error| LoadError::Compiler(chain(&error)))
        .and_then(|engine| code_of(&engine, &wasm));
    let (answer, code) = match code {
        Ok(code) => (Answer::Code(code.len()), code),
        Err(error) => (Answer::Refused(error), Vec::new()),
    };
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, &answer)?;
    out.write_all(b"\n")?;
    out.write_all(&code)?;
    out.flush()
}

/// Lifts and compiles.
pub(super) fn code_of(engine: &wasmtime::Engine, wasm: &[u8]) -> Result<Vec<u8>, LoadError> {
    let component = lift::component(wasm)?;
    engine.precompile_component(&component).map_err(|error| LoadError::Invalid(chain(&error)))
}

/// From here on this process can take no more than `bounds`, writes no file
/// and leaves no core behind.
fn confine(bounds: &Bounds) -> io::Result<()> {
    // Only Linux has it, and not where /proc is hidden.
    let _ = std::fs::write("/proc/self/oom_score_adj", END_ME_FIRST);
    nice(NICE)?;
    let cpu = bounds.cpu.as_secs().max(1);
    limit(Resource::Cpu, cpu, cpu + 1)?;
    limit(Resource::As, bounds.memory, bounds.memory)?;
    limit(Resource::Fsize, 0, 0)?;
    limit(Resource::Core, 0, 0)
}

/// For good: what is taken away cannot be taken back. The end at `current` says
/// which bound was met, the one at `maximum` does not.
fn limit(resource: Resource, current: u64, maximum: u64) -> io::Result<()> {
    let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    setrlimit(resource, Rlimit { current: Some(current.min(most)), maximum: Some(maximum.min(most)) })?;
    Ok(())
}
