//! `host/docs/configuration.md` documents exactly the keys that the code reads.
//!
//! The reader of a table reports an unknown key with all valid ones. So each
//! case below puts an unknown key into a table and reads the list from the
//! error: the list comes from the code and cannot be forgotten.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use settings_reader::ConfigError;
use sluicegate_settings::Config;

type Keys = BTreeSet<String>;

/// A key that no table has and that resembles none.
const UNKNOWN: &str = "zzzzzzzzzzzzzzzzzzzz";
const BUS: &str = "[bus]\nurl = \"mqtt://broker\"\nclient_id = \"gw\"\n";

fn errors(main: &str, stream: &str) -> Vec<ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("streams")).unwrap();
    fs::write(folder.path().join("sluicegate.toml"), main).unwrap();
    fs::write(folder.path().join("streams/a.toml"), stream).unwrap();
    match Config::check(Some(&folder.path().join("sluicegate.toml"))) {
        Ok(config) => config.stream_errors().cloned().collect(),
        Err(unusable) => unusable.errors.0,
    }
}

/// The list of an error that expects `one of `, each in backticks.
fn listed(error: &ConfigError) -> Keys {
    error.expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The valid keys of the table that has the unknown one.
fn keys_of(main: &str, stream: &str) -> Keys {
    let errors = errors(main, stream);
    let unknown = format!("unknown key `{UNKNOWN}`");
    let error = errors.iter().find(|error| error.what.starts_with(&unknown));
    listed(error.unwrap_or_else(|| panic!("no error about the unknown key: {errors:#?}")))
}

fn main_table(header: &str) -> Keys {
    keys_of(&format!("{BUS}{header}\n{UNKNOWN} = 1\n"), "")
}

fn stream_table(header: &str) -> Keys {
    keys_of(BUS, &format!("[destination]\ntype = \"mqtt\"\n{header}\n{UNKNOWN} = 1\n"))
}

/// The types of destinations, as the error about an unknown one lists them.
fn types() -> Keys {
    let errors = errors(BUS, &format!("[destination]\ntype = \"{UNKNOWN}\"\n"));
    listed(errors.iter().find(|error| error.what.contains("destination type")).unwrap())
}

fn without(keys: Keys, others: &[&str]) -> Keys {
    keys.into_iter().filter(|key| !others.contains(&key.as_str())).collect()
}

/// The keys that the code reads, by the heading that documents them.
fn read_by_the_code() -> BTreeMap<String, Keys> {
    // Tables have headings of their own.
    let main = keys_of(&format!("{UNKNOWN} = 1\n{BUS}"), "");
    let stream = keys_of(BUS, &format!("{UNKNOWN} = 1\n"));
    let main_tables = ["bus", "admin", "journal", "dead_letters", "reload", "rate_limit_groups"];
    let stream_tables = ["script", "tables", "delivery", "destination"];
    for (keys, tables) in [(&main, &main_tables[..]), (&stream, &stream_tables[..])] {
        assert!(tables.iter().all(|table| keys.contains(*table)), "{keys:?}");
    }
    let mut found = BTreeMap::from([
        ("Top level of `sluicegate.toml`".to_owned(), without(main, &main_tables)),
        ("Top level of a stream file".to_owned(), without(stream, &stream_tables)),
    ]);
    let bus = keys_of(&format!("{BUS}{UNKNOWN} = 1\n"), "");
    found.insert("[bus]".to_owned(), bus);
    for table in ["[admin]", "[journal]", "[dead_letters]", "[reload]"] {
        found.insert(table.to_owned(), main_table(table));
    }
    let script = without(stream_table("[script]"), &["settings", "limits"]);
    found.insert("[script]".to_owned(), script);
    for table in ["[script.limits]", "[tables.NAME]", "[delivery]"] {
        found.insert(table.to_owned(), stream_table(table));
    }
    found.insert("[destination]".to_owned(), Keys::from(["type".to_owned()]));
    for kind in types() {
        let url = match &*kind {
            "aws-iot" => "url = \"mqtts://x\"\nusername = \"u\"\n",
            "http" => "url = \"http://x\"\n",
            "thingsboard" | "mqtt" => "url = \"mqtt://x\"\n",
            "file" => "path = \"x\"\n",
            _ => "",
        };
        let text = format!("[destination]\ntype = \"{kind}\"\n{url}{UNKNOWN} = 1\n");
        let keys = without(keys_of(BUS, &text), &["type"]);
        found.insert(format!("type = \"{kind}\""), keys);
    }
    found
}

/// The key of a table's row, `` | `key` | ... ``.
fn key_of(row: &str) -> Option<String> {
    let key = row.strip_prefix("| `")?.split_once("` |")?.0;
    Some(key.to_owned())
}

/// The keys in the document, by heading. Only tables that begin with a column
/// `key` count.
fn documented() -> BTreeMap<String, Keys> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let text = fs::read_to_string(path).unwrap();
    let (mut heading, mut in_table) = (String::new(), false);
    let mut found: BTreeMap<String, Keys> = BTreeMap::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("##") {
            let title = title.trim_start_matches('#').trim();
            heading = match title.strip_prefix("`[").and_then(|rest| rest.split_once("]`")) {
                Some((table, _)) => format!("[{table}]"),
                None => title.to_owned(),
            };
        } else if line.starts_with("| key |") {
            in_table = true;
        } else if !line.starts_with('|') {
            in_table = false;
        } else if let Some(key) = key_of(line).filter(|_| in_table) {
            found.entry(heading.clone()).or_default().insert(key);
        }
    }
    // The names of groups are free.
    assert_eq!(found.remove("[rate_limit_groups]"), Some(Keys::from(["NAME".to_owned()])));
    found
}

#[test]
fn the_document_names_exactly_the_keys_that_the_code_reads() {
    let (code, document) = (read_by_the_code(), documented());
    let mut wrong = Vec::new();
    let headings: BTreeSet<&String> = code.keys().chain(document.keys()).collect();
    let none = Keys::new();
    for heading in headings {
        let read = code.get(heading).unwrap_or(&none);
        let told = document.get(heading).unwrap_or(&none);
        wrong.extend(read.difference(told).map(|key| format!("{heading}: `{key}` is not documented")));
        wrong.extend(told.difference(read).map(|key| format!("{heading}: `{key}` does not exist")));
    }
    assert!(wrong.is_empty(), "host/docs/configuration.md:\n{}", wrong.join("\n"));
    assert!(code.values().map(Keys::len).sum::<usize>() > 60, "{code:#?}");
}
