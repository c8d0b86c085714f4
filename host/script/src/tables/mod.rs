//! Lookup tables: constants of a mapping that come from CSV files, for example
//! from the IMEI of a device to the name that the customer knows it by.
//!
//! A table never changes. A file that has changed gives new [`Tables`], and
//! with them a new script: what maps a batch has one [`Tables::version`] from
//! its first message to its last.

mod read;
mod table;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use sha2::{Digest, Sha256};

use super::text::one_line;
use super::version::Version;

pub use read::{TableError, TableProblem};
pub use table::Table;

/// A table as a stream's file or the command line names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSettings {
    /// What scripts and templates call it.
    pub name: String,
    /// A CSV file in UTF-8 with a header: at most 64 MiB and 1,000,000 rows.
    pub file: PathBuf,
    /// Which of its columns are used.
    pub columns: Columns,
}

/// The columns of a table's file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// Name of the column with the keys; none: the first.
    pub key: Option<String>,
    /// Name of the column with the values; none: the second.
    pub value: Option<String>,
}

/// The tables of one stream. Cloning is cheap; tables with the same content
/// are in memory once, however many streams have them.
#[derive(Clone)]
pub struct Tables(Arc<Inner>);

struct Inner {
    /// In the order of their names.
    tables: Vec<(String, Arc<Table>)>,
    version: Version,
}

/// A script asked for a table that its stream does not define.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no table `{asked}`")]
pub(super) struct UnknownTable {
    pub(super) asked: String,
    /// Those that there are, as a text.
    pub(super) known: String,
}

/// Every table that is in use anywhere in the process, by its version.
static IN_USE: LazyLock<Mutex<HashMap<Version, Weak<Table>>>> = LazyLock::new(Mutex::default);

// ----- impl TableSettings -----

impl TableSettings {
    /// Whether a table may be called like this: 1 to 64 of `a-z A-Z 0-9 _ -`,
    /// and not `topic`, whose brackets mean a level in templates.
    pub fn is_name(name: &str) -> bool {
        (1..=64).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
            && name != "topic"
    }
}

// ----- impl Tables -----

impl Tables {
    /// Reads the files. Blocks: about a second for a million rows.
    pub fn read(settings: &[TableSettings]) -> Result<Self, TableError> {
        let read = |settings: &TableSettings| Ok((settings.name.clone(), shared(read::read_file(settings)?)));
        settings.iter().map(read).collect::<Result<_, _>>().map(Self::new)
    }

    /// These tables; of those that are `known` the content that is known, of
    /// the others what their files have. Blocks as [`Self::read`] does.
    pub fn complete(settings: &[TableSettings], known: &Self) -> Result<Self, TableError> {
        let table = |settings: &TableSettings| {
            let known = known.0.tables.iter().find(|(name, _)| *name == settings.name);
            let table = match known {
                Some((_, table)) => table.clone(),
                None => shared(read::read_file(settings)?),
            };
            Ok((settings.name.clone(), table))
        };
        settings.iter().map(table).collect::<Result<_, _>>().map(Self::new)
    }

    /// These, by their names.
    pub fn of(tables: impl IntoIterator<Item = (String, Table)>) -> Self {
        Self::new(tables.into_iter().map(|(name, table)| (name, shared(table))).collect())
    }

    /// Tables from the bytes of CSV files by their names; the first column is
    /// the key, the second the value. Blocks as [`Self::read`] does.
    pub fn of_csv<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self, TableError> {
        let read =
            |(name, bytes): (&str, &[u8])| Ok((name.to_owned(), shared(read::read_bytes(name, bytes)?)));
        files.into_iter().map(read).collect::<Result<_, _>>().map(Self::new)
    }

    fn new(mut tables: Vec<(String, Arc<Table>)>) -> Self {
        tables.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut hash = Sha256::new();
        for (name, table) in &tables {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            hash.update(table.version().bytes());
        }
        Self(Arc::new(Inner { tables, version: Version::of_hash(hash) }))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.tables.is_empty()
    }

    /// The hash of all names, keys and values.
    pub fn version(&self) -> &Version {
        &self.0.version
    }

    /// Names and tables, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Table)> {
        self.0.tables.iter().map(|(name, table)| (name.as_str(), &**table))
    }

    /// What a script gets.
    pub(super) fn get(&self, table: &str, key: &str) -> Result<Option<&str>, UnknownTable> {
        match self.iter().find(|(name, _)| *name == table) {
            Some((_, table)) => Ok(table.get(key)),
            None => Err(UnknownTable { asked: one_line(table), known: self.known() }),
        }
    }

    fn known(&self) -> String {
        let names: Vec<String> = self.iter().map(|(name, _)| format!("`{name}`")).collect();
        if names.is_empty() { "no tables".to_owned() } else { names.join(", ") }
    }
}

/// No tables.
impl Default for Tables {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The table that is in memory with this content already, if there is one.
fn shared(table: Table) -> Arc<Table> {
    let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    in_use.retain(|_, table| table.strong_count() > 0);
    if let Some(same) = in_use.get(table.version()).and_then(Weak::upgrade) {
        return same;
    }
    let version = table.version().clone();
    let table = Arc::new(table);
    in_use.insert(version, Arc::downgrade(&table));
    table
}
