#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use sluicegate_sdk::{Instance, Mapping, state, testing};

use super::*;

fn instance(settings: &str) -> Instance<AwsShadow> {
    Instance::configure(settings).unwrap()
}

fn transform(instance: &Instance<AwsShadow>, payloads: &[String]) -> Mapping {
    let batch: Vec<_> = payloads.iter().map(|payload| testing::message(payload.as_str())).collect();
    instance.transform(&batch)
}

fn error(settings: &str) -> String {
    Instance::<AwsShadow>::configure(settings).unwrap_err()
}

#[test]
fn golden_cases() {
    testing::run_cases::<AwsShadow>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
}

#[test]
fn settings_that_cannot_work_are_refused() {
    assert_eq!(
        error(r#"{"thing_name":"my thing {ident}"}"#),
        "`thing_name` = \"my thing {ident}\": ' ' is not allowed in a thing name, expected letters, digits and any of :_-"
    );
    assert!(error(r#"{"thing_name":""}"#).contains("1 to 128 bytes"));
    assert!(error(r#"{"shadow_name":"a/b"}"#).contains("'/' is not allowed in a shadow name"));
    assert!(error(&format!(r#"{{"shadow_name":"{}"}}"#, "x".repeat(65))).contains("1 to 64 bytes"));
    assert!(error(r#"{"mqtt_topic":"fleet/#"}"#).contains("wildcard"));
    assert!(error(r#"{"mqtt_topic":"$aws/things"}"#).contains("begin with `$`"));
    assert!(error(r#"{"mqtt_topic":"a/b/c/d/e/f/g/h/{ident}"}"#).contains("8 slashes"));
    assert_eq!(error(r#"{"max_document":1}"#), "`max_document` = 1: expected 64 to 131072 bytes");
    assert!(error(r#"{"nulls":"keep"}"#).contains("`drop`"));
}

#[test]
fn names_are_checked_at_their_limits() {
    let names = |length: usize| {
        transform(&instance("{}"), &[format!(r#"{{"ident":"{}"}}"#, "x".repeat(length))])
            .rejections
            .is_empty()
    };
    assert!(names(1) && names(128) && !names(129));
}

#[test]
fn a_token_depends_on_target_and_content_only() {
    let token = |payload: &str| {
        state::clear();
        let mapping = transform(&instance(r#"{"fields":["a"]}"#), &[payload.to_owned()]);
        mapping.deliveries[0].headers[0].1.clone()
    };
    let first = token(r#"{"ident":"x","a":1,"b":1}"#);
    assert_eq!(first.len(), 32);
    assert_eq!(first, token(r#"{"ident":"x","a":1,"b":2}"#));
    assert_ne!(first, token(r#"{"ident":"x","a":2}"#));
    assert_ne!(first, token(r#"{"ident":"y","a":1}"#));
}

proptest! {
    /// Whatever the order and however it is cut into batches: each shadow ends
    /// with the newest values, and each message has an outcome.
    #[test]
    fn the_newest_value_wins(
        messages in prop::collection::vec((0..3_u8, 0..6_i64), 1..30),
        cut in 1..30_usize,
    ) {
        state::clear();
        let instance = instance("{}");
        let payloads: Vec<String> = messages.iter().enumerate()
            .map(|(n, (thing, time))| format!(r#"{{"ident":"t{thing}","timestamp":{time},"n":{n}}}"#))
            .collect();
        let mut shadows = std::collections::HashMap::new();
        for batch in payloads.chunks(cut) {
            let mapping = transform(&instance, batch);
            prop_assert!(mapping.rejections.is_empty());
            let carried: usize = mapping.deliveries.iter().map(|delivery| delivery.messages.len()).sum();
            prop_assert_eq!(carried + mapping.filtered.len(), batch.len());
            for delivery in mapping.deliveries {
                let body: serde_json::Value = serde_json::from_slice(&delivery.body).unwrap();
                shadows.insert(delivery.target.unwrap(), body["state"]["reported"].clone());
            }
        }
        for thing in 0..3_u8 {
            let newest = messages.iter().enumerate().filter(|(_, (of, _))| *of == thing)
                .max_by_key(|(n, (_, time))| (*time, *n));
            if let Some((n, (_, time))) = newest {
                let reported = &shadows[&format!("$aws/things/t{thing}/shadow/update")];
                prop_assert_eq!(&reported["n"], n);
                prop_assert_eq!(&reported["timestamp"], *time);
            }
        }
    }

    #[test]
    fn no_message_panics_and_each_has_an_outcome(payload in "[\\[\\]{}\",:a-c0-9. \\\\u\u{1}\u{e9}]{0,40}") {
        state::clear();
        let payload = format!(r#"{{"ident":"a","x":{payload}}}"#);
        let mapping = transform(&instance(r#"{"notation":"nested","mqtt_topic":"t"}"#), &[payload]);
        prop_assert!(mapping.deliveries.len() == 2 || mapping.rejections.len() == 1);
    }
}
