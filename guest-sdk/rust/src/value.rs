//! One JSON value, kept as the text in which it came: numbers of any size and
//! any number of decimals survive, and what is only passed on is never parsed.

use std::borrow::Cow;
use std::fmt;

use serde_json::value::RawValue;

use crate::Field;
use crate::message::{fault, parse_object};

/// A JSON value, borrowed from the payload. The text is valid JSON.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Value<'a> {
    raw: &'a str,
}

/// The JSON type of a [`Value`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `null`
    Null,
    /// `true` or `false`
    Bool,
    /// A number of any size
    Number,
    /// A string
    String,
    /// A list
    Array,
    /// An object
    Object,
}

impl<'a> Value<'a> {
    /// `raw` must be one valid JSON value without space around it.
    pub(crate) fn new(raw: &'a str) -> Self {
        Self { raw }
    }

    /// One JSON value that the script wrote itself; none if it is not valid, or
    /// if no message could have it, by its depth or its number of fields.
    pub fn parse(raw: &'a str) -> Option<Self> {
        let value: &RawValue = serde_json::from_str(raw).ok()?;
        let value = Self::new(value.get());
        fault(value, true).is_none().then_some(value)
    }

    /// The value as it stands in the payload, byte for byte.
    pub fn raw(self) -> &'a str {
        self.raw
    }

    /// Its JSON type.
    pub fn kind(self) -> Kind {
        match self.raw.as_bytes().first() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            Some(b't' | b'f') => Kind::Bool,
            Some(b'n') | None => Kind::Null,
            Some(_) => Kind::Number,
        }
    }

    /// Whether it is `null`.
    pub fn is_null(self) -> bool {
        self.kind() == Kind::Null
    }

    /// The content of a string. Borrowed unless it has escapes.
    pub fn as_str(self) -> Option<Cow<'a, str>> {
        let inner = self.raw.strip_prefix('"')?.strip_suffix('"')?;
        if !inner.as_bytes().contains(&b'\\') {
            return Some(Cow::Borrowed(inner));
        }
        serde_json::from_str::<String>(self.raw).ok().map(Cow::Owned)
    }

    /// A number without fraction that fits 64 bits; `5.0` and `5e0` count.
    pub fn as_i64(self) -> Option<i64> {
        if self.kind() != Kind::Number {
            return None;
        }
        match self.raw.parse() {
            Ok(number) => Some(number),
            // Beyond 2^53 a double cannot vouch for the digits.
            Err(_) => self.as_f64().filter(|n| n.fract() == 0.0 && n.abs() <= 9_007_199_254_740_992.0).map(
                #[allow(clippy::cast_possible_truncation)]
                |n| n as i64,
            ),
        }
    }

    /// As [`Self::as_i64`], for numbers from zero up.
    pub fn as_u64(self) -> Option<u64> {
        match self.raw.parse() {
            Ok(number) => Some(number),
            Err(_) => self.as_i64().and_then(|n| u64::try_from(n).ok()),
        }
    }

    /// A number as a double; none when it is beyond the range of doubles.
    pub fn as_f64(self) -> Option<f64> {
        if self.kind() != Kind::Number {
            return None;
        }
        self.raw.parse().ok().filter(|n: &f64| n.is_finite())
    }

    /// A boolean.
    pub fn as_bool(self) -> Option<bool> {
        match self.raw {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }

    /// The fields of an object, in its order (a key that it has twice is there
    /// once, with its last value); empty for any other type.
    pub fn fields(self) -> Vec<Field<'a>> {
        match self.kind() {
            // Never fails: what has a fault does not become a value.
            Kind::Object => parse_object(self.raw).unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// The elements of a list; empty for any other type.
    pub fn elements(self) -> Vec<Self> {
        let elements: Vec<&RawValue> = match self.kind() {
            Kind::Array => serde_json::from_str(self.raw).unwrap_or_default(),
            _ => Vec::new(),
        };
        elements.into_iter().map(|element| Self::new(element.get())).collect()
    }

    /// What a template puts in its place: the content of a string, or the text
    /// of a number or boolean; none for the others.
    pub fn as_text(self) -> Option<Cow<'a, str>> {
        match self.kind() {
            Kind::String => self.as_str(),
            Kind::Number | Kind::Bool => Some(Cow::Borrowed(self.raw)),
            Kind::Null | Kind::Array | Kind::Object => None,
        }
    }
}

/// For error texts: the raw text, cut short.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 60;
        match self.raw.char_indices().nth(LONGEST) {
            Some((cut, _)) => write!(f, "{}...", self.raw.get(..cut).unwrap_or_default()),
            None => f.write_str(self.raw),
        }
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Bool => "a boolean",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "a list",
            Self::Object => "an object",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_without_loss_or_not_at_all() {
        assert_eq!(Value::new("9223372036854775807").as_i64(), Some(i64::MAX));
        assert_eq!(Value::new("18446744073709551615").as_u64(), Some(u64::MAX));
        assert_eq!(Value::new("9223372036854775808").as_i64(), None);
        assert_eq!(Value::new("1e3").as_i64(), Some(1000));
        assert_eq!(Value::new("-0.0").as_i64(), Some(0));
        assert_eq!(Value::new("1.5").as_i64(), None);
        assert_eq!(Value::new("1e400").as_f64(), None);
        assert_eq!(Value::new("\"5\"").as_f64(), None);
        assert_eq!(Value::new("-1").as_u64(), None);
    }

    #[test]
    fn strings_are_borrowed_unless_escaped() {
        assert!(matches!(Value::new("\"abc\"").as_str(), Some(Cow::Borrowed("abc"))));
        assert_eq!(Value::new(r#""a\"\u00e9""#).as_str().as_deref(), Some("a\"\u{e9}"));
        assert_eq!(Value::new("12").as_str(), None);
    }

    #[test]
    fn only_valid_text_becomes_a_value() {
        assert_eq!(Value::parse(" [1] ").map(Value::raw), Some("[1]"));
        assert_eq!(Value::parse("[1"), None);
        assert_eq!(Value::parse(""), None);
    }

    #[test]
    fn nested_values_come_apart_in_order() {
        let fields = Value::new(r#"{"b":[1,{"x":null}],"a":2,"b":[3, 4]}"#).fields();
        let names: Vec<&str> = fields.iter().map(|field| field.key.as_ref()).collect();
        assert_eq!(names, ["b", "a"]);
        let elements: Vec<&str> = fields[0].value.elements().iter().map(|element| element.raw()).collect();
        assert_eq!(elements, ["3", "4"]);
        assert!(Value::new("[1]").fields().is_empty());
        assert!(Value::new("{}").elements().is_empty());
    }

    #[test]
    fn long_values_are_cut_in_errors() {
        let long = format!("\"{}\"", "\u{e9}".repeat(100));
        assert_eq!(Value::new(&long).to_string(), format!("\"{}...", "\u{e9}".repeat(59)));
    }
}
