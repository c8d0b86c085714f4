//! A stream's `[script]`: how it is read.

use std::path::PathBuf;
use std::time::Duration;

use destination::Kind;
use script::schema::{Problem, SettingsFault, Step};
use serde_json::{Map, Number, Value};
use settings_reader::document::{Document, Span};
use settings_reader::section::{Given, Section, listed, nearest, sounds_secret};
use toml::Spanned;
use toml::de::DeValue;

use super::read_tables::read_tables;
use super::{ScriptLimits, ScriptSettings, ScriptSource};

/// What `path` may be.
const PATH: &str = "a .wasm file or the folder of an adapter, relative to this file";

/// Reads `[script]` and `[tables]` for a destination of this kind.
pub fn read_script(
    mut script: Section<'_>,
    tables: &Section<'_>,
    kind: Option<&Kind>,
) -> Option<ScriptSettings> {
    let source = read_source(&mut script, kind);
    let section = script.section("settings");
    let settings = read_settings(&section);
    if let Some((ScriptSource::Official(name), pin)) = &source
        && script.doc().surroundings().embedded
        && is_here(name, *pin)
    {
        check_settings(&section, script.span(), name, &settings);
    }
    let mut limits = script.section("limits");
    let millis = Duration::from_millis;
    let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    let script_limits = ScriptLimits {
        time: limits.duration("time", millis(10)..=millis(60_000)),
        memory: limits.size("memory", 1 << 20..=1 << 30).map(bytes),
        output: limits.size("output", 1 << 10..=256 << 20).map(bytes),
        state: limits.size("state", 1 << 10..=256 << 20).map(bytes),
        log_lines: limits
            .number("log_lines", 0..=10_000)
            .map(|given| u32::try_from(given.value).unwrap_or(u32::MAX)),
    };
    limits.finish();
    script.finish();
    let tables = read_tables(tables);
    source.map(|(source, pin)| ScriptSettings { source, pin, settings, limits: script_limits, tables })
}

/// Where the script is, and the version that it is pinned to.
fn read_source(script: &mut Section<'_>, kind: Option<&Kind>) -> Option<(ScriptSource, Option<u32>)> {
    let doc = script.doc();
    let adapters: Vec<&str> = adapters::all().iter().map(|adapter| adapter.manifest.name.as_str()).collect();
    let both = script.value("adapter").is_some() && script.value("path").is_some();
    let expected = format!("one of {}; or `path` with a .wasm file", listed(&adapters));
    let adapter = script.text("adapter", &expected);
    let path: Option<Given<PathBuf>> = script.path("path", PATH);
    if both {
        doc.error(
            script.value_span("path"),
            "`adapter` and `path` are both set",
            "an official adapter or your own file, not both",
        );
        return None;
    }
    if let Some(path) = path {
        if doc.surroundings().thorough && !path.value.exists() {
            let what = format!("there is no file {}", path.value.display());
            doc.error(Some(path.span), what, PATH);
        }
        return Some((ScriptSource::File(path.value), None));
    }
    if let Some(adapter) = adapter {
        let (name, pin) = match adapter.value.split_once('@') {
            Some((name, pin)) => (name, Some(pin)),
            None => (adapter.value, None),
        };
        let Some(official) = adapters::official(name) else {
            let what = format!("there is no official adapter \"{}\"", name.escape_debug());
            let expected = match nearest(name, &adapters) {
                Some(near) => format!("perhaps `{near}`; {expected}"),
                None => expected,
            };
            doc.error(Some(adapter.span), what, expected);
            return None;
        };
        if let Some(kind) = kind.filter(|kind| !official.manifest.serves(kind.name)) {
            let its_kinds: Vec<&str> = official.manifest.destinations.iter().map(String::as_str).collect();
            let what = format!("the adapter `{name}` is for destinations of type {}", listed(&its_kinds));
            let expected = format!("`{}` for type `{}`, or your own script", kind.adapter, kind.name);
            doc.error(Some(adapter.span.clone()), what, expected);
        }
        let pin = match pin {
            Some(pin) => Some(read_pin(doc, adapter.span, name, pin)?),
            None => None,
        };
        return Some((ScriptSource::Official(name.to_owned()), pin));
    }
    if script.value("adapter").is_some() || script.value("path").is_some() {
        return None;
    }
    kind.map(|kind| (ScriptSource::Official(kind.adapter.to_owned()), None))
}

/// The first number of the version in `name@1`; for `check` it has to be that
/// of the adapter that this gateway brings along.
fn read_pin(doc: &Document<'_>, span: Span, name: &str, pin: &str) -> Option<u32> {
    let here = adapters::official(name)?.manifest.version;
    let major = here.major;
    if pin == major.to_string() {
        return Some(major);
    }
    // What a stream has run before goes on after an upgrade.
    let surroundings = doc.surroundings();
    let other_versions = !surroundings.thorough || !surroundings.embedded;
    if let Some(before) = pin.parse().ok().filter(|_| other_versions) {
        return Some(before);
    }
    let what = format!("`{name}@{}` is not available", pin.escape_debug());
    let expected = format!("`{name}@{major}`: this gateway includes version {here}");
    doc.error(Some(span), what, expected);
    None
}

/// Whether the adapter that this gateway brings along is the one that a stream
/// is pinned to.
fn is_here(name: &str, pin: Option<u32>) -> bool {
    adapters::official(name).is_some_and(|here| pin.is_none_or(|pin| pin == here.manifest.version.major))
}

/// Checks the settings against the schema of the adapter. What is wrong is
/// reported at its place, or where the table that it belongs to is: `[script]`
/// at `script` if there is no other.
fn check_settings(section: &Section<'_>, script: Option<Span>, name: &str, settings: &Value) {
    let Some(adapter) = adapters::official(name) else { return };
    // A value that could not be read is null, and has been reported.
    if has_null(settings) {
        return;
    }
    let Err(error) = adapter.manifest.settings.complete(settings) else { return };
    let doc = section.doc();
    for fault in error.0 {
        let (key, value) = place_of(section, &fault);
        let sounds_secret =
            fault.path.iter().any(|step| matches!(step, Step::Key(key) if sounds_secret(key)));
        if let (true, Some(value)) = (sounds_secret, &value) {
            doc.hide(value.clone());
        }
        let span = match fault.problem {
            Problem::Wrong { .. } => value.or(key),
            Problem::Unknown { .. } | Problem::Missing { .. } => key,
        };
        let what = match &fault.problem {
            Problem::Wrong { .. } if sounds_secret => format!("{} has a wrong value", fault.place()),
            _ => fault.what(),
        };
        let expected = match (&fault.problem, fault.path.last()) {
            (Problem::Unknown { known }, Some(Step::Key(key))) => {
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                match nearest(key, &known) {
                    Some(near) => {
                        format!("perhaps `{near}`; the settings of `{name}` are {}", listed(&known))
                    }
                    None => fault.expected(),
                }
            }
            _ => fault.expected(),
        };
        doc.error(span.or(section.span()).or(script.clone()), what, expected);
    }
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(entries) => entries.iter().any(has_null),
        Value::Object(table) => table.values().any(has_null),
        _ => false,
    }
}

/// Where the last key on the way to a fault is, as far as it is there, and
/// where the value at the end of the way.
fn place_of(section: &Section<'_>, fault: &SettingsFault) -> (Option<Span>, Option<Span>) {
    let (mut steps, mut key, mut value) = (fault.path.iter(), None, None);
    if let Some(Step::Key(first)) = steps.next()
        && let Some((name, found)) = section.entries().find(|(name, _)| name.value == first)
    {
        key = Some(name.span);
        value = Some(found);
    }
    for step in steps {
        value = match (step, value.map(Spanned::get_ref)) {
            (Step::Key(name), Some(DeValue::Table(table))) => {
                let found = table.get_key_value(name.as_str());
                key = found.map(|(name, _)| name.span()).or(key);
                found.map(|(_, value)| value)
            }
            (Step::Entry(position), Some(DeValue::Array(entries))) => entries.get(*position),
            _ => None,
        };
    }
    (key, value.map(Spanned::span))
}

/// `[script.settings]` as JSON. Which keys there are is the script's affair.
fn read_settings(section: &Section<'_>) -> Value {
    let mut object = Map::new();
    for (key, value) in section.entries() {
        object.insert(key.value.to_owned(), to_json(section.doc(), value));
    }
    Value::Object(object)
}

fn to_json(doc: &Document<'_>, value: &Spanned<DeValue<'_>>) -> Value {
    let wrong = |what: &str, expected: &str| {
        doc.error(Some(value.span()), what, expected);
        Value::Null
    };
    match value.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Datetime(date) => Value::String(date.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Number(number.into()),
            Err(_) => wrong("a script setting is a number beyond 64 bits", "a 64-bit number, or text"),
        },
        DeValue::Float(number) => match number.as_str().parse().ok().and_then(Number::from_f64) {
            Some(number) => Value::Number(number),
            None => wrong("a script setting is `inf` or `nan`", "a number that JSON can represent"),
        },
        DeValue::Array(array) => Value::Array(array.iter().map(|entry| to_json(doc, entry)).collect()),
        DeValue::Table(table) => {
            let mut entries = table.iter().map(|(k, v)| (k.get_ref().as_ref(), v.get_ref()));
            if let (Some(("env" | "file", DeValue::String(_))), None) = (entries.next(), entries.next()) {
                return wrong(
                    "a script setting refers to a secret",
                    "no secret: scripts receive none; credentials belong in [destination]",
                );
            }
            Value::Object(
                table.iter().map(|(k, v)| (k.get_ref().as_ref().to_owned(), to_json(doc, v))).collect(),
            )
        }
    }
}
