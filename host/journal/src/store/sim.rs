//! A file system in memory that can lose power: unsynced data is then lost, as a
//! whole or in part. Any operation can be made to fail.

// Other crates compile it for their tests.
#![allow(clippy::unwrap_used)]
#![cfg_attr(not(test), allow(dead_code))]

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use crate::disk::{Disk, DiskFile};
use crate::types::{OnFull, Quota, StreamQuota};

/// A journal on a simulated disk, for tests of other crates.
#[derive(Clone, Debug)]
pub struct Simulated {
    /// The streams, numbered from 0.
    pub streams: Vec<String>,
    /// The quota of each stream; it makes the bus wait.
    pub max_backlog: u64,
    /// Maximum bytes of dead letters.
    pub max_dead_letters: u64,
}

impl Simulated {
    /// Streams `0`, `1` and so on, with plenty of room.
    pub fn new(streams: usize) -> Self {
        let streams = (0..streams).map(|number| number.to_string()).collect();
        Self { streams, max_backlog: 1 << 31, max_dead_letters: 1 << 31 }
    }

    pub(crate) fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(SimDisk::new())
    }

    pub(crate) fn quotas(self) -> Vec<StreamQuota> {
        let quota = Quota { max_backlog: self.max_backlog, on_full: OnFull::Block };
        let stream = |name| StreamQuota { name, quota, live_first: false, conflates: false };
        self.streams.into_iter().map(stream).collect()
    }
}

/// Bytes that a torn write keeps or loses together.
const SECTOR: usize = 512;

#[derive(Clone)]
pub(crate) struct SimDisk(Arc<Mutex<Sim>>);

struct Sim {
    files: BTreeMap<String, Arc<Mutex<File>>>,
    /// The names that survive a crash.
    durable: BTreeMap<String, Arc<Mutex<File>>>,
    /// Number of changes until one fails; none: no change fails.
    until_failure: Option<u64>,
    /// After one failure all operations fail until the disk is repaired.
    failing: bool,
    full: bool,
    /// Maximum bytes of all files together.
    capacity: u64,
    operations: u64,
}

#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    /// Changes since the last sync.
    unsynced: Vec<Change>,
}

impl File {
    /// Makes all changes durable.
    fn sync(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                Change::Length(length) => self.synced.resize(length as usize, 0),
                Change::Write(offset, written) => {
                    let (from, end) = (offset as usize, offset as usize + written.len());
                    if self.synced.len() < end {
                        self.synced.resize(end, 0);
                    }
                    self.synced[from..end].copy_from_slice(&written);
                }
            }
        }
    }
}

#[derive(Clone)]
enum Change {
    /// Offset and bytes.
    Write(u64, Vec<u8>),
    /// The file was cut or extended.
    Length(u64),
}

impl SimDisk {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Sim {
            files: BTreeMap::new(),
            durable: BTreeMap::new(),
            until_failure: None,
            failing: false,
            full: false,
            capacity: u64::MAX,
            operations: 0,
        })))
    }

    /// Makes the `number`th change from now on fail, and all later ones.
    pub(super) fn fail_at(&self, number: u64) {
        self.0.lock().unwrap().until_failure = Some(number);
    }

    /// Makes writes that extend a file fail as on a full disk.
    pub(crate) fn set_full(&self, full: bool) {
        self.0.lock().unwrap().full = full;
    }

    /// Limits the bytes of all files together.
    pub(crate) fn set_capacity(&self, bytes: u64) {
        self.0.lock().unwrap().capacity = bytes;
    }

    pub(crate) fn repair(&self) {
        let mut sim = self.0.lock().unwrap();
        sim.until_failure = None;
        sim.failing = false;
        sim.full = false;
    }

    /// Number of changes so far.
    pub(super) fn operations(&self) -> u64 {
        self.0.lock().unwrap().operations
    }

    /// The disk after a power cut. `chance` decides for each unsynced sector
    /// whether it has reached the disk.
    pub(crate) fn crash(&self, mut chance: impl FnMut() -> bool) -> Self {
        let sim = self.0.lock().unwrap();
        let after = Self::new();
        {
            let mut new = after.0.lock().unwrap();
            // Without a sync of the folder a name may exist or not.
            let names = sim.files.iter().filter(|(name, _)| sim.durable.contains_key(*name) || chance());
            let removed = sim.durable.iter().filter(|(name, _)| !sim.files.contains_key(*name));
            let kept: Vec<_> = names.chain(removed).map(|(n, f)| (n.clone(), f.clone())).collect();
            for (name, file) in kept {
                let file = file.lock().unwrap();
                let mut bytes = file.synced.clone();
                for change in &file.unsynced {
                    match change {
                        Change::Length(length) => {
                            if chance() {
                                bytes.resize(*length as usize, 0);
                            }
                        }
                        Change::Write(offset, written) => {
                            tear(&mut bytes, *offset as usize, written, &mut chance)
                        }
                    }
                }
                let file = Arc::new(Mutex::new(File { synced: bytes.clone(), bytes, unsynced: Vec::new() }));
                new.files.insert(name.clone(), file.clone());
                new.durable.insert(name, file);
            }
        }
        after
    }

    /// Changes a file without an operation.
    pub(super) fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let sim = self.0.lock().unwrap();
        let mut file = sim.files[name].lock().unwrap();
        change(&mut file.bytes);
        file.synced = file.bytes.clone();
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().files.keys().cloned().collect()
    }

    /// Notes a change by which a file grows by so many bytes.
    fn change(&self, growth: u64) -> io::Result<()> {
        let mut sim = self.0.lock().unwrap();
        sim.operations += 1;
        if let Some(left) = &mut sim.until_failure {
            if *left == 0 {
                sim.failing = true;
            } else {
                *left -= 1;
            }
        }
        if sim.failing {
            return Err(io::Error::other("the disk has failed"));
        }
        let used = || sim.files.values().map(|file| file.lock().unwrap().bytes.len() as u64).sum::<u64>();
        if growth > 0 && (sim.full || (sim.capacity < u64::MAX && used() + growth > sim.capacity)) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(())
    }

    fn file(&self, name: &str) -> io::Result<Arc<Mutex<File>>> {
        self.0.lock().unwrap().files.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn tear(bytes: &mut Vec<u8>, offset: usize, written: &[u8], chance: &mut impl FnMut() -> bool) {
    let mut at = 0;
    while at < written.len() {
        let end = ((offset + at) / SECTOR + 1) * SECTOR - offset;
        let part = &written[at..end.min(written.len())];
        if chance() {
            let place = offset + at;
            if bytes.len() < place + part.len() {
                bytes.resize(place + part.len(), 0);
            }
            bytes[place..place + part.len()].copy_from_slice(part);
        }
        at += part.len();
    }
}

impl Disk for SimDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(SimFile { disk: self.clone(), file: self.file(name)? }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.change(1)?;
        let file = Arc::default();
        self.0.lock().unwrap().files.insert(name.to_owned(), Arc::clone(&file));
        Ok(Arc::new(SimFile { disk: self.clone(), file }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names().into_iter().filter(|n| !n.contains('/')).collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(0)?;
        self.0.lock().unwrap().files.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn size(&self, name: &str) -> u64 {
        self.file(name).map_or(0, |file| file.lock().unwrap().bytes.len() as u64)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(0)?;
        let mut sim = self.0.lock().unwrap();
        let file = sim.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        sim.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.change(0)?;
        let mut sim = self.0.lock().unwrap();
        sim.durable = sim.files.clone();
        Ok(())
    }

    fn path(&self, name: &str) -> String {
        format!("sim/{name}")
    }

    fn database(&self, builder: redb::Builder, name: &str) -> Result<redb::Database, redb::DatabaseError> {
        if self.file(name).is_err() {
            let _ = self.create(name)?;
            Disk::sync(self)?;
        }
        builder.create_with_backend(SimFile { disk: self.clone(), file: self.file(name)? })
    }
}

struct SimFile {
    disk: SimDisk,
    file: Arc<Mutex<File>>,
}

impl std::fmt::Debug for SimFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimFile")
    }
}

impl SimFile {
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset as usize + bytes.len();
        let growth = end.saturating_sub(self.file.lock().unwrap().bytes.len());
        self.disk.change(growth as u64)?;
        let mut file = self.file.lock().unwrap();
        if growth > 0 {
            file.bytes.resize(end, 0);
        }
        file.bytes[offset as usize..end].copy_from_slice(bytes);
        file.unsynced.push(Change::Write(offset, bytes.to_vec()));
        Ok(())
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let file = self.file.lock().unwrap();
        let from = offset as usize;
        let there = file.bytes.get(from..from + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(there);
        Ok(())
    }

    /// A sync that fails has lost its data: the pages are marked clean, and the
    /// next sync succeeds.
    fn sync_all(&self) -> io::Result<()> {
        let done = self.disk.change(0);
        let mut file = self.file.lock().unwrap();
        if done.is_ok() {
            file.sync();
        }
        file.unsynced.clear();
        done
    }
}

impl DiskFile for SimFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write(offset, bytes)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.read(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }
}

impl redb::StorageBackend for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.lock().unwrap().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        Self::read(self, offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let growth = length.saturating_sub(self.file.lock().unwrap().bytes.len() as u64);
        self.disk.change(growth)?;
        let mut file = self.file.lock().unwrap();
        file.bytes.resize(length as usize, 0);
        file.unsynced.push(Change::Length(length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync_all()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        Self::write(self, offset, data)
    }
}
