//! From the JSON form of a schema to what is checked against.

use serde_json::{Map, Value};

use super::{Kind, Node, Others, Schema};

/// Why a manifest's `[settings]` are no schema that can be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct SchemaError {
    /// Where in the schema: `settings.properties.topic`.
    place: String,
    problem: String,
}

type Object = Map<String, Value>;

impl Schema {
    /// Reads a schema: the one of a table.
    pub fn read(schema: &Value) -> Result<Self, SchemaError> {
        let node = read(schema, "settings")?;
        if node.kind != Some(Kind::Table) {
            return Err(error("settings", "the settings are a table, expected `type` = \"object\""));
        }
        Ok(Self(node))
    }
}

fn error(place: &str, problem: impl Into<String>) -> SchemaError {
    SchemaError { place: place.to_owned(), problem: problem.into() }
}

fn read(schema: &Value, place: &str) -> Result<Node, SchemaError> {
    let Value::Object(schema) = schema else {
        return Err(error(place, format!("it is {schema}, expected a table")));
    };
    let mut node = Node { kind: kind(schema, place)?, ..Node::default() };
    for (keyword, value) in schema {
        let wrong = |expected: &str| error(place, format!("`{keyword}` is {value}, expected {expected}"));
        let only_for = |kinds: &[Kind], of: &str| match node.kind {
            Some(kind) if kinds.contains(&kind) => Ok(()),
            _ => Err(error(place, format!("`{keyword}` belongs to `type` = {of}"))),
        };
        match keyword.as_str() {
            "type" => {}
            "description" => node.description = Some(value.as_str().ok_or_else(|| wrong("text"))?.to_owned()),
            "default" => node.default = Some(value.clone()),
            "enum" => match value {
                Value::Array(allowed) if !allowed.is_empty() => node.allowed = Some(allowed.clone()),
                _ => return Err(wrong("a list of values")),
            },
            "minimum" | "maximum" => {
                only_for(&[Kind::Integer, Kind::Number], "\"integer\" or \"number\"")?;
                let bound = Some(value.as_f64().ok_or_else(|| wrong("a number"))?);
                *(if keyword == "minimum" { &mut node.minimum } else { &mut node.maximum }) = bound;
            }
            "minLength" | "maxLength" => {
                only_for(&[Kind::Text], "\"string\"")?;
                let length = value.as_u64().and_then(|length| usize::try_from(length).ok());
                let bound = Some(length.ok_or_else(|| wrong("a whole number of characters"))?);
                *(if keyword == "minLength" { &mut node.min_length } else { &mut node.max_length }) = bound;
            }
            "items" => {
                only_for(&[Kind::List], "\"array\"")?;
                node.items = Some(Box::new(read(value, &format!("{place}.items"))?));
            }
            "properties" => {
                only_for(&[Kind::Table], "\"object\"")?;
                let Value::Object(properties) = value else { return Err(wrong("a table")) };
                for (key, schema) in properties {
                    let schema = read(schema, &format!("{place}.properties.{key}"))?;
                    node.properties.push((key.clone(), schema));
                }
            }
            "required" => {
                only_for(&[Kind::Table], "\"object\"")?;
                node.required = keys(value).ok_or_else(|| wrong("a list of keys"))?;
            }
            "additionalProperties" => {
                only_for(&[Kind::Table], "\"object\"")?;
                node.others = match value {
                    Value::Bool(true) => Others::Any,
                    Value::Bool(false) => Others::Refused,
                    schema => Others::Like(Box::new(read(schema, &format!("{place}.{keyword}"))?)),
                };
            }
            _ => {
                return Err(error(
                    place,
                    format!(
                        "unknown word `{keyword}`, expected one of type, enum, minimum, maximum, minLength, \
                         maxLength, items, properties, required, additionalProperties, default, description"
                    ),
                ));
            }
        }
    }
    check(&node, place)?;
    Ok(node)
}

fn kind(schema: &Object, place: &str) -> Result<Option<Kind>, SchemaError> {
    let Some(name) = schema.get("type") else { return Ok(None) };
    Ok(Some(match name.as_str() {
        Some("string") => Kind::Text,
        Some("integer") => Kind::Integer,
        Some("number") => Kind::Number,
        Some("boolean") => Kind::Boolean,
        Some("array") => Kind::List,
        Some("object") => Kind::Table,
        _ => {
            let expected = "one of \"string\", \"integer\", \"number\", \"boolean\", \"array\", \"object\"";
            return Err(error(place, format!("`type` is {name}, expected {expected}")));
        }
    }))
}

/// What its words say together.
fn check(node: &Node, place: &str) -> Result<(), SchemaError> {
    if let Some(key) = node.required.iter().find(|key| node.property(key).is_none()) {
        return Err(error(place, format!("`required` names `{key}`, which is not in `properties`")));
    }
    let values = node.allowed.iter().flatten().map(|value| ("enum", value));
    for (keyword, value) in values.chain(node.default.as_ref().map(|default| ("default", default))) {
        let (mut value, mut faults) = (value.clone(), Vec::new());
        node.complete(&mut value, &mut Vec::new(), &mut faults);
        if let Some(fault) = faults.first() {
            return Err(error(place, format!("`{keyword}` does not fit: {fault}")));
        }
    }
    Ok(())
}

fn keys(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|key| key.as_str().map(str::to_owned)).collect()
}
