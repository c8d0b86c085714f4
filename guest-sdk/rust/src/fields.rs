//! The allow-list of fields: the setting `fields` of adapters that pass
//! messages on whole.

use std::borrow::Cow;

use serde::Deserialize;

use crate::message::parse_object;
use crate::{Field, Kind, Message, Result};

/// Which fields of a message are passed on. Empty: all. A name that ends in
/// `.*` stands for all that begin so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct Fields {
    exact: Vec<String>,
    /// With the dot, without the star.
    prefixes: Vec<String>,
}

impl TryFrom<Vec<String>> for Fields {
    type Error = String;

    fn try_from(names: Vec<String>) -> Result<Self, String> {
        let mut fields = Self::default();
        for name in names {
            match name.strip_suffix('*') {
                Some(prefix) if prefix.len() > 1 && prefix.ends_with('.') => {
                    fields.prefixes.push(prefix.to_owned())
                }
                None if !name.is_empty() => fields.exact.push(name),
                _ => {
                    return Err(format!(
                        "`{name}` is no field name, expected for example `ident` or `position.*`"
                    ));
                }
            }
        }
        Ok(fields)
    }
}

impl Fields {
    /// Whether there is no list, so that all fields pass.
    pub fn all(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty()
    }

    /// Whether a field of this name passes.
    pub fn allows(&self, name: &str) -> bool {
        self.all()
            || self.exact.iter().any(|exact| exact == name)
            || self.prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()))
    }

    /// The fields of the message that pass, in its order. Where the list names
    /// `position.speed` and the message has an object `position`, that field
    /// of the object passes under its dotted name.
    pub fn select<'a>(&self, message: &Message<'a>) -> Vec<Field<'a>> {
        if self.all() {
            return message.fields().to_vec();
        }
        let mut selected = Vec::with_capacity(message.fields().len());
        for field in message.fields() {
            if self.allows(&field.key) {
                selected.push(field.clone());
            } else if field.value.kind() == Kind::Object {
                let inner = parse_object(field.value.raw()).unwrap_or_default();
                selected.extend(inner.into_iter().filter_map(|inner| {
                    let name = format!("{}.{}", field.key, inner.key);
                    let flat = message.fields().iter().any(|other| other.key == name);
                    (self.allows(&name) && !flat)
                        .then_some(Field { key: Cow::Owned(name), value: inner.value })
                }));
            }
        }
        selected
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::RawMessage;

    fn select(list: &[&str], payload: &str) -> Vec<String> {
        let raw = RawMessage { topic: String::new(), payload: payload.into(), received_at: 0 };
        let message = Message::parse(0, &raw).unwrap();
        let fields: Fields = list.iter().map(|&name| name.to_owned()).collect::<Vec<_>>().try_into().unwrap();
        fields.select(&message).iter().map(|field| format!("{}={}", field.key, field.value)).collect()
    }

    #[test]
    fn lists_select_flat_and_nested_fields() {
        let payload =
            r#"{"ident":"a","din":1,"position.speed":5,"position":{"speed":6,"altitude":7},"positions":8}"#;
        assert_eq!(select(&[], payload).len(), 5);
        assert_eq!(select(&["din", "gone"], payload), ["din=1"]);
        assert_eq!(select(&["position.*"], payload), ["position.speed=5", "position.altitude=7"]);
        assert_eq!(select(&["position"], payload), [r#"position={"speed":6,"altitude":7}"#]);
        assert_eq!(select(&["position.altitude"], payload), ["position.altitude=7"]);
    }

    #[test]
    fn names_that_select_nothing_are_refused() {
        for name in ["", "*", ".*", "pos*"] {
            assert!(Fields::try_from(vec![name.to_owned()]).is_err(), "{name}");
        }
    }
}
