//! `sluicegate new`: the folder of a new adapter.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

use clap::{Args, ValueEnum};
use script::manifest::{self, is_name};

use crate::print::print_line;

/// Create the folder of a new adapter: a working script, its manifest and its test cases
///
/// The folder contains the SDK, so it builds without a checkout of Sluicegate. `sluicegate build` compiles it to
/// one .wasm file, `sluicegate test` runs its cases.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sluicegate new speed --lang rust
  sluicegate new adapters/speed --lang rust && sluicegate test adapters/speed

Exit status:
  0  the folder was created
  1  it could not be created; standard error says why
  2  invalid command line")]
pub struct NewArgs {
    /// The folder to create; its name becomes the name of the adapter
    #[arg(value_name = "NAME")]
    folder: PathBuf,
    /// The programming language of the script
    #[arg(long)]
    lang: Language,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Language {
    Rust,
}

/// Why the folder was not created.
#[derive(Debug, thiserror::Error)]
enum NewError {
    #[error("{0:?} is not a name for an adapter, expected {expected}", expected = manifest::NAME)]
    Name(String),
    #[error("{}: it exists already", .0.display())]
    Exists(PathBuf),
    #[error("{}: {error}", path.display())]
    Write { path: PathBuf, error: io::Error },
}

/// Path and text of each file of the template for Rust, written by the build
/// script.
const TEMPLATE: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/template.rs"));

/// The same of the SDK: its Rust, and the contract beside it.
const SDK: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/sdk.rs"));

/// The name of the template's adapter.
const TEMPLATE_NAME: &str = "my-adapter";

/// What the manifest of the SDK says by reference to our workspace, and what
/// it says outside.
const INHERITED: [(&str, &str); 6] = [
    ("edition.workspace = true", "edition = \"2024\""),
    // Before `version`, which is a part of it.
    ("rust-version.workspace = true", concat!("rust-version = \"", env!("CARGO_PKG_RUST_VERSION"), "\"")),
    ("version.workspace = true", concat!("version = \"", env!("CARGO_PKG_VERSION"), "\"")),
    ("license.workspace = true", concat!("license = \"", env!("CARGO_PKG_LICENSE"), "\"")),
    ("publish.workspace = true", "publish = false"),
    ("[lints]\nworkspace = true\n\n", ""),
];

/// Runs the command.
pub fn run(args: &NewArgs) -> ExitCode {
    let Language::Rust = args.lang;
    match new(&args.folder) {
        Ok(name) => {
            let folder = args.folder.display();
            let _ = print_line(&format!(
                "{folder} has the adapter `{name}`. Next:\n  sluicegate test {folder}\n  $EDITOR {folder}/src/lib.rs"
            ));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sluicegate: {error}");
            ExitCode::FAILURE
        }
    }
}

fn new(folder: &Path) -> Result<String, NewError> {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if !is_name(&name) {
        return Err(NewError::Name(name));
    }
    if let Some(parent) = folder.parent() {
        make(parent, |parent| fs::create_dir_all(parent))?;
    }
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(NewError::Exists(folder.to_owned()));
        }
        made => made.map_err(|error| NewError::Write { path: folder.to_owned(), error })?,
    }
    for (path, text) in TEMPLATE {
        write(&folder.join(path), &text.replace(TEMPLATE_NAME, &name))?;
    }
    for (path, text) in SDK {
        let text = if *path == "rust/Cargo.toml" { standalone(text) } else { (*text).to_owned() };
        write(&folder.join("sdk").join(path), &text)?;
    }
    write(&folder.join(".gitignore"), &format!("/target\n/{name}.wasm\n"))?;
    Ok(name)
}

/// The manifest of the SDK without our workspace.
fn standalone(manifest: &str) -> String {
    INHERITED.iter().fold(manifest.to_owned(), |text, (from, to)| text.replace(from, to))
}

fn write(file: &Path, text: &str) -> Result<(), NewError> {
    if let Some(folder) = file.parent() {
        make(folder, |folder| fs::create_dir_all(folder))?;
    }
    make(file, |file| fs::write(file, text))
}

fn make(path: &Path, work: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), NewError> {
    work(path).map_err(|error| NewError::Write { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use script::package::{Package, PackageError, Parts};

    use super::*;

    #[test]
    fn new_folder_is_a_complete_adapter() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("adapters/my-speed");
        assert_eq!(new(&folder).unwrap(), "my-speed");
        assert_eq!(Parts::read(&folder).unwrap().manifest.name, "my-speed");
        for file in
            ["Cargo.toml", "README.md", "src/lib.rs", "adapter.toml", "sdk/wit/mapper.wit", ".gitignore"]
        {
            let text = fs::read_to_string(folder.join(file)).unwrap();
            assert!(!text.contains(TEMPLATE_NAME), "{file}");
        }
        let sdk = fs::read_to_string(folder.join("sdk/rust/Cargo.toml")).unwrap();
        assert!(!sdk.contains("workspace") && sdk.contains("edition = \"2024\""), "{sdk}");
        for line in INHERITED.iter().map(|(_, line)| line).filter(|line| !line.is_empty()) {
            assert!(sdk.lines().any(|of_sdk| of_sdk == *line), "{line}: {sdk}");
        }
        let package = Package::read(&folder);
        assert!(matches!(package, Err(PackageError::NotBuilt { .. })), "it has to be built, nothing else");
        for case in fs::read_dir(folder.join("cases")).unwrap() {
            let expected = case.unwrap().path().join("expected.jsonl");
            assert!(expected.is_file(), "{}", expected.display());
        }
        assert!(folder.join("sdk/rust/src/lib.rs").is_file());
        assert!(!folder.join("sdk/rust/template").exists());
    }

    #[test]
    fn existing_folder_and_bad_name_are_rejected() {
        let place = tempfile::tempdir().unwrap();
        let there = place.path().join("there");
        fs::create_dir(&there).unwrap();
        assert!(new(&there).unwrap_err().to_string().ends_with("there: it exists already"));
        for name in ["Speed", "1x", "a b", ".."] {
            let error = new(&place.path().join(name)).unwrap_err().to_string();
            assert!(error.contains("is not a name for an adapter"), "{error}");
        }
    }
}
