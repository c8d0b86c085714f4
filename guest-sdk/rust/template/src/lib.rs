//! The adapter `my-adapter`: publishes the speed of each vehicle.
//!
//! The struct is what a stream can set, `map` what becomes of a message.
//! `adapter.toml` says the same of the settings to the gateway, and `cases/`
//! shows what the script does.

use serde::Deserialize;
use sluicegate_sdk::{Mapped, Message, Result, Script, Template, json};

/// The settings, and the script itself.
#[derive(Debug, Deserialize)]
pub struct Adapter {
    topic: Template,
    #[serde(default)]
    unit: Unit,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Unit {
    #[default]
    Kmh,
    Mph,
}

const KM_PER_MILE: f64 = 1.609344;

impl Script for Adapter {
    /// What the types of the settings and the schema cannot say.
    fn check(&self) -> Result<(), String> {
        self.topic.check_topic().map_err(|error| format!("`topic` = {:?}: {error}", self.topic.text()))
    }

    fn map(&self, message: &Message<'_>) -> Result<Mapped> {
        // `?`: a speed that is no number rejects the message, with that reason.
        let Some(speed) = message.f64("position.speed")? else { return Ok(Mapped::Filtered) };
        let speed = match self.unit {
            Unit::Kmh => speed,
            Unit::Mph => (speed / KM_PER_MILE * 10.0).round() / 10.0,
        };
        let mut body = Vec::new();
        body.extend_from_slice(b"{\"time\":");
        json::write_i64(&mut body, message.time_ms()?);
        body.extend_from_slice(b",\"speed\":");
        json::write_f64(&mut body, speed);
        body.push(b'}');
        Ok(message.delivery(body).to(self.topic.render_topic(message)?).into())
    }
}

sluicegate_sdk::export!(Adapter);

#[cfg(test)]
mod tests {
    /// The cases without WebAssembly: a debugger can look inside.
    #[test]
    fn golden_cases() {
        sluicegate_sdk::testing::run_cases::<super::Adapter>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
    }
}
