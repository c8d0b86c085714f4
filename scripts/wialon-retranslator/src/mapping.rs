//! From a message to packets: what goes where, caps, and the split of what
//! does not fit one packet.

use std::borrow::Cow;

use sluicegate_sdk::{Kind, Message, Position, Result, Value as Json};

use crate::names::is_voltage;
use crate::packet::{Block, MAX_TIME, Name, Packet, Posinfo, Value, check_uid, flag};
use crate::{Retranslator, Text};

/// Readers that take these fields for signed must agree with those that do not.
const MAX_SPEED: f64 = 32_767.0;
const MAX_SATELLITES: i64 = 127;

/// What posinfo holds.
const POSITION: [&str; 6] = [
    "position.latitude",
    "position.longitude",
    "position.altitude",
    "position.speed",
    "position.direction",
    "position.satellites",
];

/// What a message says in blocks and bits that are no parameters.
struct Special<'a> {
    posinfo: Option<Posinfo>,
    inputs: Option<u32>,
    outputs: Option<u32>,
    /// Name of the field and its text.
    driver: Option<(&'a str, Cow<'a, str>)>,
    alarm: bool,
}

/// A block and the flag that announces it; 0 for parameters.
type Announced<'a> = (u32, Block<'a>);

impl Retranslator {
    /// The packets of one message, in order. All of them have its unit id, its
    /// time and its position.
    pub(crate) fn packets(&self, message: &Message<'_>) -> Result<Vec<Vec<u8>>> {
        let uid = self.uid.render(message)?;
        check_uid(&uid).map_err(|error| error.to_string())?;
        let time = time(message)?;
        let special = self.special(message)?;

        let mut blocks = Vec::with_capacity(message.fields().len() + 3);
        special.announce(self.text, &mut blocks)?;
        let mut add = |name: &str, value| self.parameter(name, value, &special, &mut blocks);
        if self.fields.all() {
            message.fields().iter().for_each(|field| add(&field.key, field.value));
        } else {
            self.fields.select(message).iter().for_each(|field| add(&field.key, field.value));
        }

        let alarm = if special.alarm { flag::ALARM } else { 0 };
        self.split(Packet { uid: &uid, time, flags: alarm, blocks: Vec::new() }, special.posinfo, blocks)
    }

    fn special<'a>(&'a self, message: &Message<'a>) -> Result<Special<'a>> {
        let passes = |name: &str| self.passes(message, name);
        let position = match passes("position.latitude") && passes("position.longitude") {
            true => message.position()?,
            false => None,
        };
        Ok(Special {
            posinfo: position.map(|position| self.posinfo(&position, passes)),
            inputs: if passes("din") { message.din()? } else { None },
            outputs: if passes("dout") { message.dout()? } else { None },
            driver: self.driver.iter().filter(|name| passes(name)).find_map(|name| {
                let value = message.present(name)?;
                let text = value.as_text().filter(|text| value.kind() != Kind::Bool && !text.is_empty())?;
                Some((name.as_str(), text))
            }),
            alarm: self.alarm.iter().filter(|name| passes(name)).any(|name| {
                message.present(name).is_some_and(|value| {
                    value.as_bool().unwrap_or(false) || value.as_f64().is_some_and(|number| number != 0.0)
                })
            }),
        })
    }

    /// Parts of the position that may not leave the gateway are as if missing.
    fn posinfo(&self, position: &Position, passes: impl Fn(&str) -> bool) -> Posinfo {
        let part = |name, value: Option<f64>| value.filter(|_| passes(name)).unwrap_or(0.0);
        let satellites = position.satellites.filter(|_| passes("position.satellites"));
        Posinfo {
            lon: position.longitude,
            lat: position.latitude,
            alt: part("position.altitude", position.altitude),
            speed: part("position.speed", position.speed).round().clamp(0.0, MAX_SPEED) as u16,
            course: part("position.direction", position.direction).rem_euclid(360.0).round() as u16 % 360,
            sats: satellites.map_or(self.missing_satellites, |count| count.clamp(0, MAX_SATELLITES) as u8),
        }
    }

    /// Whether a field may leave the gateway. What is in an object may if the
    /// object may; a flat field of the same name is in no object.
    fn passes(&self, message: &Message<'_>, name: &str) -> bool {
        let nested = || message.fields().iter().all(|field| field.key != name);
        let objects = || name.match_indices('.').filter_map(|(dot, _)| name.get(..dot));
        let allows = |name: &str| self.fields.allows(name);
        let excludes = |name: &str| self.excludes(name);
        (allows(name) || (objects().any(allows) && nested()))
            && !excludes(name)
            && !(objects().any(excludes) && nested())
    }

    fn excludes(&self, name: &str) -> bool {
        !self.exclude.all() && self.exclude.allows(name)
    }

    /// Adds the blocks of one field: none for `null`, several for what is in
    /// an object (`outer.inner`) or a list (`list.1`, `list.2`).
    fn parameter<'a>(
        &self,
        field: &str,
        value: Json<'a>,
        special: &Special<'_>,
        blocks: &mut Vec<Announced<'a>>,
    ) {
        if self.excludes(field) || special.holds(field) {
            return;
        }
        let name = || self.rename.name(field, self.names);
        let (name, value) = match value.kind() {
            Kind::Null => return,
            Kind::Object => {
                for inner in value.fields() {
                    self.parameter(&format!("{field}.{}", inner.key), inner.value, special, blocks);
                }
                return;
            }
            Kind::Array => {
                for (number, element) in (1..).zip(value.elements()) {
                    self.parameter(&format!("{field}.{number}"), element, special, blocks);
                }
                return;
            }
            Kind::Bool | Kind::Number if self.alarm.iter().any(|alarm| alarm == field) => return,
            Kind::Bool => (name(), Value::Int(i32::from(value.as_bool() == Some(true)))),
            Kind::Number => {
                let name = name();
                (name, number(&name, value.raw()))
            }
            Kind::String => (name(), Value::Text(self.text.write(value.as_str().unwrap_or_default()))),
        };
        blocks.push((0, Block { name, hidden: false, value }));
    }

    /// Distributes the blocks over as few packets as their order allows. The
    /// alarm is raised by the first alone.
    fn split(
        &self,
        empty: Packet<'_>,
        posinfo: Option<Posinfo>,
        blocks: Vec<Announced<'_>>,
    ) -> Result<Vec<Vec<u8>>> {
        let Packet { uid, time, flags, .. } = empty;
        let mut packet = Packet { uid, time, flags, blocks: Vec::with_capacity(blocks.len() + 1) };
        packet.place(posinfo)?;
        let least = packet.size();
        if least > self.max_packet {
            let max = self.max_packet;
            return Err(format!(
                "the packet takes {least} bytes before its parameters, `max_packet` is {max}"
            )
            .into());
        }

        let mut packets = Vec::with_capacity(1);
        let mut size = least;
        for (announced, block) in blocks {
            if size + block.size() > self.max_packet {
                if least + block.size() > self.max_packet {
                    let (name, found, left) = (&block.name, block.size(), self.max_packet - least);
                    return Err(format!(
                        "the parameter `{name}` takes {found} bytes, `max_packet` = {} leaves {left} for it",
                        self.max_packet
                    )
                    .into());
                }
                packets.push(encode(&packet)?);
                packet.flags = 0;
                packet.blocks.clear();
                packet.place(posinfo)?;
                size = least;
            }
            size += block.size();
            packet.flags |= announced;
            packet.blocks.push(block);
        }
        packets.push(encode(&packet)?);
        Ok(packets)
    }
}

// impl Special

impl<'a> Special<'a> {
    /// Whether the field went where `self` says and is no parameter.
    fn holds(&self, field: &str) -> bool {
        match field {
            "ident" | "timestamp" => true,
            "din" => self.inputs.is_some(),
            "dout" => self.outputs.is_some(),
            _ => {
                (self.posinfo.is_some() && POSITION.contains(&field))
                    || self.driver.as_ref().is_some_and(|(name, _)| *name == field)
            }
        }
    }

    /// The blocks beside posinfo; all of them are hidden.
    fn announce(&self, text: Text, blocks: &mut Vec<Announced<'a>>) -> Result<()> {
        // A bit field keeps its bits: the 32nd makes the number negative.
        let mask = |bits: u32| Value::Int(bits.cast_signed());
        if let Some(bits) = self.inputs {
            blocks.push((flag::INPUTS, hidden("avl_inputs", mask(bits))?));
        }
        if let Some(bits) = self.outputs {
            blocks.push((flag::OUTPUTS, hidden("avl_outputs", mask(bits))?));
        }
        if let Some((_, code)) = &self.driver {
            blocks.push((flag::DRIVER, hidden("avl_driver", Value::Text(text.write(code.clone())))?));
        }
        Ok(())
    }
}

impl Packet<'_> {
    fn place(&mut self, posinfo: Option<Posinfo>) -> Result<()> {
        if let Some(posinfo) = posinfo {
            self.flags |= flag::LOCATION;
            self.blocks.push(hidden("posinfo", Value::Posinfo(posinfo))?);
        }
        Ok(())
    }
}

impl Text {
    fn write<'a>(self, text: Cow<'a, str>) -> Cow<'a, str> {
        let allowed = |character: char| character != '\0' && (self == Self::Utf8 || character.is_ascii());
        if text.chars().all(allowed) {
            return text;
        }
        Cow::Owned(text.chars().map(|it| if allowed(it) { it } else { '?' }).collect())
    }
}

fn hidden<'a>(name: &str, value: Value<'a>) -> Result<Block<'a>> {
    let name = Name::new(name).ok_or_else(|| format!("`{name}` is no name of a block"))?;
    Ok(Block { name, hidden: true, value })
}

fn encode(packet: &Packet<'_>) -> Result<Vec<u8>> {
    Ok(packet.encode().map_err(|error| error.to_string())?)
}

/// Whole seconds that every reader understands.
fn time(message: &Message<'_>) -> Result<u32> {
    let seconds = message.time_ms()?.div_euclid(1000);
    match u32::try_from(seconds) {
        Ok(time) if time <= MAX_TIME => Ok(time),
        _ => {
            Err(format!("the time is {seconds} s since 1970, expected at most {MAX_TIME} (January 2038)")
                .into())
        }
    }
}

/// The smallest type that holds the number to its last digit. What neither
/// integer type holds, or no double, stays as its text.
fn number<'a>(name: &Name, raw: &'a str) -> Value<'a> {
    let fraction = raw.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E'));
    if fraction || is_voltage(name) {
        return match raw.parse::<f64>() {
            Ok(number) if number.is_finite() => Value::Double(number),
            _ => Value::Text(Cow::Borrowed(raw)),
        };
    }
    match raw.parse::<i64>() {
        Ok(number) => i32::try_from(number).map_or(Value::Long(number), Value::Int),
        Err(_) => Value::Text(Cow::Borrowed(raw)),
    }
}
