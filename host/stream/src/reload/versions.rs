//! The accepted scripts of all streams, in a folder: each by the hash of its
//! bytes, the tables that it was accepted with by the hash of theirs, and for
//! each stream which it has had and which it has now. What a restart runs is
//! here, whatever has become of the files it came from.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use script::{Table, Tables, Version};
use serde::{Deserialize, Serialize};

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
    /// The tables that it runs with, by their names; none of a version that ran
    /// before, for whoever goes back keeps the tables that run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tables: BTreeMap<String, AcceptedTable>,
}

/// A table that was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptedTable {
    /// What it was read from: a file, and its columns.
    pub source: String,
    /// [`Table::version`], 64 hexadecimal digits.
    pub version: String,
}

/// A stream's versions, the one that runs last.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    versions: Vec<Accepted>,
    /// Versions that an operator or probation rolled back: they are not taken again
    /// automatically.
    #[serde(default, rename = "put_aside")]
    quarantined: Vec<String>,
    /// Written by earlier releases, whose probation survived a restart.
    #[serde(default, skip_serializing)]
    #[expect(dead_code, reason = "read so that old files are not refused")]
    trial: Option<serde::de::IgnoredAny>,
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
    pub fn is_quarantined(&self, stream: &str, version: &str) -> io::Result<bool> {
        Ok(self.record(stream)?.quarantined.iter().any(|aside| aside == version))
    }

    /// The bytes of a version; an error where they are not what was accepted.
    pub fn read(&self, version: &str) -> io::Result<Bytes> {
        let path = self.path(version, WASM);
        let bytes = fs::read(&path)?;
        if Version::of(&bytes).full() != version {
            return Err(damaged(&path));
        }
        Ok(bytes.into())
    }

    /// The tables that were accepted with a script, of those that are read from
    /// these sources, by their names; and an error for each that is not what was
    /// accepted.
    pub fn tables(
        &self,
        accepted: &Accepted,
        sources: &BTreeMap<String, String>,
    ) -> (Tables, Vec<io::Error>) {
        let (mut tables, mut lost) = (Vec::new(), Vec::new());
        for (name, table) in &accepted.tables {
            if sources.get(name) == Some(&table.source) {
                match self.table(&table.version) {
                    Ok(table) => tables.push((name.clone(), table)),
                    Err(error) => lost.push(error),
                }
            }
        }
        (Tables::of(tables), lost)
    }

    fn table(&self, version: &str) -> io::Result<Table> {
        let path = self.path(version, TABLE);
        let read = fs::read(&path)?;
        let table = Table::read_back(&read).ok().filter(|table| table.version().full() == version);
        table.ok_or_else(|| {
            // So that it is written anew when it is accepted again: whether a
            // table is whole takes too long to be looked at each time.
            let _ = fs::remove_file(&path);
            damaged(&path)
        })
    }

    /// Lets a stream run this version with these tables from now on, also after
    /// a restart. Removes the oldest versions when there are too many, but never
    /// `keep`.
    pub fn accept(
        &self,
        stream: &str,
        accepted: Accepted,
        wasm: &[u8],
        tables: &Tables,
        keep: Option<&str>,
    ) -> io::Result<()> {
        // Throughout: another stream may accept the same bytes, or be the last
        // that had them.
        let _changing = self.changing();
        if self.read(&accepted.version).is_err() {
            write_whole(&self.path(&accepted.version, WASM), |file| file.write_all(wasm))?;
        }
        self.write_tables(tables)?;
        self.change(stream, |record| {
            record.quarantined.retain(|aside| *aside != accepted.version);
            record.run(accepted, keep);
        })
    }

    /// Lets a stream run the version `instead` of the one that it has, with
    /// these tables.
    pub fn go_back(&self, stream: &str, from: &str, instead: Accepted, tables: &Tables) -> io::Result<()> {
        let _changing = self.changing();
        // They may have gone when others took their place.
        self.write_tables(tables)?;
        self.change(stream, |record| {
            record.quarantined.retain(|aside| aside != from);
            record.quarantined.push(from.to_owned());
            let excess = record.quarantined.len().saturating_sub(KEPT);
            record.quarantined.drain(..excess);
            record.quarantined.retain(|aside| *aside != instead.version);
            record.run(instead, None);
        })
    }

    /// Forgets what streams have run that are not `known` any more: one that
    /// gets such a name later is another stream.
    pub fn keep_only(&self, known: impl Fn(&str) -> bool) -> io::Result<()> {
        let _changing = self.changing();
        let streams = self.streams()?;
        let gone = streams.iter().filter(|stream| !known(stream));
        let removed = gone.map(|stream| fs::remove_file(self.path(stream, RECORD))).collect::<Vec<_>>();
        if !removed.is_empty() {
            self.forget_unused();
        }
        removed.into_iter().collect()
    }

    fn write_tables(&self, tables: &Tables) -> io::Result<()> {
        for (_, table) in tables.iter() {
            let path = self.path(&table.version().full(), TABLE);
            if !path.exists() {
                write_whole(&path, |file| table.write(file))?;
            }
        }
        Ok(())
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.0.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, stream: &str, change: impl FnOnce(&mut Record)) -> io::Result<()> {
        let mut record = self.record(stream)?;
        let before = record.contents();
        change(&mut record);
        let text = serde_json::to_vec_pretty(&record)?;
        write_whole(&self.path(stream, RECORD), |file| file.write_all(&text))?;
        if !before.is_subset(&record.contents()) {
            self.forget_unused();
        }
        Ok(())
    }

    fn record(&self, stream: &str) -> io::Result<Record> {
        let path = self.path(stream, RECORD);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| io::Error::other(format!("{}: {error}", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
            Err(error) => Err(error),
        }
    }

    /// Removes contents that no stream names any more. Nothing depends on it,
    /// so nothing fails with it.
    fn forget_unused(&self) {
        if let Err(error) = self.try_to_forget_unused() {
            let folder = self.0.folder.display();
            tracing::warn!(%folder, %error, "accepted scripts that no stream has any more stay on the disk");
        }
    }

    fn try_to_forget_unused(&self) -> io::Result<()> {
        let mut used = HashSet::new();
        for stream in self.streams()? {
            // What a record names that cannot be read is not known.
            used.extend(self.record(&stream)?.contents());
        }
        let mut unused = self.names()?.into_iter().filter(|name| is_content(name) && !used.contains(name));
        unused.try_for_each(|name| fs::remove_file(self.0.folder.join(name)))
    }

    /// The streams that have a record.
    fn streams(&self) -> io::Result<Vec<String>> {
        let names = self.names()?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(RECORD)).map(str::to_owned).collect())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        fs::read_dir(&self.0.folder)?.map(name).collect()
    }

    /// `of`: a stream for its record, a version for its content.
    fn path(&self, of: &str, end: &str) -> PathBuf {
        self.0.folder.join(format!("{of}{end}"))
    }
}

// === impl Record ===

impl Record {
    /// This version from now on. The oldest versions go when there are too many,
    /// except `keep`: where versions follow each other quickly, the rollback target
    /// of the newest is the oldest of them.
    fn run(&mut self, accepted: Accepted, keep: Option<&str>) {
        self.versions.retain(|known| known.version != accepted.version);
        self.versions.push(accepted);
        let mut excess = self.versions.len().saturating_sub(KEPT);
        self.versions.retain(|known| {
            let goes = excess > 0 && keep != Some(&known.version);
            excess -= usize::from(goes);
            !goes
        });
        if let Some((_, before)) = self.versions.split_last_mut() {
            before.iter_mut().for_each(|before| before.tables.clear());
        }
    }

    /// Names of the files with what it names.
    fn contents(&self) -> HashSet<String> {
        let scripts = self.versions.iter().map(|accepted| format!("{}{WASM}", accepted.version));
        let tables = self.versions.iter().flat_map(|accepted| accepted.tables.values());
        scripts.chain(tables.map(|table| format!("{}{TABLE}", table.version))).collect()
    }
}

/// Ends of the files' names.
const RECORD: &str = ".json";
const WASM: &str = ".wasm";
const TABLE: &str = ".csv";

/// Whether a file of this name is one of ours: a hash and an end.
fn is_content(name: &str) -> bool {
    let hash = name.strip_suffix(WASM).or_else(|| name.strip_suffix(TABLE));
    hash.is_some_and(|hash| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn damaged(path: &Path) -> io::Error {
    io::Error::other(format!("{} is damaged: its hash is another one", path.display()))
}

/// A file that is there whole or not at all, also after a power cut.
fn write_whole(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let beside = path.with_added_extension("new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    write(&mut file)?;
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
            tables: BTreeMap::new(),
        }
    }

    fn accept(versions: &Versions, stream: &str, bytes: &[u8]) -> io::Result<()> {
        versions.accept(stream, accepted(bytes), bytes, &Tables::default(), None)
    }

    #[test]
    fn what_was_accepted_last_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let versions = Versions::open(folder.path().join("scripts")).unwrap();
        assert_eq!(versions.of("s").unwrap(), []);
        for bytes in [&b"one"[..], b"two", b"one"] {
            accept(&versions, "s", bytes).unwrap();
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
        accept(&versions, "other", b"0").unwrap();
        for number in 0..=KEPT + 1 {
            let bytes = number.to_string().into_bytes();
            accept(&versions, "s", &bytes).unwrap();
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
                    accept(versions, &format!("s{number}"), b"one").unwrap();
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
            accept(&versions, "s", bytes).unwrap();
        }
        let (one, two) = (accepted(b"one"), accepted(b"two"));
        versions.go_back("s", &two.version, one.clone(), &Tables::default()).unwrap();
        assert_eq!(versions.of("s").unwrap(), [two.clone(), one]);
        assert!(versions.is_quarantined("s", &two.version).unwrap());
        accept(&versions, "s", b"two").unwrap();
        assert!(!versions.is_quarantined("s", &two.version).unwrap());
    }

    #[test]
    fn record_of_an_earlier_release_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let versions = Versions::open(folder.path().to_owned()).unwrap();
        let record = r#"{"versions": [], "put_aside": ["ab"], "trial": {"of": "cd", "fallback": "ef"}}"#;
        fs::write(folder.path().join("s.json"), record).unwrap();
        assert!(versions.is_quarantined("s", "ab").unwrap());
        accept(&versions, "s", b"one").unwrap();
        let written = fs::read_to_string(folder.path().join("s.json")).unwrap();
        assert!(written.contains("put_aside") && !written.contains("trial"), "{written}");
    }

    #[test]
    fn rollback_target_is_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let versions = Versions::open(folder.path().to_owned()).unwrap();
        let first = accepted(b"0").version;
        for number in 0..KEPT + 3 {
            let bytes = number.to_string().into_bytes();
            let keep = Some(first.as_str());
            versions.accept("s", accepted(&bytes), &bytes, &Tables::default(), keep).unwrap();
        }
        let kept = versions.of("s").unwrap();
        assert_eq!((kept.len(), &kept[0].version), (KEPT, &first));
        assert_eq!(versions.read(&first).unwrap(), "0");
        assert!(versions.read(&accepted(b"1").version).is_err());
    }

    #[test]
    fn other_bytes_than_were_accepted_are_not_run() {
        let folder = tempfile::tempdir().unwrap();
        let versions = Versions::open(folder.path().to_owned()).unwrap();
        accept(&versions, "s", b"good").unwrap();
        let version = accepted(b"good").version;
        fs::write(versions.path(&version, WASM), b"evil").unwrap();
        assert!(versions.read(&version).unwrap_err().to_string().contains("is damaged"));
        // Accepting it again puts it right.
        accept(&versions, "s", b"good").unwrap();
        assert_eq!(versions.read(&version).unwrap(), "good");
    }

    const SOURCE: &str = "names.csv";

    /// A table `names` with one row, and a script that runs with it.
    fn with_table(bytes: &[u8], value: &str) -> (Accepted, Tables) {
        let csv = format!("key,value\n1,{value}\n");
        let tables = Tables::of_csv([("names", csv.as_bytes())]).unwrap();
        let version = tables.iter().next().unwrap().1.version().full();
        let table = AcceptedTable { source: SOURCE.to_owned(), version };
        (Accepted { tables: [("names".to_owned(), table)].into(), ..accepted(bytes) }, tables)
    }

    fn sources(source: &str) -> BTreeMap<String, String> {
        [("names".to_owned(), source.to_owned())].into()
    }

    fn tables_on_the_disk(versions: &Versions) -> usize {
        versions.names().unwrap().iter().filter(|name| name.ends_with(TABLE)).count()
    }

    #[test]
    fn the_tables_that_run_are_kept_with_the_script() {
        let folder = tempfile::tempdir().unwrap();
        let versions = Versions::open(folder.path().to_owned()).unwrap();
        let (first, old) = with_table(b"one", "old");
        let (second, new) = with_table(b"one", "new");
        versions.accept("s", first.clone(), b"one", &old, None).unwrap();
        versions.accept("s", second, b"one", &new, None).unwrap();
        let runs = |versions: &Versions| versions.of("s").unwrap().pop().unwrap();
        let read = versions.tables(&runs(&versions), &sources(SOURCE)).0;
        assert_eq!(read.version(), new.version());
        assert_eq!(tables_on_the_disk(&versions), 1, "nobody goes back to a table");
        let moved = versions.tables(&runs(&versions), &sources("other.csv")).0;
        assert!(moved.is_empty(), "what is read from elsewhere now is read there");

        // A probation that fails does, with the version before.
        let (other, _) = with_table(b"two", "new");
        versions.accept("s", other.clone(), b"two", &new, None).unwrap();
        versions.go_back("s", &other.version, first, &old).unwrap();
        let read = versions.tables(&runs(&versions), &sources(SOURCE)).0;
        assert_eq!(read.version(), old.version());
        assert_eq!(tables_on_the_disk(&versions), 1);
    }

    #[test]
    fn a_table_that_is_damaged_is_written_anew_when_it_is_accepted_again() {
        let folder = tempfile::tempdir().unwrap();
        let versions = Versions::open(folder.path().to_owned()).unwrap();
        let (accepted, tables) = with_table(b"one", "x");
        versions.accept("s", accepted.clone(), b"one", &tables, None).unwrap();
        let file = versions.path(&accepted.tables["names"].version, TABLE);
        fs::write(file, "key,value\n1,y\n").unwrap();
        let read = |versions: &Versions| versions.tables(&accepted, &sources(SOURCE));
        let (found, lost) = read(&versions);
        assert!(found.is_empty() && lost[0].to_string().contains("is damaged"));
        versions.accept("s", accepted.clone(), b"one", &tables, None).unwrap();
        assert_eq!(read(&versions).0.version(), tables.version());
    }

    #[test]
    fn what_a_stream_has_run_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let versions = Versions::open(folder.path().to_owned()).unwrap();
        let (with, tables) = with_table(b"its own", "x");
        versions.accept("gone", with, b"its own", &tables, None).unwrap();
        accept(&versions, "gone", b"shared").unwrap();
        accept(&versions, "stays", b"shared").unwrap();
        let foreign = folder.path().join("notes.csv");
        fs::write(&foreign, "somebody's").unwrap();
        versions.keep_only(|stream| stream == "stays").unwrap();
        assert_eq!(versions.of("gone").unwrap(), []);
        assert_eq!(versions.read(&accepted(b"shared").version).unwrap(), "shared");
        let mut left = versions.names().unwrap();
        left.sort();
        let shared = format!("{}{WASM}", accepted(b"shared").version);
        assert_eq!(left, [shared.as_str(), "notes.csv", "stays.json"]);
    }

    /// What is accepted is on the disk by then, and has to run.
    #[test]
    fn a_record_that_cannot_be_read_keeps_everything_and_hinders_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let versions = Versions::open(folder.path().to_owned()).unwrap();
        fs::write(folder.path().join("other.json"), "half a reco").unwrap();
        for number in 0..=KEPT {
            accept(&versions, "s", number.to_string().as_bytes()).unwrap();
        }
        assert!(versions.read(&accepted(b"0").version).is_ok(), "the other stream may have it");
        fs::remove_file(folder.path().join("other.json")).unwrap();
        // One that is gone already is no reason either.
        fs::remove_file(versions.path(&accepted(b"1").version, WASM)).unwrap();
        accept(&versions, "s", b"another").unwrap();
        assert!(versions.read(&accepted(b"0").version).is_err());
    }
}
