//! `sluicegate compile-script`: what the gateway runs beside itself to compile
//! a script. Not for people, so `--help` does not list it.

use std::process::ExitCode;
use std::time::Duration;

use script::compile::{self, Bounds};

/// Compile the script on standard input and write its code to standard output
#[derive(Clone, Debug, clap::Args)]
pub struct CompileScriptArgs {
    /// CPU time that it may take, in seconds
    #[arg(long)]
    cpu_seconds: u64,
    /// Bytes of address space that it may take
    #[arg(long)]
    memory: u64,
}

/// Runs the command; on the main thread, without a runtime.
pub fn run(args: &CompileScriptArgs) -> ExitCode {
    let cpu = Duration::from_secs(args.cpu_seconds);
    match compile::serve(&Bounds { cpu, memory: args.memory, ..Bounds::default() }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluicegate: {error}");
            ExitCode::FAILURE
        }
    }
}
