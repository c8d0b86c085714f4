//! The adapter as the gateway sees it.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::Value as Json;
use sluicegate_sdk::{Instance, testing};

use super::*;

#[test]
fn golden_cases() {
    testing::run_cases::<ThingsBoardGateway>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let error = |settings: &str| Instance::<ThingsBoardGateway>::configure(settings).unwrap_err();
    assert_eq!(error(r#"{"max_publish":4095}"#), "`max_publish` = 4095, expected 4096 to 65535 bytes");
    assert_eq!(error(r#"{"max_publish":65536}"#), "`max_publish` = 65536, expected 4096 to 65535 bytes");
    assert!(error(r#"{"device":"{"}"#).starts_with("`device` = \"{\": "));
    assert!(error(r#"{"attributes":["*"]}"#).starts_with("`attributes` = [\"*\"]: "));
    assert!(error(r#"{"type":"truck"}"#).starts_with("`type` = \"truck\" is not a setting of this script"));
}

#[test]
fn names_at_their_limits() {
    let outcome = |device: &str| {
        let payload = serde_json::json!({ "ident": device, "a": 1 }).to_string();
        let instance = Instance::<ThingsBoardGateway>::configure("{}").unwrap();
        let mapping = instance.transform(&[testing::message(payload)]);
        mapping.rejections.into_iter().next().map(|rejection| rejection.reason)
    };
    assert_eq!(outcome(&"ä".repeat(255)), None);
    let shown = "ä".repeat(60);
    assert_eq!(
        outcome(&"ä".repeat(256)),
        Some(format!("the device {shown:?} cannot be sent, expected at most 255 characters"))
    );
    assert_eq!(
        outcome("  "),
        Some("the device \"  \" cannot be sent, expected something other than space".to_owned())
    );
    for name in ["a\u{7}", "<b>"] {
        assert!(outcome(name).unwrap().ends_with("expected no control characters and no `<` or `>`"));
    }
}

/// Ten devices at most, so that they meet in a batch.
fn message() -> impl Strategy<Value = (u8, Vec<(u16, usize)>)> {
    (0..10_u8, prop::collection::vec((0..400_u16, 0..900_usize), 0..12))
}

proptest! {
    /// No publish is too long, each has one device, and read in order they
    /// give each device all that its messages had: telemetry value for value,
    /// of attributes the last value of each key.
    #[test]
    fn nothing_is_lost_between_publishes(batch in prop::collection::vec(message(), 1..60)) {
        const MAX: usize = 4_096;
        let settings = format!(r#"{{"max_publish":{MAX},"attributes":["a.*"]}}"#);
        let instance = Instance::<ThingsBoardGateway>::configure(&settings).unwrap();

        let mut telemetry: BTreeMap<String, Vec<(i64, String, Json)>> = BTreeMap::new();
        let mut attributes: BTreeMap<(String, String), Json> = BTreeMap::new();
        let mut messages = Vec::new();
        for (number, (device, values)) in batch.iter().enumerate() {
            let (device, ts) = (format!("d{device}"), 1_700_000_000 + number as i64);
            let mut payload = format!(r#"{{"ident":"{device}","timestamp":{ts}"#);
            // Keys of a message differ by their position in it.
            for (position, (key, length)) in values.iter().enumerate() {
                let kind = if key % 4 == 0 { "a" } else { "t" };
                let (key, value) = (format!("{kind}.{position}"), Json::String("x".repeat(*length)));
                payload.push_str(&format!(r#","{key}":{value}"#));
                if kind == "a" {
                    attributes.insert((device.clone(), key), value);
                } else {
                    telemetry.entry(device.clone()).or_default().push((ts * 1000, key, value));
                }
            }
            payload.push('}');
            messages.push(testing::message(payload));
        }

        let mapping = instance.transform(&messages);
        prop_assert!(mapping.rejections.is_empty());
        let empty: Vec<u32> =
            (0..).zip(&batch).filter(|(_, (_, values))| values.is_empty()).map(|(number, _)| number).collect();
        prop_assert_eq!(&mapping.filtered, &empty);

        let mut sent_telemetry: BTreeMap<String, Vec<(i64, String, Json)>> = BTreeMap::new();
        let mut sent_attributes: BTreeMap<(String, String), Json> = BTreeMap::new();
        for delivery in &mapping.deliveries {
            let topic = delivery.target.clone().unwrap();
            // As MQTT counts it: type, length, topic with its length, packet id, properties.
            prop_assert!(1 + 3 + 2 + topic.len() + 2 + 1 + delivery.body.len() <= MAX);
            let mut carried = delivery.messages.clone();
            carried.dedup();
            prop_assert_eq!(&carried, &delivery.messages);
            let body: BTreeMap<String, Json> = serde_json::from_slice(&delivery.body).unwrap();
            prop_assert_eq!(body.len(), 1);
            let (device, content) = body.into_iter().next().unwrap();
            prop_assert_eq!(&delivery.headers, &[("device".to_owned(), device.clone())]);
            if topic == "v1/gateway/attributes" {
                for (key, value) in content.as_object().unwrap() {
                    sent_attributes.insert((device.clone(), key.clone()), value.clone());
                }
                continue;
            }
            prop_assert_eq!(topic, "v1/gateway/telemetry");
            for entry in content.as_array().unwrap() {
                let ts = entry["ts"].as_i64().unwrap();
                let values = entry["values"].as_object().unwrap();
                prop_assert!(!values.is_empty());
                let mut values: Vec<_> = values.iter().map(|(k, v)| (ts, k.clone(), v.clone())).collect();
                // serde_json may sort the keys of an object; those of a message count up.
                values.sort_by_key(|(_, key, _)| key[2..].parse::<u32>().unwrap());
                sent_telemetry.entry(device.clone()).or_default().extend(values);
            }
        }
        prop_assert_eq!(sent_telemetry, telemetry);
        prop_assert_eq!(sent_attributes, attributes);
    }
}
