//! Everything fails, at random, for as long as told; then everything is whole
//! again, and every message that the broker has taken over must have arrived
//! or be a dead letter with a reason.
//!
//! `make chaos FOR=10m SEED=7`, or `cargo test` with `CHAOS_FOR` and
//! `CHAOS_SEED`; without both it is the short form of `make test`, with seeds
//! that stay the same. Arguments are parts of the destinations' names. Ends
//! with 1 when anything was lost.

#![allow(clippy::unwrap_used)]

mod dice;
mod far;
mod faults;
mod near;
mod site;

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use sluicegate_tests::receiver::Kind;

use crate::faults::Counts;
use crate::site::{Outcome, Plan};

/// A round of the short form: some sixty faults of each destination.
const SHORT: Duration = Duration::from_secs(60);
const SHORT_SEEDS: [u64; 2] = [3, 11];

#[tokio::main]
async fn main() -> ExitCode {
    let (time, seeds) = match (std::env::var("CHAOS_FOR").ok(), std::env::var("CHAOS_SEED").ok()) {
        (None, None) => (SHORT, SHORT_SEEDS.to_vec()),
        (time, seed) => (
            time.map_or(SHORT, |text| {
                parse_time(&text).unwrap_or_else(|| panic!("CHAOS_FOR is {text:?}, not like 90s or 10m"))
            }),
            vec![seed.map_or_else(any_seed, |text| {
                text.parse().unwrap_or_else(|_| panic!("CHAOS_SEED is {text:?}, no number"))
            })],
        ),
    };
    // What `cargo test` passes on: options are those of its own test programs.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let chosen =
        |name: &str| wanted.is_empty() || wanted.iter().any(|word| format!("chaos {name}").contains(word));
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| chosen(kind.names().0)).collect();
    if kinds.is_empty() {
        println!("chaos: no destination's name contains {}", wanted.join(" or "));
        return ExitCode::SUCCESS;
    }
    let mut clean = true;
    for seed in seeds {
        clean &= round(&kinds, time, seed).await;
    }
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All destinations at the same time; prints the table, and whatever is not as
/// it has to be. Whether all was.
async fn round(kinds: &[Kind], time: Duration, seed: u64) -> bool {
    println!("chaos for {time:?}, seed {seed}");
    let runs: Vec<_> = kinds
        .iter()
        .map(|kind| {
            let plan = Plan { kind: *kind, time, seed };
            (*kind, tokio::spawn(site::run(plan)))
        })
        .collect();
    let mut table = vec![heading()];
    let mut clean = true;
    for (kind, run) in runs {
        let name = kind.names().0;
        match run.await {
            Ok(outcome) => {
                clean &= outcome.report.is_clean();
                table.push(row(name, &outcome));
                if !outcome.report.is_clean() {
                    println!("\n--- {name}: {}", outcome.report);
                    outcome.history.iter().for_each(|line| println!("  {line}"));
                }
            }
            Err(error) => {
                clean = false;
                println!("\n--- {name}: {error}");
            }
        }
    }
    println!();
    table.iter().for_each(|line| println!("{line}"));
    if !clean {
        println!("\nnot clean; the same faults again: make chaos FOR={}s SEED={seed}", time.as_secs());
    }
    clean
}

fn heading() -> String {
    format!(
        "{:<12} {:>7} {:>9} {:>7} {:>7} {:>5} {:>12} {:>12} | {}",
        "destination",
        "sent",
        "delivered",
        "repeats",
        "missing",
        "wrong",
        "out of order",
        "dead letters",
        Counts::heading()
    )
}

fn row(name: &str, Outcome { report, counts, .. }: &Outcome) -> String {
    format!(
        "{name:<12} {:>7} {:>9} {:>7} {:>7} {:>5} {:>12} {:>12} | {counts}",
        report.sent,
        report.delivered,
        report.repeats,
        report.missing,
        report.wrong,
        report.out_of_order,
        report.dead_letters,
    )
}

fn parse_time(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let unit = match &text[digits..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    Some(Duration::from_secs(text[..digits].parse::<u64>().ok()? * unit))
}

fn any_seed() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::from(since.subsec_nanos()) ^ since.as_secs()
}
