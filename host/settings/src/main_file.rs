//! `sluicegate.toml`, without the streams.

use std::path::{Path, PathBuf};

use bus::BusSettings;
use journal::JournalSettings;
use settings_reader::document::{Document, Surroundings};
use settings_reader::section::{Section, io_reason};
use settings_reader::{ConfigError, Meanwhile, Source};
use toml::de::DeTable;

use super::admin::AdminSettings;
use super::rate::{RateLimitGroups, read_groups};
use super::reload::ReloadSettings;

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

/// Reads `sluicegate.toml`. A wrong value is replaced by a default, so that the
/// streams can still be read.
pub fn read_main(path: &Path, surroundings: Surroundings<'_>) -> (Main, Vec<ConfigError>) {
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
    // In a broken file a key may seem to be missing that cannot be read.
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

/// A path in the folder of a file.
pub fn beside(path: &Path, name: &str) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).join(name)
}
