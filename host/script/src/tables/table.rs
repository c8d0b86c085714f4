//! One table: keys and their values, built to be small and to be asked often.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use sha2::{Digest, Sha256};

use crate::version::Version;

/// Keys with a value each. All text is in one buffer, so that a row costs its
/// own bytes and about 20 more instead of two allocations.
pub struct Table {
    /// Key and value of each row, one after the other.
    text: String,
    index: HashTable<Row>,
    hasher: RandomState,
    version: Version,
}

/// Where a row is in the text.
#[derive(Clone, Copy)]
struct Row {
    start: u32,
    key: u16,
    value: u16,
}

/// A table that is being filled.
#[derive(Default)]
pub(super) struct Builder {
    text: String,
    index: HashTable<Row>,
    hasher: RandomState,
    /// Where each row begins in the text, and its line in the file.
    lines: Vec<(u32, u64)>,
}

/// Bytes of a key or of a value at most.
pub(super) const MAX_FIELD: usize = u16::MAX as usize;

/// Why a row is not added.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A key or a value of so many bytes.
    TooLong(usize),
    /// The row in this line has the same key.
    Twice(u64),
    /// The text of all rows together is too much for the index.
    Full,
}

// ----- impl Row -----

impl Row {
    fn key(self, text: &str) -> &str {
        slice(text, self.start as usize, self.key)
    }

    fn value(self, text: &str) -> &str {
        slice(text, self.start as usize + usize::from(self.key), self.value)
    }
}

fn slice(text: &str, start: usize, length: u16) -> &str {
    text.get(Range { start, end: start + usize::from(length) }).unwrap_or_default()
}

// ----- impl Builder -----

impl Builder {
    /// Adds the row in this line of the file.
    pub(super) fn add(&mut self, key: &str, value: &str, line: u64) -> Result<(), Refusal> {
        let length = |field: &str| u16::try_from(field.len()).map_err(|_| Refusal::TooLong(field.len()));
        let start = u32::try_from(self.text.len()).map_err(|_| Refusal::Full)?;
        let row = Row { start, key: length(key)?, value: length(value)? };
        let Self { text, index, hasher, lines } = self;
        let same = |row: &Row| row.key(text) == key;
        match index.entry(hasher.hash_one(key), same, |row| hasher.hash_one(row.key(text))) {
            Entry::Occupied(first) => {
                let first = lines.binary_search_by_key(&first.get().start, |(start, _)| *start);
                let first = first.ok().and_then(|at| lines.get(at));
                return Err(Refusal::Twice(first.map_or(0, |(_, line)| *line)));
            }
            Entry::Vacant(place) => place.insert(row),
        };
        text.push_str(key);
        text.push_str(value);
        lines.push((start, line));
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// The table, with no more memory than it needs.
    pub(super) fn build(self) -> Table {
        let Self { mut text, mut index, hasher, lines } = self;
        drop(lines);
        text.shrink_to_fit();
        index.shrink_to_fit(|row| hasher.hash_one(row.key(&text)));
        let mut hash = Sha256::new();
        for (key, value) in sorted(&index, &text) {
            for field in [key, value] {
                hash.update((field.len() as u64).to_le_bytes());
                hash.update(field);
            }
        }
        Table { text, index, hasher, version: Version::of_hash(hash) }
    }
}

/// The rows in the order of their keys.
fn sorted<'t>(index: &HashTable<Row>, text: &'t str) -> impl Iterator<Item = (&'t str, &'t str)> {
    let mut rows: Vec<Row> = index.iter().copied().collect();
    rows.sort_unstable_by(|a, b| a.key(text).cmp(b.key(text)));
    rows.into_iter().map(|row| (row.key(text), row.value(text)))
}

// ----- impl Table -----

impl Table {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let row = self.index.find(self.hasher.hash_one(key), |row| row.key(&self.text) == key)?;
        Some(row.value(&self.text))
    }

    /// Keys and values, in the order of the keys.
    pub fn rows(&self) -> impl Iterator<Item = (&str, &str)> {
        sorted(&self.index, &self.text)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Bytes of memory.
    pub fn size(&self) -> usize {
        self.text.capacity() + self.index.allocation_size()
    }

    /// The hash of its keys and values. Their order in the file does not
    /// count, nor do columns that are not used.
    pub fn version(&self) -> &Version {
        &self.version
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({} rows, {})", self.len(), self.version)
    }
}
