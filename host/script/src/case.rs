//! Golden cases as files: what they are called and what is in them.

use bytes::Bytes;
use message::Message;
use serde_json::{Map, Value};

use super::sections::TABLES;
use super::tables::{TableSettings, Tables};

/// The topic of messages that have none: as flespi's channels publish.
pub const TOPIC: &str = "flespi/message/gw/devices/1";

/// The time of receipt of the first message: fixed, so that the same input
/// prints the same output.
pub const RECEIVED_AT: u64 = 1_700_000_000_000;

/// Milliseconds between two messages.
pub const INTERVAL: u64 = 1_000;

/// The file with what is expected.
pub const EXPECTED: &str = "expected.jsonl";

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it shows: the name of its folder.
    pub name: String,
    /// `[script.settings]`.
    pub settings: Value,
    /// What it may look up.
    pub tables: Tables,
    /// The batches, payloads in lines; at least one.
    pub inputs: Vec<Bytes>,
    /// What should become of them; none: nobody has said yet.
    pub expected: Option<String>,
}

/// A file of a case.
pub(super) struct CaseFile<'a> {
    pub(super) case: &'a str,
    pub(super) file: &'a str,
    pub(super) data: Bytes,
}

/// A case that cannot be read.
#[derive(Debug)]
pub(super) struct CaseError {
    pub(super) case: String,
    pub(super) problem: String,
}

impl Case {
    /// Cases from their files, in the order of their names.
    pub(super) fn read(files: Vec<CaseFile<'_>>) -> Result<Vec<Self>, CaseError> {
        let mut names: Vec<&str> = files.iter().map(|file| file.case).collect();
        names.sort_unstable();
        names.dedup();
        names
            .into_iter()
            .map(|name| {
                let files = files.iter().filter(|file| file.case == name);
                Self::read_one(name, files).map_err(|problem| CaseError { case: name.to_owned(), problem })
            })
            .collect()
    }

    fn read_one<'f>(name: &str, files: impl Iterator<Item = &'f CaseFile<'f>>) -> Result<Self, String> {
        let mut inputs: Vec<(usize, Bytes)> = Vec::new();
        let (mut settings, mut expected) = (Value::Object(Map::new()), None);
        let mut tables = Vec::new();
        for CaseFile { file, data, .. } in files {
            match *file {
                "settings.json" => {
                    settings = serde_json::from_slice(data).map_err(|e| format!("settings.json: {e}"))?;
                    if !settings.is_object() {
                        return Err(format!("settings.json is {settings}, expected one JSON object"));
                    }
                }
                EXPECTED => {
                    let text = String::from_utf8(data.to_vec()).map_err(|e| format!("{EXPECTED}: {e}"))?;
                    expected = Some(text);
                }
                other => match (batch_number(other), table_name(other)) {
                    (Some(number), _) => inputs.push((number, data.clone())),
                    (None, Some(table)) => tables.push((table, &**data)),
                    (None, None) => {
                        return Err(format!(
                            "unexpected file `{}`, expected input.jsonl, input-2.jsonl and so on, \
                             settings.json, tables/NAME.csv, expected.jsonl",
                            other.escape_debug()
                        ));
                    }
                },
            }
        }
        let tables = Tables::of_csv(tables).map_err(|error| error.to_string())?;
        inputs.sort_by_key(|(number, _)| *number);
        let gap = inputs.iter().zip(1..).find(|((number, _), expected)| number != expected);
        match gap {
            Some((_, 1)) => Err("input.jsonl is missing".to_owned()),
            Some((_, number)) => Err(format!("input-{number}.jsonl is missing")),
            None if inputs.is_empty() => Err("input.jsonl is missing".to_owned()),
            None => Ok(Self {
                name: name.to_owned(),
                settings,
                tables,
                inputs: inputs.into_iter().map(|(_, input)| input).collect(),
                expected,
            }),
        }
    }

    /// Its messages, batch by batch.
    pub fn batches(&self) -> Vec<Vec<Message>> {
        let mut number = 0;
        self.inputs.iter().map(|input| batch(input, &mut number)).collect()
    }
}

/// Which table a file of this name holds.
fn table_name(file: &str) -> Option<&str> {
    let name = file.strip_prefix(TABLES)?.strip_prefix('/')?.strip_suffix(".csv")?;
    TableSettings::is_name(name).then_some(name)
}

/// Which batch a file of this name holds, counted from 1.
fn batch_number(file: &str) -> Option<usize> {
    if file == "input.jsonl" {
        return Some(1);
    }
    let digits = file.strip_prefix("input-")?.strip_suffix(".jsonl")?;
    let number = digits.parse::<usize>().ok().filter(|number| *number > 1)?;
    (digits == number.to_string()).then_some(number)
}

/// Each line is a payload; the last may lack its line end.
fn batch(input: &Bytes, number: &mut u64) -> Vec<Message> {
    let content = input.strip_suffix(b"\n").unwrap_or(input);
    let lines = content.split(|byte| *byte == b'\n');
    lines
        .map(|line| {
            let received_at = RECEIVED_AT + *number * INTERVAL;
            *number += 1;
            Message { topic: TOPIC.into(), payload: input.slice_ref(line), received_at }
        })
        .collect()
}
