//! The benchmarks, in one program. Without a name it runs all of them.

mod common;
mod end_to_end;
mod journal;
mod latency;
mod recovery;
mod reload;
mod script_load;
mod script_step;
mod tables;

use std::process::ExitCode;

/// Each benchmark by its name, in the order in which they run.
const BENCHES: [(&str, fn()); 8] = [
    ("script_step", script_step::run),
    ("script_load", script_load::run),
    ("end_to_end", end_to_end::run),
    ("journal", journal::run),
    ("latency", latency::run),
    ("recovery", recovery::run),
    ("tables", tables::run),
    ("reload", reload::run),
];

fn main() -> ExitCode {
    let all: Vec<String> = std::env::args().skip(1).collect();
    if let [first, rest @ ..] = &all[..]
        && first == recovery::FILL
    {
        recovery::fill_in_child(rest);
        return ExitCode::SUCCESS;
    }
    let Some(wanted) = arguments().next() else {
        BENCHES.iter().for_each(|(_, run)| run());
        return ExitCode::SUCCESS;
    };
    let Some((_, run)) = BENCHES.iter().find(|(name, _)| *name == wanted) else {
        let names: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
        eprintln!("there is no benchmark `{wanted}`; expected one of {}", names.join(", "));
        return ExitCode::FAILURE;
    };
    run();
    ExitCode::SUCCESS
}

/// The arguments without the options that cargo adds: a benchmark, then a part
/// of it.
fn arguments() -> impl Iterator<Item = String> {
    std::env::args().skip(1).filter(|argument| !argument.starts_with('-'))
}
