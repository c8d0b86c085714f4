//! What the gateway keeps order by and what a script makes of the same field
//! are written apart; here they check each other. If they differed, a script
//! whose state follows the key would use one key of it from two lanes.

#![allow(clippy::unwrap_used)]

use message::KeyRule;
use proptest::prelude::*;
use sluicegate_sdk::{Message, Template, testing};

const NAMES: [&str; 7] = ["ident", "a", "a.b", "a.b.c", "b.c", "a..b", "é\"\\"];

/// A name of [`NAMES`] or a part of one, spelled plainly or with escapes.
fn name() -> impl Strategy<Value = String> {
    let names =
        prop::sample::select(vec!["ident", "a", "b", "c", "a.b", "b.c", "a.b.c", "a.", ".b", "é\"\\", "x"]);
    (names, 0..4_u8).prop_map(|(name, spelling)| match spelling {
        0 => name.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect(),
        _ => name.replace('\\', "\\\\").replace('"', "\\\""),
    })
}

/// The text of any value; objects and lists with the names above in them.
fn value() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        4 => "(0|-?[1-9][0-9]{0,21})(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,2})?",
        4 => any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        2 => prop::sample::select(vec!["null", "true", "false", "-0", "\"\"", "\"\\u0061\\ud83d\\ude00\\/\"", "\"ident\""])
            .prop_map(str::to_owned),
    ];
    scalar.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![3 => object(inner.clone()), 1 => prop::collection::vec(inner, 0..3).prop_map(|list| format!("[{}]", list.join(",")))]
    })
}

fn object(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    (prop::collection::vec((name(), value), 0..6), prop::sample::select(vec!["", " ", "\n\t"])).prop_map(
        |(fields, space)| {
            let fields: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{space}\"{name}\"{space}:{space}{value}{space}"))
                .collect();
            format!("{{{}}}", fields.join(","))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The topic stands where the field gives no key, and is no value here.
    #[test]
    fn key_equals_template_of_same_field(payload in object(value())) {
        let raw = testing::message(payload);
        let message = Message::parse(0, &raw).unwrap();
        for name in NAMES {
            let key = KeyRule::Field(name.to_owned()).extract("no/value", &raw.payload);
            match Template::field(name).render(&message) {
                Ok(text) => prop_assert_eq!(key, text, "{}", name),
                // A script rejects what is empty; the gateway may order by it.
                Err(_) => prop_assert!(key == "no/value" || key.is_empty(), "{} is {}", name, key),
            }
        }
    }
}
