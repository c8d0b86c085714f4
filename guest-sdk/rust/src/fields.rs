//! The allow-list of fields: the setting `fields` of adapters that pass
//! messages on whole.

use serde::Deserialize;

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
    /// of the object passes under its dotted name; so does one of an object in
    /// an object. If the message has a flat field of that name, that one passes.
    /// Two nested fields of one name both pass: [`Notation::write_object`]
    /// rejects them.
    ///
    /// [`Notation::write_object`]: crate::Notation::write_object
    pub fn select<'a>(&self, message: &Message<'a>) -> Vec<Field<'a>> {
        if self.all() {
            return message.fields().to_vec();
        }
        let mut selected = Vec::with_capacity(message.fields().len());
        for field in message.fields() {
            if self.allows(&field.key) {
                selected.push(field.clone());
            } else {
                self.select_inside(field, message, &mut selected);
            }
        }
        selected
    }

    fn select_inside<'a>(&self, outer: &Field<'a>, message: &Message<'a>, selected: &mut Vec<Field<'a>>) {
        if outer.value.kind() != Kind::Object || !self.names_inside(&outer.key) {
            return;
        }
        for inner in outer.value.fields() {
            let field = Field { key: format!("{}.{}", outer.key, inner.key).into(), value: inner.value };
            if !self.allows(&field.key) {
                self.select_inside(&field, message, selected);
            } else if message.fields().iter().all(|flat| flat.key != field.key) {
                selected.push(field);
            }
        }
    }

    /// Whether the list has a name that begins with this one and a dot.
    fn names_inside(&self, name: &str) -> bool {
        let inside = |listed: &String| listed.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
        self.exact.iter().any(inside) || self.prefixes.iter().any(inside)
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
    fn every_level_of_nesting_is_read() {
        let payload =
            r#"{"can":{"fuel":{"volume":5,"unit":"l"},"rpm":1},"x":{"y":{"z":2}},"canal":{"fuel":6}}"#;
        assert_eq!(select(&["can.fuel.volume"], payload), ["can.fuel.volume=5"]);
        assert_eq!(select(&["can.fuel.*"], payload), ["can.fuel.volume=5", r#"can.fuel.unit="l""#]);
        assert_eq!(select(&["can.fuel"], payload), [r#"can.fuel={"volume":5,"unit":"l"}"#]);
        assert_eq!(
            select(&["can.*", "x.y.z"], payload),
            [r#"can.fuel={"volume":5,"unit":"l"}"#, "can.rpm=1", "x.y.z=2"]
        );
        assert_eq!(select(&["can.fuel.volume.x", "x.y.z.*", "can.gone"], payload), Vec::<String>::new());
        let mixed = r#"{"a":{"b.c":{"d":1}},"a.b":{"x":2},"a.b.x":3}"#;
        assert_eq!(select(&["a.b.c.d", "a.b.x"], mixed), ["a.b.c.d=1", "a.b.x=3"]);
        // As deep as a message may be.
        let deep = format!("{}1{}", r#"{"a":"#.repeat(129), "}".repeat(129));
        let name = vec!["a"; 129].join(".");
        assert_eq!(select(&[&name], &deep), [format!("{name}=1")]);
    }

    #[test]
    fn names_that_select_nothing_are_refused() {
        for name in ["", "*", ".*", "pos*"] {
            assert!(Fields::try_from(vec![name.to_owned()]).is_err(), "{name}");
        }
    }
}
