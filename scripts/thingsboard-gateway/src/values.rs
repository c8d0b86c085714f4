//! The members of a JSON object, written once and cut where a publish is full.

use sluicegate_sdk::{Kind, Reject, Result, Value, json};

use crate::{check_name, number};

/// Keys and values as `"key":value,"key":value`.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    text: Vec<u8>,
    pairs: Vec<Pair>,
}

/// Where a pair is in the text.
#[derive(Debug, Clone, Copy)]
struct Pair {
    start: usize,
    /// Of the key with its quotes.
    key_end: usize,
    end: usize,
}

impl Pairs {
    /// Adds a field, unless it is `null`, which the platform would drop.
    pub(crate) fn add(&mut self, key: &str, value: Value<'_>) -> Result<()> {
        if value.is_null() {
            return Ok(());
        }
        check_name("key", key)?;
        if !self.pairs.is_empty() {
            self.text.push(b',');
        }
        let start = self.text.len();
        json::write_str(&mut self.text, key);
        let key_end = self.text.len();
        self.text.push(b':');
        match value.kind() {
            Kind::Number => number::write(&mut self.text, value.raw()),
            _ => write_compact(&mut self.text, value),
        }
        self.pairs.push(Pair { start, key_end, end: self.text.len() });
        Ok(())
    }

    /// As [`Self::add`], for fields of which two may have one name.
    pub(crate) fn add_new(&mut self, key: &str, value: Value<'_>) -> Result<()> {
        let mut quoted = Vec::with_capacity(key.len() + 2);
        json::write_str(&mut quoted, key);
        if self.iter().any(|(known, _)| known == quoted) {
            return Err(Reject::new(format!("two fields would become the key `{key}`")));
        }
        self.add(key, value)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// All pairs, with the commas between them.
    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Each pair: the key with its quotes, and the whole.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.pairs.iter().map(|pair| (self.part(pair.start, pair.key_end), self.part(pair.start, pair.end)))
    }

    /// The pairs in runs of at most `room` bytes, each as long as it can be. A
    /// pair that is longer by itself is a run by itself.
    pub(crate) fn runs(&self, room: usize) -> Vec<&[u8]> {
        let mut runs = Vec::new();
        let mut current: Option<Pair> = None;
        for pair in &self.pairs {
            current = Some(match current {
                Some(run) if pair.end - run.start <= room => Pair { end: pair.end, ..run },
                Some(run) => {
                    runs.push(self.part(run.start, run.end));
                    *pair
                }
                None => *pair,
            });
        }
        runs.extend(current.map(|run| self.part(run.start, run.end)));
        runs
    }

    fn part(&self, start: usize, end: usize) -> &[u8] {
        self.text.get(start..end).unwrap_or_default()
    }
}

/// Appends a value without space between its parts and with each key of an
/// object once; the platform stores lists and objects as JSON.
fn write_compact(out: &mut Vec<u8>, value: Value<'_>) {
    match value.kind() {
        Kind::Object => {
            out.push(b'{');
            for field in value.fields() {
                json::write_key(out, &field.key);
                write_compact(out, field.value);
            }
            out.push(b'}');
        }
        Kind::Array => {
            out.push(b'[');
            for (position, element) in value.elements().into_iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                write_compact(out, element);
            }
            out.push(b']');
        }
        _ => out.extend_from_slice(value.raw().as_bytes()),
    }
}
