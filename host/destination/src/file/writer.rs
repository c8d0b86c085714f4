//! The file: lines appended, synced, rotated. All of it blocks.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::FileSettings;

/// Makes the content of a file survive a power cut; tests replace it.
pub type SyncFile = Arc<dyn Fn(&File) -> io::Result<()> + Send + Sync>;

/// How much of the end of a file is read at a time to find its last line.
const BLOCK: u64 = 64 * 1024;

/// The open file. It is locked against other streams and other gateways.
pub struct Writer {
    path: PathBuf,
    max_size: u64,
    keep: u64,
    sync: SyncFile,
    file: File,
    /// Bytes in the file.
    size: u64,
}

impl Writer {
    /// Opens or creates the file, and removes the part of a line that a crash
    /// has left at its end. `WouldBlock`: another stream has it.
    pub fn open(settings: &FileSettings, sync: SyncFile) -> io::Result<Self> {
        let file = open_locked(&settings.path)?;
        let found = file.metadata()?.len();
        let size = whole_lines(&file, found)?;
        if size < found {
            file.set_len(size)?;
            sync(&file)?;
        }
        Ok(Self {
            path: settings.path.clone(),
            max_size: settings.max_size,
            keep: settings.keep,
            sync,
            file,
            size,
        })
    }

    /// Appends lines; returns when all of them are on the disk. After an error
    /// the writer is of no more use.
    pub fn append<L: AsRef<[u8]>>(&mut self, lines: &[L]) -> io::Result<()> {
        self.check_place()?;
        let mut batch = Vec::new();
        for line in lines {
            let line = line.as_ref();
            let after = self.size + batch.len() as u64 + line.len() as u64;
            if after > self.max_size && after > line.len() as u64 {
                self.write(&batch)?;
                batch.clear();
                self.rotate()?;
            }
            batch.extend_from_slice(line);
        }
        self.write(&batch)
    }

    /// Writes whole lines and syncs them. After an error it tries to take them
    /// back, for the lane sends them again.
    fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(batch).and_then(|()| (self.sync)(&self.file));
        match written {
            Ok(()) => self.size += batch.len() as u64,
            // What stays behind is repaired when the file is opened again.
            Err(_) => drop(self.file.set_len(self.size)),
        }
        written
    }

    /// Moves `path` to `path.1`, `path.1` to `path.2` and so on; the oldest one
    /// is overwritten. What is moved has been synced.
    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.keep).rev() {
            move_file(&rotated(&self.path, number), &rotated(&self.path, number + 1))?;
        }
        move_file(&self.path, &rotated(&self.path, 1))?;
        self.file = open_locked(&self.path)?;
        self.size = 0;
        sync_folder(&self.path)
    }

    /// Whether the open file still is the one at the path: another program may
    /// have moved or removed it.
    fn check_place(&self) -> io::Result<()> {
        let ours = self.file.metadata()?;
        match fs::metadata(&self.path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => Ok(()),
            Ok(_) => Err(io::Error::other("another program has replaced it; it is opened again")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(io::Error::other("another program has removed it; it is opened again"))
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether the file can be opened, without creating it.
pub fn probe(path: &Path) -> io::Result<()> {
    match OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::read_dir(folder(path)).map(drop),
        opened => opened.map(drop),
    }
}

/// The name of a rotated file.
pub fn rotated(path: &Path, number: u64) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn open_locked(path: &Path) -> io::Result<File> {
    let created = !path.try_exists()?;
    let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    file.try_lock()?;
    if created {
        sync_folder(path)?;
    }
    Ok(file)
}

/// The length of the file up to the end of its last whole line.
fn whole_lines(file: &File, length: u64) -> io::Result<u64> {
    let mut end = length;
    let mut block = vec![0; BLOCK as usize];
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let part = &mut block[..(end - start) as usize];
        file.read_exact_at(part, start)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        moved => moved,
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Makes new names in the folder survive a power cut.
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}
