//! One file while it is read: it collects everything that is wrong and keeps
//! secrets out of what is shown.

use std::cell::RefCell;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::Source;
use super::error::{ConfigError, Meanwhile, Place};
use super::hidden::{possible_secret_in_line, possible_secrets};

/// Bytes of the file.
pub type Span = Range<usize>;

/// Longest excerpt of a line, in characters.
const EXCERPT: usize = 100;
/// What of a longer line is shown before the marked place.
const BEFORE: usize = 40;

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

/// Where the last of `keys` is that the text has, each in the table of the one
/// before. Nobody knows any more what was read as a secret, so everything that
/// may be one is hidden.
pub fn place_of_keys(text: &str, keys: &[&str]) -> Option<Place> {
    let root = DeTable::parse(text).ok()?;
    let mut table = Some(root.get_ref());
    let mut found = None;
    for key in keys {
        let Some((key, value)) = table.and_then(|table| table.get_key_value(*key)) else { break };
        found = Some(key.span());
        table = match value.get_ref() {
            DeValue::Table(table) => Some(table),
            _ => None,
        };
    }
    found.map(|span| place(text, &span, &possible_secrets(root.get_ref(), text)))
}

/// Where `span` begins, and the line there with `secrets` hidden.
fn place(text: &str, span: &Span, secrets: &[Span]) -> Place {
    let start = floor(text, span.start);
    let Span { start: line_start, end: line_end } = line_of(text, start);
    let line = &text[line_start..line_end];
    let end = span.end.clamp(start, line_end.max(start));

    let mut shown = Vec::new();
    let mut marked = None;
    let mut marked_end = None;
    let mut in_secret = false;
    for (offset, c) in line.char_indices() {
        let at = line_start + offset;
        let secret = secrets.iter().any(|s| s.contains(&at));
        if secret && !in_secret {
            shown.extend("***".chars());
        }
        in_secret = secret;
        let here = if secret { shown.len() - 3 } else { shown.len() };
        if at >= start && marked.is_none() {
            marked = Some(here);
        }
        if at >= end && marked_end.is_none() {
            marked_end = Some(here);
        }
        if !secret {
            // One column each, so that the marker stands below its place.
            shown.push(if c.is_control() { ' ' } else { c });
        }
    }
    let mut from = marked.unwrap_or(shown.len());
    let mut to = marked_end.unwrap_or(shown.len()).max(from + 1);
    if shown.len() > EXCERPT {
        let cut = from.saturating_sub(BEFORE).min(shown.len() - EXCERPT);
        let more = shown.len() > cut + EXCERPT;
        shown = shown.into_iter().skip(cut).take(EXCERPT).collect();
        if more {
            shown.push('…');
        }
        (from, to) = (from - cut, (to - cut).min(EXCERPT));
        if cut > 0 {
            shown.insert(0, '…');
            (from, to) = (from + 1, to + 1);
        }
    }
    Place {
        line: text[..start].matches('\n').count() + 1,
        column: text[line_start..start].chars().count() + 1,
        text: shown.into_iter().collect::<String>().trim_end().to_owned(),
        marker: from..to.max(from + 1),
    }
}

/// The bytes of the line around `at`, without its end.
fn line_of(text: &str, at: usize) -> Span {
    let at = floor(text, at);
    let start = text[..at].rfind('\n').map_or(0, |n| n + 1);
    start..start + text[start..].lines().next().unwrap_or_default().len()
}

/// The last character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|n| text.is_char_boundary(*n)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    // One secret in a place is a list of one range, not the range's numbers.
    #![allow(clippy::single_range_in_vec_init)]
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn marks_the_place() {
        let found = place("a = 1\nbé = \"x\"\n", &(12..15), &[]);
        assert_eq!((found.line, found.column), (2, 6));
        assert_eq!((found.text.as_str(), found.marker), ("bé = \"x\"", 5..8));
        let end = place("a = ", &(4..4), &[]);
        assert_eq!((end.line, end.column, end.marker), (1, 5, 4..5));
    }

    #[test]
    fn hides_secrets_and_keeps_the_marker_right() {
        let text = "{ p = 'hidden', q = 1 }";
        let found = place(text, &(16..17), std::slice::from_ref(&(6..14)));
        assert_eq!((found.text.as_str(), found.marker), ("{ p = ***, q = 1 }", 11..12));
        assert_eq!(found.column, 17);
        let inside = place(text, &(6..14), std::slice::from_ref(&(6..14)));
        assert_eq!(inside.marker, 6..9);
    }

    #[test]
    fn finds_keys_again() {
        let text = "a = 1\n[b]\nc.d = 2\n";
        let line = |keys: &[&str]| place_of_keys(text, keys).map(|place| (place.line, place.column));
        assert_eq!(line(&["b", "c", "d"]), Some((3, 3)));
        assert_eq!(line(&["b", "x"]), Some((2, 2)));
        assert_eq!(line(&["a", "x"]), Some((1, 1)));
        assert_eq!(line(&["x"]), None);
        assert_eq!(place_of_keys("a =", &["a"]), None);
    }

    #[test]
    fn keys_that_are_found_again_show_no_secrets() {
        let text = |text: &str| place_of_keys(text, &["d"]).unwrap().text;
        assert_eq!(text("d.headers.Authorization = 'x'\n"), "d.headers.Authorization = ***");
        assert_eq!(text("d = { a = 'b', password = 'x' }\n"), "d = { a = 'b', password = *** }");
    }

    #[test]
    fn cuts_long_lines() {
        let text = format!("only = [{}]", "\"123456789\", ".repeat(50));
        let found = place(&text, &(320..331), &[]);
        assert_eq!(found.column, 321);
        assert_eq!(found.text.chars().count(), EXCERPT + 2);
        let marked: String = found.text.chars().skip(found.marker.start).take(found.marker.len()).collect();
        assert_eq!(marked, &text[320..331]);
    }

    proptest! {
        #[test]
        fn never_panics(text in "(.|\n){0,200}", a in 0usize..250, b in 0usize..250, secret in 0usize..250) {
            let found = place(&text, &(a..b), std::slice::from_ref(&(secret..secret + 5)));
            prop_assert!(!found.marker.is_empty() && found.marker.end <= EXCERPT + 2);
        }
    }
}
