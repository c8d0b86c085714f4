//! From the stream's `[script.settings]` to the author's struct: shared keys
//! are taken out first, unknown keys are refused, and an error names the key,
//! its value and what was expected.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

use crate::filter::{Condition, Filter};

/// Keys that this crate adds to the settings of every script.
const SHARED: [&str; 2] = ["require", "where"];

/// Splits the settings into the filter and the author's struct.
pub(crate) fn read<S: DeserializeOwned>(text: &str) -> Result<(Filter, S), String> {
    let settings: Value =
        serde_json::from_str(text).map_err(|error| format!("settings are not JSON: {error}"))?;
    let Value::Object(mut settings) = settings else {
        return Err(format!("settings are {}, expected an object", excerpt(&settings)));
    };
    let require: Option<Vec<String>> = take(&mut settings, "require", "a list of field names")?;
    let condition: Option<Condition> =
        take(&mut settings, "where", "an expression such as \"position.speed > 5\"")?;
    let script = S::deserialize(Settings(settings)).map_err(|error: Error| error.0)?;
    Ok((Filter::new(require.unwrap_or_default(), condition), script))
}

fn take<T: DeserializeOwned>(
    settings: &mut Map<String, Value>,
    key: &str,
    form: &str,
) -> Result<Option<T>, String> {
    let Some(value) = settings.remove(key) else { return Ok(None) };
    let shown = excerpt(&value);
    serde_json::from_value(value)
        .map(Some)
        .map_err(|error| format!("`{key}` = {shown}: {error}; expected {form}"))
}

/// A value for an error text, cut short.
fn excerpt(value: &Value) -> String {
    let text = value.to_string();
    crate::Value::new(&text).to_string()
}

/// Gives the settings to the author's struct and knows which keys it has.
struct Settings(Map<String, Value>);

#[derive(Debug)]
struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self(text.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        Self(format!("`{field}` is missing in the settings"))
    }
}

impl Settings {
    fn check_known(&self, known: &[&str]) -> Result<(), Error> {
        match self.0.iter().find(|(key, _)| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some((key, value)) => {
                let all: Vec<&str> = known.iter().chain(&SHARED).copied().collect();
                Err(Error(format!(
                    "`{key}` = {} is not a setting of this script, expected one of {}",
                    excerpt(value),
                    all.join(", ")
                )))
            }
        }
    }
}

impl<'de> Deserializer<'de> for Settings {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Entries { rest: self.0.into_iter(), next: None })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.check_known(fields)?;
        self.deserialize_any(visitor)
    }

    /// `struct NoSettings;`
    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.check_known(&[])?;
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

struct Entries {
    rest: serde_json::map::IntoIter,
    next: Option<(String, Value)>,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.next = self.rest.next();
        match &self.next {
            Some((key, _)) => seed.deserialize(StrDeserializer::new(key)).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (key, value) = self.next.take().ok_or_else(|| Error::custom("a value before its key"))?;
        let shown = excerpt(&value);
        seed.deserialize(value).map_err(|error| Error(format!("`{key}` = {shown}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Fields, Notation, Template};
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Some {
        topic: Template,
        #[serde(default)]
        notation: Notation,
        #[serde(default)]
        fields: Fields,
        #[serde(default)]
        limit: u32,
    }

    #[derive(Debug, Deserialize)]
    struct Nothing;

    fn error(text: &str) -> String {
        read::<Some>(text).unwrap_err()
    }

    #[test]
    fn good_settings_are_read() {
        let (_, some) =
            read::<Some>(r#"{"topic":"a","notation":"pascal","limit":3,"require":["x"],"where":"x > 1"}"#)
                .unwrap();
        assert_eq!((some.topic.text(), some.notation, some.limit), ("a", Notation::Pascal, 3));
        read::<Nothing>("{}").unwrap();
        read::<Nothing>(r#"{"require":[]}"#).unwrap();
    }

    #[test]
    fn errors_name_key_value_and_what_was_expected() {
        let table = [
            ("{}", "`topic` is missing in the settings"),
            ("[1]", "settings are [1], expected an object"),
            (
                r#"{"topic":"a","tpic":1}"#,
                "`tpic` = 1 is not a setting of this script, expected one of topic, notation, fields, limit, require, where",
            ),
            (r#"{"topic":"{"}"#, "`topic` = \"{\": `{` without `}`; write `{{` for a brace"),
            (
                r#"{"topic":"a","notation":"x"}"#,
                "`notation` = \"x\": unknown variant `x`, expected one of `dots`, `underscores`, `nested`, `pascal`",
            ),
            (
                r#"{"topic":"a","fields":["*"]}"#,
                "`fields` = [\"*\"]: `*` is no field name, expected for example `ident` or `position.*`",
            ),
            (
                r#"{"topic":"a","require":"x"}"#,
                "`require` = \"x\": invalid type: string \"x\", expected a sequence; expected a list of field names",
            ),
            (
                r#"{"topic":"a","where":"x >"}"#,
                "`where` = \"x >\": at 4: found the end, expected a field or a literal; expected an expression such as \"position.speed > 5\"",
            ),
        ];
        for (text, expected) in table {
            assert_eq!(error(text), expected, "{text}");
        }
        // serde_json names numbers in other words when another crate of the
        // build asks it for arbitrary precision.
        for (text, beginning) in [
            (r#"{"topic":5}"#, "`topic` = 5: invalid "),
            (r#"{"topic":"a","limit":-1}"#, "`limit` = -1: invalid "),
        ] {
            let number = error(text);
            assert!(number.starts_with(beginning), "{number}");
        }
        assert!(read::<Nothing>(r#"{"a":1}"#).unwrap_err().starts_with("`a` = 1 is not a setting"));
    }
}
