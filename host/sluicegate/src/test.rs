//! `sluicegate test`: the cases of an adapter through the engine of the
//! gateway.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use gateway::wiring;
use script::cases::{Case, EXPECTED, Runner, compare};
use script::{Engine, Limits, Package};
use watch::Watch;

use super::build::{BuildError, build};
use super::map::decode_for;
use super::table::printable;

/// Run the test cases of an adapter and show the differences
///
/// Each case runs in a fresh and in a used instance, both times with an empty state and with the default limits
/// of a stream. A folder is built first, so the tests always run the current code.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sluicegate test
  sluicegate test adapters/speed --bless
  sluicegate test adapters/speed --watch
  sluicegate test speed.wasm

Exit status:
  0  every case passed
  1  a case failed, there are no cases, or the script does not compile
  2  invalid command line")]
pub struct TestArgs {
    /// The folder of an adapter, or a .wasm file
    #[arg(value_name = "FOLDER|FILE", default_value = ".")]
    script: PathBuf,
    /// Write the output to the cases' expected.jsonl; review the difference before you commit it
    #[arg(long)]
    bless: bool,
    /// Run the cases again after each change of a file
    #[arg(long)]
    watch: bool,
}

/// Why no case is run, or none can be blessed.
#[derive(Debug, thiserror::Error)]
enum TestError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("{0}")]
    Unreadable(String),
    #[error("{}: no test cases: expected a folder with an input.jsonl for each in cases/", .0.display())]
    NoCases(PathBuf),
    #[error("{}: --bless needs the folder of an adapter, not a file", .0.display())]
    Bless(PathBuf),
    #[error("{}: {error}", path.display())]
    Write { path: PathBuf, error: io::Error },
    #[error("stdout: {0}")]
    Output(io::Error),
}

/// How the cases went.
#[derive(Debug, Default)]
struct Sum {
    passed: usize,
    failed: usize,
    blessed: usize,
}

/// Runs the command.
pub async fn run(args: &TestArgs) -> ExitCode {
    let engine = match Engine::new(1) {
        Ok(engine) => engine,
        Err(error) => {
            eprintln!("sluicegate: {error}");
            return ExitCode::FAILURE;
        }
    };
    if args.watch {
        return again_and_again(args, &engine).await;
    }
    match test(args, &engine, &mut io::stdout().lock()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sluicegate: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the cases after each change, until Ctrl-C.
async fn again_and_again(args: &TestArgs, engine: &Engine) -> ExitCode {
    let mut changes = Watch::new().paths(paths(&args.script));
    changes.ready().await;
    loop {
        match test(args, engine, &mut io::stdout().lock()).await {
            Ok(_) => {}
            Err(TestError::Output(_)) => return ExitCode::FAILURE,
            // The next change may mend it.
            Err(error) => eprintln!("sluicegate: {error}"),
        }
        eprintln!("--- run again when {} changes; Ctrl-C ends", args.script.display());
        changes.next().await;
        println!();
    }
}

/// What a run depends on. Of a folder with sources that is not what a build
/// leaves there, for each run would call for the next.
fn paths(script: &Path) -> Vec<PathBuf> {
    if !script.join("Cargo.toml").is_file() {
        return vec![script.to_owned()];
    }
    let entries = fs::read_dir(script).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_built = |path: &PathBuf| {
        path.ends_with("target")
            || path.ends_with("Cargo.lock")
            || path.extension().is_some_and(|e| e == "wasm")
    };
    entries.filter(|path| !is_built(path)).collect()
}

/// Whether all is as expected.
async fn test(args: &TestArgs, engine: &Engine, out: &mut impl Write) -> Result<bool, TestError> {
    let folder = args.script.is_dir();
    if args.bless && !folder {
        return Err(TestError::Bless(args.script.clone()));
    }
    let package = if folder {
        build(&args.script, None)?.package
    } else {
        wiring::package_at(&args.script).map_err(TestError::Unreadable)?
    };
    if package.cases.is_empty() {
        return Err(TestError::NoCases(args.script.clone()));
    }
    let sum = run_cases(args, engine, &package, out).await?;
    if sum.blessed > 0 {
        // What is shipped has the cases in it.
        build(&args.script, None)?;
    }
    let Sum { passed, failed, blessed } = sum;
    let blessed = if blessed > 0 { format!(", {blessed} blessed") } else { String::new() };
    writeln!(out, "\n{passed} passed, {failed} failed{blessed}").map_err(TestError::Output)?;
    Ok(failed == 0)
}

async fn run_cases(
    args: &TestArgs,
    engine: &Engine,
    package: &Package,
    out: &mut impl Write,
) -> Result<Sum, TestError> {
    let mut say = |text: String| writeln!(out, "{text}").map_err(TestError::Output);
    if let Some(manifest) = &package.manifest {
        say(format!("{} {} ({})\n", manifest.name, manifest.version, package.version()))?;
    }
    let limits = Limits::default();
    let mut runner = Runner::new(engine, package, &limits, decode_for(package));
    let mut sum = Sum::default();
    for case in &package.cases {
        let name = printable(&case.name);
        let printed = runner.run(case).await;
        let problem = match &printed {
            Ok(printed) => compare(case, printed).err(),
            Err(_) => None,
        };
        match (printed, problem) {
            (Ok(_), None) => {
                sum.passed += 1;
                say(format!("ok    {name}"))?;
            }
            (Ok(printed), Some(_)) if args.bless => {
                bless(&args.script, case, &printed)?;
                sum.blessed += 1;
                say(format!("bless {name}"))?;
            }
            (Err(problem), _) | (Ok(_), Some(problem)) => {
                sum.failed += 1;
                say(format!("FAIL  {name}\n  {problem}"))?;
                if problem.concerns_every_case() {
                    break;
                }
            }
        }
    }
    Ok(sum)
}

fn bless(folder: &Path, case: &Case, printed: &str) -> Result<(), TestError> {
    let path = folder.join("cases").join(&case.name).join(EXPECTED);
    fs::write(&path, printed).map_err(|error| TestError::Write { path, error })
}
