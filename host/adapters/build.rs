//! Embeds the official adapters: their compiled scripts, which
//! `scripts/build.sh` has left in `target/adapters`, each with its manifest
//! and its cases in it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io, process};

#[path = "../script/src/sections.rs"]
#[allow(dead_code)]
mod sections;

/// The adapters that the binary brings along, in the order in which they are
/// listed to users.
const NAMES: [&str; 5] =
    ["aws-shadow", "thingsboard-gateway", "wialon-retranslator", "http-json", "mqtt-json"];

/// Where else to look for the compiled scripts.
const FOLDER: &str = "SLUICEGATE_ADAPTERS";

fn main() {
    println!("cargo::rerun-if-env-changed={FOLDER}");
    println!("cargo::rerun-if-changed=../script/src/sections.rs");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    if let Err(error) = embed_adapters(&root, &out) {
        println!("cargo::error={error}");
        process::exit(1);
    }
}

/// Writes a table of name and package.
fn embed_adapters(root: &Path, out: &Path) -> io::Result<()> {
    let compiled = env::var_os(FOLDER).map_or_else(|| root.join("target/adapters"), PathBuf::from);
    let mut table = String::from("&[\n");
    let mut missing = Vec::new();
    for name in NAMES {
        let wasm = compiled.join(format!("{name}.wasm"));
        let folder = root.join("scripts").join(name);
        for path in [&wasm, &folder.join("adapter.toml"), &folder.join("cases")] {
            println!("cargo::rerun-if-changed={}", path.display());
            if !path.exists() {
                missing.push(path.display().to_string());
            }
        }
        if !missing.is_empty() {
            continue;
        }
        let parts = sections::of_folder(&folder)?;
        let package = sections::replace(
            &fs::read(&wasm)?,
            parts.iter().map(|(name, data)| (name.as_str(), data.as_slice())),
        );
        let package_file = out.join(format!("{name}.wasm"));
        fs::write(&package_file, package)?;
        let _ = writeln!(table, "    ({name:?}, include_bytes!({package_file:?})),");
    }
    if !missing.is_empty() {
        return Err(io::Error::other(format!(
            "the official scripts are not built yet: run `make adapters` (or `sh scripts/build.sh`), then build \
             again; missing: {}",
            missing.join(", ")
        )));
    }
    table.push_str("]\n");
    fs::write(out.join("adapters.rs"), table)
}
