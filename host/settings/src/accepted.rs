//! Which version of each stream's file was accepted last: that is what runs,
//! whatever the files say meanwhile.
//!
//! It is kept in the data folder, with the path that each text came from, so
//! that the paths in it mean the same, and with the keys of a list in a file of
//! its own, which is part of the stream's file. Whoever may read the stream files' plain
//! headers may read it: its owner alone.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use message::Selection;
use serde::{Deserialize, Serialize};

use super::{Config, StreamEntry, StreamSettings};

/// A newer one is not read.
const FORMAT: u32 = 1;

/// What was accepted last, by the names of the streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted(BTreeMap<String, AcceptedFile>);

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct AcceptedFile {
    /// Absolute.
    path: PathBuf,
    text: String,
    /// Of the list of keys that it names, in their order; none: it names none,
    /// or was accepted when that was not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    format: u32,
    streams: BTreeMap<String, AcceptedFile>,
}

/// Something that an operator should know of a stream whose file is not what
/// runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The stream.
    pub stream: String,
    /// What, one line.
    pub text: String,
}

/// Why it cannot be read or kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot read or write the accepted stream files in {}: {reason}", path.display())]
pub struct AcceptedError {
    path: PathBuf,
    reason: String,
}

// === impl Accepted ===

impl Accepted {
    /// What these files say.
    pub fn of<'a>(files: impl IntoIterator<Item = &'a Arc<StreamSettings>>) -> Self {
        let mut accepted = Self::default();
        files.into_iter().for_each(|settings| accepted.accept(settings));
        accepted
    }

    /// What is kept in this data folder; empty where nothing is.
    pub fn load(data: &Path) -> Result<Self, AcceptedError> {
        let path = file(data);
        let failed = |reason: String| AcceptedError { path: path.clone(), reason };
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(error.to_string())),
        };
        let kept: Kept = serde_json::from_slice(&bytes).map_err(|e| failed(e.to_string()))?;
        if kept.format > FORMAT {
            let reason =
                format!("format {} is newer than the one this version supports ({FORMAT})", kept.format);
            return Err(failed(reason));
        }
        Ok(Self(kept.streams))
    }

    /// Keeps it, whole or not at all.
    pub fn save(&self, data: &Path) -> Result<(), AcceptedError> {
        let path = file(data);
        let kept = Kept { format: FORMAT, streams: self.0.clone() };
        let write = || -> io::Result<()> {
            let bytes = serde_json::to_vec_pretty(&kept)?;
            let folder = folder(data);
            DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
            let unfinished = path.with_extension("new");
            match fs::remove_file(&unfinished) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
            new.write_all(&bytes)?;
            new.sync_all()?;
            fs::rename(&unfinished, &path)?;
            File::open(&folder)?.sync_all()
        };
        write().map_err(|error| AcceptedError { path: path.clone(), reason: error.to_string() })
    }

    /// Each stream as it was accepted, read for this configuration.
    pub fn entries(&self, config: &Config) -> Vec<StreamEntry> {
        self.0.iter().map(|(name, file)| file.read(config, name)).collect()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn accept(&mut self, settings: &StreamSettings) {
        self.0.insert(settings.name.clone(), AcceptedFile::of(settings));
    }
}

// === impl AcceptedFile ===

impl AcceptedFile {
    fn of(settings: &StreamSettings) -> Self {
        let path = std::path::absolute(&settings.path).unwrap_or_else(|_| settings.path.clone());
        let keys = settings.key_list.as_ref().and(settings.selection.as_ref()).map(|selection| {
            let (Selection::Only(keys) | Selection::Except(keys)) = selection;
            let mut keys: Vec<String> = keys.iter().cloned().collect();
            keys.sort_unstable();
            keys
        });
        Self { path, text: settings.source.expose().to_owned(), keys }
    }

    fn read(&self, config: &Config, name: &str) -> StreamEntry {
        config.read_stream(name, &self.path, &self.text, self.keys.as_deref())
    }

    /// What these settings say otherwise: the file with it.
    fn differs_from(&self, settings: &StreamSettings) -> Option<PathBuf> {
        let now = Self::of(settings);
        if now.text != self.text {
            return Some(settings.path.clone());
        }
        let other_keys = self.keys.is_some() && now.keys != self.keys;
        settings.key_list.clone().filter(|_| other_keys)
    }
}

impl std::fmt::Debug for AcceptedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AcceptedFile").field("path", &self.path).finish_non_exhaustive()
    }
}

fn folder(data: &Path) -> PathBuf {
    data.join("accepted")
}

fn file(data: &Path) -> PathBuf {
    folder(data).join("streams.json")
}

// === impl Config ===

impl Config {
    /// Puts what was accepted in the place of files that say something else,
    /// and accepts files of which nothing was: what is to be kept now, and what
    /// an operator should know. With `take_over` every file that can be used is
    /// accepted as it is. A stream without a file is none, as ever, unless the
    /// whole folder is missing.
    pub fn settle(&mut self, accepted: &Accepted, take_over: bool) -> (Accepted, Vec<Note>) {
        let (mut kept, mut notes) = (Accepted::default(), Vec::new());
        let entries = std::mem::take(&mut self.streams);
        if entries.is_empty() && !self.stream_folder().is_dir() {
            // An operator removes files; a folder goes with the disk that it is on.
            let text = format!("the folder {} no longer exists", self.stream_folder().display());
            let note = |stream: &String| Note { stream: stream.clone(), text: text.clone() };
            self.streams = accepted.entries(self);
            return (accepted.clone(), accepted.0.keys().map(note).collect());
        }
        for entry in entries {
            let known = accepted.0.get(entry.name());
            let entry = match (entry, known) {
                (StreamEntry::Ready(settings), Some(known)) if !take_over => {
                    if let Some(file) = known.differs_from(&settings) {
                        notes.push(Note {
                            stream: settings.name.clone(),
                            text: format!(
                                "{} differs from the running configuration; `sluicegate apply` applies it",
                                file.display()
                            ),
                        });
                        kept.0.insert(settings.name.clone(), known.clone());
                        known.read(self, &settings.name)
                    } else {
                        kept.accept(&settings);
                        StreamEntry::Ready(settings)
                    }
                }
                (StreamEntry::Ready(settings), _) => {
                    kept.accept(&settings);
                    StreamEntry::Ready(settings)
                }
                (StreamEntry::Unusable { name, errors }, Some(known)) => {
                    kept.0.insert(name.clone(), known.clone());
                    match known.read(self, &name) {
                        StreamEntry::Ready(settings) => {
                            let reasons: Vec<String> = errors.iter().map(|error| error.summary()).collect();
                            let reasons = reasons.join("; ");
                            let same =
                                fs::read_to_string(&settings.path).is_ok_and(|text| text == known.text);
                            let text = if same {
                                format!("its file would be rejected now: {reasons}")
                            } else {
                                format!("its file was changed and is invalid: {reasons}")
                            };
                            notes.push(Note { stream: name, text });
                            StreamEntry::Ready(settings)
                        }
                        StreamEntry::Unusable { .. } => StreamEntry::Unusable { name, errors },
                    }
                }
                (entry, None) => entry,
            };
            self.streams.push(entry);
        }
        (kept, notes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    const MAIN: &str = "[bus]\nurl = \"mqtt://127.0.0.1\"\nclient_id = \"gw\"\n";

    fn stream(lanes: u32) -> String {
        format!(
            "topics = [\"a\"]\nonly = {{ file = \"keys\" }}\n[destination]\ntype = \"http\"\nurl = \"http://x\"\n\
             [delivery]\nlanes = {lanes}\n"
        )
    }

    struct Site(TempDir);

    impl Site {
        fn new() -> Self {
            let site = Self(tempfile::tempdir().unwrap());
            fs::create_dir(site.0.path().join("streams")).unwrap();
            site.write("sluicegate.toml", MAIN);
            site.write("streams/keys", "1\n");
            site
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.0.path().join(name), text).unwrap();
        }

        /// A start: lanes of each stream (0: unusable), and the notes.
        fn start(&self, take_over: bool) -> (Vec<(String, u32)>, Vec<Note>) {
            let mut config = Config::load(Some(&self.0.path().join("sluicegate.toml"))).unwrap();
            let (accepted, notes) = config.settle(&Accepted::load(&config.data).unwrap(), take_over);
            accepted.save(&config.data).unwrap();
            assert_eq!(Accepted::load(&config.data).unwrap(), accepted);
            let lanes = |entry: &StreamEntry| match entry {
                StreamEntry::Ready(settings) => settings.delivery.lanes,
                StreamEntry::Unusable { .. } => 0,
            };
            (config.streams.iter().map(|e| (e.name().to_owned(), lanes(e))).collect(), notes)
        }

        fn lanes(&self, take_over: bool) -> Vec<u32> {
            self.start(take_over).0.into_iter().map(|(_, lanes)| lanes).collect()
        }
    }

    #[test]
    fn a_file_that_nobody_accepted_is_accepted_when_it_is_good() {
        let site = Site::new();
        site.write("streams/a.toml", &stream(1));
        site.write("streams/b.toml", "nonsense");
        let (streams, notes) = site.start(false);
        assert_eq!(streams, [("a".to_owned(), 1), ("b".to_owned(), 0)]);
        assert_eq!(notes, []);
        site.write("streams/b.toml", &stream(2));
        assert_eq!(site.lanes(false), [1, 2]);
    }

    #[test]
    fn what_was_accepted_runs_until_the_file_is_applied() {
        let site = Site::new();
        site.write("streams/a.toml", &stream(1));
        site.start(false);
        site.write("streams/a.toml", &stream(7));
        for _ in 0..2 {
            let (streams, notes) = site.start(false);
            assert_eq!(streams[0].1, 1);
            assert!(notes[0].text.contains("streams/a.toml") && notes[0].text.contains("sluicegate apply"));
        }
        site.write("streams/a.toml", "nonsense");
        let (streams, notes) = site.start(false);
        assert_eq!(streams[0].1, 1);
        assert!(notes[0].text.contains("is invalid: ") && notes[0].text.contains("a.toml:1:9"), "{notes:?}");
        assert_eq!(site.lanes(true), [1], "a bad file is not taken over");
        site.write("streams/a.toml", &stream(7));
        assert_eq!(site.start(true), (vec![("a".to_owned(), 7)], vec![]));
        assert_eq!(site.start(false), (vec![("a".to_owned(), 7)], vec![]));
    }

    #[test]
    fn a_file_that_is_gone_and_comes_back_is_a_new_one() {
        let site = Site::new();
        site.write("streams/a.toml", &stream(1));
        site.start(false);
        fs::remove_file(site.0.path().join("streams/a.toml")).unwrap();
        assert_eq!(site.lanes(false), [0; 0]);
        site.write("streams/a.toml", &stream(3));
        assert_eq!(site.lanes(false), [3]);
    }

    #[test]
    fn paths_in_it_mean_what_they_meant() {
        let site = Site::new();
        site.write("streams/a.toml", &stream(1));
        site.start(false);
        site.write("streams/a.toml", "nonsense");
        // Another sluicegate.toml, the same data folder.
        let elsewhere = Site::new();
        fs::remove_file(elsewhere.0.path().join("streams/keys")).unwrap();
        elsewhere.write("streams/a.toml", "nonsense");
        let data = site.0.path().join("data");
        elsewhere.write("sluicegate.toml", &format!("data = {:?}\n{MAIN}", data));
        assert_eq!(elsewhere.lanes(false), [1]);
    }

    /// Which keys the streams serve.
    fn keys(site: &Site, take_over: bool) -> (Vec<String>, Vec<Note>) {
        let mut config = Config::load(Some(&site.0.path().join("sluicegate.toml"))).unwrap();
        let (accepted, notes) = config.settle(&Accepted::load(&config.data).unwrap(), take_over);
        accepted.save(&config.data).unwrap();
        let of = |entry: &StreamEntry| {
            let StreamEntry::Ready(settings) = entry else { panic!("{entry:?}") };
            let Some(Selection::Only(keys)) = &settings.selection else { panic!("{settings:?}") };
            keys.iter().cloned().collect::<Vec<_>>()
        };
        assert_eq!(
            accepted.entries(&config).iter().map(of).collect::<Vec<_>>(),
            config.streams.iter().map(of).collect::<Vec<_>>()
        );
        (config.streams.iter().flat_map(of).collect(), notes)
    }

    #[test]
    fn a_list_of_keys_is_part_of_what_was_accepted() {
        let site = Site::new();
        site.write("streams/a.toml", &stream(1));
        assert_eq!(keys(&site, false), (vec!["1".to_owned()], vec![]));
        site.write("streams/keys", "# the same\n1\n");
        assert_eq!(keys(&site, false), (vec!["1".to_owned()], vec![]));
        site.write("streams/keys", "2\n");
        for _ in 0..2 {
            let (keys, notes) = keys(&site, false);
            assert_eq!(keys, ["1"]);
            assert!(
                notes[0].text.contains("streams/keys differs from the running configuration"),
                "{notes:?}"
            );
        }
        fs::remove_file(site.0.path().join("streams/keys")).unwrap();
        for take_over in [false, true] {
            let (keys, notes) = keys(&site, take_over);
            assert_eq!(keys, ["1"]);
            assert!(notes[0].text.contains("would be rejected now: ") && notes[0].text.contains("keys"));
        }
        site.write("streams/keys", "2\n");
        assert_eq!(keys(&site, true), (vec!["2".to_owned()], vec![]));
    }

    #[test]
    fn what_was_accepted_before_lists_were_kept_takes_the_list_that_there_is() {
        let site = Site::new();
        site.write("streams/a.toml", &stream(1));
        site.start(false);
        let kept = file(&site.0.path().join("data"));
        let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&kept).unwrap()).unwrap();
        json["streams"]["a"].as_object_mut().unwrap().remove("keys").unwrap();
        fs::write(&kept, json.to_string()).unwrap();
        site.write("streams/keys", "2\n");
        assert_eq!(keys(&site, false), (vec!["2".to_owned()], vec![]));
    }

    #[test]
    fn a_folder_that_is_gone_takes_no_stream_along() {
        let site = Site::new();
        site.write("streams/a.toml", &stream(3));
        site.start(false);
        let aside = site.0.path().join("aside");
        fs::rename(site.0.path().join("streams"), &aside).unwrap();
        for take_over in [false, true] {
            let (streams, notes) = site.start(take_over);
            assert_eq!(streams, [("a".to_owned(), 3)]);
            assert!(notes[0].text.contains("no longer exists"), "{notes:?}");
        }
        fs::create_dir(site.0.path().join("streams")).unwrap();
        assert_eq!(site.lanes(false), [0; 0]);
    }

    /// The adapter that this binary brings along has other settings than the
    /// one that runs.
    #[test]
    fn settings_of_another_version_of_the_adapter_are_no_reason() {
        let site = Site::new();
        let text = stream(1) + "[script.settings]\nof_old = true\n";
        site.write("streams/a.toml", &text);
        assert_eq!(site.lanes(false), [0], "it is new");
        let path = site.0.path().join("streams/a.toml");
        let file = AcceptedFile { path, text, keys: None };
        Accepted([("a".to_owned(), file)].into()).save(&site.0.path().join("data")).unwrap();
        for take_over in [false, true] {
            let (streams, notes) = site.start(take_over);
            assert_eq!(streams, [("a".to_owned(), 1)]);
            assert!(notes[0].text.contains("would be rejected now") && notes[0].text.contains("of_old"));
        }
    }

    #[test]
    fn it_is_its_owners_alone_and_no_newer_format_is_read() {
        let site = Site::new();
        site.write("streams/a.toml", &stream(1));
        site.start(false);
        let data = site.0.path().join("data");
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(folder(&data)), mode(file(&data))), (0o700, 0o600));
        assert!(!format!("{:?}", Accepted::load(&data).unwrap()).contains("topics"));
        fs::write(file(&data), "{\"format\":2,\"streams\":{}}").unwrap();
        let error = Accepted::load(&data).unwrap_err().to_string();
        assert!(error.contains("accepted/streams.json") && error.contains("format 2 is newer"), "{error}");
        fs::write(file(&data), "{").unwrap();
        assert!(Accepted::load(&data).is_err());
    }
}
