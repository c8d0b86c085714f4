//! Reading JSON more strictly than `serde_json::Value` does: a key that
//! occurs twice in one object is an error, since receivers disagree about
//! which of the two counts.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Parses UTF-8 JSON text; the error says what is wrong with it.
pub fn parse_strict(bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))?;
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    value_of(raw)
}

fn value_of(raw: &RawValue) -> Result<Value, String> {
    let text = raw.get();
    let not_json = |error: serde_json::Error| format!("not JSON: {error}");
    match text.as_bytes().first() {
        Some(b'{') => {
            let Pairs(pairs) = serde_json::from_str(text).map_err(not_json)?;
            let mut seen = HashSet::new();
            let mut map = Map::new();
            for (key, raw) in pairs {
                if !seen.insert(key.clone()) {
                    return Err(format!("the key {key:?} occurs twice in one object"));
                }
                map.insert(key, value_of(raw)?);
            }
            Ok(Value::Object(map))
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(not_json)?;
            items.into_iter().map(value_of).collect::<Result<_, _>>().map(Value::Array)
        }
        _ => serde_json::from_str(text).map_err(not_json),
    }
}

struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;

        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(PairsVisitor)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn values_come_through_unchanged() {
        let text = r#"{"a":[1,2.50,{"b":null}],"c":"ü","d":true,"e":12345678901234567890}"#;
        assert_eq!(parse_strict(text.as_bytes()).unwrap().to_string(), text);
    }

    #[test]
    fn repeated_keys_garbage_and_other_encodings_are_refused() {
        let error = |bytes: &[u8]| parse_strict(bytes).unwrap_err();
        assert_eq!(error(br#"[{"a":{"k":1,"k":2}}]"#), "the key \"k\" occurs twice in one object");
        assert!(error(br#"{"a":1} x"#).starts_with("not JSON"));
        assert!(error(br#"{"a":NaN}"#).starts_with("not JSON"));
        assert!(error(b"\"\xff\"").starts_with("not UTF-8"));
    }
}
