//! Where two prints of what became of messages differ.

use std::fmt;

use serde_json::Value;

/// Lines that differ; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference(Vec<Change>);

/// A line that is no JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {number} is not JSON: {reason}")]
pub struct NotJson {
    /// Counted from 1.
    number: usize,
    reason: String,
}

/// Lines that one print has in the place of some of the other.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    left: Vec<String>,
    right: Vec<String>,
    /// What differs inside the lines, pair by pair.
    details: Vec<String>,
}

struct Line<'t> {
    text: &'t str,
    value: Value,
}

/// Characters of a line, or of a value, that are shown.
const LINE: usize = 240;
const VALUE: usize = 80;

/// Details of a pair of lines that are shown.
const DETAILS: usize = 8;

/// Pairs of lines that are compared to find what they have in common; beyond,
/// lines are compared one by one.
const PAIRS: usize = 1_000_000;

// ----- impl Difference -----

impl Difference {
    /// Compares as JSON (numbers by their digits), so that white space and
    /// escapes of another writer do not count. A `packet` that one side does
    /// not show does not count either.
    pub fn between(left: &str, right: &str) -> Result<Option<Self>, NotJson> {
        let (left, right) = (parse(left)?, parse(right)?);
        let mut changes = Vec::new();
        let (mut i, mut j) = (0, 0);
        for (to_i, to_j) in common(&left, &right).into_iter().chain([(left.len(), right.len())]) {
            if (i, j) != (to_i, to_j) {
                changes.push(Change::of(&left[i..to_i], &right[j..to_j]));
            }
            (i, j) = (to_i + 1, to_j + 1);
        }
        Ok(if changes.is_empty() { None } else { Some(Self(changes)) })
    }
}

fn parse(text: &str) -> Result<Vec<Line<'_>>, NotJson> {
    text.lines()
        .zip(1..)
        .map(|(text, number)| match serde_json::from_str(text) {
            Ok(value) => Ok(Line { text, value }),
            Err(error) => Err(NotJson { number, reason: error.to_string() }),
        })
        .collect()
}

/// The longest sequence of lines that both have: their places in both.
fn common(left: &[Line<'_>], right: &[Line<'_>]) -> Vec<(usize, usize)> {
    let (rows, columns) = (left.len(), right.len());
    if rows.saturating_mul(columns) > PAIRS {
        let equal = |(i, (left, right)): (usize, (&Line<'_>, &Line<'_>))| same(left, right).then_some((i, i));
        return left.iter().zip(right).enumerate().filter_map(equal).collect();
    }
    // Lengths of the longest common sequences from (i, j) on.
    let mut lengths = vec![0_u32; (rows + 1) * (columns + 1)];
    let at = |i: usize, j: usize| i * (columns + 1) + j;
    for i in (0..rows).rev() {
        for j in (0..columns).rev() {
            lengths[at(i, j)] = if same(&left[i], &right[j]) {
                lengths[at(i + 1, j + 1)] + 1
            } else {
                lengths[at(i + 1, j)].max(lengths[at(i, j + 1)])
            };
        }
    }
    let (mut i, mut j, mut pairs) = (0, 0, Vec::new());
    while i < rows && j < columns {
        if same(&left[i], &right[j]) {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if lengths[at(i + 1, j)] >= lengths[at(i, j + 1)] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

fn same(left: &Line<'_>, right: &Line<'_>) -> bool {
    if left.value == right.value {
        return true;
    }
    let (Value::Object(l), Value::Object(r)) = (&left.value, &right.value) else { return false };
    let without =
        |side: &serde_json::Map<String, Value>| side.len() - usize::from(side.contains_key("packet"));
    l.contains_key("packet") != r.contains_key("packet")
        && without(l) == without(r)
        && l.iter().filter(|(key, _)| *key != "packet").all(|(key, value)| r.get(key) == Some(value))
}

// ----- impl Change -----

impl Change {
    fn of(left: &[Line<'_>], right: &[Line<'_>]) -> Self {
        let mut all = Vec::new();
        for (left, right) in left.iter().zip(right) {
            let mut details = Vec::new();
            compare("", &left.value, &right.value, &mut details);
            let more = details.len().saturating_sub(DETAILS);
            all.extend(details.into_iter().take(DETAILS));
            if more > 0 {
                all.push(format!("and {more} more"));
            }
        }
        let texts = |lines: &[Line<'_>]| lines.iter().map(|line| cut(line.text, LINE)).collect();
        Self { left: texts(left), right: texts(right), details: all }
    }
}

/// Collects `place: - one, + other`. A text that is JSON is looked into: most
/// bodies are.
fn compare(place: &str, left: &Value, right: &Value, details: &mut Vec<String>) {
    match (left, right) {
        (Value::Object(l), Value::Object(r)) => {
            for (key, value) in l {
                if key == "packet" && !r.contains_key(key) {
                    continue;
                }
                compare(&step(place, key), value, r.get(key).unwrap_or(&Value::Null), details);
            }
            for (key, value) in r.iter().filter(|(key, _)| !l.contains_key(*key) && *key != "packet") {
                details.push(format!("{}: + {}", step(place, key), cut(&value.to_string(), VALUE)));
            }
        }
        (Value::Array(l), Value::Array(r)) if l.len() == r.len() => {
            for (position, (left, right)) in l.iter().zip(r).enumerate() {
                compare(&format!("{place}[{position}]"), left, right, details);
            }
        }
        (left, right) if left == right => {}
        (Value::String(l), Value::String(r)) => match (embedded(l), embedded(r)) {
            (Some(l), Some(r)) if l != r => compare(place, &l, &r, details),
            _ => details.push(format!("{place}: - {}, + {}", shown(left), shown(right))),
        },
        _ => details.push(format!("{place}: - {}, + {}", shown(left), shown(right))),
    }
}

fn step(place: &str, key: &str) -> String {
    if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") }
}

fn embedded(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().filter(|value: &Value| value.is_object() || value.is_array())
}

fn shown(value: &Value) -> String {
    cut(&value.to_string(), VALUE)
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signs = |change: &Change| {
            let left = change.left.iter().map(|line| format!("    - {line}"));
            let right = change.right.iter().map(|line| format!("    + {line}"));
            let details = change.details.iter().map(|detail| format!("      {detail}"));
            left.chain(right).chain(details).collect::<Vec<_>>().join("\n")
        };
        f.write_str(&self.0.iter().map(signs).collect::<Vec<_>>().join("\n"))
    }
}
