//! A packaged script: WebAssembly with its manifest and its cases, in one
//! file or in the folder that its author works in.
//!
//! Whichever it is read from, the bytes of a package hold all of it, in the
//! sections that [`sections`] describes: their hash is the version of the
//! mapping together with the schema and the defaults of its settings.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::Value;

use super::case::{Case, CaseError, CaseFile};
use super::error::LoadError;
use super::lift;
use super::limits::MAX_SIZE;
use super::manifest::{Manifest, ManifestError};
use super::schema::SettingsError;
use super::sections;
use super::version::Version;

/// A script with what its author says of it.
#[derive(Clone, Debug)]
pub struct Package {
    /// None: plain WebAssembly, whose settings only it knows.
    pub manifest: Option<Manifest>,
    /// The module or component, with manifest and cases in it.
    pub wasm: Bytes,
    /// What it is expected to do, in the order of their names.
    pub cases: Vec<Case>,
}

/// Why a file or folder is no package. Whether its WebAssembly is any good
/// shows only when it is loaded.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// It cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// What cannot.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file of the folder cannot be read, or should not be there.
    #[error("{0}")]
    Folder(io::Error),
    /// The folder has no WebAssembly in it.
    #[error(
        "{}: there is no such file; `sluicegate build {}` makes it",
        path.display(),
        path.parent().unwrap_or(Path::new("")).display()
    )]
    NotBuilt {
        /// Where it should be.
        path: PathBuf,
    },
    /// More cases than a package may have.
    #[error("its manifest and cases have {} KiB in {files} files; the maximum is {} KiB in {MAX_FILES} files", size >> 10, MAX_CASES >> 10)]
    TooMuch {
        /// Bytes.
        size: usize,
        /// How many.
        files: usize,
    },
    /// A section with our prefix that this gateway does not know.
    #[error("its section `{}` is unknown to this gateway", .0.escape_debug())]
    Section(String),
    /// `adapter.toml` is wrong.
    #[error("its adapter.toml: {0}")]
    Manifest(#[from] ManifestError),
    /// A case is wrong.
    #[error("its case `{}`: {problem}", case.escape_debug())]
    Case {
        /// Which one.
        case: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Bytes of a package's manifest and cases together.
const MAX_CASES: usize = 8 << 20;

/// Files of all its cases.
const MAX_FILES: usize = 4_000;

/// What makes an adapter of WebAssembly: the files of its folder, checked.
#[derive(Clone, Debug)]
pub struct Parts {
    /// What `adapter.toml` says.
    pub manifest: Manifest,
    sections: Vec<(String, Vec<u8>)>,
}

impl From<CaseError> for PackageError {
    fn from(CaseError { case, problem }: CaseError) -> Self {
        Self::Case { case, problem }
    }
}

// ----- impl Package -----

impl Package {
    /// Reads a `.wasm` file, or the folder of an adapter with the built
    /// `<name>.wasm` in it. In a folder its files count, not what the last
    /// build has put into the `.wasm`. Blocks.
    pub fn read(path: &Path) -> Result<Self, PackageError> {
        if !path.is_dir() {
            return Self::parse(read_wasm(path)?);
        }
        let parts = Parts::read(path)?;
        let file = parts.wasm_file(path);
        match read_wasm(&file) {
            Ok(wasm) => Self::parse(parts.seal(&wasm)),
            Err(PackageError::Unreadable { path, error }) if error.kind() == io::ErrorKind::NotFound => {
                Err(PackageError::NotBuilt { path })
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the bytes of a `.wasm` file. Without a manifest in them they are
    /// a script all the same.
    pub fn parse(wasm: impl Into<Bytes>) -> Result<Self, PackageError> {
        let wasm: Bytes = wasm.into();
        let found = sections::ours(&wasm);
        let sections = found.iter().map(|custom| (custom.name, wasm.slice(custom.data.clone())));
        let (manifest, cases) = parse_sections(sections)?;
        Ok(Self { manifest, cases, wasm })
    }

    /// The hash of its bytes.
    pub fn version(&self) -> Version {
        Version::of(&self.wasm)
    }

    /// Which form the script's state has.
    pub fn state_version(&self) -> u32 {
        self.manifest.as_ref().map_or(0, |manifest| manifest.state_version)
    }

    /// The settings as the script gets them: checked against the manifest,
    /// with the defaults filled in. Without a manifest as they are.
    pub fn settings(&self, settings: &Value) -> Result<Value, SettingsError> {
        match &self.manifest {
            Some(manifest) => manifest.settings.complete(settings),
            None => Ok(settings.clone()),
        }
    }
}

/// At most as much as a script may have, and a byte.
fn read_wasm(path: &Path) -> Result<Bytes, PackageError> {
    let read = || {
        let mut bytes = Vec::new();
        let most = u64::try_from(MAX_SIZE).unwrap_or(u64::MAX).saturating_add(1);
        File::open(path)?.take(most).read_to_end(&mut bytes)?;
        Ok(bytes.into())
    };
    read().map_err(|error| PackageError::Unreadable { path: path.to_owned(), error })
}

/// Manifest and cases from sections, whose names say which is what.
fn parse_sections<'s>(
    sections: impl Iterator<Item = (&'s str, Bytes)>,
) -> Result<(Option<Manifest>, Vec<Case>), PackageError> {
    let mut manifest = None;
    let mut files: Vec<CaseFile<'s>> = Vec::new();
    let mut size = 0_usize;
    for (name, data) in sections {
        size = size.saturating_add(data.len());
        if size > MAX_CASES || files.len() > MAX_FILES {
            return Err(PackageError::TooMuch { size, files: files.len() });
        }
        let case = name.strip_prefix(sections::CASES).and_then(|path| path.split_once('/'));
        match (name, case) {
            (sections::MANIFEST, _) if manifest.is_none() => {
                let text = std::str::from_utf8(&data).map_err(|e| ManifestError::Toml(e.to_string()))?;
                manifest = Some(Manifest::parse(text)?);
            }
            (_, Some((case, file))) => files.push(CaseFile { case, file, data }),
            _ => return Err(PackageError::Section(name.to_owned())),
        }
    }
    Ok((manifest, Case::read(files)?))
}

// ----- impl Parts -----

impl Parts {
    /// Reads `adapter.toml` and `cases/` of a folder. Blocks.
    pub fn read(folder: &Path) -> Result<Self, PackageError> {
        let sections = sections::of_folder(folder).map_err(PackageError::Folder)?;
        let all = sections.iter().map(|(name, data)| (name.as_str(), Bytes::copy_from_slice(data)));
        match parse_sections(all)? {
            (Some(manifest), _) => Ok(Self { manifest, sections }),
            // Not reached: `of_folder` fails without one.
            (None, _) => Err(PackageError::Folder(io::ErrorKind::NotFound.into())),
        }
    }

    /// The module or component with these parts in it, instead of those that
    /// it may have had.
    pub fn seal(&self, wasm: &[u8]) -> Vec<u8> {
        let parts = self.sections.iter().map(|(name, data)| (name.as_str(), data.as_slice()));
        sections::replace(wasm, parts)
    }

    /// The package that these parts and a tool's module or component make: a
    /// component, so that nothing is left to lift when it is loaded. What is
    /// no script is refused.
    pub fn build(&self, wasm: &[u8]) -> Result<Vec<u8>, LoadError> {
        let wasm = sections::bare(wasm);
        let sealed = self.seal(&lift::component(&wasm)?);
        if sealed.len() > MAX_SIZE {
            return Err(LoadError::TooLarge);
        }
        Ok(sealed)
    }

    /// Where the folder has its WebAssembly.
    pub fn wasm_file(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.wasm", self.manifest.name))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::testing::{PASS, transform};

    const MANIFEST: &str = "name = \"pass\"\nversion = \"1.0.0\"\ndescription = \"d\"\ndestinations = [\"mqtt\"]\n\
                            [settings]\ntype = \"object\"\n[settings.properties.n]\ntype = \"integer\"\ndefault = 5\n";

    /// The folder of an adapter whose script passes everything on.
    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("pass.wasm"), transform(PASS)).unwrap();
        for (path, text) in [("adapter.toml", MANIFEST), ("cases/a/input.jsonl", "x")].iter().chain(files) {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn a_folder_and_the_file_that_is_built_of_it_are_the_same_package() {
        let folder = folder(&[("cases/.swap", "left out"), ("cases/a/expected.jsonl", "")]);
        let parts = Parts::read(folder.path()).unwrap();
        let built = parts.build(&transform(PASS)).unwrap();
        fs::write(folder.path().join("pass.wasm"), &built).unwrap();
        let package = Package::read(folder.path()).unwrap();
        assert_eq!(package.wasm, built);
        let file = Package::read(&folder.path().join("pass.wasm")).unwrap();
        assert_eq!(file.version(), package.version());
        assert_eq!(file.manifest, package.manifest);
        assert_eq!((file.cases.len(), file.cases[0].name.as_str()), (1, "a"));
        assert_eq!(file.settings(&json!({})).unwrap(), json!({"n": 5}));
        assert!(file.settings(&json!({"n": "x"})).is_err());
        // Built of itself it stays what it is.
        assert_eq!(parts.build(&built).unwrap(), built);
    }

    #[test]
    fn what_the_author_has_changed_since_the_last_build_counts() {
        let folder = folder(&[]);
        let before = Package::read(folder.path()).unwrap();
        fs::write(folder.path().join("adapter.toml"), MANIFEST.replace("= 5", "= 6")).unwrap();
        let after = Package::read(folder.path()).unwrap();
        assert_eq!(after.settings(&Value::Null).unwrap(), json!({"n": 6}));
        assert_ne!(after.version(), before.version(), "the defaults are a part of the mapping");
    }

    #[test]
    fn webassembly_without_a_manifest_is_a_script_all_the_same() {
        let package = Package::parse(transform(PASS)).unwrap();
        assert!(package.manifest.is_none() && package.cases.is_empty());
        assert_eq!(package.settings(&json!({"any": 1})).unwrap(), json!({"any": 1}));
        // What is no WebAssembly is told when it is loaded.
        assert!(Package::parse(&b"(module)"[..]).unwrap().manifest.is_none());
    }

    #[test]
    fn what_is_wrong_is_told() {
        let sealed = |sections: &[(&str, &[u8])]| {
            let wasm = sections::replace(&transform(PASS), sections.iter().copied());
            Package::parse(wasm).unwrap_err().to_string()
        };
        let manifest = MANIFEST.as_bytes();
        let large = vec![b' '; MAX_CASES + 1];
        let table: [(String, &str); 7] = [
            (sealed(&[("sluicegate:adaptor", b"")]), "its section `sluicegate:adaptor` is unknown to"),
            (sealed(&[("sluicegate:cases/a", b"")]), "its section `sluicegate:cases/a` is unknown to"),
            (sealed(&[(sections::MANIFEST, manifest), (sections::MANIFEST, manifest)]), "its section `"),
            (sealed(&[(sections::MANIFEST, b"\xff")]), "its adapter.toml: invalid utf-8"),
            (sealed(&[(sections::MANIFEST, b"name = 1")]), "its adapter.toml: line 1: "),
            (sealed(&[("sluicegate:cases/a/x", b"")]), "its case `a`: unexpected file `x`"),
            (
                sealed(&[("sluicegate:cases/a/input.jsonl", &large)]),
                "its manifest and cases have 8192 KiB in",
            ),
        ];
        for (error, expected) in table {
            assert!(error.starts_with(expected), "{error}");
        }
        let error = |path: &Path| Package::read(path).unwrap_err().to_string();
        let unbuilt = folder(&[]);
        fs::remove_file(unbuilt.path().join("pass.wasm")).unwrap();
        assert!(error(unbuilt.path()).contains("pass.wasm: there is no such file; `sluicegate build "));
        fs::remove_file(unbuilt.path().join("adapter.toml")).unwrap();
        assert!(error(unbuilt.path()).contains("adapter.toml: "));
        assert!(
            error(&folder(&[("cases/README", "")]).path().join("")).contains("only folders are expected")
        );
        assert!(error(Path::new("/nowhere.wasm")).starts_with("/nowhere.wasm: "));
    }
}
