//! Compiled code in a folder. Machine code is run as it is found, so every
//! byte is verified before that, and whatever is not as it was written counts
//! as not there.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use telemetry::event;

/// A folder of compiled code. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Cache(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    /// Bytes of all files at most.
    limit: u64,
    /// Held while files are written and removed.
    writing: Mutex<()>,
}

/// What a file begins with; behind it SHA-256 of name and code, then the code.
const HEAD: &[u8] = b"sluicegate code 1\n";

/// What the name of a file ends with while it is written.
const UNFINISHED: &str = ".new";

const HASH: usize = 32;

impl Cache {
    /// Makes the folder if it is not there, for this user only.
    pub(super) fn open(folder: &Path, limit: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // It may have been there with another mode; another owner's refuses.
        fs::set_permissions(folder, Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.to_string_lossy().ends_with(UNFINISHED) {
                fs::remove_file(path)?;
            }
        }
        Ok(Self(Arc::new(Inner { folder: folder.to_owned(), limit, writing: Mutex::default() })))
    }

    /// The code of that name. A file that is not whole is removed.
    pub(super) fn get(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.0.folder.join(name);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return self.spoiled(&path, &error.to_string()),
        };
        match self.read(&mut file, name) {
            Ok(code) => {
                // Without it the file counts as used when it was written.
                let _ = file.set_modified(SystemTime::now());
                Some(code)
            }
            Err(reason) => self.spoiled(&path, &reason),
        }
    }

    fn read(&self, file: &mut File, name: &str) -> Result<Vec<u8>, String> {
        let size = file.metadata().map_err(|e| e.to_string())?.len();
        if size > self.0.limit {
            return Err(format!("it has {size} bytes"));
        }
        let mut head = [0; HEAD.len() + HASH];
        file.read_exact(&mut head).map_err(|e| e.to_string())?;
        let mut code = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        file.take(self.0.limit).read_to_end(&mut code).map_err(|e| e.to_string())?;
        match head.strip_prefix(HEAD) {
            Some(hash) if *hash == hash_of(name, &code) => Ok(code),
            Some(_) => Err("its content is not what was written".to_owned()),
            None => Err("it does not begin as it should".to_owned()),
        }
    }

    fn spoiled(&self, path: &Path, reason: &str) -> Option<Vec<u8>> {
        let _ = fs::remove_file(path);
        event::CompiledCodeSpoiled { path, reason }.emit();
        None
    }

    /// Writes code beside its place and moves it there: whoever reads finds
    /// all of it or nothing. There is no sync: a power cut costs a compilation.
    pub(super) fn put(&self, name: &str, code: &[u8]) -> io::Result<()> {
        let _writing = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let size = (HEAD.len() + HASH + code.len()) as u64;
        if size > self.0.limit {
            return Ok(());
        }
        self.make_room(size)?;
        let unfinished = self.0.folder.join(format!("{name}{UNFINISHED}"));
        let written = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)
            .and_then(|mut file| {
                file.write_all(HEAD)?;
                file.write_all(&hash_of(name, code))?;
                file.write_all(code)
            })
            .and_then(|()| fs::rename(&unfinished, self.0.folder.join(name)));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written
    }

    /// Removes what was not used for the longest time until so many bytes fit.
    fn make_room(&self, wanted: u64) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.0.folder)? {
            let entry = entry?;
            let about = entry.metadata()?;
            if about.is_file() {
                files.push((about.modified()?, about.len(), entry.path()));
            }
        }
        let mut held: u64 = files.iter().map(|(_, size, _)| size).sum();
        files.sort();
        for (_, size, path) in files {
            if held.saturating_add(wanted) <= self.0.limit {
                break;
            }
            fs::remove_file(path)?;
            held -= size;
        }
        Ok(())
    }
}

/// The name is in it, so that no file passes for another.
fn hash_of(name: &str, code: &[u8]) -> [u8; HASH] {
    Sha256::new().chain_update(name).chain_update([0]).chain_update(code).finalize().into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    /// What a file has beside its code.
    const EXTRA: u64 = (HEAD.len() + HASH) as u64;

    fn cache(limit: u64) -> (TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("cache"), limit).unwrap();
        (folder, cache)
    }

    fn names(cache: &Cache) -> Vec<String> {
        let entries = fs::read_dir(&cache.0.folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn gives_back_what_was_put_in_also_after_a_restart() {
        let (_folder, cache) = cache(1 << 20);
        assert_eq!(cache.get("a"), None);
        cache.put("a", b"one").unwrap();
        cache.put("b", b"").unwrap();
        cache.put("a", b"two").unwrap();
        let cache = Cache::open(&cache.0.folder, 1 << 20).unwrap();
        assert_eq!(cache.get("a").unwrap(), b"two");
        assert_eq!(cache.get("b").unwrap(), b"");
        assert_eq!(names(&cache), ["a", "b"]);
    }

    #[test]
    fn nobody_else_can_look_into_the_folder_and_leftovers_are_removed() {
        let (_folder, cache) = cache(1 << 20);
        let folder = cache.0.folder.clone();
        fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
        fs::write(folder.join("x.new"), "half of it").unwrap();
        let cache = Cache::open(&folder, 1 << 20).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        cache.put("a", b"one").unwrap();
        assert_eq!(fs::metadata(folder.join("a")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(&cache), ["a"]);
    }

    #[test]
    fn a_file_under_another_name_is_not_taken() {
        let (_folder, cache) = cache(1 << 20);
        cache.put("a", b"one").unwrap();
        fs::rename(cache.0.folder.join("a"), cache.0.folder.join("b")).unwrap();
        assert_eq!(cache.get("b"), None);
        assert_eq!(names(&cache), [] as [String; 0]);
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_makes_room() {
        let (_folder, cache) = cache(3 * (EXTRA + 10));
        let start = SystemTime::now() - Duration::from_secs(60);
        for (name, age) in [("a", 0), ("b", 1), ("c", 2)] {
            cache.put(name, &[0; 10]).unwrap();
            let file = File::open(cache.0.folder.join(name)).unwrap();
            file.set_modified(start + Duration::from_secs(age)).unwrap();
        }
        assert!(cache.get("a").is_some());
        cache.put("d", &[0; 10]).unwrap();
        assert_eq!(names(&cache), ["a", "c", "d"]);
        cache.put("large", &[0; 30 + 2 * EXTRA as usize]).unwrap();
        assert_eq!(names(&cache), ["large"]);
        // What would never fit is not kept, and costs nothing else its place.
        cache.put("too large", &[0; 31 + 2 * EXTRA as usize]).unwrap();
        assert_eq!(names(&cache), ["large"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Any damage to a file: it is gone, and the next one takes its place.
        #[test]
        fn a_damaged_file_is_never_given_out(
            code in prop::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
            damage in prop_oneof![Just(None), (1u8..).prop_map(Some)],
        ) {
            let (_folder, cache) = cache(1 << 20);
            cache.put("a", &code).unwrap();
            let path = cache.0.folder.join("a");
            let mut bytes = fs::read(&path).unwrap();
            let at = at.index(bytes.len());
            match damage {
                None => bytes.truncate(at),
                Some(bits) => bytes[at] ^= bits,
            }
            fs::write(&path, bytes).unwrap();
            prop_assert_eq!(cache.get("a"), None);
            prop_assert!(!path.exists());
            cache.put("a", &code).unwrap();
            prop_assert_eq!(cache.get("a"), Some(code));
        }
    }
}
