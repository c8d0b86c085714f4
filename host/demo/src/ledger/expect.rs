//! What each receiver must have got of a message, computed from the message
//! and the streams' settings by rules of its own.

use std::collections::BTreeSet;
use std::fmt::Debug;

use serde_json::{Map, Value};
use standins::wialon::{Packet, Posinfo, Value as Parameter};

use super::super::fleet::{FleetMessage, SEQUENCE};

/// Device profile in ThingsBoard: `device_type` of the stream's settings.
pub const DEVICE_TYPE: &str = "vehicle";
/// Path of the HTTP stream's URL.
pub const HTTP_TARGET: &str = "/flespi";
/// Fields that the ThingsBoard stream sends as attributes.
pub const ATTRIBUTES: [&str; 2] = ["device.name", "device.type.id"];

/// Where the adapter for MQTT publishes, before and after it is edited.
pub const TOPICS: [&str; 2] = ["fleet/{ident}", "fleet/v2/{ident}"];

/// Bit 0x10 of a packet.
const ALARM: u32 = 0x10;

/// The number of the message that these fields are of.
pub fn sequence(fields: &Map<String, Value>) -> Option<u64> {
    fields.get(SEQUENCE).and_then(Value::as_u64)
}

/// HTTP and MQTT: the message as it was published.
pub fn object(message: &FleetMessage, got: &Map<String, Value>) -> Result<(), String> {
    same(&message.fields, got)
}

/// MQTT: `topic = "fleet/{ident}"`, and `"fleet/v2/{ident}"` once the script is
/// edited.
pub fn topic(message: &FleetMessage, got: &str) -> Result<(), String> {
    let topics = TOPICS.map(|template| template.replace("{ident}", &message.ident));
    if topics.iter().any(|topic| topic == got) {
        return Ok(());
    }
    equal("topic", &topics[0].as_str(), &got)
}

/// AWS: the update has all of the message, and the shadow exactly what is
/// `expected` of it by now.
pub fn shadow(
    message: &FleetMessage,
    update: &Map<String, Value>,
    expected: &Map<String, Value>,
    merged: &Value,
) -> Result<(), String> {
    let Value::Object(merged) = merged else { return Err(format!("reported is {merged}")) };
    same(expected, merged)?;
    for (field, value) in &message.fields {
        equal(field, &Some(value), &update.get(field))?;
    }
    Ok(())
}

/// ThingsBoard: milliseconds, and everything but name, time and attributes.
pub fn telemetry(message: &FleetMessage, ts: i64, values: &Map<String, Value>) -> Result<(), String> {
    equal("ts", &i64::try_from(message.time).unwrap_or(i64::MAX), &ts)?;
    let telemetry = |field: &str| !matches!(field, "ident" | "timestamp") && !ATTRIBUTES.contains(&field);
    same(&part(message, telemetry), values)
}

/// ThingsBoard: attributes have the values of the message.
pub fn attributes(message: &FleetMessage, values: &Map<String, Value>) -> Result<(), String> {
    same(&part(message, |field| ATTRIBUTES.contains(&field)), values)
}

/// The number of the message that a packet is of; continuations have none.
pub fn packet_sequence(packet: &Packet) -> Option<u64> {
    let name = parameter_name(SEQUENCE);
    let block = packet.blocks.iter().find(|block| block.name == name)?;
    match block.value {
        Parameter::Int32(number) => u64::try_from(number).ok(),
        Parameter::Int64(number) => u64::try_from(number).ok(),
        _ => None,
    }
}

/// The names of all blocks of a message.
pub fn packet_names(message: &FleetMessage) -> BTreeSet<String> {
    blocks(message).into_iter().map(|(name, _)| name).collect()
}

/// One packet of a message: unit, time, position, alarm and each of its blocks.
/// The alarm belongs to the first.
pub fn packet(message: &FleetMessage, packet: &Packet, first: bool) -> Result<(), String> {
    equal("time", &(message.time / 1000), &u64::from(packet.time))?;
    let alarm = first && message.fields.get("alarm.event") == Some(&Value::Bool(true));
    equal("alarm", &alarm, &(packet.flags & ALARM != 0))?;
    if !packet.blocks.iter().any(|block| block.name == "posinfo") {
        return Err("posinfo is missing".to_owned());
    }
    let expected = blocks(message);
    for block in &packet.blocks {
        let wanted = expected.iter().find(|(name, _)| *name == block.name);
        let Some((_, wanted)) = wanted else { return Err(format!("{} was not sent", block.name)) };
        equal(&block.name, wanted, &block.value)?;
    }
    Ok(())
}

/// Everything of a message that has a block.
pub(super) fn blocks(message: &FleetMessage) -> Vec<(String, Parameter)> {
    let number = |field: &str| message.fields.get(field).and_then(Value::as_f64).unwrap_or_default();
    let position = Posinfo {
        lon: number("position.longitude"),
        lat: number("position.latitude"),
        alt: number("position.altitude"),
        speed: number("position.speed").round() as u16,
        course: number("position.direction") as u16,
        sats: number("position.satellites") as u8,
    };
    let mut blocks = vec![("posinfo".to_owned(), Parameter::Posinfo(position))];
    for (field, value) in &message.fields {
        if matches!(
            field.as_str(),
            "ident"
                | "timestamp"
                | "alarm.event"
                | "position.longitude"
                | "position.latitude"
                | "position.altitude"
                | "position.speed"
                | "position.direction"
                | "position.satellites"
        ) {
            continue;
        }
        let name = parameter_name(field);
        let voltage = name.starts_with("pwr_");
        let value = match value {
            Value::Bool(value) => Parameter::Int32(i32::from(*value)),
            Value::String(text) => Parameter::Text(text.clone()),
            Value::Number(number) => match number.as_i64() {
                Some(whole) if !voltage => {
                    i32::try_from(whole).map_or(Parameter::Int64(whole), Parameter::Int32)
                }
                _ => Parameter::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            // The fleet sends neither null nor nested values.
            Value::Null | Value::Array(_) | Value::Object(_) => continue,
        };
        blocks.push((name, value));
    }
    blocks
}

/// A field's name in Wialon.
fn parameter_name(field: &str) -> String {
    match field {
        "din" => "avl_inputs".to_owned(),
        "dout" => "avl_outputs".to_owned(),
        "external.powersource.voltage" => "pwr_ext".to_owned(),
        "battery.voltage" => "pwr_int".to_owned(),
        "gsm.signal.level" => "gsm".to_owned(),
        "engine.ignition.status" => "ign".to_owned(),
        _ => field.replace('.', "_"),
    }
}

fn part(message: &FleetMessage, belongs: impl Fn(&str) -> bool) -> Map<String, Value> {
    let fields = message.fields.iter().filter(|(field, _)| belongs(field));
    fields.map(|(field, value)| (field.clone(), value.clone())).collect()
}

/// The first difference between two sets of fields. Numbers are compared by
/// their text: their decimals must come through unchanged.
fn same(expected: &Map<String, Value>, got: &Map<String, Value>) -> Result<(), String> {
    for (field, value) in expected {
        match got.get(field) {
            None => return Err(format!("{field} is missing")),
            Some(got) => equal(field, value, got)?,
        }
    }
    match got.keys().find(|field| !expected.contains_key(*field)) {
        Some(field) => Err(format!("{field} was not sent")),
        None => Ok(()),
    }
}

fn equal<T: PartialEq + Debug>(what: &str, expected: &T, got: &T) -> Result<(), String> {
    if expected == got { Ok(()) } else { Err(format!("{what} is {got:?}, expected {expected:?}")) }
}
