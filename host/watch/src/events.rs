//! The system's events (inotify), and who wants to hear of which folder.
//!
//! Folders are watched, never files: a file that is replaced by a rename has
//! another inode, and a watch on the old one hears nothing more. An event only
//! means "look"; what has changed is found by looking.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::content;

/// Links that are followed on the way to a file.
const MAX_LINKS: usize = 16;

type Handler = Box<dyn Fn(notify::Result<notify::Event>) + Send>;
/// Starts the system's watcher.
pub(super) type Start = fn(Handler) -> notify::Result<Box<dyn Watcher + Send>>;

/// Who hears of what. The handler, on the watcher's own thread, only takes the
/// lock of `listeners`; calls of the watcher wait for that thread, so they are
/// made under the lock of `system` alone.
pub(super) struct Events {
    listeners: Arc<Mutex<Listeners>>,
    system: Mutex<System>,
}

#[derive(Default)]
struct Listeners {
    next: u64,
    signals: HashMap<u64, Arc<Notify>>,
    /// Watched folder, and who wants to know.
    folders: HashMap<PathBuf, BTreeSet<u64>>,
}

struct System {
    start: Start,
    watcher: Watching,
    /// Folder, device and inode: one that was made anew needs a new watch.
    watched: HashMap<PathBuf, (u64, u64)>,
    /// A folder that cannot be watched has been complained of.
    told: bool,
}

enum Watching {
    NotYet,
    Yes(Box<dyn Watcher + Send>),
    Impossible,
}

/// The system's own way.
pub(super) fn start(handler: Handler) -> notify::Result<Box<dyn Watcher + Send>> {
    Ok(Box::new(notify::recommended_watcher(handler)?))
}

// === impl Events ===

impl Events {
    /// Nothing is started before somebody listens.
    pub(super) fn new(start: Start) -> Self {
        let system = System { start, watcher: Watching::NotYet, watched: HashMap::new(), told: false };
        Self { listeners: Arc::default(), system: Mutex::new(system) }
    }

    /// A new listener and how it hears.
    pub(super) fn listen(&self) -> (u64, Arc<Notify>) {
        let mut listeners = lock(&self.listeners);
        let number = listeners.next;
        listeners.next += 1;
        let signal = Arc::new(Notify::new());
        listeners.signals.insert(number, signal.clone());
        (number, signal)
    }

    /// What is listened to now.
    #[cfg(test)]
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        let mut folders: Vec<_> = lock(&self.listeners).folders.keys().cloned().collect();
        folders.sort_unstable();
        folders
    }

    /// It listens no more. Its folders are let go of at the next
    /// [`Self::watch`]: the watcher must not be waited for here.
    pub(super) fn leave(&self, listener: u64) {
        let mut listeners = lock(&self.listeners);
        listeners.signals.remove(&listener);
        listeners.folders.values_mut().for_each(|who| {
            who.remove(&listener);
        });
    }

    /// Has the listener hear of everything that may change what these paths
    /// hold, as they are now. Blocks for a moment.
    pub(super) fn watch(&self, listener: u64, paths: &[PathBuf]) {
        let wanted: BTreeSet<PathBuf> = paths.iter().flat_map(|path| folders_of(path)).collect();
        let mut system = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        let unheard: Vec<PathBuf> = {
            let mut listeners = lock(&self.listeners);
            if !listeners.signals.contains_key(&listener) {
                return;
            }
            for (folder, who) in &mut listeners.folders {
                if !wanted.contains(folder) {
                    who.remove(&listener);
                }
            }
            for folder in &wanted {
                listeners.folders.entry(folder.clone()).or_default().insert(listener);
            }
            listeners.folders.extract_if(|_, who| who.is_empty()).map(|(folder, _)| folder).collect()
        };
        unheard.iter().for_each(|folder| system.unwatch(folder));
        for folder in &wanted {
            system.watch(folder, &self.listeners);
        }
    }
}

// === impl System ===

impl System {
    fn watch(&mut self, folder: &Path, listeners: &Arc<Mutex<Listeners>>) {
        let Ok(metadata) = std::fs::metadata(folder) else { return };
        let identity = (metadata.dev(), metadata.ino());
        if self.watched.get(folder) == Some(&identity) {
            return;
        }
        self.unwatch(folder);
        if matches!(self.watcher, Watching::NotYet) {
            let listeners = Arc::clone(listeners);
            self.watcher = match (self.start)(Box::new(move |event| lock(&listeners).hear(event))) {
                Ok(watcher) => Watching::Yes(watcher),
                Err(error) => {
                    self.tell(&error);
                    Watching::Impossible
                }
            };
        }
        let Watching::Yes(watcher) = &mut self.watcher else { return };
        match watcher.watch(folder, RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.watched.insert(folder.to_owned(), identity);
            }
            Err(error) => self.tell(&error),
        }
    }

    fn unwatch(&mut self, folder: &Path) {
        if self.watched.remove(folder).is_some()
            && let Watching::Yes(watcher) = &mut self.watcher
        {
            // A folder that is gone has taken its watch with it.
            let _ = watcher.unwatch(folder);
        }
    }

    fn tell(&mut self, error: &notify::Error) {
        if !self.told {
            self.told = true;
            tracing::warn!(%error, "the system does not tell of changed files; they are looked at now and then");
        }
    }
}

// === impl Listeners ===

impl Listeners {
    fn hear(&self, event: notify::Result<notify::Event>) {
        match event {
            Ok(event) if event.need_rescan() => self.all(),
            // Reading is no change, and looking is reading.
            Ok(event) if is_reading(event.kind) => {}
            Ok(event) => {
                let places = event.paths.iter().flat_map(|path| [Some(path.as_path()), path.parent()]);
                let folders = places.flatten().filter_map(|place| self.folders.get(place));
                for signal in folders.flatten().filter_map(|who| self.signals.get(who)) {
                    signal.notify_one();
                }
            }
            Err(_) => self.all(),
        }
    }

    fn all(&self) {
        self.signals.values().for_each(|signal| signal.notify_one());
    }
}

fn is_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

fn lock(listeners: &Mutex<Listeners>) -> MutexGuard<'_, Listeners> {
    listeners.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The folders in which a change may change what the path holds: its own, or
/// the nearest one that exists; that of every link on the way, so that a
/// swapped link (`..data` of a ConfigMap) is noticed; and where the path is a
/// folder, that and those in it. All without links in their names, because two
/// names of one folder would share one watch of the system.
fn folders_of(path: &Path) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    let mut path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for _ in 0..=MAX_LINKS {
        match first_link(&path, &mut folders) {
            Some(target) => path = target,
            None => break,
        }
    }
    folders
}

/// Where the first link on the way leads to, with the rest of the path.
fn first_link(path: &Path, folders: &mut BTreeSet<PathBuf>) -> Option<PathBuf> {
    let mut folder = PathBuf::new();
    let mut parts = path.components();
    while let Some(part) = parts.next() {
        let here = match part {
            Component::ParentDir => folder.parent().unwrap_or(&folder).to_owned(),
            part => folder.join(part),
        };
        let Ok(metadata) = here.symlink_metadata() else {
            folders.insert(folder);
            return None;
        };
        if metadata.is_symlink() {
            let target = folder.join(std::fs::read_link(&here).ok()?).join(parts.as_path());
            folders.insert(folder);
            return Some(target);
        }
        if parts.as_path().as_os_str().is_empty() {
            if metadata.is_dir() {
                folders.extend(content::folders(&here));
            }
            folders.insert(folder);
            return None;
        }
        folder = here;
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::symlink;

    use super::*;

    fn expected(folders: &[&Path]) -> BTreeSet<PathBuf> {
        folders.iter().map(|folder| folder.to_path_buf()).collect()
    }

    #[test]
    fn every_folder_on_the_way_in_which_a_link_may_be_swapped_is_watched() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let at = |name: &str| root.join(name);
        std::fs::create_dir_all(at("mount/..one")).unwrap();
        std::fs::write(at("mount/..one/key"), "1").unwrap();
        symlink("..one", at("mount/..data")).unwrap();
        symlink("..data/key", at("mount/key")).unwrap();
        assert_eq!(folders_of(&at("mount/key")), expected(&[&at("mount"), &at("mount/..one")]));

        std::fs::create_dir_all(at("live")).unwrap();
        symlink("../mount", at("live/now")).unwrap();
        assert_eq!(
            folders_of(&at("live/now/key")),
            expected(&[&at("live"), &at("mount"), &at("mount/..one")])
        );
        symlink("round", at("round")).unwrap();
        assert_eq!(folders_of(&at("round")), expected(&[&root]));
    }

    #[test]
    fn of_a_path_that_is_not_there_the_nearest_folder_is_watched() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        assert_eq!(folders_of(&root.join("a/b/c.toml")), expected(&[&root]));
        std::fs::create_dir(root.join("a")).unwrap();
        assert_eq!(folders_of(&root.join("a/b/c.toml")), expected(&[&root.join("a")]));
    }

    #[test]
    fn of_a_folder_its_parent_and_the_folders_in_it_are_watched() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let folder = root.join("adapter");
        std::fs::create_dir_all(folder.join("cases")).unwrap();
        std::fs::create_dir_all(folder.join(".git")).unwrap();
        assert_eq!(folders_of(&folder), expected(&[&root, &folder, &folder.join("cases")]));
    }
}
