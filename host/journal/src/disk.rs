//! The few operations that the journal needs of a file system. Tests put a disk
//! in its place that loses power, tears writes and returns errors.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

/// A folder of files.
pub(crate) trait Disk: Send + Sync {
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Creates a file, or empties it; `"a/b"` creates the folder as well.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// The names of the files in it.
    fn list(&self) -> io::Result<Vec<String>>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Bytes of a file; 0 if it does not exist.
    fn size(&self, name: &str) -> u64;
    /// Renames a file; `"a/b"` creates the folder as well.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes the names of the files durable.
    fn sync(&self) -> io::Result<()>;
    /// The path of a name, for messages.
    fn path(&self, name: &str) -> String;
    /// Opens or creates the database of that name.
    fn database(&self, builder: redb::Builder, name: &str) -> Result<redb::Database, redb::DatabaseError>;
}

/// A file. It has no current position.
pub(crate) trait DiskFile: Send + Sync {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Fills `bytes`; an error of kind `UnexpectedEof` if the file is too
    /// short.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
    fn sync(&self) -> io::Result<()>;
}

/// A folder of the file system.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// The folder; creates it if necessary.
    pub(crate) fn make(path: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Disk for Folder {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(self.0.join(name))?))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.0.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        Ok(Arc::new(OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }

    fn size(&self, name: &str) -> u64 {
        fs::metadata(self.0.join(name)).map_or(0, |m| m.len())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let to = self.0.join(to);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::rename(self.0.join(from), to)
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn database(&self, builder: redb::Builder, name: &str) -> Result<redb::Database, redb::DatabaseError> {
        builder.create(self.0.join(name))
    }
}

impl DiskFile for File {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
