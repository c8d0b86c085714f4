//! What an apply changes: what runs, compared with what the files say.

use std::collections::BTreeMap;
use std::sync::Arc;

use admin_api::answer::{self, PlanLine};
use settings::{StreamEntry, StreamSettings};
use settings_reader::changed_keys;

use super::candidate::Candidate;

/// What becomes of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It starts: it is new, or could not run until now.
    New,
    /// Only keys below `[script]` differ, these.
    Script(Vec<String>),
    /// These keys differ, some of them perhaps below `[script]`.
    Other(Vec<String>),
    /// Nothing differs but comments, order and spaces.
    Unchanged,
    /// Its file is gone: it stops, and the journal keeps what it has for 24 h.
    Gone,
}

/// What becomes of each stream, in the order of the names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan(pub BTreeMap<String, Change>);

impl Plan {
    /// From the streams that run (or cannot) to these files.
    pub fn new<'a>(
        running: impl IntoIterator<Item = &'a StreamEntry>,
        files: impl IntoIterator<Item = &'a Arc<StreamSettings>>,
    ) -> Self {
        let running: BTreeMap<&str, &StreamEntry> = running.into_iter().map(|e| (e.name(), e)).collect();
        let mut changes: BTreeMap<String, Change> =
            running.keys().map(|name| ((*name).to_owned(), Change::Gone)).collect();
        for file in files {
            let change = match running.get(file.name.as_str()) {
                Some(StreamEntry::Ready(settings)) => difference(settings, file),
                Some(StreamEntry::Unusable { .. }) | None => Change::New,
            };
            changes.insert(file.name.clone(), change);
        }
        Self(changes)
    }

    /// Whether an apply would do anything.
    pub fn changes_something(&self) -> bool {
        self.0.values().any(|change| *change != Change::Unchanged)
    }

    /// For the caller.
    pub fn answer(&self, candidate: &Candidate) -> answer::Plan {
        let line = |(stream, change): (&String, &Change)| {
            let (change, keys) = match change {
                Change::New => (answer::Change::New, &[][..]),
                Change::Script(keys) | Change::Other(keys) => (answer::Change::Changed, &keys[..]),
                Change::Unchanged => (answer::Change::Unchanged, &[][..]),
                Change::Gone => (answer::Change::Detached, &[][..]),
            };
            let begins = change != answer::Change::Unchanged;
            let script = candidate.scripts.get(stream).filter(|_| begins).cloned();
            PlanLine { stream: stream.clone(), change, keys: keys.to_vec(), script }
        };
        let restart = candidate.restart.clone();
        answer::Plan { applied: false, streams: self.0.iter().map(line).collect(), restart, waiting: None }
    }
}

fn difference(old: &StreamSettings, new: &StreamSettings) -> Change {
    let mut keys = changed_keys(old.source.expose(), new.source.expose());
    // The list may be in a file of its own.
    let lists = ["only", "except"];
    if old.selection != new.selection && !keys.iter().any(|key| lists.contains(&first(key))) {
        let text = new.source.expose();
        let named = lists.into_iter().find(|list| text.contains(list));
        keys.extend(named.map(str::to_owned));
    }
    if keys.is_empty() {
        Change::Unchanged
    } else if keys.iter().all(|key| first(key) == "script") {
        Change::Script(keys)
    } else {
        Change::Other(keys)
    }
}

/// The first part of a key's path.
fn first(key: &str) -> &str {
    key.split('.').next().unwrap_or(key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use settings::Config;

    use super::*;

    const MAIN: &str = "[bus]\nurl = \"mqtt://127.0.0.1\"\nclient_id = \"gw\"\n";
    const STREAM: &str = "topics = [\"a\"]\nonly = { file = \"keys.txt\" }\n[destination]\ntype = \"http\"\n\
                          url = \"http://x\"\n[script.settings]\nlimit_messages = 10\n";

    /// What the folder says after these files were written into it.
    fn read(folder: &tempfile::TempDir, files: &[(&str, &str)]) -> Vec<StreamEntry> {
        fs::create_dir_all(folder.path().join("streams")).unwrap();
        fs::write(folder.path().join("sluicegate.toml"), MAIN).unwrap();
        for (name, text) in files {
            fs::write(folder.path().join("streams").join(name), text).unwrap();
        }
        Config::load(Some(&folder.path().join("sluicegate.toml"))).unwrap().streams
    }

    fn ready(entries: &[StreamEntry]) -> Vec<Arc<StreamSettings>> {
        let settings = |entry: &StreamEntry| match entry {
            StreamEntry::Ready(settings) => Some(settings.clone()),
            StreamEntry::Unusable { .. } => None,
        };
        entries.iter().filter_map(settings).collect()
    }

    #[test]
    fn plan_names_each_kind_of_change() {
        let folder = tempfile::tempdir().unwrap();
        let all = [
            ("keys.txt", "1\n"),
            ("broken.toml", "nonsense"),
            ("gone.toml", STREAM),
            ("list.toml", &STREAM.replace("keys.txt", "other.txt")),
            ("other.txt", "1\n2\n"),
            ("same.toml", STREAM),
            ("script.toml", STREAM),
            ("topics.toml", STREAM),
        ];
        let before = read(&folder, &all);
        fs::remove_file(folder.path().join("streams/gone.toml")).unwrap();
        let longer = STREAM.replace("limit_messages = 10", "limit_messages = 20");
        let files = [
            ("broken.toml", STREAM),
            ("new.toml", STREAM),
            ("other.txt", "1\n3\n"),
            ("same.toml", &format!("# a comment\n{STREAM}")),
            ("script.toml", &longer),
            ("topics.toml", &longer.replace("[\"a\"]", "[\"b\"]")),
        ];
        let plan = Plan::new(&before, &ready(&read(&folder, &files)));
        let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
        let limit = "script.settings.limit_messages";
        let expected = [
            ("broken", Change::New),
            ("gone", Change::Gone),
            ("list", Change::Other(keys(&["only"]))),
            ("new", Change::New),
            ("same", Change::Unchanged),
            ("script", Change::Script(keys(&[limit]))),
            ("topics", Change::Other(keys(&["topics", limit]))),
        ];
        assert_eq!(plan.0, expected.map(|(name, change)| (name.to_owned(), change)).into());
        assert!(plan.changes_something());
        let same = read(&folder, &[]);
        assert!(!Plan::new(&same, &ready(&same)).changes_something());
    }
}
