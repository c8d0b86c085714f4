//! Whatever the messages and the settings are: what each official adapter
//! makes of a batch is whole, well formed, and has no value changed.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, HashSet};
use std::fmt;

use destination::wialon::decode::decode;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestCaseResult;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use sluicegate_sdk::{BatchScript, Delivery, Instance, Mapping, Message, RawMessage, state, testing};

const NAMES: [&str; 26] = [
    "ident",
    "timestamp",
    "position",
    "position.latitude",
    "position.longitude",
    "position.altitude",
    "position.speed",
    "position.direction",
    "position.satellites",
    "latitude",
    "speed",
    "din",
    "alarm.event",
    "ibutton.code",
    "ain.1",
    "external.powersource.voltage",
    "posinfo",
    "a",
    "b",
    "a.b",
    "b.c",
    "a.b.c",
    "a_b",
    "a..b",
    "ключ \u{1f600}\"\\",
    "",
];

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

fn value() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        2 => select(vec!["null", "true", "false", "0", "-0", "-0.0", "1e400", "5", "\"\"", "\"\\ud83d\\ude00\\u0000\"", "[]", "{}"])
            .prop_map(str::to_owned),
        1 => any::<i64>().prop_map(|number| number.to_string()),
        1 => (-200.0..200.0_f64).prop_map(|number| number.to_string()),
        2 => "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,22})?([eE][+-]?[0-9]{1,3})?",
        1 => any::<String>().prop_map(|text| quoted(&text)),
        1 => (0..5000_usize).prop_map(|length| quoted(&"é".repeat(length))),
    ];
    scalar.prop_recursive(3, 24, 4, |inner| {
        let list = prop::collection::vec(inner.clone(), 0..4);
        prop_oneof![list.prop_map(|list| format!("[ {} ]", list.join(" ,"))), object(inner)]
    })
}

fn object(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop::collection::vec((select(&NAMES[..]), value), 0..9).prop_map(|fields| {
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("{} : {value}", quoted(name))).collect();
        format!("{{{}}}", fields.join(", "))
    })
}

/// Mostly of a device with a time and a position, some broken.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let whole = (object(value()), 0..3_u8, 0..5_u8, 0..6_u8).prop_map(|(fields, device, time, place)| {
        let mut head = format!("{{\"ident\":\"d{device}\",\"timestamp\":170000000{time}.5");
        if place > 2 {
            head.push_str(&format!(",\"position.latitude\":{place}.25,\"position.longitude\":-{place}"));
        }
        let comma = if fields == "{}" { "" } else { "," };
        format!("{head}{comma}{}", &fields[1..]).into_bytes()
    });
    prop_oneof![
        6 => whole,
        2 => object(value()).prop_map(String::into_bytes),
        1 => (object(value()), any::<prop::sample::Index>()).prop_map(|(text, at)| {
            text.as_bytes()[..at.index(text.len() + 1)].to_vec()
        }),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ]
}

fn batch() -> impl Strategy<Value = Vec<RawMessage>> {
    prop::collection::vec(payload().prop_map(testing::message), 1..12)
}

/// The settings that all adapters but Wialon's have.
fn common() -> impl Strategy<Value = String> {
    let lists = select(vec![
        "[]",
        r#"["ident","position.*"]"#,
        r#"["ident","position","din","a.b.c","b"]"#,
        r#"["a.*","timestamp","a_b"]"#,
        r#"["a.b","a.b.c","position.latitude","position.longitude"]"#,
    ]);
    let filters = select(vec![
        "",
        r#","where":"has(a) || position.speed > 5""#,
        r#","where":"!has(a.b.c) && din != 5""#,
        r#","require":["ident"]"#,
    ]);
    (lists, filters).prop_map(|(list, filter)| format!("\"fields\":{list}{filter}"))
}

fn notation() -> impl Strategy<Value = &'static str> {
    select(vec!["dots", "underscores", "nested", "pascal"])
}

/// Maps the batch, twice, and checks what holds for every script.
fn map<S: BatchScript>(settings: &str, batch: &[RawMessage]) -> Result<Mapping, TestCaseError> {
    let fresh = || {
        state::clear();
        Instance::<S>::configure(settings).unwrap()
    };
    let mapping = fresh().transform(batch);
    let (mut one, mut two) = (String::new(), String::new());
    testing::print_mapping(&mut one, &mapping, 0);
    testing::print_mapping(&mut two, &fresh().transform(batch), 0);
    prop_assert_eq!(one, two);

    let mut delivered = BTreeSet::new();
    for delivery in &mapping.deliveries {
        let carried: BTreeSet<u32> = delivery.messages.iter().copied().collect();
        prop_assert!(!carried.is_empty() && carried.len() == delivery.messages.len());
        delivered.extend(carried);
    }
    let rejected: Vec<u32> = mapping.rejections.iter().map(|rejection| rejection.message).collect();
    let mut all: Vec<u32> =
        delivered.into_iter().chain(rejected).chain(mapping.filtered.iter().copied()).collect();
    all.sort_unstable();
    prop_assert_eq!(all, (0..batch.len() as u32).collect::<Vec<_>>());
    Ok(mapping)
}

/// A JSON document, with scalars as they stand in the text.
#[derive(Debug)]
enum Json<'a> {
    Scalar(&'a str),
    List(Vec<Json<'a>>),
    Object(Vec<(String, Json<'a>)>),
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(fields)
    }
}

/// `strict`: down to which level no object may have a key twice.
fn parse(text: &str, strict: usize) -> Result<Json<'_>, TestCaseError> {
    let inner = strict.saturating_sub(1);
    let fail = |error: serde_json::Error| TestCaseError::fail(format!("{error}: {text}"));
    Ok(match text.as_bytes().first() {
        Some(b'{') => {
            let fields = serde_json::Deserializer::from_str(text).deserialize_map(Fields).map_err(fail)?;
            let names: HashSet<&String> = fields.iter().map(|(name, _)| name).collect();
            prop_assert!(strict == 0 || names.len() == fields.len(), "a key comes twice in {}", text);
            let fields = fields.into_iter().map(|(name, raw)| Ok((name, parse(raw.get(), inner)?)));
            Json::Object(fields.collect::<Result<_, TestCaseError>>()?)
        }
        Some(b'[') => {
            let list: Vec<&RawValue> = serde_json::from_str(text).map_err(fail)?;
            Json::List(list.into_iter().map(|raw| parse(raw.get(), inner)).collect::<Result<_, _>>()?)
        }
        _ => Json::Scalar(serde_json::from_str::<&RawValue>(text).map_err(fail)?.get()),
    })
}

fn body(delivery: &Delivery, strict: usize) -> Result<Json<'_>, TestCaseError> {
    let text = std::str::from_utf8(&delivery.body);
    parse(text.map_err(|error| TestCaseError::fail(error.to_string()))?, strict)
}

/// The scalars, and whether the message has each of them.
fn same_scalars(json: &Json<'_>, payloads: &[&str]) -> TestCaseResult {
    match json {
        Json::Scalar(raw) => {
            prop_assert!(payloads.iter().any(|payload| payload.contains(raw)), "{raw} is in no message");
            Ok(())
        }
        Json::List(list) => list.iter().try_for_each(|json| same_scalars(json, payloads)),
        Json::Object(fields) => fields.iter().try_for_each(|(_, json)| same_scalars(json, payloads)),
    }
}

fn payloads<'a>(delivery: &Delivery, batch: &'a [RawMessage]) -> Vec<&'a str> {
    delivery.messages.iter().map(|at| std::str::from_utf8(&batch[*at as usize].payload).unwrap()).collect()
}

/// With all fields in dots each message is there with all its fields.
fn all_fields(object: &Json<'_>, raw: &RawMessage) -> TestCaseResult {
    let message = Message::parse(0, raw).unwrap();
    let Json::Object(fields) = object else { return Err(TestCaseError::fail("no object")) };
    let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
    let expected: Vec<&str> = message.fields().iter().map(|field| &*field.key).collect();
    prop_assert_eq!(names, expected);
    Ok(())
}

proptest! {
    #[test]
    fn http_json(batch in batch(), common in common(), notation in notation(), limit in 1..5_usize) {
        let settings = format!(r#"{{{common},"notation":"{notation}","limit_messages":{limit}}}"#);
        let mapping = map::<http_json::HttpJson>(&settings, &batch)?;
        for delivery in &mapping.deliveries {
            prop_assert!(delivery.messages.len() <= limit);
            let json = body(delivery, 2)?;
            same_scalars(&json, &payloads(delivery, &batch))?;
            let Json::List(list) = &json else { return Err(TestCaseError::fail("no list")) };
            prop_assert_eq!(list.len(), delivery.messages.len());
            if settings.contains("[],") && notation == "dots" {
                for (object, at) in list.iter().zip(&delivery.messages) {
                    all_fields(object, &batch[*at as usize])?;
                }
            }
        }
    }

    #[test]
    fn mqtt_json(batch in batch(), common in common(), notation in notation()) {
        let settings = format!(r#"{{{common},"notation":"{notation}","topic":"up/{{ident}}/x"}}"#);
        for delivery in &map::<mqtt_json::MqttJson>(&settings, &batch)?.deliveries {
            let json = body(delivery, 1)?;
            same_scalars(&json, &payloads(delivery, &batch))?;
            prop_assert_eq!(delivery.target.as_ref().unwrap().split('/').count(), 3);
            if settings.contains("[],") && notation == "dots" {
                all_fields(&json, &batch[delivery.messages[0] as usize])?;
            }
        }
    }

    #[test]
    fn aws_shadow(
        batch in batch(),
        common in common(),
        notation in notation(),
        nulls in select(vec!["drop", "delete"]),
        max in select(vec![64, 200, 1000, 8192, 131_072]),
    ) {
        let settings = format!(
            r#"{{{common},"notation":"{notation}","nulls":"{nulls}","max_document":{max},"mqtt_topic":"up/{{ident}}"}}"#
        );
        for delivery in &map::<aws_shadow::AwsShadow>(&settings, &batch)?.deliveries {
            let target = delivery.target.as_deref().unwrap();
            if target.starts_with("up/") {
                same_scalars(&body(delivery, 1)?, &payloads(delivery, &batch))?;
                continue;
            }
            prop_assert!(target.starts_with("$aws/things/") && target.ends_with("/shadow/update"));
            let json = body(delivery, usize::MAX)?;
            let Json::Object(document) = &json else { return Err(TestCaseError::fail("no object")) };
            prop_assert_eq!((document.len(), &*document[0].0, &*document[1].0), (2, "state", "clientToken"));
            same_scalars(&document[0].1, &payloads(delivery, &batch))?;
            let frame = r#"{"state":,"clientToken":"0123456789abcdef0123456789abcdef"}"#.len();
            prop_assert!(delivery.body.len() - frame <= max);
        }
    }

    #[test]
    fn thingsboard_gateway(
        batch in batch(),
        common in common(),
        attributes in select(vec!["[]", r#"["a.*","ibutton.code"]"#, r#"["position.speed","a","b.c"]"#]),
        max in select(vec![4096, 10_000, 65_535]),
    ) {
        let settings = format!(r#"{{{common},"attributes":{attributes},"max_publish":{max}}}"#);
        for delivery in &map::<thingsboard_gateway::ThingsBoardGateway>(&settings, &batch)?.deliveries {
            let target = delivery.target.as_deref().unwrap();
            prop_assert!(1 + 3 + 2 + target.len() + 2 + 1 + delivery.body.len() <= max);
            let Json::Object(devices) = body(delivery, usize::MAX)? else { return Err(TestCaseError::fail("no object")) };
            let [(_, device)] = devices.as_slice() else { return Err(TestCaseError::fail("not one device")) };
            let mut values = Vec::new();
            match device {
                Json::Object(attributes) => values.extend(attributes),
                Json::List(entries) => {
                    for entry in entries {
                        let Json::Object(entry) = entry else { return Err(TestCaseError::fail("no entry")) };
                        let Json::Object(of_entry) = &entry[1].1 else { return Err(TestCaseError::fail("no values")) };
                        values.extend(of_entry);
                    }
                }
                Json::Scalar(_) => return Err(TestCaseError::fail("no device")),
            }
            prop_assert!(!values.is_empty());
            let payloads = payloads(delivery, &batch);
            for (_, value) in values {
                match value {
                    Json::Scalar(raw) if raw.starts_with(['-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']) => {
                        let (whole, decimals) = raw.split_once('.').unwrap_or((*raw, "0"));
                        prop_assert!(decimals.len() <= 16 && decimals.bytes().all(|byte| byte.is_ascii_digit()), "{}", raw);
                        prop_assert!(raw.contains('.') || whole.parse::<i64>().is_ok(), "{}", raw);
                    }
                    Json::Scalar(raw) => {
                        let raw = raw.trim_matches('"');
                        prop_assert!(payloads.iter().any(|payload| payload.contains(raw)), "{} is in no message", raw);
                    }
                    nested => same_scalars(nested, &payloads)?,
                }
            }
        }
    }

    #[test]
    fn wialon_retranslator(
        batch in batch(),
        common in common(),
        names in select(vec!["underscore", "keep"]),
        text in select(vec!["replace", "utf8"]),
        exclude in select(vec!["[]", r#"["position"]"#, r#"["a.b.c","position.speed"]"#]),
        max in select(vec![256, 1024, 70_000]),
    ) {
        let settings = format!(
            r#"{{{common},"names":"{names}","text":"{text}","exclude":{exclude},"max_packet":{max}}}"#
        );
        for delivery in &map::<wialon_retranslator::Retranslator>(&settings, &batch)?.deliveries {
            prop_assert!(delivery.body.len() <= max);
            let packet = decode(&delivery.body).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(packet.size as usize + 4, delivery.body.len());
            prop_assert!(packet.blocks.iter().all(|block| block.name.len() <= 38 && block.name.is_ascii()));
        }
    }
}
