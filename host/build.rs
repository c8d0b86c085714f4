//! Embeds the official adapters: their compiled scripts, which
//! `scripts/build.sh` has left in `target/adapters`, and their manifests.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, process};

/// The adapters that the binary brings along, in the order in which they are
/// listed to users.
const NAMES: [&str; 5] =
    ["aws-shadow", "thingsboard-gateway", "wialon-retranslator", "http-json", "mqtt-json"];

/// Where else to look for the compiled scripts.
const FOLDER: &str = "SLUICEGATE_ADAPTERS";

fn main() {
    println!("cargo::rerun-if-env-changed={FOLDER}");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let compiled = env::var_os(FOLDER).map_or_else(|| root.join("target/adapters"), PathBuf::from);
    let mut table = String::from("&[\n");
    let mut missing = Vec::new();
    for name in NAMES {
        let wasm = compiled.join(format!("{name}.wasm"));
        let manifest = root.join("scripts").join(name).join("adapter.toml");
        for file in [&wasm, &manifest] {
            println!("cargo::rerun-if-changed={}", file.display());
            if !file.is_file() {
                missing.push(file.display().to_string());
            }
        }
        let _ = writeln!(
            table,
            "    ({name:?}, include_bytes!({:?}), include_str!({:?})),",
            absolute(&wasm),
            absolute(&manifest)
        );
    }
    if !missing.is_empty() {
        println!(
            "cargo::error=the official scripts are not built yet: run `make adapters` (or `sh scripts/build.sh`), \
             then build again; missing: {}",
            missing.join(", ")
        );
        process::exit(1);
    }
    table.push_str("]\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("adapters.rs");
    if let Err(error) = fs::write(&out, table) {
        println!("cargo::error={}: {error}", out.display());
        process::exit(1);
    }
}

fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}
