//! `sluicegate diff`: what another script would change, before it does.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytes::Bytes;
use clap::{ArgGroup, Args};
use gateway::operate::{Target, TargetError};
use gateway::wiring;

use super::differences;
use crate::config_arg::ConfigArg;
use crate::print::print_json;

/// Compare the output of a stream's script with that of another script
///
/// The running gateway maps up to 1,000 recent messages with both scripts, each with a copy of the state. It
/// sends and changes nothing. Without --script and --adapter, the other script is the one that the stream's file
/// names now.
#[derive(Args, Clone, Debug)]
#[command(
    group(ArgGroup::new("other").args(["script", "adapter"])),
    after_help = "\
Each message with a different output is printed with the lines that
`sluicegate map` would print: `-` marks output of the running script only, `+`
output of the other script only.

Examples:
  sluicegate diff --stream fleet --script new.wasm
  sluicegate diff --stream fleet --adapter http-json
  sluicegate diff --stream fleet --json

Exit status:
  0  a reload would accept the other script
  1  a reload would reject it, or there was nothing to compare; the last line
     says why
  2  invalid command line"
)]
pub struct DiffArgs {
    /// The stream
    #[arg(long, value_name = "NAME")]
    stream: String,
    /// A .wasm file, or the folder of an adapter
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// An official adapter of this binary
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArg,
}

/// Why nothing is compared.
#[derive(Debug, thiserror::Error)]
enum DiffError {
    #[error("{0}")]
    Unreadable(String),
    #[error("--adapter {0}: unknown adapter; expected one of {names}", names = adapters::names())]
    Adapter(String),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

/// Runs the command.
pub async fn run(args: &DiffArgs) -> ExitCode {
    match diff(args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // The reader closed the pipe (`| head`).
        Err(DiffError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluicegate: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether a reload would take it.
async fn diff(args: &DiffArgs) -> Result<bool, DiffError> {
    let wasm = other(args.script.as_deref(), args.adapter.as_deref())?;
    let target = Target::find(args.config.config.as_deref()).await?;
    let compared = target.compare(&args.stream, wasm).await;
    target.close().await;
    let change = compared?;
    if args.json {
        print_json(&change)?;
    } else {
        differences::print(&change)?;
    }
    Ok(change.refusal.is_none())
}

/// The bytes of the other script; none: the stream's own source has them.
fn other(script: Option<&Path>, adapter: Option<&str>) -> Result<Option<Bytes>, DiffError> {
    let package = match (script, adapter) {
        (Some(path), _) => wiring::package_at(path).map_err(DiffError::Unreadable)?,
        (None, Some(name)) => adapters::package(name).ok_or_else(|| DiffError::Adapter(name.to_owned()))?,
        (None, None) => return Ok(None),
    };
    Ok(Some(package.wasm))
}
