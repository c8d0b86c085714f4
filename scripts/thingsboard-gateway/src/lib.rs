//! The official adapter `thingsboard-gateway`: messages become telemetry and
//! attributes of devices behind a ThingsBoard gateway. README.md has the
//! mapping table.

mod number;
mod publish;
mod values;

use serde::Deserialize;
use sluicegate_sdk::{BatchScript, Field, Fields, Message, Output, Reject, Result, Template};

use crate::publish::Device;
use crate::values::Pairs;

/// The settings, and the script itself.
#[derive(Debug, Deserialize)]
pub struct ThingsBoardGateway {
    /// Name of the device.
    #[serde(default = "ident")]
    device: Template,
    /// Profile of the device, which the platform makes if it has none of that
    /// name; none: the platform's `default`.
    device_type: Option<Template>,
    /// Fields that become telemetry; empty: all but `ident`.
    #[serde(default)]
    fields: Fields,
    /// Fields that become attributes instead; empty: none.
    #[serde(default)]
    attributes: Fields,
    /// Longest publish in bytes, all of the MQTT packet counted.
    #[serde(default = "longest_publish")]
    max_publish: usize,
}

/// The platform closes the connection at 65,536 (`NETTY_MAX_PAYLOAD_SIZE`).
const LONGEST_PUBLISH: usize = 65_535;
/// Room for the longest name of a device and something to say about it.
const SHORTEST_PUBLISH: usize = 4_096;
/// Longest key, name of a device and name of a profile, characters.
const MAX_NAME: usize = 255;

fn ident() -> Template {
    Template::field("ident")
}

fn longest_publish() -> usize {
    LONGEST_PUBLISH
}

/// What one message says.
struct Reading {
    device: String,
    device_type: Option<String>,
    /// Milliseconds since 1970.
    ts: i64,
    telemetry: Pairs,
    attributes: Pairs,
}

impl BatchScript for ThingsBoardGateway {
    fn check(&self) -> Result<(), String> {
        if (SHORTEST_PUBLISH..=LONGEST_PUBLISH).contains(&self.max_publish) {
            return Ok(());
        }
        let max = self.max_publish;
        Err(format!("`max_publish` = {max}, expected {SHORTEST_PUBLISH} to {LONGEST_PUBLISH} bytes"))
    }

    fn map_batch(&self, messages: &[Message<'_>], output: &mut Output) {
        let mut devices: Vec<Device> = Vec::new();
        for message in messages {
            let reading = match self.read(message) {
                Ok(reading) if reading.telemetry.is_empty() && reading.attributes.is_empty() => {
                    output.filter(message);
                    continue;
                }
                Ok(reading) => reading,
                Err(reason) => {
                    output.reject(message, reason);
                    continue;
                }
            };
            let is_it = |device: &Device| device.is(&reading.device, reading.device_type.as_deref());
            let known = match devices.iter().position(is_it) {
                Some(known) => known,
                None => {
                    devices.push(Device::new(&reading.device, reading.device_type.clone(), self.max_publish));
                    devices.len() - 1
                }
            };
            let Some(device) = devices.get_mut(known) else { continue };
            // Before anything of the message is taken: it is delivered whole or not at all.
            if let Err(reason) = device.has_room(&reading.telemetry, &reading.attributes) {
                output.reject(message, reason);
                continue;
            }
            device.add_telemetry(message.index(), reading.ts, &reading.telemetry, output);
            device.add_attributes(message.index(), &reading.attributes, output);
        }
        devices.into_iter().for_each(|device| device.close(output));
    }
}

impl ThingsBoardGateway {
    fn read(&self, message: &Message<'_>) -> Result<Reading> {
        let device = self.device.render(message)?;
        check_name("device", &device)?;
        let device_type = self.device_type.as_ref().map(|template| template.render(message)).transpose()?;
        if let Some(device_type) = &device_type {
            check_name("device type", device_type)?;
        }

        let mut telemetry = Pairs::default();
        let own = |key: &str| key == "timestamp" || (key == "ident" && self.fields.all());
        let is_telemetry = |field: &&Field<'_>| !own(&field.key) && !self.is_attribute(&field.key);
        if self.fields.all() {
            // No key of a message comes twice.
            let mut fields = message.fields().iter().filter(is_telemetry);
            fields.try_for_each(|field| telemetry.add(&field.key, field.value))?;
        } else {
            let selected = self.fields.select(message);
            let mut fields = selected.iter().filter(is_telemetry);
            fields.try_for_each(|field| telemetry.add_new(&field.key, field.value))?;
        }
        let mut attributes = Pairs::default();
        if !self.attributes.all() {
            let selected = self.attributes.select(message);
            selected.iter().try_for_each(|field| attributes.add_new(&field.key, field.value))?;
        }
        Ok(Reading { device, device_type, ts: message.time_ms()?, telemetry, attributes })
    }

    fn is_attribute(&self, key: &str) -> bool {
        !self.attributes.all() && self.attributes.allows(key)
    }
}

/// The platform refuses the message of a name that breaks this, or drops a key
/// without a word.
fn check_name(what: &str, name: &str) -> Result<()> {
    let expected = if name.trim().is_empty() {
        "something other than space"
    } else if name.len() > MAX_NAME && name.chars().count() > MAX_NAME {
        "at most 255 characters"
    } else if name.chars().any(|character| character.is_control() || matches!(character, '<' | '>')) {
        "no control characters and no `<` or `>`"
    } else {
        return Ok(());
    };
    let shown: String = name.chars().take(60).collect();
    Err(Reject::new(format!("the {what} {shown:?} cannot be sent, expected {expected}")))
}

sluicegate_sdk::export!(ThingsBoardGateway);

#[cfg(test)]
mod tests;
