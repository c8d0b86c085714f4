//! One message with its payload taken apart: top-level keys with their raw
//! values, in message order, borrowed from the payload. Parameter names, units
//! and types are flespi's.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::{Delivery, Kind, RawMessage, Reject, Result, Timestamp, Value};

/// Lists and objects nested deeper than this are refused.
const DEEPEST: usize = 128;

/// A message whose payload is one JSON object.
#[derive(Debug)]
pub struct Message<'a> {
    index: u32,
    raw: &'a RawMessage,
    fields: Vec<Field<'a>>,
}

/// A top-level key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field<'a> {
    /// Without escapes.
    pub key: Cow<'a, str>,
    /// As it stands in the payload.
    pub value: Value<'a>,
}

/// Where the device was: WGS84.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Position {
    /// Degrees, -90 to 90.
    pub latitude: f64,
    /// Degrees, -180 to 180.
    pub longitude: f64,
    /// Metres.
    pub altitude: Option<f64>,
    /// Kilometres an hour.
    pub speed: Option<f64>,
    /// Degrees clockwise from north.
    pub direction: Option<f64>,
    /// Satellites used.
    pub satellites: Option<i64>,
    /// Horizontal dilution of precision.
    pub hdop: Option<f64>,
    /// Whether the device trusts it.
    pub valid: Option<bool>,
}

// impl Message

impl<'a> Message<'a> {
    /// Takes the payload of the message at this position of the batch apart.
    pub fn parse(index: u32, raw: &'a RawMessage) -> Result<Self> {
        Self::parse_into(Vec::with_capacity(32), index, raw)
    }

    /// As [`Self::parse`], into the list of an earlier message.
    pub(crate) fn parse_into(mut fields: Vec<Field<'a>>, index: u32, raw: &'a RawMessage) -> Result<Self> {
        fields.clear();
        let text = std::str::from_utf8(&raw.payload).map_err(|error| {
            Reject::new(format!("the payload is not UTF-8 text: wrong byte at {}", error.valid_up_to()))
        })?;
        parse_object_into(&mut fields, text)
            .map_err(|error| Reject::new(format!("the payload is not one JSON object: {error}")))?;
        check_nested(text, &fields)?;
        Ok(Self { index, raw, fields })
    }

    pub(crate) fn into_fields(self) -> Vec<Field<'a>> {
        self.fields
    }

    /// Position in the batch: what a delivery names to carry the message.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The topic that the bus delivered it on.
    pub fn topic(&self) -> &'a str {
        &self.raw.topic
    }

    /// The payload as it came.
    pub fn payload(&self) -> &'a [u8] {
        &self.raw.payload
    }

    /// When the gateway received it, milliseconds since the Unix epoch.
    pub fn received_at(&self) -> u64 {
        self.raw.received_at
    }

    /// All top-level fields in message order; a key that the payload has twice
    /// is there once, with its last value.
    pub fn fields(&self) -> &[Field<'a>] {
        &self.fields
    }

    /// The value of a field, `null` included. A dotted name finds the flat key
    /// first, then the nested one: `position.speed` reads
    /// `{"position.speed": 5}` and `{"position": {"speed": 5}}`.
    pub fn get(&self, name: &str) -> Option<Value<'a>> {
        find(&self.fields, name).or_else(|| find_nested(&self.fields, name))
    }

    /// As [`Self::get`], where `null` counts as missing.
    pub fn present(&self, name: &str) -> Option<Value<'a>> {
        self.get(name).filter(|value| !value.is_null())
    }

    /// A string. Missing or null: none. Another type: a rejection.
    pub fn str(&self, name: &str) -> Result<Option<Cow<'a, str>>> {
        self.typed(name, "a string", Value::as_str)
    }

    /// A 64-bit integer. Missing or null: none. Anything else: a rejection.
    pub fn i64(&self, name: &str) -> Result<Option<i64>> {
        self.typed(name, "an integer of 64 bits", Value::as_i64)
    }

    /// A number. Missing or null: none. Anything else: a rejection.
    pub fn f64(&self, name: &str) -> Result<Option<f64>> {
        self.typed(name, "a number", Value::as_f64)
    }

    /// A boolean. Missing or null: none. Anything else: a rejection.
    pub fn bool(&self, name: &str) -> Result<Option<bool>> {
        self.typed(name, "true or false", Value::as_bool)
    }

    /// The device's `ident`; a number counts as its text. Missing or empty: a
    /// rejection.
    pub fn ident(&self) -> Result<Cow<'a, str>> {
        let value = self.present("ident").ok_or(Reject::new("the message has no `ident`"))?;
        match value.kind() {
            Kind::String | Kind::Number => value.as_text().filter(|ident| !ident.is_empty()),
            _ => None,
        }
        .ok_or_else(|| wrong("ident", value, "a string that is not empty"))
    }

    /// When the device took the message: `timestamp`, seconds since the Unix
    /// epoch or ISO 8601. Missing or null: none. Anything else: a rejection.
    pub fn timestamp(&self) -> Result<Option<Timestamp<'a>>> {
        const EXPECTED: &str = "seconds since 1970 as a number, or ISO 8601 text, before the year 10000";
        self.typed("timestamp", EXPECTED, Timestamp::parse)
    }

    /// `timestamp` in milliseconds, or the time of receipt where it is missing.
    pub fn time_ms(&self) -> Result<i64> {
        Ok(match self.timestamp()? {
            Some(timestamp) => timestamp.millis,
            None => i64::try_from(self.received_at()).unwrap_or(i64::MAX),
        })
    }

    /// `position.*`. None where latitude or longitude is missing; a value that
    /// is no number or out of range is a rejection.
    pub fn position(&self) -> Result<Option<Position>> {
        let Some(latitude) = self.f64("position.latitude")? else { return Ok(None) };
        let Some(longitude) = self.f64("position.longitude")? else { return Ok(None) };
        if !(-90.0..=90.0).contains(&latitude) {
            return Err(format!("`position.latitude` is {latitude}, expected -90 to 90").into());
        }
        if !(-180.0..=180.0).contains(&longitude) {
            return Err(format!("`position.longitude` is {longitude}, expected -180 to 180").into());
        }
        Ok(Some(Position {
            latitude,
            longitude,
            altitude: self.f64("position.altitude")?,
            speed: self.f64("position.speed")?,
            direction: self.f64("position.direction")?,
            satellites: self.i64("position.satellites")?,
            hdop: self.f64("position.hdop")?,
            valid: self.bool("position.valid")?,
        }))
    }

    /// The digital inputs as a bit mask (bit 0 is the first).
    pub fn din(&self) -> Result<Option<u32>> {
        self.mask("din")
    }

    /// The digital outputs as a bit mask (bit 0 is the first).
    pub fn dout(&self) -> Result<Option<u32>> {
        self.mask("dout")
    }

    /// A delivery that carries this message alone.
    pub fn delivery(&self, body: impl Into<Vec<u8>>) -> Delivery {
        Delivery::new(vec![self.index], body)
    }

    fn mask(&self, name: &str) -> Result<Option<u32>> {
        self.typed(name, "a bit mask of 32 bits", |value| {
            value.as_u64().and_then(|mask| u32::try_from(mask).ok())
        })
    }

    fn typed<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.present(name) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| wrong(name, value, expected)),
        }
    }
}

fn wrong(name: &str, value: Value<'_>, expected: &str) -> Reject {
    Reject::new(format!("`{name}` is {value}, expected {expected}"))
}

// looking up

fn find<'a>(fields: &[Field<'a>], name: &str) -> Option<Value<'a>> {
    fields.iter().find(|field| field.key == name).map(|field| field.value)
}

/// `a.b.c` as `c` in `a.b`, then as `b.c` in `a`.
fn find_nested<'a>(fields: &[Field<'a>], name: &str) -> Option<Value<'a>> {
    name.rmatch_indices('.').find_map(|(dot, _)| {
        let (outer, inner) = (name.get(..dot)?, name.get(dot + 1..)?);
        let object = find(fields, outer).filter(|value| value.kind() == Kind::Object)?;
        let fields = parse_object(object.raw()).ok()?;
        find(&fields, inner).or_else(|| find_nested(&fields, inner))
    })
}

// taking apart

/// The fields of an object's text; a key that comes twice keeps its first
/// place and its last value.
pub(crate) fn parse_object(text: &str) -> serde_json::Result<Vec<Field<'_>>> {
    let mut fields = Vec::new();
    parse_object_into(&mut fields, text)?;
    Ok(fields)
}

fn parse_object_into<'a>(fields: &mut Vec<Field<'a>>, text: &'a str) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer.deserialize_map(FieldsVisitor(fields))?;
    deserializer.end()
}

struct FieldsVisitor<'f, 'de>(&'f mut Vec<Field<'de>>);

impl<'de> Visitor<'de> for FieldsVisitor<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let fields = self.0;
        let mut seen = Marks::default();
        while let Some(key) = map.next_key_seed(Key)? {
            if fields.len() == MAX_FIELDS {
                return Err(serde::de::Error::custom(format_args!("more than {MAX_FIELDS} fields")));
            }
            let raw: &'de RawValue = map.next_value()?;
            let value = Value::new(raw.get());
            if seen.maybe(key.as_bytes())
                && let Some(double) = fields.iter_mut().find(|field| field.key == key)
            {
                double.value = value;
                continue;
            }
            seen.add(key.as_bytes());
            fields.push(Field { key, value });
        }
        Ok(())
    }
}

/// Most fields of an object. A tracker's message has a few hundred at most;
/// with many more, looking for doubles would take longer than a script may.
const MAX_FIELDS: usize = 2000;

/// `"":0,`
const SHORTEST_FIELD: usize = 5;

/// Keys that were seen, one bit each of 256: most keys need no search for
/// their double.
#[derive(Default)]
pub(crate) struct Marks([u64; 4]);

impl Marks {
    pub(crate) fn add(&mut self, key: &[u8]) {
        let (word, bit) = Self::place(key);
        if let Some(word) = self.0.get_mut(word) {
            *word |= bit;
        }
    }

    /// False: certainly not seen.
    pub(crate) fn maybe(&self, key: &[u8]) -> bool {
        let (word, bit) = Self::place(key);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Length and some bytes tell flespi's names well apart.
    fn place(key: &[u8]) -> (usize, u64) {
        let length = key.len();
        let byte = |at: usize| u32::from(key.get(at).copied().unwrap_or_default());
        let last = length.wrapping_sub(1);
        let mixed = byte(last)
            | byte(length / 2) << 8
            | byte(length - length / 4) << 16
            | byte(last.wrapping_sub(2)) << 24;
        let hash = (mixed ^ (length as u32)).wrapping_mul(0x9e37_79b1) >> 24;
        ((hash >> 6) as usize, 1 << (hash & 63))
    }
}

/// A key, borrowed where it has no escapes.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

fn check_nested(text: &str, fields: &[Field<'_>]) -> Result<()> {
    let escapes = text.as_bytes().contains(&b'\\');
    for Field { key, value } in fields {
        if let Some(fault) = fault(*value, escapes) {
            return Err(format!("`{key}` {fault}").into());
        }
    }
    Ok(())
}

/// What serde_json leaves unchecked in a value that it only skips: the depth,
/// the number of fields, and escapes that are half a surrogate pair, which no
/// text can hold. A value without a fault can be taken apart on every level.
pub(crate) fn fault(value: Value<'_>, escapes: bool) -> Option<String> {
    let raw = value.raw();
    if matches!(value.kind(), Kind::Object | Kind::Array) {
        if depth(raw) > DEEPEST {
            return Some(format!("is nested deeper than {DEEPEST} levels"));
        }
        if raw.len() > MAX_FIELDS * SHORTEST_FIELD && most_fields(raw) > MAX_FIELDS {
            return Some(format!("has an object of more than {MAX_FIELDS} fields in it"));
        }
    }
    (escapes && !surrogates_pair(raw)).then(|| "has a \\u escape that is half a character".to_owned())
}

/// How deep valid JSON is nested; 0 for a scalar.
pub(crate) fn depth(raw: &str) -> usize {
    let (mut depth, mut deepest, mut in_string) = (0_usize, 0, false);
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => drop(bytes.next()),
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// How many fields the largest object in valid JSON has; a key that comes twice
/// counts twice.
fn most_fields(raw: &str) -> usize {
    let (mut open, mut most, mut in_string) = (Vec::new(), 0, false);
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => drop(bytes.next()),
            b'{' | b'[' if !in_string => open.push(0_usize),
            b'}' | b']' if !in_string => drop(open.pop()),
            b':' if !in_string => {
                if let Some(fields) = open.last_mut() {
                    *fields += 1;
                    most = most.max(*fields);
                }
            }
            _ => {}
        }
    }
    most
}

/// Whether each `\uD800`-`\uDBFF` is followed by `\uDC00`-`\uDFFF`, and none of
/// the latter stands alone.
fn surrogates_pair(raw: &str) -> bool {
    let mut high = false;
    let mut rest = raw.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'\\' {
            if high {
                return false;
            }
            rest = after;
            continue;
        }
        let unit = match after {
            [b'u', hex @ ..] => hex
                .get(..4)
                .and_then(|hex| std::str::from_utf8(hex).ok())
                .and_then(|hex| u16::from_str_radix(hex, 16).ok()),
            _ => None,
        };
        let low = unit.is_some_and(|unit| (0xDC00..0xE000).contains(&unit));
        if low != high {
            return false;
        }
        high = unit.is_some_and(|unit| (0xD800..0xDC00).contains(&unit));
        rest = after.get(if unit.is_some() { 5 } else { 1 }..).unwrap_or_default();
    }
    !high
}

#[cfg(test)]
mod tests;
