//! Reads packets of the Wialon Retranslator protocol, version 1.0, strictly.
//!
//! Source: the protocol descriptions by Gurtam (English edition of 2016, and
//! the newer Russian edition, which adds images). Written apart from the
//! encoder in `scripts/wialon-retranslator`, so that the two check each other:
//! no constant and no line is shared.
//!
//! Everything that the document leaves no room for is refused; what real
//! senders do and receivers live with (reserved flag bits, flags that announce
//! no block, hidden parameters, long names, UTF-8) is read as it stands.

use std::fmt;

use serde_json::{Map, Value as Json, json};

/// One packet.
#[derive(Debug, Clone, PartialEq)]
pub struct Packet {
    /// What the size field says: all bytes after itself.
    pub size: u32,
    /// The unit's id.
    pub uid: String,
    /// Seconds since 1970 UTC.
    pub time: u32,
    /// The bit mask as sent.
    pub flags: u32,
    /// In the order of the wire.
    pub blocks: Vec<Block>,
}

/// One named value of a packet.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// Where the block begins, from the first byte of the packet.
    pub offset: usize,
    /// What its size field says: all bytes of the block after itself.
    pub size: u32,
    /// Whether the receiver is told not to show it.
    pub hidden: bool,
    /// Name of the parameter.
    pub name: String,
    /// Its value.
    pub value: Value,
}

/// The data types of the protocol; binary is split by what is known about it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Type 1, without its NUL.
    Text(String),
    /// Type 2 under the name posinfo.
    Posinfo(Posinfo),
    /// Type 2 under any other name.
    Binary(Vec<u8>),
    /// Type 3.
    Int32(i32),
    /// Type 4.
    Double(f64),
    /// Type 5.
    Int64(i64),
    /// Type 6: the picture alone, without its header.
    Image(Vec<u8>),
}

/// The value of the block `posinfo`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Posinfo {
    /// Longitude in degrees.
    pub lon: f64,
    /// Latitude in degrees.
    pub lat: f64,
    /// Altitude in metres.
    pub alt: f64,
    /// Speed in km/h.
    pub speed: u16,
    /// Course in degrees.
    pub course: u16,
    /// Satellites in use.
    pub sats: u8,
}

/// Bytes that are no packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    /// Where the field that is wrong begins (for text that is not UTF-8: the
    /// wrong byte), from the first byte given.
    pub offset: usize,
    /// What is wrong there and what was expected.
    pub reason: String,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "byte {}: {}", self.offset, self.reason)
    }
}

impl std::error::Error for DecodeError {}

/// A packet cannot be shorter: one letter, NUL, time, bit mask.
const SMALLEST: u32 = 10;
/// The five bits with a meaning.
const FLAGS: [(u32, &str); 5] =
    [(0x01, "location"), (0x02, "inputs"), (0x04, "outputs"), (0x10, "alarm"), (0x20, "driver")];

/// Length, size field included, of the packet at the start of `bytes`, or
/// `None` while it has not arrived whole: for readers of a stream, who cut
/// that many bytes off, [`decode`] them and come back.
///
/// A packet whose size field exceeds `max_size` is refused at once: text that
/// reached the wrong port reads as a size of many megabytes.
pub fn frame(bytes: &[u8], max_size: u32) -> Result<Option<usize>, DecodeError> {
    let Some(field) = bytes.first_chunk::<4>() else { return Ok(None) };
    let size = u32::from_le_bytes(*field);
    if size < SMALLEST {
        return Err(wrong(0, format!("the packet size is {size}, expected at least {SMALLEST}")));
    }
    if size > max_size {
        return Err(wrong(0, format!("the packet size is {size}, expected at most {max_size}")));
    }
    let length = 4 + size as usize;
    Ok((bytes.len() >= length).then_some(length))
}

/// Reads `bytes` as exactly one packet, size field included.
pub fn decode(bytes: &[u8]) -> Result<Packet, DecodeError> {
    let mut reader = Reader { rest: bytes, offset: 0 };
    let size = u32::from_le_bytes(reader.take("packet size")?);
    if size < SMALLEST {
        return Err(wrong(0, format!("the packet size is {size}, expected at least {SMALLEST}")));
    }
    if reader.rest.len() != size as usize {
        let found = reader.rest.len();
        return Err(wrong(0, format!("the packet size is {size}, but {found} bytes follow it")));
    }
    let uid = reader.text("unit id")?;
    if uid.is_empty() {
        return Err(wrong(4, "the unit id is empty".to_owned()));
    }
    let time = u32::from_be_bytes(reader.take("time")?);
    let flags = u32::from_be_bytes(reader.take("bit mask")?);
    let mut blocks = Vec::new();
    while !reader.rest.is_empty() {
        blocks.push(block(&mut reader)?);
    }
    Ok(Packet { size, uid, time, flags, blocks })
}

fn block(packet: &mut Reader<'_>) -> Result<Block, DecodeError> {
    let offset = packet.offset;
    let mark = u16::from_be_bytes(packet.take("block type")?);
    if mark != 0x0BBB {
        return Err(wrong(offset, format!("the block type is {mark:#06x}, expected 0x0bbb")));
    }
    let size_offset = packet.offset;
    let size = u32::from_be_bytes(packet.take("block size")?);
    let left = packet.rest.len();
    let Some(mut reader) = packet.part(size as usize) else {
        let reason = format!("the block size is {size}, but the packet ends after {left} bytes");
        return Err(wrong(size_offset, reason));
    };

    let hidden_offset = reader.offset;
    let [hidden] = reader.take("hidden attribute")?;
    if hidden > 1 {
        return Err(wrong(hidden_offset, format!("the hidden attribute is {hidden}, expected 0 or 1")));
    }
    let type_offset = reader.offset;
    let [data_type] = reader.take("data type")?;
    if !(1..=6).contains(&data_type) {
        return Err(wrong(type_offset, format!("the data type is {data_type}, expected 1 to 6")));
    }
    let name_offset = reader.offset;
    let name = reader.text("name")?;
    if name.is_empty() {
        return Err(wrong(name_offset, "the name is empty".to_owned()));
    }
    let value = match data_type {
        1 => Value::Text(reader.text("text")?),
        2 if name == "posinfo" => Value::Posinfo(posinfo(&mut reader)?),
        2 => Value::Binary(reader.all()),
        3 => Value::Int32(i32::from_be_bytes(reader.take("int32")?)),
        4 => Value::Double(f64::from_le_bytes(reader.take("double")?)),
        5 => Value::Int64(i64::from_be_bytes(reader.take("int64")?)),
        _ => Value::Image(image(&mut reader)?),
    };
    if !reader.rest.is_empty() {
        let reason = format!("{} bytes too many for the value of {name:?}", reader.rest.len());
        return Err(wrong(reader.offset, reason));
    }
    Ok(Block { offset, size, hidden: hidden == 1, name, value })
}

/// The doubles are little-endian, the rest big-endian, longitude comes first.
fn posinfo(reader: &mut Reader<'_>) -> Result<Posinfo, DecodeError> {
    Ok(Posinfo {
        lon: f64::from_le_bytes(reader.take("longitude")?),
        lat: f64::from_le_bytes(reader.take("latitude")?),
        alt: f64::from_le_bytes(reader.take("altitude")?),
        speed: u16::from_be_bytes(reader.take("speed")?),
        course: u16::from_be_bytes(reader.take("course")?),
        sats: u8::from_be_bytes(reader.take("satellites")?),
    })
}

/// Eight zero bytes, the length of the picture, the picture.
fn image(reader: &mut Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    let offset = reader.offset;
    let header: [u8; 8] = reader.take("image header")?;
    if header != [0; 8] {
        return Err(wrong(offset, "the image header is not zero".to_owned()));
    }
    let offset = reader.offset;
    let size = u32::from_be_bytes(reader.take("image size")?) as usize;
    let left = reader.rest.len();
    match reader.part(size) {
        Some(mut picture) => Ok(picture.all()),
        None => {
            Err(wrong(offset, format!("the image size is {size}, but the block ends after {left} bytes")))
        }
    }
}

fn wrong(offset: usize, reason: String) -> DecodeError {
    DecodeError { offset, reason }
}

/// Bytes not read yet, and how many came before them.
struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self, what: &str) -> Result<[u8; N], DecodeError> {
        let Some((bytes, rest)) = self.rest.split_first_chunk::<N>() else {
            let left = self.rest.len();
            return Err(wrong(self.offset, format!("the {what} takes {N} bytes, only {left} are left")));
        };
        self.rest = rest;
        self.offset += N;
        Ok(*bytes)
    }

    /// A reader of the next `length` bytes, which this one skips.
    fn part(&mut self, length: usize) -> Option<Self> {
        let (part, rest) = self.rest.split_at_checked(length)?;
        let reader = Self { rest: part, offset: self.offset };
        self.rest = rest;
        self.offset += length;
        Some(reader)
    }

    fn all(&mut self) -> Vec<u8> {
        let bytes = self.rest.to_vec();
        self.offset += bytes.len();
        self.rest = &[];
        bytes
    }

    /// Up to the NUL, which is taken too.
    fn text(&mut self, what: &str) -> Result<String, DecodeError> {
        let start = self.offset;
        let end = self.rest.iter().position(|byte| *byte == 0);
        let Some(part) = end.and_then(|end| self.part(end)) else {
            return Err(wrong(start, format!("the {what} has no NUL at its end")));
        };
        let text = std::str::from_utf8(part.rest)
            .map_err(|error| wrong(start + error.valid_up_to(), format!("the {what} is not UTF-8")))?
            .to_owned();
        let [_nul] = self.take(what)?;
        Ok(text)
    }
}

// === impl Packet ===

impl Packet {
    /// The block tree for people and for golden files, in the order of the
    /// wire: `{"size", "uid", "time", "flags": [words], "blocks": [{"name",
    /// "type", "hidden", "value"}]}`. Reserved flag bits come as one hex
    /// number after the words, bytes as `{"hex": "..."}`, doubles that are no
    /// numbers as words.
    pub fn to_json(&self) -> Json {
        let mut flags: Vec<Json> =
            FLAGS.iter().filter(|(bit, _)| self.flags & bit != 0).map(|(_, word)| json!(word)).collect();
        let reserved = FLAGS.iter().fold(self.flags, |rest, (bit, _)| rest & !bit);
        if reserved != 0 {
            flags.push(json!(format!("{reserved:#010x}")));
        }
        let blocks: Vec<Json> = self.blocks.iter().map(Block::to_json).collect();
        object([
            ("size", json!(self.size)),
            ("uid", json!(self.uid)),
            ("time", json!(self.time)),
            ("flags", Json::Array(flags)),
            ("blocks", Json::Array(blocks)),
        ])
    }
}

impl Block {
    fn to_json(&self) -> Json {
        let (data_type, value) = match &self.value {
            Value::Text(text) => ("text", json!(text)),
            Value::Posinfo(posinfo) => ("binary", posinfo.to_json()),
            Value::Binary(bytes) => ("binary", hex(bytes)),
            Value::Int32(number) => ("int32", json!(number)),
            Value::Double(number) => ("double", double(*number)),
            Value::Int64(number) => ("int64", json!(number)),
            Value::Image(bytes) => ("image", hex(bytes)),
        };
        object([
            ("name", json!(self.name)),
            ("type", json!(data_type)),
            ("hidden", json!(self.hidden)),
            ("value", value),
        ])
    }
}

impl Posinfo {
    fn to_json(self) -> Json {
        object([
            ("lon", double(self.lon)),
            ("lat", double(self.lat)),
            ("alt", double(self.alt)),
            ("speed", json!(self.speed)),
            ("course", json!(self.course)),
            ("sats", json!(self.sats)),
        ])
    }
}

fn object<const N: usize>(members: [(&str, Json); N]) -> Json {
    Json::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>())
}

fn hex(bytes: &[u8]) -> Json {
    json!({"hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()})
}

/// JSON has no words for these.
fn double(number: f64) -> Json {
    if number.is_nan() {
        json!("NaN")
    } else if number.is_infinite() {
        json!(if number > 0.0 { "Infinity" } else { "-Infinity" })
    } else {
        json!(number)
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
