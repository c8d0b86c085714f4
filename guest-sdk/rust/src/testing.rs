//! Golden cases, natively: the folder `cases/` of an adapter through the
//! script without WebAssembly, in the form in which `sluicegate map` prints.
//!
//! ```text
//! cases/<name>/input.jsonl     one payload a line; its bytes are the payload
//!              input-2.jsonl   later batches, by the same instance
//!              settings.json   `{}` where it is missing
//!              tables/T.csv    the lookup table T; first column key, second value
//!              expected.jsonl  deliveries, then rejections, then filtered
//! ```

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::json::quoted;
use crate::{BatchScript, Delivery, Instance, Mapping, RawMessage, state, table};

/// On which topic the message of a case comes.
pub const TOPIC: &str = "flespi/message/gw/devices/1";

/// When message 0 of a case is received; each later one is a second later.
pub const RECEIVED_AT: u64 = 1_700_000_000_000;

/// Set to `1`, it writes what came out to `expected.jsonl`.
const BLESS: &str = "SLUICEGATE_BLESS";

/// A message of a case, for unit tests.
pub fn message(payload: impl Into<Vec<u8>>) -> RawMessage {
    RawMessage { topic: TOPIC.to_owned(), payload: payload.into(), received_at: RECEIVED_AT }
}

/// Runs each case below the folder in a fresh instance; panics with all that
/// differ. What only the gateway adds (`packet`) is not compared.
///
/// # Panics
/// When a case differs from what is expected, cannot be read, or there is none.
pub fn run_cases<S: BatchScript>(folder: impl AsRef<Path>) {
    let folder = folder.as_ref();
    let mut cases: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    assert!(!cases.is_empty(), "{} has no cases", folder.display());
    let faults: Vec<String> = cases.iter().filter_map(|case| run_case::<S>(case).err()).collect();
    assert!(faults.is_empty(), "{} of {} cases differ\n{}", faults.len(), cases.len(), faults.join("\n"));
}

fn run_case<S: BatchScript>(case: &Path) -> Result<(), String> {
    let place = case.display();
    let printed = map_case::<S>(case).map_err(|error| format!("{place}: {error}"))?;
    let expected_file = case.join("expected.jsonl");
    if std::env::var(BLESS).is_ok_and(|bless| bless == "1") {
        return std::fs::write(&expected_file, printed).map_err(|error| format!("{place}: {error}"));
    }
    let expected = std::fs::read_to_string(&expected_file)
        .map_err(|error| format!("{}: {error}", expected_file.display()))?;
    if lines(&printed)? == lines(&expected).map_err(|error| format!("{place}: {error}"))? {
        return Ok(());
    }
    Err(format!("{place}\n  expected:\n{expected}\n  but it is:\n{printed}\n  {BLESS}=1 accepts this"))
}

/// What `sluicegate map` prints for a case.
fn map_case<S: BatchScript>(case: &Path) -> Result<String, String> {
    state::clear();
    define_tables(&case.join("tables"))?;
    let settings = match std::fs::read_to_string(case.join("settings.json")) {
        Ok(settings) => settings,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "{}".to_owned(),
        Err(error) => return Err(format!("settings.json: {error}")),
    };
    let instance = Instance::<S>::configure(&settings)?;
    let mut printed = String::new();
    let mut first = 0;
    for number in 1.. {
        let name = if number == 1 { "input.jsonl".to_owned() } else { format!("input-{number}.jsonl") };
        let input = match std::fs::read(case.join(&name)) {
            Ok(input) => input,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && number > 1 => break,
            Err(error) => return Err(format!("{name}: {error}")),
        };
        let batch = batch(&input, first);
        let mapping = instance.transform(&batch);
        check_contract(&mapping, batch.len())?;
        print_mapping(&mut printed, &mapping, first);
        first += batch.len();
    }
    Ok(printed)
}

/// The tables of a case; a case without the folder has none.
fn define_tables(folder: &Path) -> Result<(), String> {
    table::clear();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("tables: {error}")),
    };
    for entry in entries {
        let path = entry.map_err(|error| format!("tables: {error}"))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(table) = name.strip_suffix(".csv") else {
            return Err(format!("tables/{name}: expected a file NAME.csv"));
        };
        table::define(table, rows(&path).map_err(|error| format!("tables/{name}: {error}"))?);
    }
    Ok(())
}

/// The rows of a table's file, read as the gateway does.
fn rows(file: &Path) -> Result<HashMap<String, String>, csv::Error> {
    let mut rows = HashMap::new();
    for record in csv::Reader::from_path(file)?.into_records() {
        let record = record?;
        let field = |column: usize| record.get(column).unwrap_or_default().trim().to_owned();
        rows.insert(field(0), field(1));
    }
    Ok(rows)
}

/// Each line is a payload; the last may lack its line end.
fn batch(input: &[u8], first: usize) -> Vec<RawMessage> {
    let input = input.strip_suffix(b"\n").unwrap_or(input);
    let payloads = input.split(|&byte| byte == b'\n');
    (first as u64..)
        .zip(payloads)
        .map(|(position, payload)| RawMessage {
            received_at: RECEIVED_AT + position * 1000,
            ..message(payload)
        })
        .collect()
}

/// The faults that the gateway would stop the script for.
fn check_contract(mapping: &Mapping, messages: usize) -> Result<(), String> {
    let mut outcomes = vec![""; messages];
    let delivered =
        mapping.deliveries.iter().flat_map(|delivery| delivery.messages.iter().map(|m| (*m, "delivered")));
    let rejected = mapping.rejections.iter().map(|rejection| (rejection.message, "rejected"));
    let filtered = mapping.filtered.iter().map(|message| (*message, "filtered"));
    for (message, outcome) in delivered.chain(rejected).chain(filtered) {
        let known = outcomes
            .get_mut(message as usize)
            .ok_or_else(|| format!("message {message} is not in the batch of {messages}"))?;
        if !known.is_empty() && (*known != outcome || outcome != "delivered") {
            return Err(format!("message {message} is {known} and {outcome}"));
        }
        *known = outcome;
    }
    for delivery in &mapping.deliveries {
        let mut carried = delivery.messages.clone();
        carried.sort_unstable();
        carried.dedup();
        if carried.is_empty() || carried.len() != delivery.messages.len() {
            return Err(format!("a delivery carries the messages {:?}", delivery.messages));
        }
    }
    match outcomes.iter().position(|outcome| outcome.is_empty()) {
        None => Ok(()),
        Some(message) => Err(format!("message {message} is neither delivered nor rejected nor filtered")),
    }
}

/// Appends the lines that `sluicegate map` prints for a batch of which message
/// 0 has the number `first`.
pub fn print_mapping(printed: &mut String, mapping: &Mapping, first: usize) {
    for delivery in &mapping.deliveries {
        print_delivery(printed, delivery, first);
    }
    for rejection in &mapping.rejections {
        let number = rejection.message as usize + first;
        let _ = writeln!(printed, "{{\"message\":{number},\"rejected\":{}}}", quoted(&rejection.reason));
    }
    for message in &mapping.filtered {
        let _ = writeln!(printed, "{{\"message\":{},\"filtered\":true}}", *message as usize + first);
    }
}

fn print_delivery(printed: &mut String, delivery: &Delivery, first: usize) {
    let messages: Vec<String> =
        delivery.messages.iter().map(|message| (*message as usize + first).to_string()).collect();
    let target = delivery.target.as_deref().map_or("null".to_owned(), quoted);
    let headers: Vec<String> =
        delivery.headers.iter().map(|(name, value)| format!("{}:{}", quoted(name), quoted(value))).collect();
    let body = match std::str::from_utf8(&delivery.body) {
        Ok(text) => format!("\"body\":{}", quoted(text)),
        Err(_) => format!("\"body_base64\":\"{}\"", base64(&delivery.body)),
    };
    let (messages, headers) = (messages.join(","), headers.join(","));
    let _ = writeln!(
        printed,
        "{{\"messages\":[{messages}],\"target\":{target},\"headers\":{{{headers}}},{body}}}"
    );
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) & 63;
            text.push(if digit <= group.len() { char::from(DIGITS[index as usize]) } else { '=' });
        }
    }
    text
}

/// The lines as JSON, without what only the gateway adds.
fn lines(text: &str) -> Result<Vec<Value>, String> {
    text.lines()
        .map(|line| {
            let mut value: Value = serde_json::from_str(line).map_err(|error| format!("{line}: {error}"))?;
            if let Value::Object(object) = &mut value {
                object.remove("packet");
            }
            Ok(value)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_each_length() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn breaking_the_contract_is_noticed() {
        let delivery = |messages: &[u32]| Delivery::new(messages.to_vec(), "");
        let mapping = |deliveries, filtered| Mapping { deliveries, rejections: Vec::new(), filtered };
        assert!(check_contract(&mapping(vec![delivery(&[0]), delivery(&[0])], vec![1]), 2).is_ok());
        for broken in [
            mapping(vec![delivery(&[0])], vec![]),
            mapping(vec![delivery(&[0, 1])], vec![1]),
            mapping(vec![delivery(&[0, 1, 1])], vec![]),
            mapping(vec![delivery(&[0, 1]), delivery(&[])], vec![]),
            mapping(vec![delivery(&[0, 1, 2])], vec![]),
            mapping(vec![], vec![0, 0, 1]),
        ] {
            assert!(check_contract(&broken, 2).is_err(), "{broken:?}");
        }
    }
}
