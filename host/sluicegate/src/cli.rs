//! The command line: one file or folder per command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{apply, build, check, compile_script, dead_letters, diff, inspect, map, new, run, streams, test};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "sluicegate",
    version,
    about = "Durable MQTT gateway: stores each message in a journal, maps it with a WebAssembly script and \
             delivers it at least once",
    after_help = CONFIG_HELP,
    max_term_width = 100
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Check(check::CheckArgs),
    Plan(apply::PlanArgs),
    Apply(apply::ApplyArgs),
    Diff(diff::DiffArgs),
    Map(map::MapArgs),
    #[cfg(feature = "demo")]
    Demo(demo::DemoArgs),
    New(new::NewArgs),
    Build(build::BuildArgs),
    Inspect(inspect::InspectArgs),
    Test(test::TestArgs),
    Streams(streams::StreamsArgs),
    DeadLetters(dead_letters::DeadLettersArgs),
    #[command(hide = true)]
    CompileScript(compile_script::CompileScriptArgs),
}

const CONFIG_HELP: &str = "\
The configuration is sluicegate.toml and one file per stream in the folder
streams/ beside it. The first of these is read: --config FILE,
$SLUICEGATE_CONFIG, ./sluicegate.toml, /etc/sluicegate/sluicegate.toml.";

impl Cli {
    /// Reads the command line; ends the program where it is wrong or asks for
    /// help.
    pub fn from_args() -> Self {
        Self::parse()
    }

    /// Runs the command and returns the exit status of the program.
    pub fn run(self) -> ExitCode {
        // It runs under a memory limit and needs no runtime threads.
        if let Command::CompileScript(args) = &self.command {
            return compile_script::run(args);
        }
        let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("sluicegate: cannot start the runtime's threads: {error}");
                return ExitCode::FAILURE;
            }
        };
        runtime.block_on(async {
            match self.command {
                Command::Run(args) => run::run(args).await,
                Command::Check(args) => check::check(args).await,
                Command::Plan(args) => apply::plan(args).await,
                Command::Apply(args) => apply::apply(args).await,
                Command::Diff(args) => diff::run(&args).await,
                Command::Map(args) => map::run(&args).await,
                #[cfg(feature = "demo")]
                Command::Demo(args) => demo::run(args).await,
                Command::New(args) => new::run(&args),
                Command::Build(args) => build::run(&args),
                Command::Inspect(args) => inspect::run(&args).await,
                Command::Test(args) => test::run(&args).await,
                Command::Streams(args) => streams::run(args).await,
                Command::DeadLetters(args) => dead_letters::run(args).await,
                Command::CompileScript(args) => compile_script::run(&args),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
