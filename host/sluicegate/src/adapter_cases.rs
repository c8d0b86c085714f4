//! The golden cases of the official adapters, as they are embedded, with what
//! `sluicegate map` prints beside them (the packets of Wialon).
//!
//! `sluicegate test scripts/NAME --bless` writes the output to the
//! `expected.jsonl` of the cases.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use script::cases::{self, Runner};
use script::{Engine, Limits};

use crate::map;

/// Fewer would not show that an adapter copes with awkward input.
const FEWEST_CASES: usize = 8;

#[tokio::test]
async fn adapter_cases_map_as_expected() {
    let engine = Engine::new(4).unwrap();
    let limits = Limits::default();
    let mut faults = Vec::new();
    for adapter in adapters::all() {
        let name = &adapter.manifest.name;
        let package = adapters::package(name).unwrap();
        if package.cases.len() < FEWEST_CASES {
            faults.push(format!("{name} has {} cases, expected {FEWEST_CASES}", package.cases.len()));
        }
        let mut runner = Runner::new(&engine, &package, &limits, map::decode_for(&package));
        for case in &package.cases {
            if let Err(problem) = runner.check(case).await {
                faults.push(format!("{name}: {}: {problem}", case.name));
            }
        }
        cases::check(&engine, &package, &limits).await.unwrap_or_else(|more| {
            faults.extend(more.iter().map(|fault| format!("{name}, as a reload checks it: {fault}")));
        });
    }
    assert!(faults.is_empty(), "{} faults\n\n{}", faults.len(), faults.join("\n"));
}

/// A script in the repository that the binary does not bring along would not
/// be tested above.
#[test]
fn binary_embeds_all_official_scripts() {
    let mut folders: Vec<String> = fs::read_dir(scripts())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("Cargo.toml").is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    let mut embedded: Vec<String> = adapters::all().iter().map(|a| a.manifest.name.clone()).collect();
    folders.sort();
    embedded.sort();
    assert_eq!(folders, embedded);
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts")
}
