//! What is in the files, as a hash. Blocking: for threads that may wait.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

/// A larger file is known by its size and time of change only.
const MAX_FILE: u64 = 64 * 1024 * 1024;
/// Of a folder so many bytes are read; files beyond are known by size and time.
const MAX_FOLDER: u64 = 256 * 1024 * 1024;
/// Of a folder so many entries are looked at.
const MAX_ENTRIES: usize = 10_000;
/// So deep.
const MAX_DEPTH: usize = 16;

/// A file that changed so shortly before it was read may have changed again
/// within the resolution of its time stamps.
const RACY: Duration = Duration::from_secs(1);

/// What a path holds. Equal prints: equal content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Print {
    /// SHA-256 of a file's bytes, or of the names and prints in a folder.
    Content([u8; 32]),
    /// Too large to be read, or no file: what the system says of it.
    Stamp(Stamp),
    /// Nothing.
    Missing,
    /// Something that cannot be read.
    Unreadable(io::ErrorKind),
}

/// What tells that a file was touched, without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Hashes of a moment ago, so that a thousand streams that share a script do
/// not read it a thousand times.
#[derive(Debug)]
pub(super) struct Hashes {
    known: Mutex<HashMap<PathBuf, Known>>,
    /// How long a hash is believed while the stamp stays.
    believed: Duration,
}

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    read_at: Instant,
    hash: [u8; 32],
}

// === impl Print ===

impl Print {
    /// The print of a file with these bytes.
    #[cfg(test)]
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self::Content(Sha256::digest(bytes).into())
    }

    fn add_to(&self, hash: &mut Sha256) {
        match self {
            Self::Content(content) => hash.update(content),
            other => hash.update(format!("{other:?}")),
        }
    }
}

impl Stamp {
    fn new(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the file has been left alone for a while.
    fn is_old(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(self.changed.0).is_ok_and(|changed| Duration::from_secs(changed) + RACY < now)
    }
}

// === impl Hashes ===

impl Hashes {
    /// No hashes yet; each will be believed for that long.
    pub(super) fn new(believed: Duration) -> Self {
        Self { known: Mutex::default(), believed }
    }

    /// What the path holds: a file, or a folder with all its files.
    pub(super) fn print(&self, path: &Path) -> Print {
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => self.print_folder(path),
            Ok(metadata) => self.print_file(path, &metadata),
            Err(error) => unreadable(&error),
        }
    }

    /// Forgets what is not believed any more.
    pub(super) fn tidy(&self) {
        self.lock().retain(|_, known| known.read_at.elapsed() < self.believed);
    }

    fn print_file(&self, path: &Path, metadata: &Metadata) -> Print {
        let stamp = Stamp::new(metadata);
        // Opening anything but a file may block for ever.
        if !metadata.is_file() || metadata.len() > MAX_FILE {
            return Print::Stamp(stamp);
        }
        if let Some(known) = self.lock().get(path)
            && known.stamp == stamp
            && known.read_at.elapsed() < self.believed
        {
            return Print::Content(known.hash);
        }
        let read_at = Instant::now();
        let believable = stamp.is_old();
        match hash(path) {
            Ok(Some(hash)) => {
                if believable {
                    self.lock().insert(path.to_owned(), Known { stamp, read_at, hash });
                }
                Print::Content(hash)
            }
            // It has grown since.
            Ok(None) => Print::Stamp(stamp),
            Err(error) => unreadable(&error),
        }
    }

    fn print_folder(&self, folder: &Path) -> Print {
        let mut hash = Sha256::new();
        let mut left = MAX_FOLDER;
        for file in files(folder) {
            let name = file.strip_prefix(folder).unwrap_or(&file).as_os_str().as_encoded_bytes();
            hash.update(name.len().to_le_bytes());
            hash.update(name);
            let print = match std::fs::metadata(&file) {
                Ok(metadata) if metadata.len() > left => Print::Stamp(Stamp::new(&metadata)),
                Ok(metadata) => {
                    left = left.saturating_sub(metadata.len());
                    self.print_file(&file, &metadata)
                }
                Err(error) => unreadable(&error),
            };
            print.add_to(&mut hash);
        }
        Print::Content(hash.finalize().into())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unreadable(error: &io::Error) -> Print {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Print::Missing,
        kind => Print::Unreadable(kind),
    }
}

/// None where there is more than a file may have.
fn hash(path: &Path) -> io::Result<Option<[u8; 32]>> {
    let mut file = File::open(path)?.take(MAX_FILE + 1);
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => hash.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((file.limit() > 0).then(|| hash.finalize().into()))
}

/// The files of a folder that count, in a fixed order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    walk(folder, &mut |path, is_folder| {
        if !is_folder {
            files.push(path.to_owned());
        }
    });
    files
}

/// The folder and the folders in it.
pub(super) fn folders(folder: &Path) -> Vec<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    walk(folder, &mut |path, is_folder| {
        if is_folder {
            folders.push(path.to_owned());
        }
    });
    folders
}

/// Visits what counts in a folder in a fixed order, to a bounded depth and
/// number. Links to files are followed, links to folders are not: they may go
/// round in circles.
fn walk(folder: &Path, visit: &mut dyn FnMut(&Path, bool)) {
    let mut left = MAX_ENTRIES;
    let mut open = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        let mut entries: Vec<PathBuf> = entries
            .take(left)
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .filter(|path| path.file_name().is_some_and(|name| !is_temporary(&name.to_string_lossy())))
            .collect();
        left = left.saturating_sub(entries.len());
        entries.sort_unstable();
        for path in entries {
            let is_link = path.is_symlink();
            match std::fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => {
                    if !is_link && depth < MAX_DEPTH && !is_cache(&path) {
                        visit(&path, true);
                        open.push((path, depth + 1));
                    }
                }
                Ok(_) | Err(_) => visit(&path, false),
            }
        }
    }
}

/// What a build tool has marked as its own, such as Cargo's `target`.
fn is_cache(folder: &Path) -> bool {
    folder.ends_with("node_modules") || folder.join("CACHEDIR.TAG").exists()
}

/// What is hidden, and what editors leave beside the file that they save: vim
/// (`.x.swp`, `x~`, `4913`), Emacs (`#x#`, `.#x`), JetBrains (`x___jb_tmp___`).
fn is_temporary(name: &str) -> bool {
    name.starts_with('.')
        || name.ends_with('~')
        || name == "4913"
        || (name.starts_with('#') && name.ends_with('#'))
        || [".swp", ".swx", "___jb_tmp___", "___jb_old___"].iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn hashes() -> Hashes {
        Hashes::new(Duration::from_secs(3600))
    }

    #[test]
    fn a_folder_is_its_files_without_what_editors_and_build_tools_leave() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("adapter.toml"), "1").unwrap();
        std::fs::create_dir(at("cases")).unwrap();
        std::fs::write(at("cases/one.json"), "1").unwrap();
        let print = hashes().print(folder.path());

        for name in [".adapter.toml.swp", "adapter.toml~", "4913", "#adapter.toml#", ".#adapter.toml", ".git"]
        {
            std::fs::write(at(name), "x").unwrap();
        }
        std::fs::write(at("cases/x.swp"), "x").unwrap();
        std::fs::create_dir(at("target")).unwrap();
        std::fs::write(at("target/CACHEDIR.TAG"), "x").unwrap();
        assert_eq!(hashes().print(folder.path()), print);

        std::fs::write(at("cases/two.json"), "").unwrap();
        let more = hashes().print(folder.path());
        assert_ne!(more, print);
        std::fs::rename(at("cases/two.json"), at("cases/three.json")).unwrap();
        assert_ne!(hashes().print(folder.path()), more);
        std::fs::remove_file(at("cases/three.json")).unwrap();
        std::fs::write(at("cases/one.json"), "2").unwrap();
        assert_ne!(hashes().print(folder.path()), print);
    }

    #[test]
    fn what_is_no_file_or_too_large_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        let file = File::create(&path).unwrap();
        file.set_len(MAX_FILE + 1).unwrap();
        let print = hashes().print(&path);
        assert!(matches!(print, Print::Stamp(_)), "{print:?}");
        file.set_len(MAX_FILE + 2).unwrap();
        assert_ne!(hashes().print(&path), print);

        assert!(matches!(hashes().print(Path::new("/dev/zero")), Print::Stamp(_)));
        assert_eq!(hashes().print(&folder.path().join("none")), Print::Missing);
        assert_eq!(hashes().print(&path.join("below-a-file")), Print::Missing);
    }

    #[test]
    fn links_that_go_round_in_circles_end() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(folder.path(), folder.path().join("round")).unwrap();
        std::os::unix::fs::symlink("itself", folder.path().join("itself")).unwrap();
        assert!(matches!(hashes().print(folder.path()), Print::Content(_)));
        assert!(matches!(hashes().print(&folder.path().join("itself")), Print::Unreadable(_)));
    }

    #[test]
    fn a_file_that_was_just_written_is_read_again_although_its_stamp_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let hashes = hashes();
        for text in ["1", "2", "3", "4"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(hashes.print(&path), Print::of(text.as_bytes()));
        }
    }
}
