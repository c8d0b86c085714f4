#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use serde_json::{Map, Value};

use super::*;
use crate::Tables;
use crate::case::CaseFile;
use crate::package::PackageError;
use crate::testing::{PASS, engine, transform};

/// A package of this script with one case, which sends `one` and `two`.
fn package(body: &str, expected: &str) -> Package {
    let case = Case {
        name: "a-case".to_owned(),
        tables: Tables::default(),
        settings: Value::Object(Map::new()),
        inputs: vec![Bytes::from_static(b"one\n"), Bytes::from_static(b"two")],
        expected: Some(expected.to_owned()),
    };
    Package { cases: vec![case], ..Package::parse(transform(body)).unwrap() }
}

/// What is said of the one case.
async fn fault(package: &Package) -> String {
    let faults = check(engine(), package, &Limits::default()).await.unwrap_err();
    assert_eq!(faults.len(), 1);
    faults[0].to_string()
}

const BOTH: &str = r#"{"messages":[0],"target":null,"headers":{},"body":"one"}
{"messages":[1],"target":null,"headers":{},"body":"two"}
"#;

#[tokio::test]
async fn script_with_the_expected_output_passes() {
    check(engine(), &package(PASS, BOTH), &Limits::default()).await.unwrap();
    let spaced = BOTH.replace(":", " : ").replace("\"one\"", r#""\u006fne","packet":{"x":1}"#);
    check(engine(), &package(PASS, &spaced), &Limits::default()).await.unwrap();
}

#[tokio::test]
async fn difference_lists_changed_lines_and_values() {
    let expected = BOTH.replace("\"two\"", "\"too\"");
    assert_eq!(
        fault(&package(PASS, &expected)).await,
        r#"a-case: the output (+) differs from the expected output (-)
    - {"messages":[1],"target":null,"headers":{},"body":"too"}
    + {"messages":[1],"target":null,"headers":{},"body":"two"}
      body: - "too", + "two""#
    );
}

#[tokio::test]
async fn a_script_that_counts_in_a_global_is_not_pure() {
    // Its body is one character, which follows the one of the call before.
    let counting = r#"
        (i32.store8 (i32.const 100) (i32.add (i32.load8_u (i32.const 100)) (i32.const 1)))
        (i32.store8 (i32.const 101) (i32.add (i32.load8_u (i32.const 100)) (i32.const 47)))
        (i32.store offset=8 (local.get $batch) (i32.const 101))
        (i32.store offset=12 (local.get $batch) (i32.const 1))
        (call $pass (local.get $batch) (local.get $n))"#;
    let expected = BOTH.replace("one", "0").replace("two", "1");
    let fault = fault(&package(counting, &expected)).await;
    assert!(
        fault.starts_with("a-case: the output of a used instance (+) differs from that of a fresh one (-)\n"),
        "{fault}"
    );
    assert!(fault.contains(r#"body: - "0", + "2""#), "{fault}");
}

#[tokio::test]
async fn failing_message_is_reported() {
    let second = r#"
        (if (i32.eq (call $first (local.get $batch)) (i32.const 116)) (then unreachable))
        (call $pass (local.get $batch) (local.get $n))"#;
    let fault_of_second = fault(&package(second, BOTH)).await;
    assert!(fault_of_second.starts_with("a-case: message 1: the script trapped: "), "{fault_of_second}");

    let silent = Package {
        cases: vec![Case { expected: None, ..package(PASS, "").cases[0].clone() }],
        ..package(PASS, "")
    };
    assert_eq!(fault(&silent).await, "a-case: expected.jsonl is missing");
    let garbled = fault(&package(PASS, "{}\nno json\n")).await;
    assert!(garbled.starts_with("a-case: expected.jsonl: line 2 is not JSON: "), "{garbled}");

    // No script at all: said once, not for every case.
    let mut none = package(PASS, BOTH);
    none.wasm = Bytes::from_static(b"(module)");
    none.cases.push(none.cases[0].clone());
    assert!(fault(&none).await.starts_with("a-case: the script cannot be used: it is not WebAssembly"));
}

fn read(files: &[(&str, &str)]) -> Result<Vec<Case>, String> {
    let file = |(path, text): &(&'static str, &'static str)| {
        let (case, file) = path.split_once('/').unwrap();
        CaseFile { case, file, data: Bytes::from_static(text.as_bytes()) }
    };
    let files: Vec<(&'static str, &'static str)> =
        files.iter().map(|(path, text)| (leak(path), leak(text))).collect();
    Case::read(files.iter().map(file).collect()).map_err(|error| PackageError::from(error).to_string())
}

fn leak(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

#[test]
fn a_case_is_read_from_its_files() {
    let files = [
        ("b/input.jsonl", ""),
        ("a/input-10.jsonl", "x"),
        ("a/expected.jsonl", "e"),
        ("a/settings.json", "{\"k\":1}"),
    ];
    let nine: Vec<(String, &str)> = (2..10).map(|n| (format!("a/input-{n}.jsonl"), "\n\n")).collect();
    let mut all: Vec<(&str, &str)> = files.to_vec();
    all.extend(nine.iter().map(|(path, text)| (path.as_str(), *text)));
    all.push(("a/input.jsonl", "first"));
    let cases = read(&all).unwrap();
    assert_eq!(cases.iter().map(|case| case.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((cases[0].inputs.len(), cases[0].settings["k"].as_i64()), (10, Some(1)));
    assert_eq!(cases[0].expected.as_deref(), Some("e"));
    let batches = cases[0].batches();
    assert_eq!((batches[1].len(), &batches[9][0].payload[..]), (2, &b"x"[..]));
    // Counted over all batches.
    assert_eq!(batches[9][0].received_at, RECEIVED_AT + 17 * INTERVAL);
    // An empty file is one message without a payload.
    assert_eq!(cases[1].batches()[0].len(), 1);
}

#[test]
fn wrong_files_are_reported() {
    let table: [(&[(&str, &str)], &str); 6] = [
        (&[("a/expected.jsonl", "")], "its case `a`: input.jsonl is missing"),
        (&[("a/input-2.jsonl", "")], "its case `a`: input.jsonl is missing"),
        (&[("a/input.jsonl", ""), ("a/input-3.jsonl", "")], "its case `a`: input-2.jsonl is missing"),
        (&[("a/inputs.jsonl", "")], "its case `a`: unexpected file `inputs.jsonl`, expected input.jsonl, "),
        (&[("a/input-02.jsonl", "")], "its case `a`: unexpected file `input-02.jsonl`"),
        (&[("a/settings.json", "[]")], "its case `a`: settings.json is [], expected one JSON object"),
    ];
    for (files, expected) in table {
        let error = read(files).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
}
