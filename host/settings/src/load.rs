//! Finding and reading the files.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bus::BusSettings;
use journal::JournalSettings;
use settings_reader::document::{Document, Surroundings};
use settings_reader::section::{Section, io_reason};
use settings_reader::{ConfigError, ConfigErrors, Meanwhile, Source, changed_keys};
use toml::de::DeTable;

use super::rate::read_groups;
use super::read_stream::{StreamScript, is_stream_name, read_stream};
use super::{AdminSettings, Config, RateLimitGroups, ReloadSettings, StreamEntry};

/// Where `sluicegate.toml` is looked for if nobody says where it is.
const PLACES: [&str; 2] = ["sluicegate.toml", "/etc/sluicegate/sluicegate.toml"];
/// The environment variable that says so.
const VARIABLE: &str = "SLUICEGATE_CONFIG";

/// A configuration without a usable `sluicegate.toml`.
#[derive(Debug)]
pub struct Unusable {
    /// All that is wrong with it, and with the files of the streams.
    pub errors: ConfigErrors,
    /// The scripts of the streams, as far as they could be read.
    pub scripts: Vec<StreamScript>,
}

impl Config {
    /// Reads the configuration for running: what fails is `sluicegate.toml`
    /// itself; streams that are unusable are in [`Config::streams`]. The
    /// errors are then those of the streams as well.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigErrors> {
        let env = |name: &str| std::env::var(name).ok();
        let surroundings = Surroundings { env: &env, thorough: false, embedded: true, keys: None };
        Self::load_in(path, surroundings).map_err(|unusable| unusable.errors)
    }

    /// Reads the configuration and opens the files that it names, as `check`
    /// does.
    pub fn check(path: Option<&Path>) -> Result<Self, Unusable> {
        let env = |name: &str| std::env::var(name).ok();
        Self::load_in(path, Surroundings { env: &env, thorough: true, embedded: true, keys: None })
    }

    fn load_in(path: Option<&Path>, surroundings: Surroundings<'_>) -> Result<Self, Unusable> {
        let path = find(path, surroundings.env, Path::is_file)
            .map_err(|error| Unusable { errors: ConfigErrors(vec![*error]), scripts: Vec::new() })?;
        let (main, mut errors) = read_main(&path, surroundings);
        let streams = read_streams(&path, &main, surroundings);
        if let Err(error) = &streams {
            errors.push(*error.clone());
        }
        let streams = streams.unwrap_or_default().unwrap_or_default();
        if errors.is_empty() {
            let Main { source, bus, admin, data, journal, rate_limit_groups, reload } = main;
            return Ok(Self { path, source, bus, admin, data, journal, rate_limit_groups, reload, streams });
        }
        let scripts = streams.iter().filter_map(StreamEntry::script).collect();
        for entry in streams {
            if let StreamEntry::Unusable { errors: of_stream, .. } = entry {
                errors.extend(of_stream);
            }
        }
        for error in &mut errors {
            error.meanwhile = Meanwhile::NothingRuns;
        }
        Err(Unusable { errors: ConfigErrors(errors), scripts })
    }

    /// Reads the stream files as they are now, for this configuration: what
    /// `sluicegate.toml` says meanwhile is left aside. The files that they name
    /// are opened as well, but for what runs of an official adapter, which may
    /// be of another version than this binary's. Where there have been streams,
    /// a folder that is missing is an error and not the end of all of them.
    pub fn check_streams(&self, had_streams: bool) -> Result<Vec<StreamEntry>, Box<ConfigError>> {
        let env = |name: &str| std::env::var(name).ok();
        let surroundings = Surroundings { env: &env, thorough: true, embedded: false, keys: None };
        match read_streams(&self.path, &self.main(), surroundings)? {
            Some(streams) => Ok(streams),
            None if !had_streams => Ok(Vec::new()),
            None => Err(Box::new(ConfigError {
                file: self.stream_folder(),
                place: None,
                what: "the folder does not exist, but there are streams".to_owned(),
                expected: "the folder with one file per stream; an empty folder if you want no streams"
                    .to_owned(),
                meanwhile: Meanwhile::NothingChanges,
            })),
        }
    }

    /// Reads a stream's file that was accepted, with what its list of keys held
    /// then, if that is known.
    pub fn read_stream(&self, name: &str, path: &Path, text: &str, keys: Option<&[String]>) -> StreamEntry {
        let env = |name: &str| std::env::var(name).ok();
        let surroundings = Surroundings { env: &env, thorough: false, embedded: false, keys };
        read_stream_text(name.to_owned(), path, Ok(text.to_owned()), &self.main(), surroundings)
    }

    /// The keys of `sluicegate.toml` that differ now from this configuration,
    /// or all that is wrong with it.
    pub fn changed_since(&self) -> Result<Vec<String>, ConfigErrors> {
        let env = |name: &str| std::env::var(name).ok();
        let (main, errors) =
            read_main(&self.path, Surroundings { env: &env, thorough: true, embedded: true, keys: None });
        if errors.is_empty() {
            Ok(changed_keys(self.source.expose(), main.source.expose()))
        } else {
            Err(ConfigErrors(errors))
        }
    }

    fn main(&self) -> Main {
        Main {
            source: self.source.clone(),
            bus: self.bus.clone(),
            admin: self.admin.clone(),
            data: self.data.clone(),
            journal: self.journal.clone(),
            rate_limit_groups: self.rate_limit_groups.clone(),
            reload: self.reload,
        }
    }

    /// Every error of every unusable stream.
    pub fn stream_errors(&self) -> impl Iterator<Item = &ConfigError> {
        self.streams.iter().flat_map(|entry| match entry {
            StreamEntry::Ready(_) => &[][..],
            StreamEntry::Unusable { errors, .. } => errors,
        })
    }

    /// The folder with one file a stream.
    pub fn stream_folder(&self) -> PathBuf {
        beside(&self.path, "streams")
    }
}

/// The file to read: what the command line says, the environment variable, or
/// the first of the usual places.
fn find(
    path: Option<&Path>,
    env: &dyn Fn(&str) -> Option<String>,
    exists: impl Fn(&Path) -> bool,
) -> Result<PathBuf, Box<ConfigError>> {
    let missing = |file: &Path, what: String, expected: String| {
        let meanwhile = Meanwhile::NothingRuns;
        Box::new(ConfigError { file: file.to_owned(), place: None, what, expected, meanwhile })
    };
    let (path, by) = match (path, env(VARIABLE).filter(|value| !value.is_empty())) {
        (Some(path), _) => (path.to_owned(), "--config"),
        (None, Some(path)) => (PathBuf::from(path), VARIABLE),
        (None, None) => {
            let found = PLACES.iter().map(PathBuf::from).find(|place| exists(place));
            return found.ok_or_else(|| {
                missing(
                    Path::new("sluicegate.toml"),
                    "no configuration file found".to_owned(),
                    format!(
                        "--config FILE, the environment variable {VARIABLE}, ./{}, or {}",
                        PLACES[0], PLACES[1]
                    ),
                )
            });
        }
    };
    if exists(&path) {
        return Ok(path);
    }
    let what = match path.is_dir() {
        true => format!("this is a folder (set by {by})"),
        false => format!("there is no such file (set by {by})"),
    };
    Err(missing(&path, what, "the path of a sluicegate.toml".to_owned()))
}

/// `sluicegate.toml` without the streams.
pub struct Main {
    /// All of it.
    pub source: Source,
    /// `[bus]`.
    pub bus: BusSettings,
    /// `[admin]`.
    pub admin: Option<AdminSettings>,
    /// `data`.
    pub data: PathBuf,
    /// `[journal]` and `[dead_letters]`.
    pub journal: JournalSettings,
    /// `[rate_limit_groups]`.
    pub rate_limit_groups: RateLimitGroups,
    /// `[reload]`.
    pub reload: ReloadSettings,
}

/// Reads `sluicegate.toml`. What is wrong has a stand-in, so that the streams
/// can be read all the same.
fn read_main(path: &Path, surroundings: Surroundings<'_>) -> (Main, Vec<ConfigError>) {
    let (text, unreadable) = match std::fs::read_to_string(path) {
        Ok(text) => (text, None),
        Err(error) => (String::new(), Some(error)),
    };
    let doc = Document::new(path, &text, Meanwhile::NothingRuns, surroundings);
    let (table, errors) = DeTable::parse_recoverable(&text);
    let unreadable_or_broken = unreadable.is_some() || !errors.is_empty();
    match unreadable {
        Some(error) => {
            doc.error(None, format!("cannot read it: {}", io_reason(&error)), "a readable TOML file")
        }
        None => doc.syntax_errors(&errors),
    }
    // What is missing in a broken file may only be unreadable.
    let aside = Document::new(path, &text, Meanwhile::NothingRuns, surroundings);
    let read_into = if unreadable_or_broken { &aside } else { &doc };
    let mut root = Section::root(read_into, table.get_ref());
    let data = root.path("data", "the path of a folder, relative to this file");
    let data = data.map_or_else(|| beside(path, "data"), |given| given.value);
    let bus = BusSettings::read(root.table("bus", "a table [bus] with `url` and `client_id`"));
    let (journal, letters) = (root.section("journal"), root.section("dead_letters"));
    let main = Main {
        journal: JournalSettings::read(journal, letters, &data, bus.max_packet),
        rate_limit_groups: read_groups(&root.section("rate_limit_groups")),
        data,
        bus,
        admin: AdminSettings::read(root.section("admin")),
        reload: ReloadSettings::read(root.section("reload")),
        source: doc.whole(),
    };
    root.finish();
    (main, doc.into_errors())
}

/// Reads every `*.toml` of the folder `streams`. None: there is no such folder.
fn read_streams(
    path: &Path,
    main: &Main,
    surroundings: Surroundings<'_>,
) -> Result<Option<Vec<StreamEntry>>, Box<ConfigError>> {
    let folder = beside(path, "streams");
    let files = match toml_files(&folder) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Box::new(ConfigError {
                file: folder,
                place: None,
                what: format!("cannot read the folder: {}", io_reason(&error)),
                expected: "a readable folder with one file per stream".to_owned(),
                meanwhile: Meanwhile::NothingRuns,
            }));
        }
    };
    let read = |(name, path): (String, PathBuf)| read_stream_file(name, &path, main, surroundings);
    Ok(Some(files.into_iter().map(read).collect()))
}

fn read_stream_file(name: String, path: &Path, main: &Main, surroundings: Surroundings<'_>) -> StreamEntry {
    read_stream_text(name, path, std::fs::read_to_string(path), main, surroundings)
}

fn read_stream_text(
    name: String,
    path: &Path,
    text: io::Result<String>,
    main: &Main,
    surroundings: Surroundings<'_>,
) -> StreamEntry {
    let meanwhile = Meanwhile::OthersRun(name.clone());
    let (text, unreadable) = match text {
        Ok(text) => (text, None),
        Err(error) => (String::new(), Some(error)),
    };
    let doc = Document::new(path, &text, meanwhile, surroundings);
    if !is_stream_name(&name) {
        let what = format!("`{}` is not a valid stream name", name.escape_debug());
        doc.error(None, what, "a file name of 1 to 64 characters `a-z 0-9 . _ -` before `.toml`");
    }
    let mut settings = None;
    if let Some(error) = unreadable {
        doc.error(None, format!("cannot read it: {}", io_reason(&error)), "a readable TOML file");
    } else {
        let (table, errors) = DeTable::parse_recoverable(&text);
        doc.syntax_errors(&errors);
        if errors.is_empty() {
            settings = read_stream(&name, path, &doc, table.get_ref(), main);
        }
    }
    match settings {
        Some(settings) => StreamEntry::Ready(Arc::new(settings)),
        None => StreamEntry::Unusable { name, errors: doc.into_errors() },
    }
}

/// Name without `.toml` and path of each file, in the order of the names.
/// Hidden files are editors' own.
fn toml_files(folder: &Path) -> io::Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(file) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
        if let Some(name) = file.strip_suffix(".toml").filter(|_| !file.starts_with('.')) {
            files.insert(name.to_owned(), path);
        }
    }
    Ok(files)
}

fn beside(path: &Path, name: &str) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).join(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn found(path: Option<&str>, variable: Option<&str>, files: &[&str]) -> Result<PathBuf, String> {
        let env = |name: &str| variable.filter(|_| name == VARIABLE).map(str::to_owned);
        let exists = |path: &Path| files.iter().any(|file| Path::new(file) == path);
        find(path.map(Path::new), &env, exists).map_err(|error| error.to_string())
    }

    #[test]
    fn looks_in_the_usual_places() {
        let all = ["a.toml", "b.toml", "sluicegate.toml", "/etc/sluicegate/sluicegate.toml"];
        assert_eq!(found(Some("a.toml"), Some("b.toml"), &all), Ok("a.toml".into()));
        assert_eq!(found(None, Some("b.toml"), &all), Ok("b.toml".into()));
        assert_eq!(found(None, Some(""), &all), Ok("sluicegate.toml".into()));
        assert_eq!(found(None, None, &all[3..]), Ok("/etc/sluicegate/sluicegate.toml".into()));
    }

    #[test]
    fn says_where_it_looked() {
        assert_eq!(
            found(None, None, &[]).unwrap_err(),
            "sluicegate.toml: no configuration file found\n  \
             expected: --config FILE, the environment variable SLUICEGATE_CONFIG, ./sluicegate.toml, or \
             /etc/sluicegate/sluicegate.toml\n  meanwhile: the gateway will not start"
        );
        assert_eq!(
            found(None, Some("gone.toml"), &["sluicegate.toml"]).unwrap_err(),
            "gone.toml: there is no such file (set by SLUICEGATE_CONFIG)\n  \
             expected: the path of a sluicegate.toml\n  meanwhile: the gateway will not start"
        );
    }
}
