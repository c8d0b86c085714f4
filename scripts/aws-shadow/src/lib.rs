//! The official adapter `aws-shadow`: the newest values of each device become
//! `state.reported` of the shadow of its AWS IoT thing. README.md has the
//! mapping table; the limits are those of the AWS IoT developer guide.

mod batch;
mod names;
mod update;

use serde::Deserialize;
use sluicegate_sdk::{BatchScript, Fields, Message, Notation, Output, Template, json};

/// The settings, and the script itself.
#[derive(Debug, Deserialize)]
pub struct AwsShadow {
    /// The thing whose shadow a message updates.
    #[serde(default = "ident")]
    thing_name: Template,
    /// A named shadow of it; none: the classic one.
    shadow_name: Option<Template>,
    #[serde(default)]
    fields: Fields,
    #[serde(default)]
    notation: Notation,
    #[serde(default)]
    nulls: Nulls,
    /// Where each message is published beside the update; none: nowhere.
    mqtt_topic: Option<Template>,
    /// The most bytes that `state` of one update may have.
    #[serde(default = "document_limit")]
    max_document: usize,
}

/// What a field that is null does to the shadow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Nulls {
    /// Nothing: the shadow keeps its last value.
    #[default]
    Drop,
    /// It deletes the field in the shadow.
    Delete,
}

impl From<Nulls> for json::Nulls {
    fn from(nulls: Nulls) -> Self {
        match nulls {
            Nulls::Drop => Self::Drop,
            Nulls::Delete => Self::Keep,
        }
    }
}

fn ident() -> Template {
    Template::field("ident")
}

/// AWS's default quota of a shadow's state document.
fn document_limit() -> usize {
    8192
}

impl BatchScript for AwsShadow {
    fn check(&self) -> Result<(), String> {
        names::check_template("thing_name", &self.thing_name, names::THING)?;
        if let Some(shadow) = &self.shadow_name {
            names::check_template("shadow_name", shadow, names::SHADOW)?;
        }
        if let Some(topic) = &self.mqtt_topic {
            names::check_topic_template(topic)?;
        }
        if !(64..=names::LARGEST_PUBLISH).contains(&self.max_document) {
            return Err(format!(
                "`max_document` = {}: expected 64 to {} bytes",
                self.max_document,
                names::LARGEST_PUBLISH
            ));
        }
        Ok(())
    }

    fn map_batch(&self, messages: &[Message<'_>], output: &mut Output) {
        let mut batch = batch::Batch::new(self);
        for message in messages {
            batch.add(message, output);
        }
        batch.finish(output);
    }
}

sluicegate_sdk::export!(AwsShadow);

#[cfg(test)]
mod tests;
