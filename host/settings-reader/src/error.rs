//! What is wrong with a configuration, told so that it can be put right
//! without a manual.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::document::place_of_keys;

/// One thing that is wrong. Its text is stable, has no colours, ends without a
/// line end, and never shows a secret:
///
/// ```text
/// streams/acme.toml:3:1: unknown key `topic`
///   3 | topic = ["a/+"]
///     | ^^^^^
///   expected: `topics`
///   meanwhile: stream `acme` is blocked, the others run
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// Where in it, if one place can be named.
    pub place: Option<Place>,
    /// What is wrong, one line.
    pub what: String,
    /// What was expected or meant.
    pub expected: String,
    /// What keeps running.
    pub meanwhile: Meanwhile,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The line, with secrets hidden; an excerpt of a long one.
    pub text: String,
    /// Which characters of `text` are meant; at least one.
    pub marker: Range<usize>,
}

/// What keeps running while an error stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meanwhile {
    /// The gateway does not start.
    NothingRuns,
    /// This stream is blocked, the others run.
    OthersRun(String),
    /// This stream tries again until it succeeds, the others run.
    StreamRetries(String),
    /// The gateway runs and tries again until the bus lets it in.
    BusRetries,
    /// Nothing of the change is taken over.
    NothingChanges,
}

/// All errors of a configuration; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigError {
    /// An error that was found later than the file was read. `keys` lead to its
    /// place from the root of the file; where one is missing, the place is the
    /// table that lacks it.
    pub fn found_later(
        file: &Path,
        keys: &[&str],
        what: impl Into<String>,
        expected: impl Into<String>,
        meanwhile: Meanwhile,
    ) -> Self {
        let place = std::fs::read_to_string(file).ok().and_then(|text| place_of_keys(&text, keys));
        Self { file: file.to_owned(), place, what: what.into(), expected: expected.into(), meanwhile }
    }

    /// The error on one line, for a list of blocked streams.
    pub fn summary(&self) -> String {
        let at = self.place.as_ref().map(|p| format!(":{}:{}", p.line, p.column)).unwrap_or_default();
        format!("{}{at}: {}; expected: {}", self.file.display(), self.what, self.expected)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match &self.place {
            None => writeln!(f, "{file}: {}", self.what)?,
            Some(place) => {
                let number = place.line.to_string();
                let margin = " ".repeat(number.len());
                let indent = " ".repeat(place.marker.start);
                let marker = "^".repeat(place.marker.len());
                writeln!(f, "{file}:{}:{}: {}", place.line, place.column, self.what)?;
                writeln!(f, "  {number} | {}", place.text)?;
                writeln!(f, "  {margin} | {indent}{marker}")?;
            }
        }
        writeln!(f, "  expected: {}", self.expected)?;
        write!(f, "  meanwhile: {}", self.meanwhile)
    }
}

impl fmt::Display for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NothingRuns => f.write_str("the gateway will not start"),
            Self::OthersRun(stream) => write!(f, "stream `{stream}` is blocked, the others run"),
            Self::StreamRetries(stream) => {
                write!(f, "stream `{stream}` sends nothing and keeps retrying, the others run")
            }
            Self::NothingChanges => f.write_str("no change applied; the running configuration is kept"),
            Self::BusRetries => f.write_str("the gateway receives nothing and keeps retrying"),
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
impl std::error::Error for ConfigErrors {}
