//! One file while it is read: it collects everything that is wrong and keeps
//! secrets out of what is shown.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::error::{ConfigError, Meanwhile};
use super::hidden::{possible_secret_in_line, possible_secrets};
use super::place::{line_of, place};
pub use super::text::Span;
use super::values::Source;

/// What the files may ask the surroundings for.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// An environment variable.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Whether the files for TLS and the scripts are opened as well, as
    /// `check` does. A running gateway opens them when it connects, so that a
    /// file that comes late or is replaced needs no restart.
    pub thorough: bool,
    /// Whether an official adapter is the one that this binary brings along.
    /// A stream that has run goes on with the version that it has, with the
    /// settings of that one.
    pub embedded: bool,
    /// What a list of keys in a file of its own held when it was accepted;
    /// none: it is read.
    pub keys: Option<&'a [String]>,
}

/// The text of a file with what was found wrong so far.
pub struct Document<'a> {
    path: PathBuf,
    text: &'a str,
    meanwhile: Meanwhile,
    surroundings: Surroundings<'a>,
    found: RefCell<Vec<Found>>,
    secrets: RefCell<Vec<Span>>,
}

struct Found {
    span: Option<Span>,
    what: String,
    expected: String,
}

impl<'a> Document<'a> {
    /// Nothing is wrong yet.
    pub fn new(path: &Path, text: &'a str, meanwhile: Meanwhile, surroundings: Surroundings<'a>) -> Self {
        Self {
            path: path.to_owned(),
            text,
            meanwhile,
            surroundings,
            found: RefCell::default(),
            secrets: RefCell::default(),
        }
    }

    /// Reports something wrong; without a span it concerns the whole file.
    pub fn error(&self, span: Option<Span>, what: impl Into<String>, expected: impl Into<String>) {
        self.found.borrow_mut().push(Found { span, what: what.into(), expected: expected.into() });
    }

    /// Reports what TOML itself found.
    pub fn syntax_errors(&self, errors: &[toml::de::Error]) {
        let mut last_line = None;
        for error in errors {
            let span = error.span();
            let line = span.as_ref().map(|span| line_of(self.text, span.start));
            // What follows on a line mostly follows from its first error.
            if line.is_some() && line == last_line {
                continue;
            }
            last_line.clone_from(&line);
            // Nothing has been read, so nothing is known of secrets but names.
            if let Some(line) = line {
                let above = self.text.get(..line.start).unwrap_or_default();
                let table = above.lines().rev().find(|line| line.trim_start().starts_with('['));
                let secret = possible_secret_in_line(self.source(&line), table.unwrap_or_default());
                if let Some(secret) = secret {
                    self.hide(line.start + secret.start..line.start + secret.end);
                }
            }
            self.error(span, format!("invalid TOML: {}", error.message()), "valid TOML, see toml.io");
        }
    }

    /// These bytes are not shown in any error.
    pub fn hide(&self, span: Span) {
        self.secrets.borrow_mut().push(span);
    }

    /// Nor is what may be a secret in `table`, the root of the file, whoever
    /// reads it.
    pub fn hide_secrets_of(&self, table: &DeTable<'_>) {
        self.secrets.borrow_mut().extend(possible_secrets(table, self.text));
    }

    /// Whether nothing is wrong so far.
    pub fn is_good(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// The surroundings that this file is read in.
    pub fn surroundings(&self) -> Surroundings<'a> {
        self.surroundings
    }

    /// The file's text at `span`.
    pub fn source(&self, span: &Span) -> &'a str {
        self.text.get(span.clone()).unwrap_or_default()
    }

    /// All of its text.
    pub fn whole(&self) -> Source {
        Source::new(self.text)
    }

    /// A path that the file names: relative to the folder of the file.
    pub fn resolve(&self, path: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }

    /// Everything that was found, in the order of the file; what concerns the
    /// whole file first.
    pub fn into_errors(self) -> Vec<ConfigError> {
        let mut found = self.found.take();
        found.sort_by_key(|f| f.span.as_ref().map_or(0, |span| span.start + 1));
        let secrets = self.secrets.take();
        found
            .into_iter()
            .map(|f| ConfigError {
                file: self.path.clone(),
                place: f.span.map(|span| place(self.text, &span, &secrets)),
                what: f.what,
                expected: f.expected,
                meanwhile: self.meanwhile.clone(),
            })
            .collect()
    }
}
