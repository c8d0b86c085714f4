//! Templates such as `fleet/{ident}/up`: `{name}` puts in a field of the
//! message, `{topic[N]}` level N of the topic that it came on (the first is 0),
//! `{table[name]}` what a lookup table has for that field (or, as
//! `{table[topic[N]]}`, for that level), `{{` and `}}` stand for braces.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;

use crate::{Message, Reject, Result, table};

/// A template, parsed when the settings are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Key(Key),
    /// What a table has for a key.
    Lookup {
        table: String,
        key: Key,
    },
}

/// What a message says itself.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Key {
    Field(String),
    TopicLevel(usize),
}

/// As it stands in a template.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(text) => f.write_str(text),
            Self::Key(key) => key.fmt(f),
            Self::Lookup { table, key } => write!(f, "{table}[{key}]"),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => f.write_str(name),
            Self::TopicLevel(level) => write!(f, "topic[{level}]"),
        }
    }
}

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts = parse(&text)?;
        Ok(Self { text, parts })
    }
}

impl Template {
    /// Parses a template, for defaults in code. A table that the stream does
    /// not define is an error.
    pub fn new(text: &str) -> Result<Self, String> {
        text.to_owned().try_into()
    }

    /// The template `{name}`, for defaults.
    pub fn field(name: &str) -> Self {
        Self { text: format!("{{{name}}}"), parts: vec![Part::Key(Key::Field(name.to_owned()))] }
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text between the fields, for checks of the settings.
    pub fn literals(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Literal(text) => Some(text.as_str()),
            Part::Key(_) | Part::Lookup { .. } => None,
        })
    }

    /// Checks a template of an MQTT topic: not empty, and no wildcard, control
    /// character or `$` at the beginning in its own text. For [`Script::check`].
    ///
    /// [`Script::check`]: crate::Script::check
    pub fn check_topic(&self) -> Result<(), String> {
        if self.parts.is_empty() {
            return Err("it is empty, expected a topic".to_owned());
        }
        if self.text.starts_with('$') {
            return Err("topics that begin with `$` are the broker's own".to_owned());
        }
        let wrong = |c: char| matches!(c, '+' | '#') || c.is_control();
        match self.literals().find(|text| text.contains(wrong)) {
            None => Ok(()),
            Some(text) => {
                Err(format!("{text:?} has a wildcard or control character, expected a topic to publish to"))
            }
        }
    }

    /// Fills the template in. A field that is missing, empty or no string,
    /// number or boolean is a rejection that names it.
    pub fn render(&self, message: &Message<'_>) -> Result<String> {
        self.render_with(message, |_| true, "")
    }

    /// Fills in a topic or a path: a value that would add a level, a wildcard
    /// or a control character is a rejection, as is a topic that begins with `$`.
    pub fn render_topic(&self, message: &Message<'_>) -> Result<String> {
        let safe = |c: char| !matches!(c, '/' | '+' | '#') && !c.is_control();
        let filled =
            self.render_with(message, safe, "a value without `/`, `+`, `#` and control characters")?;
        if filled.starts_with('$') {
            return Err(Reject::new(format!("template `{}`: {filled:?} begins with `$`", self.text)));
        }
        Ok(filled)
    }

    /// Fills the template in with values of which each character is `allowed`;
    /// `expected` says what is, for the reason of the rejection.
    pub fn render_with(
        &self,
        message: &Message<'_>,
        allowed: impl Fn(char) -> bool,
        expected: &str,
    ) -> Result<String> {
        let mut filled = String::with_capacity(self.text.len() + 24);
        for part in &self.parts {
            let value = match part {
                Part::Literal(text) => {
                    filled.push_str(text);
                    continue;
                }
                Part::Key(key) => self.key(message, key)?,
                Part::Lookup { table, key } => Cow::Owned(self.lookup(message, table, key, part)?),
            };
            if !value.chars().all(&allowed) {
                return Err(self.fault(part, &format!("is {value:?}, expected {expected}")));
            }
            filled.push_str(&value);
        }
        Ok(filled)
    }

    fn key<'a>(&self, message: &Message<'a>, key: &Key) -> Result<Cow<'a, str>> {
        match key {
            Key::Field(name) => {
                let value = message.present(name);
                let value = value.ok_or_else(|| self.fault(key, "is missing in the message"))?;
                match value.as_text() {
                    Some(text) if text.is_empty() => Err(self.fault(key, "is empty")),
                    Some(text) => Ok(text),
                    None => {
                        let what = format!("is {}, expected a string or a number", value.kind());
                        Err(self.fault(key, &what))
                    }
                }
            }
            Key::TopicLevel(level) => {
                let level = message.topic().split('/').nth(*level).filter(|text| !text.is_empty());
                level.map(Cow::Borrowed).ok_or_else(|| self.fault(key, "is missing in the topic"))
            }
        }
    }

    fn lookup(&self, message: &Message<'_>, table: &str, key: &Key, part: &Part) -> Result<String> {
        let key = self.key(message, key)?;
        match table::get(table, &key) {
            Some(value) if value.is_empty() => {
                Err(self.fault(part, &format!("is empty for the key {key:?}")))
            }
            Some(value) => Ok(value),
            None => {
                Err(Reject::new(format!("template `{}`: the table `{table}` has no key {key:?}", self.text)))
            }
        }
    }

    fn fault(&self, name: impl fmt::Display, what: &str) -> Reject {
        Reject::new(format!("template `{}`: `{name}` {what}", self.text))
    }
}

fn parse(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        literal.push_str(before);
        if let Some(after) = from.strip_prefix("{{").or_else(|| from.strip_prefix("}}")) {
            literal.push_str(from.get(..1).unwrap_or_default());
            rest = after;
            continue;
        }
        let inner = from.strip_prefix('{').ok_or("`}` without `{`; write `}}` for a brace")?;
        let (name, after) = inner.split_once('}').ok_or("`{` without `}`; write `{{` for a brace")?;
        if name.trim().is_empty() || name.contains('{') {
            return Err(format!("`{{{name}}}` names no field, expected for example `{{ident}}`"));
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(std::mem::take(&mut literal)));
        }
        parts.push(placeholder(name)?);
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Literal(literal));
    }
    Ok(parts)
}

/// What stands between the braces.
fn placeholder(name: &str) -> Result<Part, String> {
    let (table, inner) = match name.strip_suffix(']').and_then(|name| name.split_once('[')) {
        None | Some(("topic", _)) => return Ok(Part::Key(key(name)?)),
        Some(found) => found,
    };
    if table.trim().is_empty() || inner.trim().is_empty() {
        return Err(format!("`{{{name}}}`: expected a table and a field, for example `{{names[ident]}}`"));
    }
    table::check(table).map_err(|error| format!("`{{{name}}}`: {error}"))?;
    match key(inner)? {
        Key::Field(field) if field.ends_with(']') => {
            Err(format!("`{{{name}}}`: expected a field or a level of the topic in the brackets"))
        }
        key => Ok(Part::Lookup { table: table.to_owned(), key }),
    }
}

fn key(name: &str) -> Result<Key, String> {
    match name.strip_prefix("topic[").and_then(|level| level.strip_suffix(']')) {
        None => Ok(Key::Field(name.to_owned())),
        Some(level) => {
            let level = level.parse();
            level
                .map(Key::TopicLevel)
                .map_err(|_| format!("`{{{name}}}`: expected a number between the brackets"))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::RawMessage;

    fn render(template: &str, payload: &str) -> Result<String, String> {
        let raw = RawMessage {
            topic: "flespi/message/gw/devices/7".to_owned(),
            payload: payload.as_bytes().to_vec(),
            received_at: 0,
        };
        let message = Message::parse(0, &raw).unwrap();
        Template::new(template)?.render_topic(&message).map_err(|reject| reject.reason().to_owned())
    }

    #[test]
    fn topics_to_publish_to_have_no_wildcards() {
        let check = |text: &str| Template::new(text).unwrap().check_topic().is_ok();
        assert!(check("fleet/{ident}/up") && check("{ident}") && check("a/$b"));
        for wrong in ["", "fleet/+/{ident}", "{ident}/#", "$aws/{ident}", "a\nb"] {
            assert!(!check(wrong), "{wrong}");
        }
    }

    #[test]
    fn what_templates_become() {
        let payload = r#"{"ident":"86\u00e9","n":12345678901234567890,"b":true,"o":{"x":1},
            "e":"","position":{"speed":5.50},"null":null,"slash":"a/b","bell":"\u0007","dollar":"$"}"#;
        let table = [
            ("plain", Ok("plain")),
            ("", Ok("")),
            ("{ident}", Ok("86\u{e9}")),
            ("a/{ident}/b", Ok("a/86\u{e9}/b")),
            ("{n}{b}", Ok("12345678901234567890true")),
            ("{position.speed}", Ok("5.50")),
            ("{topic[4]}", Ok("7")),
            ("{{{n}}}", Ok("{12345678901234567890}")),
            ("x{gone}", Err("template `x{gone}`: `gone` is missing in the message")),
            ("{null}", Err("template `{null}`: `null` is missing in the message")),
            ("{e}", Err("template `{e}`: `e` is empty")),
            ("{o}", Err("template `{o}`: `o` is an object, expected a string or a number")),
            ("{topic[5]}", Err("template `{topic[5]}`: `topic[5]` is missing in the topic")),
            (
                "{slash}",
                Err(
                    "template `{slash}`: `slash` is \"a/b\", expected a value without `/`, `+`, `#` and control characters",
                ),
            ),
            ("{dollar}x", Err("template `{dollar}x`: \"$x\" begins with `$`")),
            (
                "{bell}",
                Err(
                    "template `{bell}`: `bell` is \"\\u{7}\", expected a value without `/`, `+`, `#` and control characters",
                ),
            ),
            ("{", Err("`{` without `}`; write `{{` for a brace")),
            ("a}", Err("`}` without `{`; write `}}` for a brace")),
            ("{}", Err("`{}` names no field, expected for example `{ident}`")),
            ("{topic[x]}", Err("`{topic[x]}`: expected a number between the brackets")),
            ("{names[ident]}", Ok("Truck 7")),
            ("a/{names[position.speed]}/{names[b]}", Ok("a/fast/on")),
            ("{names[topic[4]]}", Ok("seven")),
            (
                "{names[n]}",
                Err("template `{names[n]}`: the table `names` has no key \"12345678901234567890\""),
            ),
            ("{names[gone]}", Err("template `{names[gone]}`: `gone` is missing in the message")),
            ("{names[e]}", Err("template `{names[e]}`: `e` is empty")),
            ("{names[o]}", Err("template `{names[o]}`: `o` is an object, expected a string or a number")),
            ("{names[topic[9]]}", Err("template `{names[topic[9]]}`: `topic[9]` is missing in the topic")),
            (
                "{names[dollar]}",
                Err("template `{names[dollar]}`: `names[dollar]` is empty for the key \"$\""),
            ),
            (
                "{names[slash]}",
                Err(
                    "template `{names[slash]}`: `names[slash]` is \"x/+\", expected a value without `/`, `+`, `#` and control characters",
                ),
            ),
            (
                "{name[ident]}",
                Err(
                    "`{name[ident]}`: there is no table `name`, expected `[tables.name]` in the stream's file; there is `names`",
                ),
            ),
            ("{names[]}", Err("`{names[]}`: expected a table and a field, for example `{names[ident]}`")),
            ("{[ident]}", Err("`{[ident]}`: expected a table and a field, for example `{names[ident]}`")),
            (
                "{names[names[ident]]}",
                Err("`{names[names[ident]]}`: expected a field or a level of the topic in the brackets"),
            ),
            ("{names[topic[x]]}", Err("`{topic[x]}`: expected a number between the brackets")),
        ];
        table::clear();
        let rows = [
            ("86\u{e9}", "Truck 7"),
            ("5.50", "fast"),
            ("true", "on"),
            ("7", "seven"),
            ("a/b", "x/+"),
            ("$", ""),
        ];
        table::define("names", rows);
        for (template, expected) in table {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(render(template, payload), expected, "{template}");
        }
    }
}
