#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::testing::message as raw;

fn reason(payload: impl Into<Vec<u8>>) -> String {
    Message::parse(0, &raw(payload)).unwrap_err().reason().to_owned()
}

#[test]
fn fields_come_in_order_with_their_text() {
    let raw = raw(
        " { \"ident\" : \"a\\u00e9\" , \"n\":123456789012345678901234567890.10, \"\\u0065\":[ 1 , 2 ] } ",
    );
    let message = Message::parse(3, &raw).unwrap();
    let fields: Vec<_> =
        message.fields().iter().map(|field| (field.key.as_ref(), field.value.raw())).collect();
    let expected =
        [("ident", "\"a\\u00e9\""), ("n", "123456789012345678901234567890.10"), ("e", "[ 1 , 2 ]")];
    assert_eq!(fields, expected);
    assert_eq!(message.index(), 3);
    assert_eq!(message.ident().unwrap(), "a\u{e9}");
}

#[test]
fn a_key_that_comes_twice_has_its_last_value() {
    let raw = raw(r#"{"a":1,"b":2,"a":3,"\u0061":4}"#);
    let message = Message::parse(0, &raw).unwrap();
    assert_eq!(message.fields().len(), 2);
    assert_eq!(message.i64("a").unwrap(), Some(4));
}

#[test]
fn what_is_no_object_is_refused_with_a_reason() {
    for payload in [
        "",
        "null",
        "5",
        "\"x\"",
        "[{}]",
        "{",
        "{}x",
        "{\"a\":}",
        "{\"a\":01}",
        "{\"a\":\"\n\"}",
        "\u{feff}{}",
    ] {
        assert!(reason(payload).starts_with("the payload is not one JSON object: "), "{payload}");
    }
    assert_eq!(reason(b"{\"a\":\"\xff\"}".to_vec()), "the payload is not UTF-8 text: wrong byte at 6");
    assert_eq!(reason(r#"{"a":"\ud83d"}"#), "`a` has a \\u escape that is half a character");
    assert_eq!(reason(r#"{"a":{"b":"\udE00\ud83d"}}"#), "`a` has a \\u escape that is half a character");
    assert!(reason(r#"{"\ud83d":1}"#).starts_with("the payload is not one JSON object: "));
    Message::parse(0, &raw(r#"{"a":"\ud83d\ude00 \\ud83d"}"#)).unwrap();
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    Message::parse(0, &raw(nested(128))).unwrap();
    assert_eq!(reason(nested(129)), "`a` is nested deeper than 128 levels");
    assert_eq!(reason(nested(100_000)), "`a` is nested deeper than 128 levels");
}

/// They were taken for an empty object by all that looks into one.
#[test]
fn a_nested_object_with_too_many_fields_is_refused() {
    let object = |count: usize| {
        let fields: Vec<String> = (0..count).map(|number| format!("\"{number}:{{\":0")).collect();
        format!("{{{}}}", fields.join(","))
    };
    let (full, more) = (object(2000), object(2001));
    for payload in [format!(r#"{{"io":{full}}}"#), format!(r#"{{"io":[{full},{{"x":{full}}}]}}"#)] {
        let raw = raw(payload);
        let io = Message::parse(0, &raw).unwrap().get("io").unwrap();
        let objects = if io.kind() == Kind::Array { io.elements() } else { vec![io] };
        assert_eq!(objects[0].fields().len(), 2000);
    }
    for payload in [format!(r#"{{"io":{more}}}"#), format!(r#"{{"x":1,"io":[{{"y":{more}}}]}}"#)] {
        assert_eq!(reason(payload), "`io` has an object of more than 2000 fields in it");
    }
    assert!(reason(more.clone()).contains("more than 2000 fields"));
    assert!(Value::parse(&full).is_some() && Value::parse(&more).is_none());
}

#[test]
fn dotted_names_find_the_flat_key_first() {
    let raw =
        raw(r#"{"position":{"speed":1,"x":{"y":2},"x.y":3,"null":null},"position.speed":4,"a.b":{"c":5}}"#);
    let message = Message::parse(0, &raw).unwrap();
    let found = |name| message.get(name).map(Value::raw);
    assert_eq!(found("position.speed"), Some("4"));
    assert_eq!(found("position.x.y"), Some("3"));
    assert_eq!(found("a.b.c"), Some("5"));
    assert_eq!(found("position.null"), Some("null"));
    for missing in ["", ".", "position.", ".speed", "position.speed.x", "b", "position..speed"] {
        assert_eq!(found(missing), None, "{missing}");
    }
    assert!(message.present("position.null").is_none());
}

#[test]
fn typed_accessors_tell_missing_from_wrong() {
    let raw = raw(r#"{"s":"x","n":1.5,"i":-3,"b":true,"null":null,"big":99999999999999999999,"huge":1e999}"#);
    let message = Message::parse(0, &raw).unwrap();
    assert_eq!(message.str("s").unwrap().as_deref(), Some("x"));
    assert_eq!(message.f64("n").unwrap(), Some(1.5));
    assert_eq!(message.i64("i").unwrap(), Some(-3));
    assert_eq!(message.bool("b").unwrap(), Some(true));
    assert_eq!(message.f64("null").unwrap(), None);
    assert_eq!(message.f64("gone").unwrap(), None);
    let reason = |result: Result<()>| result.unwrap_err().reason().to_owned();
    assert_eq!(reason(message.f64("s").map(drop)), "`s` is \"x\", expected a number");
    assert_eq!(reason(message.i64("n").map(drop)), "`n` is 1.5, expected an integer of 64 bits");
    assert_eq!(reason(message.f64("huge").map(drop)), "`huge` is 1e999, expected a number");
    assert_eq!(
        reason(message.i64("big").map(drop)),
        "`big` is 99999999999999999999, expected an integer of 64 bits"
    );
    assert_eq!(reason(message.ident().map(drop)), "the message has no `ident`");
}

#[test]
fn positions_are_whole_or_none_or_refused() {
    let position = |payload: &str| Message::parse(0, &raw(payload)).unwrap().position();
    let whole = position(r#"{"position.latitude":54.5,"position.longitude":25,"position":{"speed":7}}"#)
        .unwrap()
        .unwrap();
    assert_eq!((whole.latitude, whole.longitude, whole.speed, whole.altitude), (54.5, 25.0, Some(7.0), None));
    assert_eq!(position(r#"{"position.latitude":54.5}"#).unwrap(), None);
    assert_eq!(position(r#"{"position.latitude":54.5,"position.longitude":null}"#).unwrap(), None);
    let reject = position(r#"{"position.latitude":91,"position.longitude":0}"#).unwrap_err();
    assert_eq!(reject.reason(), "`position.latitude` is 91, expected -90 to 90");
    assert!(position(r#"{"position.latitude":"54","position.longitude":0}"#).is_err());
}

#[test]
fn masks_are_of_32_bits() {
    let din = |payload: &str| Message::parse(0, &raw(payload)).unwrap().din();
    assert_eq!(din(r#"{"din":4294967295}"#).unwrap(), Some(u32::MAX));
    assert_eq!(din(r#"{"dout":1}"#).unwrap(), None);
    assert!(din(r#"{"din":4294967296}"#).is_err());
    assert!(din(r#"{"din":-1}"#).is_err());
}

/// JSON of any shape, as text.
fn json() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,4})?",
        any::<String>().prop_map(|s| serde_json::to_string(&s).unwrap()),
    ];
    scalar.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(|values| format!("[{}]", values.join(" ,"))),
            prop::collection::vec((any::<String>(), inner), 0..6).prop_map(|fields| {
                let fields: Vec<_> = fields
                    .iter()
                    .map(|(k, v)| format!("{}: {v}", serde_json::to_string(k).unwrap()))
                    .collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn no_payload_panics(payload in any::<Vec<u8>>()) {
        let _ = Message::parse(0, &raw(payload));
    }

    #[test]
    fn no_text_like_json_panics(payload in "[\\[\\]{}\",:\\\\udD8-9. etrufalsn\u{1}\u{e9}]{0,60}") {
        let raw = raw(payload);
        if let Ok(message) = Message::parse(0, &raw) {
            let _ = (message.ident(), message.time_ms(), message.position(), message.din());
        }
    }

    #[test]
    fn values_survive_byte_by_byte(values in prop::collection::vec(json(), 0..12)) {
        let fields: Vec<String> = values.iter().enumerate().map(|(n, value)| format!("\"k{n}\" : {value} ")).collect();
        let raw = raw(format!("{{{}}}", fields.join(",")));
        let message = Message::parse(0, &raw).unwrap();
        prop_assert_eq!(message.fields().len(), values.len());
        for (field, value) in message.fields().iter().zip(&values) {
            prop_assert_eq!(field.value.raw(), value);
            let _ = (field.value.as_i64(), field.value.as_f64(), field.value.as_text());
        }
    }
}
