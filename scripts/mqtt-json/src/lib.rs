//! The official adapter `mqtt-json`: each message is published for itself, as
//! one JSON object. README.md has the mapping table.

use serde::Deserialize;
use sluicegate_sdk::{Fields, Mapped, Message, Notation, Result, Script, Template};

/// The settings, and the script itself.
#[derive(Debug, Deserialize)]
pub struct MqttJson {
    /// Where each message is published; none: the stream's `[destination] topic`.
    topic: Option<Template>,
    #[serde(default)]
    fields: Fields,
    #[serde(default)]
    notation: Notation,
}

impl Script for MqttJson {
    fn map(&self, message: &Message<'_>) -> Result<Mapped> {
        let target = self.topic.as_ref().map(|topic| topic.render_topic(message)).transpose()?;
        let mut body = Vec::with_capacity(message.payload().len() + 16);
        self.notation.write_object(&mut body, &self.fields.select(message))?;
        let mut delivery = message.delivery(body);
        delivery.target = target;
        Ok(delivery.into())
    }
}

sluicegate_sdk::export!(MqttJson);
