//! Embeds what `sluicegate new` and `build` write out: the template of an
//! adapter and the SDK.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io, process};

/// What the folder of a new adapter in Rust begins with, below `guest-sdk`.
const TEMPLATE: &str = "rust/template";

/// What it has of the SDK.
const SDK: [&str; 4] = ["rust/Cargo.toml", "rust/README.md", "rust/src", "wit"];

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let sdk = root.join("guest-sdk");
    let written = embed_texts(&sdk, &SDK, &out.join("sdk.rs"))
        .and_then(|()| embed_texts(&sdk.join(TEMPLATE), &["."], &out.join("template.rs")));
    if let Err(error) = written {
        println!("cargo::error={error}");
        process::exit(1);
    }
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
