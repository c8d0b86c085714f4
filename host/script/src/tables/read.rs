//! From CSV to a table.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use csv::{ByteRecord, ErrorKind, Reader, ReaderBuilder};

use super::table::{Builder, MAX_FIELD, Refusal, Table};
use super::{Columns, TableSettings};

/// Bytes of a file at most.
pub(super) const MAX_BYTES: u64 = 64 << 20;

/// Rows of a table at most.
pub(super) const MAX_ROWS: usize = 1_000_000;

/// Why a table cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("table `{table}`: {}, expected {}", self.what(), .problem.expected())]
pub struct TableError {
    /// The table's name.
    pub table: String,
    /// Its file.
    pub file: PathBuf,
    /// The line of the file, from 1, if it is about one.
    pub line: Option<u64>,
    /// What is wrong.
    pub problem: TableProblem,
}

/// What is wrong with a table's file. No text shows a value of the table,
/// which may be confidential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableProblem {
    /// In the words of the operating system.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// More bytes than a table may have.
    #[error("it has more than {} MiB", MAX_BYTES >> 20)]
    TooLarge,
    /// More rows than a table may have.
    #[error("it has more than {MAX_ROWS} rows")]
    TooManyRows,
    /// Not even a header.
    #[error("it is empty")]
    Empty,
    /// A header of one column, which is this.
    #[error("its header has one column only, {0:?}")]
    OneColumn(String),
    /// No column has this name; these are there.
    #[error("its header has no column `{name}`")]
    NoColumn {
        /// The name that was asked for.
        name: String,
        /// The columns that there are.
        columns: Vec<String>,
    },
    /// Two columns have this name.
    #[error("its header has the column `{0}` twice")]
    ColumnTwice(String),
    /// This column would be key and value.
    #[error("its column `{0}` would be key and value")]
    SameColumn(String),
    /// A row of another length than the header.
    #[error("the row has {} and the header {}", fields(*.found), .columns)]
    Fields {
        /// Fields of the row.
        found: u64,
        /// Columns of the header.
        columns: u64,
    },
    /// A header, key or value of other bytes.
    #[error("it is not UTF-8 text")]
    NotUtf8,
    /// A row without a key.
    #[error("the key is empty")]
    EmptyKey,
    /// A key or value of so many bytes.
    #[error("a field has {0} bytes")]
    TooLong(usize),
    /// The key has a row already.
    #[error("the key {} is in line {line} already", Excerpt(.key))]
    Twice {
        /// The key.
        key: String,
        /// Where it is for the first time.
        line: u64,
    },
}

/// Something wrong, and the line.
type Fault = (Option<u64>, TableProblem);

fn fields(count: u64) -> String {
    if count == 1 { "1 field".to_owned() } else { format!("{count} fields") }
}

/// A quoted text, cut short.
struct Excerpt<'a>(&'a str);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 60;
        match self.0.char_indices().nth(LONGEST) {
            Some((cut, _)) => write!(f, "{:?}...", self.0.get(..cut).unwrap_or_default()),
            None => write!(f, "{:?}", self.0),
        }
    }
}

// ----- impl TableError -----

impl TableError {
    /// File, line and what is wrong, without the table's name.
    pub fn what(&self) -> String {
        let file = self.file.display();
        match self.line {
            Some(line) => format!("{file}:{line}: {}", self.problem),
            None => format!("{file}: {}", self.problem),
        }
    }

    /// What was expected instead.
    pub fn expected(&self) -> String {
        self.problem.expected()
    }
}

impl TableProblem {
    fn expected(&self) -> String {
        match self {
            Self::Unreadable(_) => "a readable CSV file".to_owned(),
            Self::TooLarge => format!("at most {} MiB", MAX_BYTES >> 20),
            Self::TooManyRows => format!("at most {MAX_ROWS} rows"),
            Self::Empty => "a first line with the names of the columns, such as `imei,id`".to_owned(),
            Self::OneColumn(header) if header.contains([';', '\t']) => {
                "columns that are separated by commas".to_owned()
            }
            Self::OneColumn(_) => "a column of keys and a column of values".to_owned(),
            Self::NoColumn { columns, .. } => {
                let columns: Vec<String> =
                    columns.iter().map(|column| format!("`{}`", column.escape_debug())).collect();
                format!("one of {}", columns.join(", "))
            }
            Self::ColumnTwice(_) => "a name of its own for a column that is used".to_owned(),
            Self::SameColumn(_) => "another column for one of them, as `key` or `value`".to_owned(),
            Self::Fields { .. } => {
                "as many as there are columns; a field with a comma or a line end needs double quotes"
                    .to_owned()
            }
            Self::NotUtf8 => "UTF-8 text".to_owned(),
            Self::EmptyKey => "a key in each row".to_owned(),
            Self::TooLong(_) => format!("at most {MAX_FIELD}; perhaps a double quote is not closed"),
            Self::Twice { .. } => "each key once".to_owned(),
        }
    }
}

// ----- reading -----

/// Reads the file of a table.
pub(super) fn read_file(settings: &TableSettings) -> Result<Table, TableError> {
    let unreadable = |error: io::Error| (None, TableProblem::Unreadable(error.to_string()));
    let read = || {
        let file = File::open(&settings.file).map_err(unreadable)?;
        if file.metadata().map_err(unreadable)?.len() > MAX_BYTES {
            return Err((None, TableProblem::TooLarge));
        }
        read(file, &settings.columns)
    };
    read().map_err(|fault| error(&settings.name, &settings.file, fault))
}

/// Reads the bytes of a table's file.
pub(super) fn read_bytes(name: &str, bytes: &[u8]) -> Result<Table, TableError> {
    read(bytes, &Columns::default()).map_err(|fault| error(name, Path::new(&format!("{name}.csv")), fault))
}

impl Table {
    /// Writes a CSV file with a column of the keys and one of the values, for
    /// [`Self::read_back`].
    pub fn write(&self, to: impl Write) -> io::Result<()> {
        let mut writer = csv::Writer::from_writer(to);
        writer.write_record(["key", "value"])?;
        for (key, value) in self.rows() {
            writer.write_record([key, value])?;
        }
        writer.flush()
    }

    /// What [`Self::write`] has written, with the same version.
    pub fn read_back(file: &[u8]) -> io::Result<Self> {
        // No line ends are changed and nothing is measured: that was done when
        // it was read for the first time, and one with quotes may be longer.
        let filled = fill(&mut ReaderBuilder::new().from_reader(file), &Columns::default());
        filled.map(Builder::build).map_err(|(_, problem)| io::Error::other(problem.to_string()))
    }
}

fn error(table: &str, file: &Path, (line, problem): Fault) -> TableError {
    TableError { table: table.to_owned(), file: file.to_owned(), line, problem }
}

fn read(source: impl Read, columns: &Columns) -> Result<Table, Fault> {
    let mut bytes = Vec::new();
    // One byte more than is allowed tells that there is more.
    let read = source.take(MAX_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| (None, TableProblem::Unreadable(error.to_string())))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err((None, TableProblem::TooLarge));
    }
    unix_lines(&mut bytes);
    fill(&mut ReaderBuilder::new().buffer_capacity(64 << 10).from_reader(&*bytes), columns)
        .map(Builder::build)
}

/// Turns line ends of two bytes into those of one: the CSV library counts the
/// second byte with the next record, and its lines would be wrong by one.
fn unix_lines(bytes: &mut Vec<u8>) {
    let mut kept = 0;
    for at in 0..bytes.len() {
        if bytes[at] == b'\r' && bytes.get(at + 1) == Some(&b'\n') {
            continue;
        }
        bytes[kept] = bytes[at];
        kept += 1;
    }
    bytes.truncate(kept);
}

fn fill(reader: &mut Reader<impl Read>, columns: &Columns) -> Result<Builder, Fault> {
    let (key_column, value_column) = places(reader.byte_headers().map_err(csv_fault)?, columns)?;
    let mut builder = Builder::default();
    let mut record = ByteRecord::new();
    while reader.read_byte_record(&mut record).map_err(csv_fault)? {
        let line = record.position().map_or(0, csv::Position::line);
        let fault = |problem| (Some(line), problem);
        let field = |column: usize| text(record.get(column).unwrap_or_default()).map_err(fault);
        let (key, value) = (field(key_column)?, field(value_column)?);
        if key.is_empty() {
            return Err(fault(TableProblem::EmptyKey));
        }
        if builder.len() == MAX_ROWS {
            return Err((None, TableProblem::TooManyRows));
        }
        builder.add(key, value, line).map_err(|refusal| {
            fault(match refusal {
                Refusal::TooLong(bytes) => TableProblem::TooLong(bytes),
                Refusal::Twice(line) => TableProblem::Twice { key: key.to_owned(), line },
                Refusal::Full => TableProblem::TooLarge,
            })
        })?;
    }
    Ok(builder)
}

/// Where in a row key and value are.
fn places(header: &ByteRecord, columns: &Columns) -> Result<(usize, usize), Fault> {
    let names = header.iter().map(text).collect::<Result<Vec<&str>, TableProblem>>();
    let find = || -> Result<(usize, usize), TableProblem> {
        let names = names?;
        match names[..] {
            [] => return Err(TableProblem::Empty),
            [name] => return Err(TableProblem::OneColumn(name.chars().take(60).collect())),
            _ => {}
        }
        let place = |name: &Option<String>, default: usize| {
            let Some(name) = name else { return Ok(default) };
            let mut places = (0..).zip(&names).filter(|(_, column)| **column == name.as_str());
            match (places.next(), places.next()) {
                (Some((place, _)), None) => Ok(place),
                (Some(_), Some(_)) => Err(TableProblem::ColumnTwice(name.clone())),
                (None, _) => Err(TableProblem::NoColumn {
                    name: name.clone(),
                    columns: names.iter().take(20).map(|&column| column.to_owned()).collect(),
                }),
            }
        };
        let (key, value) = (place(&columns.key, 0)?, place(&columns.value, 1)?);
        if key == value {
            let name = names.get(key).copied().unwrap_or_default();
            return Err(TableProblem::SameColumn(name.to_owned()));
        }
        Ok((key, value))
    };
    find().map_err(|problem| (None, problem))
}

/// A field as it counts: without the white space around it, which people and
/// programs add for the eye.
fn text(field: &[u8]) -> Result<&str, TableProblem> {
    std::str::from_utf8(field).map(str::trim).map_err(|_| TableProblem::NotUtf8)
}

fn csv_fault(error: csv::Error) -> Fault {
    let line = error.position().map(csv::Position::line);
    match error.into_kind() {
        ErrorKind::Io(error) => (None, TableProblem::Unreadable(error.to_string())),
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            (line, TableProblem::Fields { found: len, columns: expected_len })
        }
        other => (line, TableProblem::Unreadable(format!("{other:?}"))),
    }
}
