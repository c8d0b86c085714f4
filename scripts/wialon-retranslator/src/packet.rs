//! The bytes of the Wialon Retranslator protocol, version 1.0: what a packet
//! is made of, how long it will be, and its encoding.
//!
//! Source: the protocol descriptions by Gurtam (WialonRetranslator 1.0,
//! English edition of 2016, and the newer Russian edition of the same
//! version). A packet is
//!
//! ```text
//! size    u32 little-endian, counts everything after itself
//! uid     text, NUL
//! time    u32 big-endian, seconds since 1970
//! flags   u32 big-endian
//! blocks  up to the end of the packet
//! ```
//!
//! and a block is
//!
//! ```text
//! 0x0BBB  u16 big-endian
//! size    u32 big-endian, counts everything after itself in this block
//! hidden  u8: 1 or 0
//! type    u8: 1 text, 2 binary, 3 int32, 4 double, 5 int64
//! name    text, NUL
//! value   integers big-endian, doubles little-endian, text with its NUL
//! ```

use std::{borrow::Cow, fmt};

/// The bits of [`Packet::flags`]. A bit says that the block is there; the
/// alarm bit alone stands for itself. 0x08 is reserved: alarm is 0x10.
pub mod flag {
    /// There is a block `posinfo`.
    pub const LOCATION: u32 = 0x01;
    /// There is a block `avl_inputs`.
    pub const INPUTS: u32 = 0x02;
    /// There is a block `avl_outputs`.
    pub const OUTPUTS: u32 = 0x04;
    /// The unit raises an alarm.
    pub const ALARM: u32 = 0x10;
    /// There is a block `avl_driver`.
    pub const DRIVER: u32 = 0x20;
}

/// Longest name of a block, in bytes, without its NUL.
pub const MAX_NAME: usize = 38;
/// Latest time that a reader of signed integers still understands.
pub const MAX_TIME: u32 = i32::MAX as u32;

/// Start of a block.
const BLOCK_MARK: u16 = 0x0BBB;
/// Block mark and block size, which the block size does not count.
const BLOCK_HEADER: usize = 6;
/// Length of the value of `posinfo`.
const POSINFO: usize = 29;

/// One packet: everything that one unit says about one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Packet<'a> {
    /// Unit id, usually the IMEI: printable ASCII, not empty.
    pub uid: &'a str,
    /// Seconds since 1970 UTC; readers disagree about those after [`MAX_TIME`].
    pub time: u32,
    /// Bits of [`flag`].
    pub flags: u32,
    /// In the order of the wire.
    pub blocks: Vec<Block<'a>>,
}

/// One named value.
#[derive(Debug, Clone, PartialEq)]
pub struct Block<'a> {
    /// The parameter's name at the receiver.
    pub name: Name,
    /// Wialon registers an ordinary parameter only if it is not hidden, and
    /// wants posinfo, avl_inputs, avl_outputs and avl_driver hidden.
    pub hidden: bool,
    /// The value; decides the type byte.
    pub value: Value<'a>,
}

/// A value as the protocol knows it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// Type 1. The document says ASCII; no NUL inside.
    Text(Cow<'a, str>),
    /// Type 2: the only binary that the protocol defines.
    Posinfo(Posinfo),
    /// Type 3.
    Int(i32),
    /// Type 4. Must be finite.
    Double(f64),
    /// Type 5.
    Long(i64),
}

/// Where the unit is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Posinfo {
    /// Degrees, east is positive.
    pub lon: f64,
    /// Degrees, north is positive.
    pub lat: f64,
    /// Metres above the sea.
    pub alt: f64,
    /// km/h.
    pub speed: u16,
    /// Degrees from north, 0 to 359.
    pub course: u16,
    /// Satellites in use; below four, Wialon draws the track dotted.
    pub sats: u8,
}

/// The name of a block: 1 to [`MAX_NAME`] bytes of printable ASCII.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    length: u8,
    bytes: [u8; MAX_NAME],
}

/// Why a packet has no encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EncodeError {
    /// The unit id is empty.
    EmptyUid,
    /// The unit id holds something other than printable ASCII.
    Uid(String),
    /// The text of the named block holds a NUL, which would end it early.
    Nul(String),
    /// The named block holds NaN or an infinity.
    NotFinite(String),
    /// A size does not fit its four bytes.
    TooLong,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyUid => out.write_str("the unit id is empty"),
            Self::Uid(uid) => write!(out, "the unit id {uid:?} must be printable ASCII"),
            Self::Nul(name) => write!(out, "the text of {name} holds a NUL"),
            Self::NotFinite(name) => write!(out, "the value of {name} is not a finite number"),
            Self::TooLong => out.write_str("the packet is longer than its size field can say"),
        }
    }
}

impl std::error::Error for EncodeError {}

// impl Name

impl Name {
    /// `None` if `text` is no name: empty, too long, not printable ASCII.
    pub fn new(text: &str) -> Option<Self> {
        let source = text.as_bytes();
        if source.is_empty() || !source.iter().all(|byte| (0x20..0x7F).contains(byte)) {
            return None;
        }
        let mut bytes = [0; MAX_NAME];
        bytes.get_mut(..source.len())?.copy_from_slice(source);
        Some(Self { length: source.len() as u8, bytes })
    }

    /// The nearest name for any text: each character outside the allowed set
    /// becomes `_`. A text that is too long or not ASCII keeps at most 29 bytes
    /// of that and gets `_` and eight hex digits of a hash of the whole, so
    /// that two names which differ in the lost part stay two.
    ///
    /// The allowed set is letters, digits and `_`, or with `keep` all of
    /// printable ASCII.
    pub fn nearest(text: &str, keep: bool) -> Self {
        let mut name = Self { length: 0, bytes: [0; MAX_NAME] };
        let mut recognizable = true;
        for character in text.chars() {
            recognizable &= character.is_ascii();
            recognizable &= name.push(match character {
                'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => character as u8,
                ' '..='~' if keep => character as u8,
                _ => b'_',
            });
        }
        if !recognizable {
            name.length = name.length.min((MAX_NAME - 9) as u8);
            name.push(b'_');
            let hash = fnv1a(text.as_bytes());
            for shift in (0..8).rev() {
                let digit = (hash >> (4 * shift)) & 0xF;
                name.push(char::from_digit(digit, 16).map_or(b'0', |digit| digit as u8));
            }
        }
        if name.length == 0 {
            name.push(b'_');
        }
        name
    }

    /// The name's bytes, without NUL.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or(&self.bytes)
    }

    /// Whether there was room for `byte`.
    fn push(&mut self, byte: u8) -> bool {
        match self.bytes.get_mut(usize::from(self.length)) {
            Some(place) => {
                *place = byte;
                self.length += 1;
                true
            }
            None => false,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(out, "{}", char::from(*byte)))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "\"{self}\"")
    }
}

/// 32-bit FNV-1a: the names in question are few, and the digits must never
/// change between versions.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

// impl Value

impl Value<'_> {
    /// Bytes on the wire.
    fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.len() + 1,
            Self::Posinfo(_) => POSINFO,
            Self::Int(_) => 4,
            Self::Double(_) | Self::Long(_) => 8,
        }
    }

    fn type_byte(&self) -> u8 {
        match self {
            Self::Text(_) => 1,
            Self::Posinfo(_) => 2,
            Self::Int(_) => 3,
            Self::Double(_) => 4,
            Self::Long(_) => 5,
        }
    }
}

// impl Block

impl Block<'_> {
    /// Bytes on the wire, mark and size field included.
    pub fn size(&self) -> usize {
        BLOCK_HEADER + self.counted()
    }

    /// What the block's own size field says.
    fn counted(&self) -> usize {
        2 + self.name.as_bytes().len() + 1 + self.value.size()
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(&BLOCK_MARK.to_be_bytes());
        let size = u32::try_from(self.counted()).map_err(|_| EncodeError::TooLong)?;
        out.extend_from_slice(&size.to_be_bytes());
        out.push(u8::from(self.hidden));
        out.push(self.value.type_byte());
        out.extend_from_slice(self.name.as_bytes());
        out.push(0);
        match &self.value {
            Value::Text(text) if text.as_bytes().contains(&0) => {
                return Err(EncodeError::Nul(self.name.to_string()));
            }
            Value::Text(text) => {
                out.extend_from_slice(text.as_bytes());
                out.push(0);
            }
            Value::Posinfo(posinfo) => posinfo.encode(&self.name, out)?,
            Value::Int(number) => out.extend_from_slice(&number.to_be_bytes()),
            Value::Double(number) => out.extend_from_slice(&double(*number, &self.name)?),
            Value::Long(number) => out.extend_from_slice(&number.to_be_bytes()),
        }
        Ok(())
    }
}

impl Posinfo {
    fn encode(&self, name: &Name, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        for number in [self.lon, self.lat, self.alt] {
            out.extend_from_slice(&double(number, name)?);
        }
        out.extend_from_slice(&self.speed.to_be_bytes());
        out.extend_from_slice(&self.course.to_be_bytes());
        out.push(self.sats);
        Ok(())
    }
}

fn double(number: f64, name: &Name) -> Result<[u8; 8], EncodeError> {
    if number.is_finite() { Ok(number.to_le_bytes()) } else { Err(EncodeError::NotFinite(name.to_string())) }
}

// impl Packet

impl Packet<'_> {
    /// Bytes on the wire of a packet of this unit without blocks.
    pub fn bare_size(uid: &str) -> usize {
        4 + uid.len() + 1 + 4 + 4
    }

    /// Bytes on the wire, the packet's own size field included.
    pub fn size(&self) -> usize {
        Self::bare_size(self.uid) + self.blocks.iter().map(Block::size).sum::<usize>()
    }

    /// The bytes to send, in one write: some receivers trip over a size field
    /// that arrives alone.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        check_uid(self.uid)?;
        let total = self.size();
        let size = u32::try_from(total - 4).map_err(|_| EncodeError::TooLong)?;
        let mut out = Vec::with_capacity(total);
        out.extend_from_slice(&size.to_le_bytes());
        out.extend_from_slice(self.uid.as_bytes());
        out.push(0);
        out.extend_from_slice(&self.time.to_be_bytes());
        out.extend_from_slice(&self.flags.to_be_bytes());
        for block in &self.blocks {
            block.encode(&mut out)?;
        }
        Ok(out)
    }
}

/// Whether a packet can carry `uid`.
pub fn check_uid(uid: &str) -> Result<(), EncodeError> {
    if uid.is_empty() {
        Err(EncodeError::EmptyUid)
    } else if !uid.bytes().all(|byte| (0x20..0x7F).contains(&byte)) {
        Err(EncodeError::Uid(uid.to_owned()))
    } else {
        Ok(())
    }
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
