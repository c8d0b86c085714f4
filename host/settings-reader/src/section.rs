//! Reading a table of a file key by key: wrong types, wrong values and unknown
//! keys are reported to the [`Document`], the reader gets what is usable.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::{Document, Span};
use super::units::{UrlError, parse_duration, parse_size, show_duration, show_size};
use super::{ClientIdentity, Secret, SecretError, TlsSettings, tls};

const CA: &str = "a PEM file with the certificate authorities to trust";
const CERT: &str = "a PEM file with the client certificate and its chain";
const KEY: &str = "a PEM file with the private key of `cert` (PKCS#8, PKCS#1 or SEC1, not encrypted)";

/// A value with its place.
#[derive(Clone, Debug)]
pub struct Given<T> {
    /// The value.
    pub value: T,
    /// Where the file says so.
    pub span: Span,
}

/// A table being read. Every key that is asked for is a known one;
/// [`Section::finish`] reports the others.
pub struct Section<'d> {
    doc: &'d Document<'d>,
    name: String,
    span: Option<Span>,
    table: Option<&'d DeTable<'d>>,
    known: Vec<&'static str>,
    /// That the table is missing has been said; that its keys are need not be.
    absence_reported: bool,
}

/// Whether a secret may stand in the file as plain text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Plain {
    /// A user name, a header.
    Allowed,
    /// A password: by reference only.
    Refused,
}

/// Whether the address next to `ca`, `cert` and `key` makes use of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TlsUse {
    /// It does.
    Yes,
    /// The address would have to begin with this to do so.
    OnlyWith(&'static str),
    /// The address is unusable itself, so nothing can be said.
    Unknown,
}

impl<'d> Section<'d> {
    /// The keys of the file outside all tables.
    pub fn root(doc: &'d Document<'d>, table: &'d DeTable<'d>) -> Self {
        doc.hide_secrets_of(table);
        Self {
            doc,
            name: String::new(),
            span: None,
            table: Some(table),
            known: Vec::new(),
            absence_reported: false,
        }
    }

    /// The file.
    pub fn doc(&self) -> &'d Document<'d> {
        self.doc
    }

    /// Where the table's name is; none for the root and where it is missing.
    pub fn span(&self) -> Option<Span> {
        self.span.clone()
    }

    /// Keys and values in the order of the file.
    pub fn entries(&self) -> impl Iterator<Item = (Given<&'d str>, &'d Spanned<DeValue<'d>>)> + use<'d> {
        self.table.into_iter().flat_map(|t| {
            t.iter().map(|(key, value)| (Given { value: key.get_ref().as_ref(), span: key.span() }, value))
        })
    }

    /// The value of a key, of any type.
    pub fn value(&mut self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.known.push(key);
        self.table?.get(key)
    }

    /// Where the value of a key is; asking does not make the key a known one.
    pub fn value_span(&self, key: &str) -> Option<Span> {
        self.table?.get(key).map(Spanned::span)
    }

    /// Where a key is.
    fn key_span(&self, key: &str) -> Option<Span> {
        self.table?.get_key_value(key).map(|(key, _)| key.span())
    }

    /// A table below this one.
    pub fn section(&mut self, key: &'static str) -> Section<'d> {
        let name = if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) };
        let span = self.key_span(key);
        let table = self.value(key).and_then(|value| match value.get_ref() {
            DeValue::Table(table) => Some(table),
            other => {
                self.wrong_type(key, value.span(), other, &format!("a table: `[{name}]`"));
                None
            }
        });
        Section { doc: self.doc, name, span, table, known: Vec::new(), absence_reported: false }
    }

    /// The tables below this one, whose names are free.
    pub fn sections(&self) -> impl Iterator<Item = (Given<&'d str>, Section<'d>)> {
        self.entries().filter_map(|(key, value)| {
            let name = format!("{}.{}", self.name, key.value);
            let DeValue::Table(table) = value.get_ref() else {
                let expected = format!("a table: `[{name}]`");
                self.wrong_type(key.value, value.span(), value.get_ref(), &expected);
                return None;
            };
            let span = Some(key.span.clone());
            let (doc, table, known) = (self.doc, Some(table), Vec::new());
            Some((key, Section { doc, name, span, table, known, absence_reported: false }))
        })
    }

    /// A table that has to be there.
    pub fn table(&mut self, key: &'static str, expected: &str) -> Section<'d> {
        if self.value(key).is_none() {
            self.doc.error(None, format!("`[{key}]` is missing"), expected);
        }
        let mut section = self.section(key);
        section.absence_reported = true;
        section
    }

    /// Text.
    pub fn text(&mut self, key: &'static str, expected: &str) -> Option<Given<&'d str>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(Given { value: text.as_ref(), span: value.span() }),
            other => {
                self.wrong_type(key, value.span(), other, expected);
                None
            }
        }
    }

    /// Text that has to be there.
    pub fn required(&mut self, key: &'static str, expected: &str) -> Option<Given<&'d str>> {
        if self.table.is_some_and(|t| t.get(key).is_none()) || (self.table.is_none() && self.span.is_none()) {
            self.missing(key, expected);
        }
        self.text(key, expected)
    }

    /// Reports that `key` is missing.
    pub fn missing(&self, key: &str, expected: &str) {
        if self.absence_reported && self.table.is_none() {
            return;
        }
        let what = match &*self.name {
            "" => format!("`{key}` is missing"),
            name => format!("`{key}` is missing in `[{name}]`"),
        };
        self.doc.error(self.span.clone(), what, expected);
    }

    /// Text that `read` turns into a value; `expected` says what it accepts.
    pub fn parsed<T, E: fmt::Display>(
        &mut self,
        key: &'static str,
        expected: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<Given<T>> {
        let text = self.text(key, expected)?;
        match read(text.value) {
            Ok(value) => Some(Given { value, span: text.span }),
            Err(wrong) => {
                self.doc.error(Some(text.span), wrong.to_string(), expected);
                None
            }
        }
    }

    /// An address; a password in it is not shown.
    pub fn url<T>(
        &mut self,
        key: &'static str,
        default: Option<&'static str>,
        expected: &str,
        read: impl FnOnce(&str) -> Result<T, UrlError>,
    ) -> Option<Given<T>> {
        let text = match default {
            None => self.required(key, expected)?,
            Some(default) => match self.value(key) {
                None => Given { value: default, span: self.span.clone().unwrap_or(0..0) },
                Some(_) => self.text(key, expected)?,
            },
        };
        // A query may be a token.
        if let Some(query) = self.doc.source(&text.span).find('?') {
            self.doc.hide(text.span.start + query + 1..text.span.end.saturating_sub(1));
        }
        match read(text.value) {
            Ok(value) => Some(Given { value, span: text.span }),
            Err(wrong) => {
                let mut expected = expected.to_owned();
                if text.value.contains('@') {
                    self.doc.hide(text.span.clone());
                    expected.push_str("; set the login with separate keys");
                }
                self.doc.error(Some(text.span), format!("`{key}` {wrong}"), expected);
                None
            }
        }
    }

    /// A whole number within `range`.
    pub fn number(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<Given<u64>> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let value = self.value(key)?;
        let DeValue::Integer(integer) = value.get_ref() else {
            self.wrong_type(key, value.span(), value.get_ref(), &expected);
            return None;
        };
        match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if range.contains(&number) => Some(Given { value: number, span: value.span() }),
            _ => {
                self.doc.error(Some(value.span()), format!("`{key}` is {integer}"), expected);
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            other => {
                self.wrong_type(key, value.span(), other, "true or false");
                None
            }
        }
    }

    /// A duration within `range`.
    pub fn duration(&mut self, key: &'static str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let expected = format!(
            "a duration from {} to {}, as text: \"500ms\", \"30s\", \"5m\", \"2h\", \"7d\"",
            show_duration(*range.start()),
            show_duration(*range.end()),
        );
        let given = self.parsed(key, &expected, |text| {
            parse_duration(text).ok_or_else(|| format!("`{key}`: \"{text}\" is not a duration"))
        })?;
        if range.contains(&given.value) {
            return Some(given.value);
        }
        self.doc.error(Some(given.span), format!("`{key}` is {}", show_duration(given.value)), expected);
        None
    }

    /// A duration of whole seconds within `range`.
    pub fn whole_seconds(&mut self, key: &'static str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let duration = self.duration(key, range)?;
        if duration.subsec_millis() == 0 {
            return Some(duration);
        }
        let what = format!("`{key}` is {}", show_duration(duration));
        self.doc.error(self.value_span(key), what, "whole seconds: MQTT has no smaller unit here");
        None
    }

    /// A number of bytes within `range`.
    pub fn size(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let expected = format!(
            "a size from {} to {}, as text: \"512B\", \"128KiB\", \"64MiB\", \"1GiB\"",
            show_size(*range.start()),
            show_size(*range.end()),
        );
        let given = self.parsed(key, &expected, |text| {
            parse_size(text).ok_or_else(|| format!("`{key}`: \"{text}\" is not a size"))
        })?;
        if range.contains(&given.value) {
            return Some(given.value);
        }
        self.doc.error(Some(given.span), format!("`{key}` is {}", show_size(given.value)), expected);
        None
    }

    /// A path, relative to the folder of the file.
    pub fn path(&mut self, key: &'static str, expected: &str) -> Option<Given<PathBuf>> {
        let text = self.text(key, expected)?;
        if text.value.is_empty() {
            self.doc.error(Some(text.span), format!("`{key}` is empty"), expected);
            return None;
        }
        Some(Given { value: self.doc.resolve(text.value), span: text.span })
    }

    /// A secret.
    pub fn secret(&mut self, key: &'static str, plain: Plain) -> Option<Secret> {
        let value = self.value(key)?;
        self.read_secret(key, value, plain)
    }

    /// Reads a value as a secret: `{ env = "NAME" }`, `{ file = "path" }`, or
    /// text where that is allowed.
    pub fn read_secret(&self, key: &str, value: &'d Spanned<DeValue<'d>>, plain: Plain) -> Option<Secret> {
        const REFERENCE: &str = "a reference: { env = \"NAME\" } or { file = \"path\" }";
        let expected = match plain {
            Plain::Allowed => format!("text, or {REFERENCE}"),
            Plain::Refused => REFERENCE.to_owned(),
        };
        let (doc, span) = (self.doc, value.span());
        let reference = match value.get_ref() {
            DeValue::String(text) if plain == Plain::Allowed => {
                doc.hide(span.clone());
                if text.is_empty() {
                    doc.error(Some(span), format!("`{key}` is empty"), expected);
                    return None;
                }
                return Some(Secret::new(text));
            }
            DeValue::String(_) => {
                doc.hide(span.clone());
                doc.error(Some(span), format!("`{key}` is plain text"), expected);
                return None;
            }
            DeValue::Table(table) => table,
            other => {
                doc.hide(span.clone());
                self.wrong_type(key, span, other, &expected);
                return None;
            }
        };
        let mut entries = reference.iter().map(|(k, v)| (k.get_ref().as_ref(), v.get_ref().as_str()));
        let (kind, name) = match (entries.next(), entries.next()) {
            (Some((kind @ ("env" | "file"), Some(name))), None) => (kind, name),
            _ => {
                doc.hide(span.clone());
                doc.error(Some(span), format!("`{key}` is not a reference"), expected);
                return None;
            }
        };
        let read = if kind == "env" {
            let Some(text) = (doc.surroundings().env)(name) else {
                let what = format!("the environment variable `{name}` for `{key}` is not set");
                doc.error(Some(span), what, format!("`{name}` in the environment of the gateway"));
                return None;
            };
            let secret = Secret::new(&text);
            if secret.expose().is_empty() {
                Err(format!("the environment variable `{name}`"))
            } else {
                Ok(secret)
            }
        } else {
            match Secret::read(&doc.resolve(name)) {
                Err(SecretError::Empty(path)) => Err(format!("the file `{}`", path.display())),
                Err(error) => {
                    doc.error(
                        Some(span),
                        error.to_string(),
                        format!("a readable text file that contains `{key}`"),
                    );
                    return None;
                }
                Ok(secret) => Ok(secret),
            }
        };
        match read {
            Ok(secret) => Some(secret),
            Err(source) => {
                doc.error(Some(span), format!("{source} for `{key}` is empty"), "a secret that is not empty");
                None
            }
        }
    }

    /// `ca`, `cert` and `key`.
    pub fn tls(&mut self, usage: TlsUse) -> TlsSettings {
        let ca = self.path("ca", CA);
        let cert = self.path("cert", CERT);
        let key = self.path("key", KEY);
        if let TlsUse::OnlyWith(scheme) = usage {
            for name in ["ca", "cert", "key"] {
                if let Some(span) = self.key_span(name) {
                    self.doc.error(
                        Some(span),
                        format!("`{name}` is set, but `url` does not use TLS"),
                        format!("a `url` that begins with {scheme}"),
                    );
                }
            }
            return TlsSettings::default();
        }
        for (one, other, there) in [("cert", "key", cert.is_some()), ("key", "cert", key.is_some())] {
            if there && self.key_span(other).is_none() {
                let what = format!("`{one}` is set without `{other}`");
                self.doc.error(self.key_span(one), what, "both `cert` and `key`, or neither");
            }
        }
        let settings = TlsSettings {
            ca: ca.as_ref().map(|ca| ca.value.clone()),
            identity: match (&cert, &key) {
                (Some(cert), Some(key)) => {
                    Some(ClientIdentity { cert: cert.value.clone(), key: key.value.clone() })
                }
                _ => None,
            },
            ..TlsSettings::default()
        };
        if self.doc.surroundings().thorough && usage == TlsUse::Yes {
            self.try_tls(&settings);
        }
        settings
    }

    /// Reports what cannot be loaded, each at the key that names the file.
    fn try_tls(&self, settings: &TlsSettings) {
        for error in tls::problems(settings) {
            let identity = settings.identity.as_ref();
            let (key, expected) = match error.file() {
                Some(file) if identity.is_some_and(|i| i.key == file) => ("key", KEY),
                Some(file) if identity.is_some_and(|i| i.cert == file) => ("cert", CERT),
                _ => ("ca", CA),
            };
            let span = self.value_span(key).or(self.span.clone());
            self.doc.error(span, error.what(), expected);
        }
    }

    /// Reports `key`, if it is given, as one that does not belong here.
    pub fn refuse(&mut self, key: &'static str, what: &str, expected: &str) {
        if let Some(value) = self.value(key) {
            if sounds_secret(key) {
                self.doc.hide(value.span());
            }
            self.doc.error(self.key_span(key), what, expected);
        }
    }

    /// Reports a value of the wrong type.
    pub fn wrong_type(&self, key: &str, span: Span, value: &DeValue<'_>, expected: &str) {
        self.doc.error(Some(span), format!("`{key}` is {}", type_name(value)), expected);
    }

    /// Reports an entry of a list of the wrong type.
    pub fn wrong_entry(&self, key: &str, entry: &Spanned<DeValue<'_>>, expected: &str) {
        let what = format!("an entry of `{key}` is {}", type_name(entry.get_ref()));
        self.doc.error(Some(entry.span()), what, expected);
    }

    /// Reports the keys that nobody asked for.
    pub fn finish(self) {
        let mut known = self.known.clone();
        known.sort_unstable();
        known.dedup();
        for (key, value) in self.entries() {
            if known.contains(&key.value) {
                continue;
            }
            let nearest = nearest(key.value, &known);
            if [key.value].into_iter().chain(nearest).any(sounds_secret) {
                self.doc.hide(value.span());
            }
            let what = match &*self.name {
                "" => format!("unknown key `{}`", key.value),
                name => format!("unknown key `{}` in `[{name}]`", key.value),
            };
            let list = listed(&known);
            let expected = match nearest {
                Some(near) => format!("perhaps `{near}`; valid keys: {list}"),
                None => format!("one of {list}"),
            };
            self.doc.error(Some(key.span), what, expected);
        }
    }
}

/// A given number or the default.
pub fn number_or(given: Option<Given<u64>>, default: usize) -> usize {
    given.map_or(default, |given| usize::try_from(given.value).unwrap_or(usize::MAX))
}

/// What TOML calls the type, with its article.
pub fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The plain reason of a failed file operation, without the number.
pub fn io_reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::IsADirectory => "it is a folder".to_owned(),
        std::io::ErrorKind::InvalidData => "it is not UTF-8 text".to_owned(),
        _ => error.to_string(),
    }
}

/// `` `a`, `b`, `c` ``
pub fn listed(words: &[&str]) -> String {
    words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ")
}

/// The word that was probably meant.
pub fn nearest<'w>(text: &str, words: &[&'w str]) -> Option<&'w str> {
    let text = text.to_lowercase().replace('-', "_");
    let (distance, word) =
        words.iter().map(|word| (distance(&text, &word.replace('-', "_")), *word)).min_by_key(|(d, _)| *d)?;
    (distance <= (text.chars().count().max(word.len()) / 3).max(1)).then_some(word)
}

/// Letters to insert, remove, replace or swap with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (above[j] + usize::from(x != y)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

/// Whether a value under this name is better not shown.
pub fn sounds_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    ["pass", "header", "token", "secret", "auth", "cookie", "credential", "apikey", "api_key", "api-key"]
        .iter()
        .any(|word| name.contains(word))
}
