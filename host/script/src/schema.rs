//! The schema of a script's settings: what `[settings]` of `adapter.toml` says
//! of `[script.settings]`, in the words of JSON Schema.
//!
//! These words are known: `type`, `enum`, `minimum`, `maximum`, `minLength`,
//! `maxLength`, `items`, `properties`, `required`, `additionalProperties`,
//! `default`, `description`. Any other is an error of the manifest, so that
//! nothing that an author asks for goes unchecked.

mod read;
#[cfg(test)]
mod tests;

use std::fmt;

use serde_json::{Map, Value};

pub use read::SchemaError;

/// What the settings of a script may be.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema(Node);

/// What one value may be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// What it is for, in the author's words.
    pub description: Option<String>,
    /// What it is where the settings are silent.
    pub default: Option<Value>,
    /// Its type; none: any.
    kind: Option<Kind>,
    /// The values that it may have; none: any of its type.
    allowed: Option<Vec<Value>>,
    /// Bounds of a number.
    minimum: Option<f64>,
    maximum: Option<f64>,
    /// Bounds of the characters of a text.
    min_length: Option<usize>,
    max_length: Option<usize>,
    /// What each entry of a list may be.
    items: Option<Box<Node>>,
    /// What is known of the keys of a table, in the order of the manifest.
    properties: Vec<(String, Node)>,
    required: Vec<String>,
    others: Others,
}

/// The types of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Integer,
    Number,
    Boolean,
    List,
    Table,
}

/// The keys of a table that are not in `properties`.
#[derive(Clone, Debug, Default, PartialEq)]
enum Others {
    /// Anything goes, as JSON Schema has it where nothing is said.
    #[default]
    Any,
    Refused,
    Like(Box<Node>),
}

/// What is wrong with the settings; at least one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct SettingsError(pub Vec<SettingsFault>);

/// One thing that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsFault {
    /// The way to the value.
    pub path: Vec<Step>,
    /// What is wrong with it.
    pub problem: Problem,
}

/// From a value to one inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Of a table.
    Key(String),
    /// Of a list, counted from 0.
    Entry(usize),
}

/// What is wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The script has no such setting.
    Unknown {
        /// Those that it has in this table.
        known: Vec<String>,
    },
    /// It has to be there.
    Missing {
        /// What it should be.
        expected: String,
    },
    /// It is something else than it may be.
    Wrong {
        /// What it is, cut short: a script's settings hold no secrets.
        found: String,
        /// What it should be.
        expected: String,
    },
}

/// Characters of a value that an error shows.
const SHOWN: usize = 60;

// ----- impl Schema -----

impl Schema {
    /// The settings with the defaults filled in, or everything that is wrong
    /// with them. Null stands for an empty table.
    pub fn complete(&self, settings: &Value) -> Result<Value, SettingsError> {
        let mut settings = if settings.is_null() { Value::Object(Map::new()) } else { settings.clone() };
        let mut faults = Vec::new();
        self.0.complete(&mut settings, &mut Vec::new(), &mut faults);
        if faults.is_empty() { Ok(settings) } else { Err(SettingsError(faults)) }
    }

    /// The settings that there are, in the order of the manifest.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.properties.iter().map(|(key, node)| (key.as_str(), node))
    }

    /// Whether that setting has to be given.
    pub fn requires(&self, key: &str) -> bool {
        self.0.required.iter().any(|required| required == key)
    }
}

// ----- impl Node -----

impl Node {
    fn complete(&self, value: &mut Value, path: &mut Vec<Step>, faults: &mut Vec<SettingsFault>) {
        if !self.accepts(value) {
            let problem = Problem::Wrong { found: excerpt(value), expected: self.to_string() };
            faults.push(SettingsFault { path: path.clone(), problem });
            return;
        }
        match value {
            Value::Array(entries) => {
                let Some(items) = &self.items else { return };
                for (position, entry) in entries.iter_mut().enumerate() {
                    path.push(Step::Entry(position));
                    items.complete(entry, path, faults);
                    path.pop();
                }
            }
            Value::Object(table) => self.complete_table(table, path, faults),
            _ => {}
        }
    }

    fn complete_table(
        &self,
        table: &mut Map<String, Value>,
        path: &mut Vec<Step>,
        faults: &mut Vec<SettingsFault>,
    ) {
        for (key, value) in table.iter_mut() {
            path.push(Step::Key(key.clone()));
            match (self.property(key), &self.others) {
                (Some(node), _) => node.complete(value, path, faults),
                (None, Others::Like(node)) => node.complete(value, path, faults),
                (None, Others::Any) => {}
                (None, Others::Refused) => {
                    let known = self.properties.iter().map(|(key, _)| key.clone()).collect();
                    faults.push(SettingsFault { path: path.clone(), problem: Problem::Unknown { known } });
                }
            }
            path.pop();
        }
        for (key, node) in &self.properties {
            if table.contains_key(key) {
                continue;
            }
            if let Some(default) = &node.default {
                table.insert(key.clone(), default.clone());
            } else if self.required.contains(key) {
                let path = path.iter().cloned().chain([Step::Key(key.clone())]).collect();
                let problem = Problem::Missing { expected: node.to_string() };
                faults.push(SettingsFault { path, problem });
            }
        }
    }

    fn property(&self, key: &str) -> Option<&Self> {
        self.properties.iter().find(|(known, _)| known == key).map(|(_, node)| node)
    }

    /// Whether the value, its entries and keys aside, is one of these.
    fn accepts(&self, value: &Value) -> bool {
        let of_kind = match self.kind {
            None => true,
            Some(Kind::Text) => value.is_string(),
            Some(Kind::Integer) => value.is_i64() || value.is_u64(),
            Some(Kind::Number) => value.is_number(),
            Some(Kind::Boolean) => value.is_boolean(),
            Some(Kind::List) => value.is_array(),
            Some(Kind::Table) => value.is_object(),
        };
        of_kind
            && self.allowed.as_ref().is_none_or(|allowed| allowed.contains(value))
            && value.as_f64().is_none_or(|number| {
                self.minimum.is_none_or(|least| number >= least)
                    && self.maximum.is_none_or(|most| number <= most)
            })
            && value.as_str().is_none_or(|text| {
                let length = text.chars().count();
                self.min_length.is_none_or(|least| length >= least)
                    && self.max_length.is_none_or(|most| length <= most)
            })
    }

    /// The type in one word or two, for a table of the settings.
    pub fn type_name(&self) -> &'static str {
        match self.kind {
            None => "anything",
            Some(Kind::Text) => "text",
            Some(Kind::Integer) => "whole number",
            Some(Kind::Number) => "number",
            Some(Kind::Boolean) => "true or false",
            Some(Kind::List) => "list",
            Some(Kind::Table) => "table",
        }
    }
}

/// What is expected, as it stands in an error.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(allowed) = &self.allowed {
            let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            return match &allowed[..] {
                [one] => f.write_str(one),
                _ => write!(f, "one of {}", allowed.join(", ")),
            };
        }
        match self.kind {
            None => f.write_str("a value"),
            Some(Kind::Text) if self.min_length == Some(1) && self.max_length.is_none() => {
                f.write_str("text that is not empty")
            }
            Some(Kind::Text) => {
                f.write_str("text")?;
                bounds(f, " of ", self.min_length, self.max_length, " characters")
            }
            Some(Kind::Integer) => {
                f.write_str("a whole number")?;
                bounds(f, " from ", self.minimum, self.maximum, "")
            }
            Some(Kind::Number) => {
                f.write_str("a number")?;
                bounds(f, " from ", self.minimum, self.maximum, "")
            }
            Some(Kind::Boolean) => f.write_str("true or false"),
            Some(Kind::List) => match &self.items {
                None => f.write_str("a list"),
                Some(items) => write!(f, "a list, each entry {items}"),
            },
            Some(Kind::Table) => match &self.others {
                Others::Like(node) => write!(f, "a table, each value {node}"),
                _ => f.write_str("a table"),
            },
        }
    }
}

/// `<between>1 to 5<unit>`, with one bound or none as well.
fn bounds<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    between: &str,
    least: Option<T>,
    most: Option<T>,
    unit: &str,
) -> fmt::Result {
    match (least, most) {
        (Some(least), Some(most)) => write!(f, "{between}{least} to {most}{unit}"),
        (Some(least), None) => write!(f, " of at least {least}{unit}"),
        (None, Some(most)) => write!(f, " of at most {most}{unit}"),
        (None, None) => Ok(()),
    }
}

// ----- impl SettingsFault -----

impl SettingsFault {
    /// The value's place, as `` `rename.x` `` or `` `fields[1]` ``.
    pub fn place(&self) -> String {
        let mut place = String::new();
        for step in &self.path {
            match step {
                Step::Key(key) if place.is_empty() => place.push_str(key),
                Step::Key(key) => {
                    place.push('.');
                    place.push_str(key);
                }
                Step::Entry(position) => place.push_str(&format!("[{position}]")),
            }
        }
        if place.is_empty() { "it".to_owned() } else { format!("`{}`", place.escape_debug()) }
    }

    /// What is wrong.
    pub fn what(&self) -> String {
        match &self.problem {
            Problem::Unknown { .. } => format!("there is no setting {}", self.place()),
            Problem::Missing { .. } => format!("{} is missing", self.place()),
            Problem::Wrong { found, .. } => format!("{} is {found}", self.place()),
        }
    }

    /// What was expected.
    pub fn expected(&self) -> String {
        match &self.problem {
            Problem::Unknown { known } if known.is_empty() => "no settings: there are none".to_owned(),
            Problem::Unknown { known } => {
                let known: Vec<String> = known.iter().map(|key| format!("`{key}`")).collect();
                format!("one of {}", known.join(", "))
            }
            Problem::Missing { expected } | Problem::Wrong { expected, .. } => expected.clone(),
        }
    }
}

impl fmt::Display for SettingsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, expected {}", self.what(), self.expected())
    }
}

/// A value as an error shows it.
fn excerpt(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a table".to_owned(),
        other => {
            let text = other.to_string();
            match text.char_indices().nth(SHOWN) {
                None => text,
                Some((cut, _)) => format!("{}…", &text[..cut]),
            }
        }
    }
}
