//! The program `sluicegate`: one file or folder per command.

#[cfg(test)]
mod adapter_cases;
mod apply;
mod build;
mod check;
mod cli;
mod compile_script;
mod config_arg;
mod dead_letters;
mod diff;
mod differences;
mod inspect;
mod map;
mod new;
mod print;
mod run;
mod streams;
mod table;
mod test;

use std::process::ExitCode;

use cli::Cli;

fn main() -> ExitCode {
    Cli::from_args().run()
}
