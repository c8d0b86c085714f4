//! The program `sluicegate`.

use std::process::ExitCode;

use sluicegate::cli::Cli;

fn main() -> ExitCode {
    Cli::from_args().run()
}
