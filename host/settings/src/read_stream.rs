//! One stream's file: how it is read.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bus::BusSource;
use destination::{Kind, Lanes, StreamFacts};
use message::{KeyRule, Selection, TopicFilter};
use settings_reader::document::{Document, Span, Surroundings};
use settings_reader::section::{Section, io_reason, listed, nearest};
use settings_reader::{Meanwhile, MqttUrl};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::load::Main;
use super::read_delivery::read_delivery;
use super::read_script::read_script;
use super::{ScriptSettings, ScriptSource, StreamSettings};

const TOPICS: &str = "a list of MQTT topic filters, such as [\"flespi/message/gw/devices/+\"]";
const KEY: &str = "\"topic\", a topic level counted from 0 such as \"topic[4]\", or the name of a field";

/// The script of a stream, which can be tried whatever is wrong with the rest.
#[derive(Clone, Debug)]
pub struct StreamScript {
    /// The stream's name.
    pub stream: String,
    /// The stream's file.
    pub path: PathBuf,
    /// `[destination] type`.
    pub destination: &'static str,
    /// `[script]`, `[tables]` and all below.
    pub settings: ScriptSettings,
}

impl StreamScript {
    /// That of a stream.
    pub fn of(stream: &StreamSettings) -> Self {
        Self {
            stream: stream.name.clone(),
            path: stream.path.clone(),
            destination: stream.destination.type_name(),
            settings: stream.script.clone(),
        }
    }

    /// Reads it alone from a stream's file of which something is wrong; none
    /// where that is the script's own part.
    pub fn read(path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        let table = DeTable::parse(&text).ok()?;
        let env = |name: &str| std::env::var(name).ok();
        let surroundings = Surroundings { env: &env, thorough: true, embedded: true, keys: None };
        // What it finds has been reported by whoever read all of the file.
        let doc = Document::new(path, &text, Meanwhile::NothingRuns, surroundings);
        let mut root = Section::root(&doc, table.get_ref());
        let (_, kind) = read_type(&mut root);
        let settings = read_script(root.section("script"), &root.section("tables"), kind)?;
        let stream = path.file_stem()?.to_string_lossy().into_owned();
        let destination = kind.filter(|_| doc.is_good())?.name;
        Some(Self { stream, path: path.to_owned(), destination, settings })
    }
}

/// Whether a file may name a stream like this.
pub fn is_stream_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
}

/// Reads a stream's file. None if something is wrong; `doc` has it all then.
pub fn read_stream(
    name: &str,
    path: &Path,
    doc: &Document<'_>,
    table: &DeTable<'_>,
    main: &Main,
) -> Option<StreamSettings> {
    let bus = &main.bus;
    let mut root = Section::root(doc, table);
    let topics = read_topics(&mut root);
    let key = root.parsed("key", KEY, KeyRule::new).map_or(KeyRule::Topic, |given| given.value);
    let (selection, key_list) = read_selection(&mut root, &key);
    let (mut destination, kind) = read_type(&mut root);
    let script = read_script(root.section("script"), &root.section("tables"), kind);
    let delivery = read_delivery(root.section("delivery"), kind, main);
    let lanes = Lanes {
        client_id: format!("{}-{name}", bus.client_id),
        count: delivery.lanes,
        in_flight: delivery.in_flight,
    };
    let settings = kind.and_then(|kind| (kind.read)(&mut destination, &lanes));
    if let (Some(script), Some(settings)) = (&script, &settings) {
        let is_bus = |url: &MqttUrl| is_bus(&bus.source, url);
        let facts = StreamFacts {
            topics: &topics,
            is_bus: &is_bus,
            adapter: match &script.source {
                ScriptSource::Official(name) => Some(name),
                ScriptSource::File(_) => None,
            },
            script_settings: &script.settings,
        };
        settings.check(&destination, &facts);
    }
    if kind.is_some() {
        destination.finish();
    }
    root.finish();
    let (script, settings) = (script?, settings?);
    doc.is_good().then(|| StreamSettings {
        name: name.to_owned(),
        path: path.to_owned(),
        source: doc.whole(),
        topics,
        key,
        selection,
        key_list,
        script,
        destination: settings,
        delivery,
    })
}

fn read_topics(root: &mut Section<'_>) -> Vec<TopicFilter> {
    let doc = root.doc();
    let Some(value) = root.value("topics") else {
        root.missing("topics", TOPICS);
        return Vec::new();
    };
    let DeValue::Array(array) = value.get_ref() else {
        root.wrong_type("topics", value.span(), value.get_ref(), TOPICS);
        return Vec::new();
    };
    if array.is_empty() {
        doc.error(Some(value.span()), "`topics` is empty", TOPICS);
    }
    let mut topics: Vec<TopicFilter> = Vec::new();
    for entry in array.iter() {
        let DeValue::String(text) = entry.get_ref() else {
            root.wrong_entry("topics", entry, TOPICS);
            continue;
        };
        match TopicFilter::new(text) {
            Err(error) => doc.error(Some(entry.span()), error.to_string(), filter_expected(&error)),
            Ok(filter) => {
                if let Some(other) = topics.iter().find(|other| other.overlaps(&filter)) {
                    doc.error(
                        Some(entry.span()),
                        format!("`{filter}` overlaps `{other}`"),
                        "filters that do not overlap, so that each message arrives once",
                    );
                }
                topics.push(filter);
            }
        }
    }
    topics
}

fn filter_expected(error: &message::FilterError) -> &'static str {
    use message::FilterError::{Hash, Plus, Shared};
    match error {
        Hash(_) => "`#` as the whole last level, such as \"a/b/#\"",
        Plus(_) => "`+` as a whole level, such as \"a/+/b\"",
        Shared(_) => "the filter alone; set the group with `share` in [bus]",
        _ => "an MQTT topic filter such as \"a/+/b\"",
    }
}

/// The selection, and the file with its keys if they are in one.
fn read_selection(root: &mut Section<'_>, key: &KeyRule) -> (Option<Selection>, Option<PathBuf>) {
    let only = root.value("only");
    let except = root.value("except");
    if let (Some(_), Some(except)) = (only, except) {
        root.doc().error(Some(except.span()), "`only` and `except` are both set", "only one of them");
    }
    let list =
        only.or(except).and_then(|value| list_file(value.get_ref())).map(|file| root.doc().resolve(file));
    let only = only.and_then(|value| read_keys(root, "only", value, key)).map(Selection::Only);
    let except = || except.and_then(|value| read_keys(root, "except", value, key)).map(Selection::Except);
    (only.or_else(except), list)
}

/// The file of `{ file = "keys.txt" }`.
fn list_file<'v>(value: &'v DeValue<'_>) -> Option<&'v str> {
    let DeValue::Table(table) = value else { return None };
    let mut entries = table.iter().map(|(k, v)| (k.get_ref().as_ref(), v.get_ref().as_str()));
    match (entries.next(), entries.next()) {
        (Some(("file", Some(file))), None) => Some(file),
        _ => None,
    }
}

fn read_keys<'d>(
    root: &Section<'d>,
    name: &str,
    value: &'d Spanned<DeValue<'d>>,
    rule: &KeyRule,
) -> Option<Arc<HashSet<String>>> {
    const EXPECTED: &str =
        "a list of keys such as [\"352625333222111\"], or { file = \"keys.txt\" } with one key per line";
    let doc = root.doc();
    let keys = match value.get_ref() {
        DeValue::Array(array) => {
            let mut keys = HashSet::with_capacity(array.len());
            for entry in array.iter() {
                match entry.get_ref() {
                    DeValue::String(text) => {
                        check_key(doc, entry.span(), name, text, rule);
                        keys.insert(text.to_string());
                    }
                    _ => root.wrong_entry(name, entry, EXPECTED),
                }
            }
            keys
        }
        list @ DeValue::Table(_) => {
            let Some(file) = list_file(list) else {
                doc.error(Some(value.span()), format!("`{name}` is a table without a `file`"), EXPECTED);
                return None;
            };
            if let Some(accepted) = doc.surroundings().keys {
                return Some(Arc::new(accepted.iter().cloned().collect()));
            }
            let path = doc.resolve(file);
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
                    let keys = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
                    keys.inspect(|key| check_key(doc, value.span(), name, key, rule))
                        .map(str::to_owned)
                        .collect()
                }
                Err(error) => {
                    let what = format!("cannot read {}: {}", path.display(), io_reason(&error));
                    doc.error(Some(value.span()), what, "a readable text file with one key per line");
                    return None;
                }
            }
        }
        other => {
            root.wrong_type(name, value.span(), other, EXPECTED);
            return None;
        }
    };
    if keys.is_empty() {
        doc.error(Some(value.span()), format!("`{name}` contains no key"), "at least one key");
    }
    Some(Arc::new(keys))
}

/// Where the topic is the key, an entry is a topic, not a filter.
fn check_key(doc: &Document<'_>, span: Span, name: &str, key: &str, rule: &KeyRule) {
    let wild = matches!(rule, KeyRule::Topic | KeyRule::TopicLevel(_)) && key.contains(['+', '#']);
    if wild {
        let what = format!("`{name}` contains the wildcard `{key}`");
        doc.error(Some(span), what, "complete keys; wildcards belong in `topics`");
    }
}

/// Whether messages come from the broker at this address.
fn is_bus(source: &BusSource, url: &MqttUrl) -> bool {
    match source {
        BusSource::Mqtt(bus) => bus == url,
        BusSource::Embedded { listen } => listen.ip().to_string() == url.host && listen.port() == url.port,
    }
}

fn read_type<'d>(root: &mut Section<'d>) -> (Section<'d>, Option<&'static Kind>) {
    let types = Kind::names();
    let expected = format!("one of {}", listed(&types));
    let given = root.value("destination").is_some();
    let mut section = root.section("destination");
    if !given {
        root.missing("[destination]", "a table [destination] with a `type`");
        return (section, None);
    }
    let text = section.required("type", &expected);
    let kind = text.and_then(|text| {
        let kind = Kind::named(text.value);
        if kind.is_none() {
            let what = format!("there is no destination type \"{}\"", text.value.escape_debug());
            let expected = match nearest(text.value, &types) {
                Some(near) => format!("perhaps `{near}`; {expected}"),
                None => expected,
            };
            root.doc().error(Some(text.span), what, expected);
        }
        kind
    });
    (section, kind)
}
