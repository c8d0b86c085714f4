//! The accepted scripts of all streams, in a folder: each by the hash of its
//! bytes, and for each stream which it has had and which it has now. What a
//! restart runs is here, whatever has become of the files it came from.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::script::Version;

/// Versions that are kept of each stream's script.
const KEPT: usize = 10;

/// The folder. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct Versions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    /// Held while a file of the folder is changed.
    changing: Mutex<()>,
}

/// A version that was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// SHA-256 of its bytes, 64 hexadecimal digits.
    pub version: String,
    /// What it was called.
    pub name: String,
    /// What it was read from: a file, or an official adapter and its version.
    pub source: String,
    /// When it was accepted last, Unix milliseconds.
    pub accepted_at: u64,
    /// The form of its state.
    pub state_version: u32,
}

/// A stream's versions, the one that runs last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    versions: Vec<Accepted>,
    /// Versions that an operator or a trial has put aside: not taken again by
    /// themselves.
    #[serde(default)]
    put_aside: Vec<String>,
}

// === impl Versions ===

impl Versions {
    /// The versions in this folder, which is made if it is not there. Blocks,
    /// as everything here does.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(Self(Arc::new(Inner { folder, changing: Mutex::new(()) })))
    }

    /// The versions that a stream has had, the one that runs last.
    pub fn of(&self, stream: &str) -> io::Result<Vec<Accepted>> {
        Ok(self.record(stream)?.versions)
    }

    /// Whether the stream has run the version and was taken back from it.
    pub fn is_put_aside(&self, stream: &str, version: &str) -> io::Result<bool> {
        Ok(self.record(stream)?.put_aside.iter().any(|aside| aside == version))
    }

    /// The bytes of a version; an error where they are not what was accepted.
    pub fn read(&self, version: &str) -> io::Result<Bytes> {
        let path = self.content(version);
        let bytes = fs::read(&path)?;
        if Version::of(&bytes).full() != version {
            return Err(io::Error::other(format!("{} is damaged: its hash is another one", path.display())));
        }
        Ok(bytes.into())
    }

    /// Lets a stream run this version from now on, also after a restart. Older
    /// ones go when there are too many.
    pub fn accept(&self, stream: &str, accepted: Accepted, wasm: &[u8]) -> io::Result<()> {
        // Throughout: another stream may accept the same bytes, or be the last
        // that had them.
        let _changing = self.changing();
        if self.read(&accepted.version).is_err() {
            write_whole(&self.content(&accepted.version), wasm)?;
        }
        let gone = self.change(stream, |record| {
            record.put_aside.retain(|aside| *aside != accepted.version);
            record.versions.retain(|known| known.version != accepted.version);
            record.versions.push(accepted);
            let gone = record.versions.len().saturating_sub(KEPT);
            record.versions.drain(..gone).collect::<Vec<_>>()
        })?;
        if gone.is_empty() { Ok(()) } else { self.forget_unused(&gone) }
    }

    /// Lets a stream run the version `instead` of the one that it has.
    pub fn go_back(&self, stream: &str, from: &str, instead: Accepted) -> io::Result<()> {
        let _changing = self.changing();
        self.change(stream, |record| {
            record.put_aside.retain(|aside| aside != from);
            record.put_aside.push(from.to_owned());
            let excess = record.put_aside.len().saturating_sub(KEPT);
            record.put_aside.drain(..excess);
            record.put_aside.retain(|aside| *aside != instead.version);
            record.versions.retain(|known| known.version != instead.version);
            record.versions.push(instead);
        })
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.0.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, stream: &str, change: impl FnOnce(&mut Record) -> T) -> io::Result<T> {
        let mut record = self.record(stream)?;
        let changed = change(&mut record);
        write_whole(&self.path(stream), &serde_json::to_vec_pretty(&record)?)?;
        Ok(changed)
    }

    fn record(&self, stream: &str) -> io::Result<Record> {
        let path = self.path(stream);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| io::Error::other(format!("{}: {error}", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
            Err(error) => Err(error),
        }
    }

    /// Removes contents that no stream names any more.
    fn forget_unused(&self, gone: &[Accepted]) -> io::Result<()> {
        let mut unused: Vec<&str> = gone.iter().map(|accepted| accepted.version.as_str()).collect();
        for entry in fs::read_dir(&self.0.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let Some(stream) = name.strip_suffix(RECORD) else { continue };
            for used in self.of(stream)? {
                unused.retain(|version| *version != used.version);
            }
        }
        unused.into_iter().try_for_each(|version| fs::remove_file(self.content(version)))
    }

    fn path(&self, stream: &str) -> PathBuf {
        self.0.folder.join(format!("{stream}{RECORD}"))
    }

    fn content(&self, version: &str) -> PathBuf {
        self.0.folder.join(format!("{version}{CONTENT}"))
    }
}

/// Ends of the files' names.
const RECORD: &str = ".json";
const CONTENT: &str = ".wasm";

/// A file that is there whole or not at all, also after a power cut.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_added_extension("new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn accepted(bytes: &[u8]) -> Accepted {
        Accepted {
            version: Version::of(bytes).full(),
            name: "mine".into(),
            source: "mine.wasm".into(),
            accepted_at: 7,
            state_version: 0,
        }
    }

    #[test]
    fn what_was_accepted_last_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let versions = Versions::open(folder.path().join("scripts")).unwrap();
        assert_eq!(versions.of("s").unwrap(), []);
        for bytes in [&b"one"[..], b"two", b"one"] {
            versions.accept("s", accepted(bytes), bytes).unwrap();
        }
        let versions = Versions::open(folder.path().join("scripts")).unwrap();
        let of_stream = versions.of("s").unwrap();
        assert_eq!(of_stream, [accepted(b"two"), accepted(b"one")]);
        assert_eq!(versions.read(&of_stream[1].version).unwrap(), "one");
    }

    #[test]
    fn only_what_some_stream_can_go_back_to_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let versions = Versions::open(folder.path().to_owned()).unwrap();
        versions.accept("other", accepted(b"0"), b"0").unwrap();
        for number in 0..=KEPT + 1 {
            let bytes = number.to_string().into_bytes();
            versions.accept("s", accepted(&bytes), &bytes).unwrap();
        }
        assert_eq!(versions.of("s").unwrap().len(), KEPT);
        assert!(versions.read(&accepted(b"0").version).is_ok(), "another stream has it");
        assert!(versions.read(&accepted(b"1").version).is_err());
        assert!(versions.read(&accepted(b"2").version).is_ok());
    }

    /// Each wrote the same file beside it, and renamed it from under the other.
    #[test]
    fn streams_accept_the_same_script_at_the_same_time() {
        let folder = tempfile::tempdir().unwrap();
        let versions = Versions::open(folder.path().to_owned()).unwrap();
        let barrier = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (versions, barrier) = (&versions, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    versions.accept(&format!("s{number}"), accepted(b"one"), b"one").unwrap();
                });
            }
        });
        assert_eq!(versions.read(&accepted(b"one").version).unwrap(), "one");
    }

    #[test]
    fn what_a_stream_was_taken_back_from_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let versions = Versions::open(folder.path().to_owned()).unwrap();
        for bytes in [&b"one"[..], b"two"] {
            versions.accept("s", accepted(bytes), bytes).unwrap();
        }
        let (one, two) = (accepted(b"one"), accepted(b"two"));
        versions.go_back("s", &two.version, one.clone()).unwrap();
        assert_eq!(versions.of("s").unwrap(), [two.clone(), one]);
        assert!(versions.is_put_aside("s", &two.version).unwrap());
        versions.accept("s", two.clone(), b"two").unwrap();
        assert!(!versions.is_put_aside("s", &two.version).unwrap());
    }

    #[test]
    fn other_bytes_than_were_accepted_are_not_run() {
        let folder = tempfile::tempdir().unwrap();
        let versions = Versions::open(folder.path().to_owned()).unwrap();
        versions.accept("s", accepted(b"good"), b"good").unwrap();
        let version = accepted(b"good").version;
        fs::write(versions.content(&version), b"evil").unwrap();
        assert!(versions.read(&version).unwrap_err().to_string().contains("is damaged"));
        // Accepting it again puts it right.
        versions.accept("s", accepted(b"good"), b"good").unwrap();
        assert_eq!(versions.read(&version).unwrap(), "good");
    }
}
