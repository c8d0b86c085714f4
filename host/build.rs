//! Embeds the official adapters: their compiled scripts, which
//! `scripts/build.sh` has left in `target/adapters`, each with its manifest
//! and its cases in it; and what `sluicegate new` and `build` write out or run.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io, process};

#[path = "src/script/sections.rs"]
#[allow(dead_code)]
mod sections;

/// The adapters that the binary brings along, in the order in which they are
/// listed to users.
const NAMES: [&str; 5] =
    ["aws-shadow", "thingsboard-gateway", "wialon-retranslator", "http-json", "mqtt-json"];

/// Where else to look for the compiled scripts.
const FOLDER: &str = "SLUICEGATE_ADAPTERS";

/// What the folder of a new adapter in Rust begins with, below `guest-sdk`.
const TEMPLATE: &str = "rust/template";

/// What it has of the SDK.
const SDK: [&str; 4] = ["rust/Cargo.toml", "rust/README.md", "rust/src", "wit"];

fn main() {
    println!("cargo::rerun-if-env-changed={FOLDER}");
    println!("cargo::rerun-if-changed=src/script/sections.rs");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let sdk = root.join("guest-sdk");
    let written = embed_adapters(&root, &out)
        .and_then(|()| embed_texts(&sdk, &SDK, &out.join("sdk.rs")))
        .and_then(|()| embed_texts(&sdk.join(TEMPLATE), &["."], &out.join("template.rs")));
    if let Err(error) = written {
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

/// Writes a table of path, below `root`, and text of these files and folders.
fn embed_texts(root: &Path, paths: &[&str], to: &Path) -> io::Result<()> {
    let mut table = String::from("&[\n");
    for path in paths {
        let path = root.join(path).canonicalize()?;
        println!("cargo::rerun-if-changed={}", path.display());
        for file in files(&path)? {
            let below = file.strip_prefix(root.canonicalize()?).unwrap_or(&file).display().to_string();
            let _ = writeln!(table, "    ({below:?}, include_str!({file:?})),");
        }
    }
    table.push_str("]\n");
    fs::write(to, table)
}

/// The file, or the sources and texts in a folder and below it, in the order
/// of their names.
fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut entries = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    let mut found = Vec::new();
    for entry in entries {
        let kind = entry.extension().and_then(|kind| kind.to_str()).unwrap_or_default();
        if entry.is_dir() || ["rs", "toml", "md", "wit", "json", "jsonl"].contains(&kind) {
            found.extend(files(&entry)?);
        }
    }
    Ok(found)
}
