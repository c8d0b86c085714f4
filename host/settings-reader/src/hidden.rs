//! Values that may be secrets, by their name or their form.
//!
//! The reader of a key knows whether it is a secret and hides it. This module
//! covers values without a reader: the rest of a table whose `type` is wrong, a
//! header that is not a table, a file that is read again for a later error.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::text::{Span, sounds_secret};

/// The places in `text`, of which `table` is the root, that are better not
/// shown. References such as `{ env = "NAME" }` are.
pub fn possible_secrets(table: &DeTable<'_>, text: &str) -> Vec<Span> {
    let mut found = Vec::new();
    in_table(table, text, false, &mut found);
    found
}

/// The part of a line that could not be read which may be a secret. `table` is
/// the last line above it that names a table.
pub fn possible_secret_in_line(line: &str, table: &str) -> Option<Span> {
    let from = if may_be_secret(line) || sounds_secret(table) {
        line.find(['=', ':']).map_or(0, |separator| separator + 1)
    } else {
        in_address(line, 0).next()?.start
    };
    Some(from..line.len())
}

/// A user name is one: some brokers take a token there.
fn may_be_secret(name: &str) -> bool {
    sounds_secret(name) || name.to_lowercase().contains("user")
}

fn in_table(table: &DeTable<'_>, text: &str, secret: bool, found: &mut Vec<Span>) {
    for (key, value) in table {
        in_value(value, text, secret || may_be_secret(key.get_ref()), found);
    }
}

fn in_value(value: &Spanned<DeValue<'_>>, text: &str, secret: bool, found: &mut Vec<Span>) {
    match value.get_ref() {
        DeValue::Table(table) if secret && is_reference(table) => {}
        DeValue::Table(table) => in_table(table, text, secret, found),
        _ if secret => found.push(value.span()),
        DeValue::Array(entries) => {
            for entry in entries.iter() {
                in_value(entry, text, secret, found);
            }
        }
        DeValue::String(_) => {
            let span = value.span();
            let source = text.get(span.clone()).unwrap_or_default();
            found.extend(in_address(source, span.start));
        }
        _ => {}
    }
}

fn is_reference(table: &DeTable<'_>) -> bool {
    let mut entries = table.iter().map(|(key, value)| (key.get_ref().as_ref(), value.get_ref()));
    matches!((entries.next(), entries.next()), (Some(("env" | "file", DeValue::String(_))), None))
}

/// Login and query of an address, which begins at `start` in its file.
fn in_address(source: &str, start: usize) -> impl Iterator<Item = Span> {
    let host = source.find("://").map(|scheme| scheme + 3);
    let login = host.and_then(|host| Some(host..source.rfind('@').filter(|at| *at > host)?));
    // Without the quote at the end.
    let end = source.len().saturating_sub(1);
    let query = host.and_then(|_| Some(source.find('?')? + 1..end)).filter(|query| !query.is_empty());
    login.into_iter().chain(query).map(move |span| start + span.start..start + span.end)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// The text with what is hidden as `*`.
    fn shown(text: &str) -> String {
        let hidden = possible_secrets(DeTable::parse(text).unwrap().get_ref(), text);
        let secret = |at: usize| hidden.iter().any(|span| span.contains(&at));
        text.char_indices().map(|(at, c)| if secret(at) { '*' } else { c }).collect()
    }

    #[test]
    fn names_and_addresses_give_secrets_away() {
        for (text, expected) in [
            ("a = 'x'\nb = 1", "a = 'x'\nb = 1"),
            ("password = 'x'", "password = ***"),
            ("username = 'x'", "username = ***"),
            ("password = 12", "password = **"),
            ("d.headers.X = 'x'", "d.headers.X = ***"),
            ("d = { type = 'a', headers = { X = 'x' } }", "d = { type = 'a', headers = { X = *** } }"),
            ("headers = ['x']", "headers = *****"),
            ("token = { env = 'NAME' }", "token = { env = 'NAME' }"),
            ("token = { env = 'NAME', x = 'y' }", "token = { env = ******, x = *** }"),
            ("u = 'http://h/a?x'", "u = 'http://h/a?*'"),
            ("u = ['http://h/a?x']", "u = ['http://h/a?*']"),
            ("u = 'http://me:x@h/'", "u = 'http://****@h/'"),
            ("where = 'a ? b'", "where = 'a ? b'"),
        ] {
            assert_eq!(shown(text), expected);
        }
    }

    #[test]
    fn lines_that_are_no_toml() {
        for (line, table, expected) in [
            ("topics = [a", "[script]", None),
            ("password: x", "", Some(9..11)),
            ("password x", "", Some(0..10)),
            ("user = x", "", Some(6..8)),
            ("X-Key = x", "[destination.headers]", Some(7..9)),
            ("url = \"http://h?k=x", "[destination]", Some(16..19)),
            ("url = http://h", "[destination]", None),
        ] {
            assert_eq!(possible_secret_in_line(line, table), expected, "{line}");
        }
    }
}
