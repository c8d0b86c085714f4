//! How dotted parameter names are written as JSON keys.

use std::ops::Range;

use serde::Deserialize;

use crate::message::Marks;
use crate::{Field, Reject, Result, Value, json};

/// The setting `notation`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Notation {
    /// `"position.speed"`, as flespi names it.
    #[default]
    Dots,
    /// `"position_speed"`
    Underscores,
    /// `{"position": {"speed": ...}}`
    Nested,
    /// `"PositionSpeed"`
    Pascal,
}

impl Notation {
    /// Appends the fields as one JSON object. Two fields that would share a
    /// key are a rejection, since one of them would be lost. In nested
    /// notation a field stays dotted where a part of its name is a field
    /// itself: `{"din": 3, "din.1": true}`.
    pub fn write_object(self, out: &mut Vec<u8>, fields: &[Field<'_>]) -> Result<()> {
        self.write_object_with(out, fields, |out, value| {
            out.extend_from_slice(value.raw().as_bytes());
            Ok(())
        })
    }

    /// As [`Self::write_object`], with values written by `write`.
    pub fn write_object_with(
        self,
        out: &mut Vec<u8>,
        fields: &[Field<'_>],
        mut write: impl FnMut(&mut Vec<u8>, Value<'_>) -> Result<()>,
    ) -> Result<()> {
        out.push(b'{');
        match self {
            Self::Dots => {
                names(fields)?;
                for field in fields {
                    json::write_key(out, &field.key);
                    write(out, field.value)?;
                }
            }
            Self::Underscores | Self::Pascal => self.write_converted(out, fields, &mut write)?,
            Self::Nested => write_nested(out, &nest(fields)?, fields, &mut write)?,
        }
        out.push(b'}');
        Ok(())
    }

    /// The key for a field in this notation; in nested notation unchanged.
    pub fn key(self, name: &str) -> String {
        let mut key = String::new();
        self.convert(&mut key, name);
        key
    }

    fn write_converted(
        self,
        out: &mut Vec<u8>,
        fields: &[Field<'_>],
        write: &mut impl FnMut(&mut Vec<u8>, Value<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut key = String::new();
        let mut seen = Marks::default();
        let mut written: Vec<Range<usize>> = Vec::with_capacity(fields.len());
        for (number, field) in fields.iter().enumerate() {
            if number > 0 {
                out.push(b',');
            }
            key.clear();
            self.convert(&mut key, &field.key);
            let start = out.len();
            json::write_str(out, &key);
            let place = start..out.len();
            let again = |other: &Range<usize>| out.get(other.clone()) == out.get(place.clone());
            if seen.maybe(key.as_bytes()) && written.iter().any(again) {
                return Err(Reject::new(format!(
                    "two fields, one of them `{}`, would become the key `{key}`",
                    field.key
                )));
            }
            seen.add(key.as_bytes());
            written.push(place);
            out.push(b':');
            write(out, field.value)?;
        }
        Ok(())
    }

    fn convert(self, key: &mut String, name: &str) {
        match self {
            Self::Dots | Self::Nested => key.push_str(name),
            Self::Underscores => {
                for (number, part) in name.split('.').enumerate() {
                    key.push_str(if number > 0 { "_" } else { "" });
                    key.push_str(part);
                }
            }
            Self::Pascal => {
                for part in name.split(['.', '_', '-']) {
                    let mut chars = part.chars();
                    key.extend(chars.next().into_iter().flat_map(char::to_uppercase));
                    key.push_str(chars.as_str());
                }
            }
        }
    }
}

/// The names of the fields, if no two are the same.
fn names(fields: &[Field<'_>]) -> Result<Marks> {
    let mut names = Marks::default();
    for (number, field) in fields.iter().enumerate() {
        let again = |other: &Field<'_>| other.key == field.key;
        if names.maybe(field.key.as_bytes()) && fields.iter().take(number).any(again) {
            return Err(Reject::new(format!("two fields would become the key `{}`", field.key)));
        }
        names.add(field.key.as_bytes());
    }
    Ok(names)
}

// nested

/// Names deeper than this keep the rest of their dots.
const DEEPEST: usize = 32;

/// A key on its level: a field of the message by number, or an object.
struct Node<'n> {
    key: &'n str,
    content: Content<'n>,
}

enum Content<'n> {
    Field(usize),
    Object(Vec<Node<'n>>),
}

fn nest<'n>(fields: &'n [Field<'_>]) -> Result<Vec<Node<'n>>> {
    let names = names(fields)?;
    let is_field = |name: &str| names.maybe(name.as_bytes()) && fields.iter().any(|field| field.key == name);
    let mut root = Vec::with_capacity(fields.len());
    for (number, field) in fields.iter().enumerate() {
        let parts = if splits(&field.key, is_field) { DEEPEST } else { 1 };
        insert(&mut root, &field.key, parts, number);
    }
    Ok(root)
}

/// Whether a name can be taken apart: no part of it is empty, as in `a..b`,
/// and what comes before a dot is no field itself.
fn splits(name: &str, is_field: impl Fn(&str) -> bool) -> bool {
    let mut after_dot = true;
    for (at, byte) in name.bytes().enumerate() {
        let dot = byte == b'.';
        if dot && (after_dot || name.get(..at).is_some_and(&is_field)) {
            return false;
        }
        after_dot = dot;
    }
    !after_dot
}

/// Puts a field below the objects that its first parts name.
fn insert<'n>(level: &mut Vec<Node<'n>>, key: &'n str, parts: usize, number: usize) {
    if parts > 1
        && let Some((part, rest)) = key.split_once('.')
        && let Some(inner) = object_in(level, part)
    {
        return insert(inner, rest, parts - 1, number);
    }
    level.push(Node { key, content: Content::Field(number) });
}

/// The object of this key on the level, made if it is not there yet. Mostly
/// it is the last one: devices send the fields of a group together.
fn object_in<'l, 'n>(level: &'l mut Vec<Node<'n>>, key: &'n str) -> Option<&'l mut Vec<Node<'n>>> {
    let is_it = |node: &Node<'_>| node.key == key && matches!(node.content, Content::Object(_));
    let at = level.iter().rposition(is_it).unwrap_or_else(|| {
        level.push(Node { key, content: Content::Object(Vec::with_capacity(8)) });
        level.len() - 1
    });
    match &mut level.get_mut(at)?.content {
        Content::Object(inner) => Some(inner),
        Content::Field(_) => None,
    }
}

fn write_nested(
    out: &mut Vec<u8>,
    level: &[Node<'_>],
    fields: &[Field<'_>],
    write: &mut impl FnMut(&mut Vec<u8>, Value<'_>) -> Result<()>,
) -> Result<()> {
    for node in level {
        json::write_key(out, node.key);
        match &node.content {
            Content::Field(number) => {
                if let Some(field) = fields.get(*number) {
                    write(out, field.value)?;
                }
            }
            Content::Object(inner) => {
                out.push(b'{');
                write_nested(out, inner, fields, write)?;
                out.push(b'}');
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::message::parse_object;

    fn written(notation: Notation, text: &str) -> Result<String> {
        let mut out = Vec::new();
        notation.write_object(&mut out, &parse_object(text).unwrap())?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn each_notation() {
        let text = r#"{"ident":"a","position.speed":5.50,"din":3,"din.1":true,"position.valid":null,"x.y.z":[ 1 ],"..":1}"#;
        let table = [
            (
                Notation::Dots,
                r#"{"ident":"a","position.speed":5.50,"din":3,"din.1":true,"position.valid":null,"x.y.z":[ 1 ],"..":1}"#,
            ),
            (
                Notation::Underscores,
                r#"{"ident":"a","position_speed":5.50,"din":3,"din_1":true,"position_valid":null,"x_y_z":[ 1 ],"__":1}"#,
            ),
            (
                Notation::Pascal,
                r#"{"Ident":"a","PositionSpeed":5.50,"Din":3,"Din1":true,"PositionValid":null,"XYZ":[ 1 ],"":1}"#,
            ),
            (
                Notation::Nested,
                r#"{"ident":"a","position":{"speed":5.50,"valid":null},"din":3,"din.1":true,"x":{"y":{"z":[ 1 ]}},"..":1}"#,
            ),
        ];
        for (notation, expected) in table {
            assert_eq!(written(notation, text).unwrap(), expected, "{notation:?}");
        }
        assert_eq!(written(Notation::Nested, "{}").unwrap(), "{}");
    }

    #[test]
    fn no_field_is_lost_to_another() {
        let reject = written(Notation::Underscores, r#"{"a.b":1,"a_b":2}"#).unwrap_err();
        assert_eq!(reject.reason(), "two fields, one of them `a_b`, would become the key `a_b`");
        assert!(written(Notation::Pascal, r#"{"a":1,"A":2}"#).is_err());
        assert_eq!(
            written(Notation::Nested, r#"{"a.b.c":1,"a.b":2}"#).unwrap(),
            r#"{"a.b.c":1,"a":{"b":2}}"#
        );
        let field = |key: &'static str, value| Field { key: key.into(), value: Value::new(value) };
        let twice = [field("a.b", "1"), field("c", "2"), field("a.b", "3")];
        for notation in [Notation::Dots, Notation::Nested] {
            let reject = notation.write_object(&mut Vec::new(), &twice).unwrap_err();
            assert_eq!(reject.reason(), "two fields would become the key `a.b`");
        }
    }

    /// The scalars in a document, and whether no object has a key twice.
    fn leaves(text: &str) -> usize {
        let fields = parse_object(text).unwrap();
        let keys = text.matches(':').count();
        assert_eq!(count_keys(&fields), keys, "a key is lost in {text}");
        fields
            .iter()
            .map(|field| if field.value.raw().starts_with('{') { leaves(field.value.raw()) } else { 1 })
            .sum()
    }

    fn count_keys(fields: &[Field<'_>]) -> usize {
        let inner = |field: &Field<'_>| match field.value.raw() {
            object if object.starts_with('{') => count_keys(&parse_object(object).unwrap()),
            _ => 0,
        };
        fields.iter().map(|field| 1 + inner(field)).sum()
    }

    proptest! {
        #[test]
        fn every_field_is_written_once_or_the_message_is_rejected(
            keys in prop::collection::hash_set("[ab](\\.[ab]{0,2}){0,3}", 0..12),
        ) {
            let fields: Vec<String> = keys.iter().map(|key| format!("\"{key}\":1")).collect();
            let text = format!("{{{}}}", fields.join(","));
            for notation in [Notation::Dots, Notation::Nested] {
                prop_assert_eq!(leaves(&written(notation, &text).unwrap()), keys.len());
            }
            for notation in [Notation::Underscores, Notation::Pascal] {
                let converted: std::collections::HashSet<_> = keys.iter().map(|key| notation.key(key)).collect();
                match written(notation, &text) {
                    Ok(text) => prop_assert_eq!(leaves(&text), keys.len()),
                    Err(_) => prop_assert!(converted.len() < keys.len()),
                }
            }
        }
    }
}
