//! The golden cases of the official adapters, through the embedded
//! WebAssembly and the printing of `sluicegate map`.
//!
//! ```text
//! scripts/<adapter>/cases/<name>/input.jsonl     one payload a line
//!                                input-2.jsonl   later batches, same instance
//!                                settings.json   `{}` where it is missing
//!                                expected.jsonl  what `map` prints
//! ```
//! Each case runs twice, in a fresh and in a used instance, each time with an
//! empty state: a script whose globals change its output shows here.
//! `SLUICEGATE_BLESS=1` writes what came out to `expected.jsonl`.

#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use sluicegate::bus::Message;
use sluicegate::cli::map::{self, Session};
use sluicegate::script::adapter::{self, Adapter};
use sluicegate::script::{Engine, Mapper, Recipe, Script, State};

/// Fewer would not show that an adapter copes with awkward input.
const FEWEST_CASES: usize = 8;

#[tokio::test]
async fn every_case_of_every_adapter_maps_as_expected() {
    let engine = Engine::new(4).unwrap();
    let bless = std::env::var("SLUICEGATE_BLESS").is_ok_and(|value| value == "1");
    let mut faults = Vec::new();
    for adapter in adapter::all() {
        let name = &adapter.manifest.name;
        let cases = cases(&scripts().join(name).join("cases"));
        if cases.len() < FEWEST_CASES {
            faults.push(format!("{name} has {} cases, at least {FEWEST_CASES} are needed", cases.len()));
        }
        // Holds the compiled code, which all cases then share.
        let _code = load(&engine, adapter, &Value::Null).await;
        for case in &cases {
            let outcome = check(&engine, adapter, case, bless).await;
            faults.extend(outcome.err().map(|fault| format!("{}\n{fault}", case.display())));
        }
    }
    assert!(faults.is_empty(), "{} faults\n\n{}", faults.len(), faults.join("\n"));
}

/// A script in the repository that the binary does not bring along would not
/// be tested above.
#[test]
fn every_script_of_the_repository_is_embedded() {
    let mut folders: Vec<String> = fs::read_dir(scripts())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("Cargo.toml").is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    let mut embedded: Vec<String> = adapter::all().iter().map(|a| a.manifest.name.clone()).collect();
    folders.sort();
    embedded.sort();
    assert_eq!(folders, embedded);
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts")
}

fn cases(folder: &Path) -> Vec<PathBuf> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(error) => panic!("{}: {error}", folder.display()),
    };
    let mut cases: Vec<PathBuf> =
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    cases.sort();
    cases
}

async fn load(engine: &Engine, adapter: &Adapter, settings: &Value) -> Result<Script, String> {
    let recipe = Recipe { settings: settings.clone(), ..Recipe::new(&adapter.manifest.name, adapter.wasm) };
    map::load(engine, recipe).await.map_err(|e| e.to_string())
}

/// An error says what differs.
async fn check(engine: &Engine, adapter: &Adapter, case: &Path, bless: bool) -> Result<(), String> {
    let settings = read(&case.join("settings.json"))?.unwrap_or_else(|| b"{}".to_vec());
    let settings = serde_json::from_slice(&settings).map_err(|error| format!("  settings.json: {error}"))?;
    let batches = batches(case)?;

    let script = load(engine, adapter, &settings).await?;
    let packets = adapter.manifest.destinations.iter().any(|destination| destination == "wialon");
    let state = State::new();
    let mut mapper = script.lane(0, &state, Arc::new(|_, _: &str| {}));
    let fresh = run(&mut mapper, packets, &batches).await?;
    state.clear();
    let used = run(&mut mapper, packets, &batches).await?;
    if let Some(difference) = difference(&fresh, &used)? {
        return Err(format!("  a used instance maps otherwise than a fresh one\n{difference}"));
    }

    let file = case.join("expected.jsonl");
    if bless {
        return fs::write(&file, fresh).map_err(|error| format!("  expected.jsonl: {error}"));
    }
    let expected = read(&file)?.ok_or("  expected.jsonl is missing")?;
    let expected = String::from_utf8(expected).map_err(|error| format!("  expected.jsonl: {error}"))?;
    difference(&expected, &fresh)?.map_or(Ok(()), Err)
}

/// What `sluicegate map` prints for these batches.
async fn run(mapper: &mut Mapper, packets: bool, batches: &[Vec<Message>]) -> Result<String, String> {
    let mut session = Session::new(mapper, packets, Vec::new());
    for batch in batches {
        let outcome = session.batch(batch).await.map_err(|error| format!("  {error}"))?;
        if let Some((message, fault)) = outcome.failed.first() {
            return Err(format!("  message {message}: {fault}"));
        }
    }
    String::from_utf8(session.into_output()).map_err(|error| error.to_string())
}

/// `input.jsonl`, then `input-2.jsonl` and so on. Each line is a payload; the
/// last may lack its line end.
fn batches(case: &Path) -> Result<Vec<Vec<Message>>, String> {
    let mut batches = Vec::new();
    let mut position = 0;
    loop {
        let name = match batches.len() {
            0 => "input.jsonl".to_owned(),
            before => format!("input-{}.jsonl", before + 1),
        };
        let Some(input) = read(&case.join(&name))? else {
            return if batches.is_empty() { Err("  input.jsonl is missing".into()) } else { Ok(batches) };
        };
        let lines = input.strip_suffix(b"\n").unwrap_or(&input).split(|byte| *byte == b'\n');
        let mut batch = Vec::new();
        for line in lines {
            batch.push(Message {
                topic: map::TOPIC.into(),
                payload: line.to_vec().into(),
                received_at: map::RECEIVED_AT + position * map::INTERVAL,
            });
            position += 1;
        }
        batches.push(batch);
    }
}

fn read(file: &Path) -> Result<Option<Vec<u8>>, String> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("  {}: {error}", file.display())),
    }
}

/// The lines that differ, expected with `-` and actual with `+`. Compared as
/// JSON (numbers by their digits), so that white space and escapes of another
/// writer do not count.
fn difference(expected: &str, actual: &str) -> Result<Option<String>, String> {
    let parse = |text: &str| {
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).map_err(|error| format!("  {line}: {error}")))
            .collect::<Result<Vec<Value>, String>>()
    };
    if parse(expected)? == parse(actual)? {
        return Ok(None);
    }
    let mut text = String::new();
    let (mut expected, mut actual) = (expected.lines(), actual.lines());
    loop {
        match (expected.next(), actual.next()) {
            (None, None) => return Ok(Some(text)),
            (left, right) if left == right => {}
            (left, right) => {
                for (sign, line) in [('-', left), ('+', right)] {
                    if let Some(line) = line {
                        let _ = writeln!(text, "  {sign} {line}");
                    }
                }
            }
        }
    }
}
