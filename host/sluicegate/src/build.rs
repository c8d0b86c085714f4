//! `sluicegate build`: builds the folder of an adapter to one `.wasm` file.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::Args;
use script::package::Parts;
use script::{Anatomy, LoadError, Package, PackageError};
use serde::Deserialize;
use settings_reader::units::show_size_roughly;

use crate::print::print_line;

/// Build an adapter: one .wasm file with its script, its manifest and its test cases
///
/// Compiles the Rust code of the folder for wasm32-unknown-unknown, or takes --module from another tool, and
/// writes FOLDER/NAME.wasm: a component that includes adapter.toml and cases/. The gateway needs no other file.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sluicegate build
  sluicegate build adapters/speed
  sluicegate build adapters/speed --module adapters/speed/zig-out/speed.wasm

Rust is compiled with the rustup tool chain, whose Wasm target is installed if
necessary (20 s), or with the Debian packages rustc-web, cargo-web,
rust-web-src and lld. SLUICEGATE_SCRIPT_TOOLCHAIN=rustup|debian chooses one.

Exit status:
  0  the file was built
  1  the build failed; standard error says why
  2  invalid command line")]
pub struct BuildArgs {
    /// The folder with adapter.toml
    #[arg(value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,
    /// Use this core module or component of another tool instead of compiling
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
}

/// What has been built.
#[derive(Debug)]
pub struct Built {
    /// The file.
    pub file: PathBuf,
    /// What is in it.
    pub package: Package,
}

/// Why nothing is built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The folder is none of an adapter.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// A file cannot be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// `sh` cannot be started.
    #[error("cannot run `sh`, which looks for the tool chain: {0}")]
    Shell(io::Error),
    /// The compiler has said why.
    #[error("{}: it does not compile", .0.display())]
    Compiler(PathBuf),
    /// It compiles, and to something else.
    #[error("{}: the build produced no .wasm; its Cargo.toml needs `[lib]` with `crate-type = [\"cdylib\"]`", .0.display())]
    NoModule(PathBuf),
    /// There is nothing to build from.
    #[error(
        "{}: nothing to build: expected a Cargo.toml, a {name}.wasm, or --module FILE",
        folder.display()
    )]
    Nothing {
        /// The folder.
        folder: PathBuf,
        /// The adapter's name.
        name: String,
    },
    /// The module is no script.
    #[error("{}: {error}", path.display())]
    Module {
        /// Where it is.
        path: PathBuf,
        /// Why.
        error: LoadError,
    },
}

/// Finds the tool chain, for `scripts/build.sh` as for us.
const TOOLCHAIN: &str = include_str!("../../../scripts/toolchain.sh");

/// What is done with it: cargo tells in JSON on standard output what it made.
const COMPILE: &str = "
choose_toolchain || exit 1
say \"tool chain: $how\"
wasm_cargo build --release --lib --message-format=json-render-diagnostics
";

/// A line of cargo's, as far as it matters here.
#[derive(Deserialize)]
struct CargoLine {
    reason: String,
    manifest_path: Option<PathBuf>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

/// Runs the command.
pub fn run(args: &BuildArgs) -> ExitCode {
    let built = build(&args.folder, args.module.as_deref()).and_then(|built| {
        let anatomy = Anatomy::of(&built.package)
            .map_err(|error| BuildError::Module { path: built.file.clone(), error })?;
        Ok((built, anatomy))
    });
    match built {
        Ok((built, anatomy)) => {
            let _ = print_line(&report(&built, &anatomy));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sluicegate: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Builds the folder, from `module` if there is one. Blocks.
pub fn build(folder: &Path, module: Option<&Path>) -> Result<Built, BuildError> {
    let parts = Parts::read(folder)?;
    let file = parts.wasm_file(folder);
    let module = match module {
        Some(module) => module.to_owned(),
        None if folder.join("Cargo.toml").is_file() => compile(folder)?,
        None if file.is_file() => file.clone(),
        None => return Err(BuildError::Nothing { folder: folder.to_owned(), name: parts.manifest.name }),
    };
    let wasm = std::fs::read(&module).map_err(|error| BuildError::File { path: module.clone(), error })?;
    let wasm = parts.build(&wasm).map_err(|error| BuildError::Module { path: module, error })?;
    write_whole(&file, &wasm).map_err(|error| BuildError::File { path: file.clone(), error })?;
    Ok(Built { file, package: Package::parse(wasm)? })
}

/// A watcher of the file sees all of it or nothing, and a build that
/// changes nothing leaves it alone.
fn write_whole(file: &Path, bytes: &[u8]) -> io::Result<()> {
    if std::fs::read(file).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let partial = file.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, file));
    if written.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    written
}

/// The module that the Rust in the folder compiles to.
fn compile(folder: &Path) -> Result<PathBuf, BuildError> {
    let output = Command::new("sh")
        .args(["-c", &format!("{TOOLCHAIN}{COMPILE}")])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(BuildError::Shell)?;
    if !output.status.success() {
        return Err(BuildError::Compiler(folder.to_owned()));
    }
    let manifest = folder.join("Cargo.toml");
    let manifest =
        manifest.canonicalize().map_err(|error| BuildError::File { path: manifest.clone(), error })?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<CargoLine>(line).ok())
        .filter(|line| line.reason == "compiler-artifact")
        .filter(|line| line.manifest_path.as_deref().is_some_and(|path| is_same(path, &manifest)))
        .flat_map(|line| line.filenames)
        .find(|file| file.extension() == Some(OsStr::new("wasm")))
        .ok_or_else(|| BuildError::NoModule(folder.to_owned()))
}

fn is_same(path: &Path, canonical: &Path) -> bool {
    path.canonicalize().is_ok_and(|path| path == canonical)
}

/// What has been built, for people.
fn report(built: &Built, anatomy: &Anatomy) -> String {
    let Built { file, package } = built;
    let mut text = String::new();
    if let Some(manifest) = &package.manifest {
        let _ = writeln!(text, "{} {}: {}", manifest.name, manifest.version, file.display());
    }
    let cases = match package.cases.len() {
        1 => "1 case".to_owned(),
        cases => format!("{cases} cases"),
    };
    let size = |bytes: usize| show_size_roughly(bytes as u64);
    let _ = writeln!(
        text,
        "  size     {}, {} of it the manifest and {cases}",
        size(anatomy.size),
        size(anatomy.parts_size)
    );
    let _ = writeln!(text, "  version  {}", package.version());
    let _ = writeln!(text, "  exports  {}", anatomy.exports.join(", "));
    let _ = write!(text, "  imports  {}", anatomy.imports.join(", "));
    text
}
