//! The official adapter `mqtt-json`: each message is published for itself, as
//! one JSON object. README.md has the mapping table.

use serde::Deserialize;
use sluicegate_sdk::{Fields, Mapped, Message, Notation, Reject, Result, Script, Template};

/// The settings, and the script itself.
#[derive(Debug, Deserialize)]
pub struct MqttJson {
    /// Where a message is published; none: the stream's `[destination] topic`.
    topic: Option<Template>,
    #[serde(default)]
    fields: Fields,
    #[serde(default)]
    notation: Notation,
}

/// What MQTT's two bytes of length can say.
const LONGEST_TOPIC: usize = 65_535;

impl Script for MqttJson {
    fn check(&self) -> Result<(), String> {
        let Some(topic) = &self.topic else { return Ok(()) };
        topic.check_topic().map_err(|error| format!("`topic` = {:?}: {error}", topic.text()))
    }

    fn map(&self, message: &Message<'_>) -> Result<Mapped> {
        let target = self.topic.as_ref().map(|topic| topic.render_topic(message)).transpose()?;
        if let Some(topic) = &target
            && topic.len() > LONGEST_TOPIC
        {
            return Err(Reject::new(format!(
                "the topic has {} bytes, expected at most {LONGEST_TOPIC}",
                topic.len()
            )));
        }
        let mut body = Vec::with_capacity(message.payload().len() + 16);
        self.notation.write_object(&mut body, &self.fields.select(message))?;
        let mut delivery = message.delivery(body);
        delivery.target = target;
        Ok(delivery.into())
    }
}

sluicegate_sdk::export!(MqttJson);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use sluicegate_sdk::{Instance, testing};

    use super::*;

    #[test]
    fn golden_cases() {
        testing::run_cases::<MqttJson>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let error = |settings: &str| Instance::<MqttJson>::configure(settings).unwrap_err();
        assert_eq!(
            error(r#"{"topic":"fleet/+/{ident}"}"#),
            "`topic` = \"fleet/+/{ident}\": \"fleet/+/\" has a wildcard or control character, expected a topic to publish to"
        );
        assert!(error(r#"{"topic":""}"#).contains("it is empty"));
        assert!(error(r#"{"topic":"$SYS/{ident}"}"#).contains("begin with `$`"));
        assert!(error(r#"{"topic":"a/{ident"}"#).contains("`{` without `}`"));
    }

    #[test]
    fn a_topic_longer_than_mqtt_allows_is_a_rejection() {
        let instance = Instance::<MqttJson>::configure(r#"{"topic":"{ident}"}"#).unwrap();
        let rejected = |length: usize| {
            let payload = format!(r#"{{"ident":"{}"}}"#, "x".repeat(length));
            instance.transform(&[testing::message(payload)]).rejections.len() == 1
        };
        assert!(!rejected(LONGEST_TOPIC) && rejected(LONGEST_TOPIC + 1));
    }

    proptest! {
        #[test]
        fn no_ident_makes_a_wildcard_or_another_level(ident in any::<String>()) {
            let instance = Instance::<MqttJson>::configure(r#"{"topic":"up/{ident}/json"}"#).unwrap();
            let payload = serde_json::json!({ "ident": ident }).to_string();
            let mapping = instance.transform(&[testing::message(payload)]);
            let safe = !ident.is_empty() && !ident.contains(|c: char| "/+#".contains(c) || c.is_control());
            let expected = safe.then(|| format!("up/{ident}/json"));
            prop_assert_eq!(mapping.deliveries.first().and_then(|d| d.target.clone()), expected);
            prop_assert_eq!(mapping.rejections.len(), usize::from(!safe));
        }
    }
}
