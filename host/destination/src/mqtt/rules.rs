//! What an MQTT 5 PUBLISH may contain, checked before it can cost the
//! connection: servers answer a broken rule by closing, which would hit every
//! delivery in flight. Source: MQTT 5.0, sections 1.5.4, 3.3 and 4.7.

use crate::Delivery;

/// Longest UTF-8 string of the protocol, bytes.
const MAX_STRING: usize = 65_535;
/// Largest remaining length of the protocol, bytes.
const MAX_REMAINING: usize = 268_435_455;

/// Whether a publish may go to this topic. `$` topics are the server's own.
pub fn check_topic(topic: &str) -> Result<(), String> {
    if topic.is_empty() {
        return Err("the topic is empty; expected at least one character".to_owned());
    }
    if topic.starts_with('$') {
        return Err(format!("the topic {topic:?} begins with `$`, which belongs to the server"));
    }
    check_topic_text(topic)
}

/// The rules that hold for `$` topics too.
pub fn check_topic_text(topic: &str) -> Result<(), String> {
    if let Some(wildcard) = topic.chars().find(|c| matches!(c, '+' | '#')) {
        return Err(format!(
            "the topic {topic:?} contains the wildcard `{wildcard}`; a publish names one topic"
        ));
    }
    check_text("topic", topic)
}

/// Whether the headers can travel as user properties, and the packet fits the protocol.
pub fn check_publish(topic: &str, delivery: &Delivery) -> Result<(), String> {
    for (name, value) in &delivery.headers {
        check_text("name of a header", name)?;
        check_text(&format!("header {name:?}"), value)?;
    }
    let size = publish_size(topic, headers_of(delivery), delivery.body.len());
    if size > MAX_REMAINING {
        return Err(format!("the publish has {size} bytes; MQTT allows {MAX_REMAINING}"));
    }
    Ok(())
}

/// Servers may close on control characters and non-characters (1.5.4), and
/// mosquitto does.
fn check_text(what: &str, text: &str) -> Result<(), String> {
    if text.len() > MAX_STRING {
        return Err(format!("the {what} has {} bytes; MQTT allows {MAX_STRING}", text.len()));
    }
    let bad = |c: &char| {
        let code = u32::from(*c);
        c.is_control() || code & 0xFFFE == 0xFFFE || (0xFDD0..=0xFDEF).contains(&code)
    };
    match text.chars().find(bad) {
        Some(c) => Err(format!("the {what} contains {}, which MQTT text must not", c.escape_unicode())),
        None => Ok(()),
    }
}

/// Name and value of each header.
pub fn headers_of(delivery: &Delivery) -> impl Iterator<Item = (&str, &str)> {
    delivery.headers.iter().map(|(n, v)| (n.as_str(), v.as_str()))
}

/// Bytes of a QoS 1 PUBLISH on the wire, fixed header included; the headers
/// are its user properties.
pub fn publish_size<'a>(
    topic: &str,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    body: usize,
) -> usize {
    let properties: usize = headers.map(|(name, value)| 1 + 2 + name.len() + 2 + value.len()).sum();
    let remaining = 2 + topic.len() + 2 + varint(properties) + properties + body;
    1 + varint(remaining) + remaining
}

/// Bytes of a variable byte integer (1.5.5).
fn varint(value: usize) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::BytesMut;
    use proptest::prelude::*;
    use rumqttc::mqttbytes::QoS;
    use rumqttc::{Publish, PublishProperties};

    use super::*;

    fn delivery(headers: &[(&str, &str)]) -> Delivery {
        Delivery {
            target: None,
            headers: headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            body: "x".into(),
            identity: None,
        }
    }

    #[test]
    fn topics() {
        for good in ["a", "a/b", "/a", "fleet/Ä/ü", "a b", "a/$b", &"x".repeat(65_535)] {
            assert_eq!(check_topic(good), Ok(()), "{good}");
        }
        let long = "x".repeat(65_536);
        for (bad, says) in [
            ("", "empty"),
            ("a/+", "wildcard `+`"),
            ("a/#", "wildcard `#`"),
            ("$SYS/x", "begins with `$`"),
            ("a\0", "\\u{0}"),
            ("a\u{1f}b", "\\u{1f}"),
            ("a\u{9f}b", "\\u{9f}"),
            ("a\u{fffe}", "\\u{fffe}"),
            (&long, "65536 bytes"),
        ] {
            let said = check_topic(bad).unwrap_err();
            assert!(said.contains(says), "{said}");
        }
    }

    #[test]
    fn headers() {
        assert_eq!(check_publish("t", &delivery(&[("name", "value"), ("", "")])), Ok(()));
        let said = check_publish("t", &delivery(&[("colour", "red\n")])).unwrap_err();
        assert!(said.contains("colour") && said.contains("\\u{a}"), "{said}");
        let long = "x".repeat(65_536);
        assert!(check_publish("t", &delivery(&[("n", &long)])).is_err());
        assert!(check_publish("t", &delivery(&[(&long, "v")])).is_err());
    }

    proptest! {
        #[test]
        fn the_size_is_the_size_on_the_wire(
            topic in "[a-z]{1,200}",
            headers in proptest::collection::vec(("[a-z]{0,90}", "[a-z]{0,90}"), 0..4),
            body in 0_usize..40_000,
        ) {
            let headers: Vec<(String, String)> = headers;
            let size = publish_size(&topic, headers.iter().map(|(n, v)| (n.as_str(), v.as_str())), body);
            let properties = PublishProperties { user_properties: headers, ..Default::default() };
            let mut publish = Publish::new(topic, QoS::AtLeastOnce, vec![b'x'; body], Some(properties));
            publish.pkid = 1;
            let mut wire = BytesMut::new();
            publish.write(&mut wire).unwrap();
            prop_assert_eq!(size, wire.len());
        }
    }
}
