//! The key that order is kept by: messages of one key go to one lane.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Which part of a message is its key. Where a message does not have that
/// part, its topic is the key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeyRule {
    /// The whole topic.
    #[default]
    Topic,
    /// One level of the topic, counted from 0: `"topic[4]"`.
    TopicLevel(usize),
    /// A field of the JSON payload: text, a number, true or false.
    Field(String),
}

/// Why a text is no key rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRuleError {
    /// The empty text.
    #[error("an empty key")]
    Empty,
    /// Begins like a topic level and is none.
    #[error("`{0}` does not name a topic level")]
    Level(String),
}

impl KeyRule {
    /// Reads `topic`, `topic[4]` or the name of a field.
    pub fn new(text: &str) -> Result<Self, KeyRuleError> {
        if text.is_empty() {
            return Err(KeyRuleError::Empty);
        }
        if text == "topic" {
            return Ok(Self::Topic);
        }
        let Some(rest) = text.strip_prefix("topic[") else { return Ok(Self::Field(text.to_owned())) };
        rest.strip_suffix(']')
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok())
            .map(Self::TopicLevel)
            .ok_or_else(|| KeyRuleError::Level(text.to_owned()))
    }

    /// The key of a message. A field is what a script's template `{field}` is,
    /// or a script would keep the state of one key in the lane of another: text
    /// is unescaped, a number is its text in the payload (so that 64-bit
    /// identifiers stay whole), true and false are theirs; of a field that the
    /// payload has twice the last one counts; a dotted name finds the flat
    /// field first, then the nested one. Null, objects and arrays are no keys.
    pub fn extract<'a>(&self, topic: &'a str, payload: &'a [u8]) -> Cow<'a, str> {
        match self {
            Self::Topic => Cow::Borrowed(topic),
            Self::TopicLevel(level) => Cow::Borrowed(topic.split('/').nth(*level).unwrap_or(topic)),
            Self::Field(name) => field(payload, name).unwrap_or(Cow::Borrowed(topic)),
        }
    }
}

impl fmt::Display for KeyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic => f.write_str("topic"),
            Self::TopicLevel(level) => write!(f, "topic[{level}]"),
            Self::Field(name) => f.write_str(name),
        }
    }
}

fn field<'a>(payload: &'a [u8], name: &str) -> Option<Cow<'a, str>> {
    let raw = find(payload, name)?.get();
    match raw.as_bytes().first()? {
        b'"' if raw.contains('\\') => serde_json::from_str(raw).ok().map(Cow::Owned),
        b'"' => raw.get(1..raw.len() - 1).map(Cow::Borrowed),
        b'-' | b'0'..=b'9' | b't' | b'f' => Some(Cow::Borrowed(raw)),
        _ => None,
    }
}

/// `a.b.c`, else `c` in `a.b`, else `b.c` in `a`.
fn find<'a>(object: &'a [u8], name: &str) -> Option<&'a RawValue> {
    last(object, name).or_else(|| {
        name.rmatch_indices('.').find_map(|(dot, _)| {
            let outer = last(object, name.get(..dot)?)?.get();
            outer.starts_with('{').then(|| find(outer.as_bytes(), name.get(dot + 1..)?))?
        })
    })
}

/// The last of the object's fields of that name.
fn last<'a>(object: &'a [u8], name: &str) -> Option<&'a RawValue> {
    let mut found = None;
    let mut json = serde_json::Deserializer::from_slice(object);
    // Leaving the object at the field makes serde_json report that the object
    // goes on, so the result is what the visitor has put aside.
    let _ = json.deserialize_map(FieldOfObject { object, name, found: &mut found });
    found
}

struct FieldOfObject<'n, 'f, 'a> {
    object: &'a [u8],
    name: &'n str,
    found: &'f mut Option<&'a RawValue>,
}

impl<'a> Visitor<'a> for FieldOfObject<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut object: A) -> Result<(), A::Error> {
        while let Some(is_it) = object.next_key_seed(IsName(self.name))? {
            if is_it {
                let value: &RawValue = object.next_value()?;
                *self.found = Some(value);
                if !may_come_again(self.object, value, self.name) {
                    return Ok(());
                }
            } else {
                object.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// Whether the name may be a key behind this value. Looking for its letters is
/// ten times faster than taking the rest of the payload apart.
fn may_come_again(object: &[u8], value: &RawValue, name: &str) -> bool {
    let value = value.get().as_bytes();
    let behind = value.as_ptr_range().end.addr() - object.as_ptr().addr();
    let rest = object.get(behind..).and_then(|rest| std::str::from_utf8(rest).ok());
    // With an escape a key does not show its letters.
    rest.is_none_or(|rest| rest.contains('\\') || rest.contains(name))
}

/// Compares a field's name without keeping it.
struct IsName<'n>(&'n str);

impl<'a> DeserializeSeed<'a> for IsName<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for IsName<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    const TOPIC: &str = "flespi/message/gw/devices/7001";

    fn key(rule: &str, payload: &str) -> String {
        KeyRule::new(rule).unwrap().extract(TOPIC, payload.as_bytes()).into_owned()
    }

    #[test]
    fn reads_the_three_rules() {
        assert_eq!(KeyRule::new("topic"), Ok(KeyRule::Topic));
        assert_eq!(KeyRule::new("topic[4]"), Ok(KeyRule::TopicLevel(4)));
        assert_eq!(KeyRule::new("device.id"), Ok(KeyRule::Field("device.id".into())));
        for wrong in
            ["topic[]", "topic[x]", "topic[-1]", "topic[+1]", "topic[1", "topic[99999999999999999999]"]
        {
            assert_eq!(KeyRule::new(wrong), Err(KeyRuleError::Level(wrong.into())));
        }
        assert_eq!(KeyRule::new(""), Err(KeyRuleError::Empty));
    }

    #[test]
    fn takes_topic_and_level() {
        assert_eq!(key("topic", "{}"), TOPIC);
        assert_eq!(key("topic[4]", "{}"), "7001");
        assert_eq!(key("topic[5]", "{}"), TOPIC);
    }

    #[test]
    fn takes_fields_as_text() {
        assert_eq!(key("ident", r#"{"a":[1,{"ident":"no"}],"ident":"35"}"#), "35");
        assert_eq!(key("ident", r#" { "ident" : "a\u00e9\n\"" } "#), "a\u{e9}\n\"");
        assert_eq!(key("ident", r#"{"ident":18446744073709551617}"#), "18446744073709551617");
        assert_eq!(key("ident", r#"{"ident":-1.50}"#), "-1.50");
        assert_eq!(key("id\"x", r#"{"id\"x":"y"}"#), "y");
        assert_eq!(key("ident", r#"{"ident":""}"#), "");
        assert_eq!(key("ident", r#"{"ident":true}"#), "true");
    }

    /// A script reads the last value of a key that comes twice. With the first
    /// one here, the thing `b` would be updated from the lane of `a`.
    #[test]
    fn the_last_of_several_fields_counts() {
        for again in [
            r#""ident":"b""#,
            r#""\u0069dent":"b""#,
            r#""x":"\n","ident":"b""#,
            r#""x":{"ident":"c"},"ident":"b""#,
        ] {
            assert_eq!(key("ident", &format!(r#"{{"ident":"a","v":1,{again}}}"#)), "b", "{again}");
            assert_eq!(key("o.ident", &format!(r#"{{"o":{{"ident":"a",{again}}}}}"#)), "b", "{again}");
        }
        assert_eq!(key("ident", r#"{"ident":"a","v":{"ident":"b"}}"#), "a");
        assert_eq!(key("ident", r#"{"ident":"a","v":"ident"}"#), "a");
        assert_eq!(key("ident", r#"{"ident":"a","ident":null}"#), TOPIC);
    }

    #[test]
    fn dotted_names_find_the_flat_field_first() {
        let payload = r#"{"a":{"b":{"c":1},"b.c":2},"a.b":{"c":3},"a.b.c":4}"#;
        assert_eq!(key("a.b.c", payload), "4");
        assert_eq!(key("a.b.c", r#"{"a":{"b":{"c":1},"b.c":2},"a.b":{"c":3}}"#), "3");
        assert_eq!(key("a.b.c", r#"{"a":{"b":{"c":1},"b.c":2},"a.b":3}"#), "2");
        assert_eq!(key("a.b.c", r#"{"a":{"b":{"c":1}},"a.b":{}}"#), "1");
        assert_eq!(key("a.b.c", r#"{"a":{"b":{"c":1}},"a.b.c":null}"#), TOPIC);
        for missing in [".", "a.", ".a", "a..b", "a.b.c.d"] {
            assert_eq!(key(missing, payload), TOPIC, "{missing}");
        }
    }

    #[test]
    fn falls_back_to_the_topic() {
        for payload in [
            "",
            "null",
            "[{\"ident\":\"1\"}]",
            "{\"ident\":null}",
            "{\"ident\":{}}",
            "{\"ident\":[1]}",
            "{\"Ident\":\"1\"}",
            "{\"ident\":\"\\ud800\"}",
            "{\"ident\":",
            "{\"ident\":\"open",
            "{\"a\":,\"ident\":1}",
        ] {
            assert_eq!(key("ident", payload), TOPIC, "{payload}");
        }
        let rule = KeyRule::new("ident").unwrap();
        assert_eq!(rule.extract(TOPIC, b"{\"ident\":\"\xff\"}"), TOPIC);
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e9f64..1e9).prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec(("ident|[a-c]|.{0,3}", inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn equals_the_parsed_answer(fields in proptest::collection::vec(("ident|[a-c]|.{0,3}", json()), 0..6), pretty: bool) {
            let value = Value::Object(fields.into_iter().collect());
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let expected = match value.get("ident") {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Number(number)) => number.to_string(),
                Some(Value::Bool(truth)) => truth.to_string(),
                _ => TOPIC.to_owned(),
            };
            prop_assert_eq!(key("ident", &text), expected);
        }

        #[test]
        fn never_panics(payload in proptest::collection::vec(any::<u8>(), 0..64), rule in ".{1,12}") {
            if let Ok(rule) = KeyRule::new(&rule) {
                rule.extract(TOPIC, &payload);
            }
        }

        #[test]
        fn never_panics_on_damaged_json(value in json(), cut in 0usize..64, flip in any::<u8>()) {
            let mut text = format!("{{\"a\":1,\"ident\":{value}}}").into_bytes();
            let at = cut % text.len();
            text[at] = flip;
            KeyRule::Field("ident".into()).extract(TOPIC, &text);
            KeyRule::Field("ident".into()).extract(TOPIC, &text[..at]);
        }
    }
}
