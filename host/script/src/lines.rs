//! What becomes of messages, one JSON line each: as `sluicegate map` prints
//! it, and golden cases hold it.
//!
//! ```text
//! {"messages":[0],"target":null,"headers":{},"body":"text"}   a delivery
//! {"message":1,"rejected":"reason"}
//! {"message":2,"filtered":true}
//! ```

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};

use super::mapping::{MappedDelivery, Mapping};

/// Shows a body that is no text to people, as `packet`. What the bytes mean
/// only the destination knows.
pub type Decode = fn(&[u8]) -> Value;

/// Deliveries in the script's order, then rejections, then what it filtered.
/// Message 0 of the mapping has the number `first`.
pub fn mapping(
    out: &mut impl Write,
    mapping: &Mapping,
    first: u64,
    decode: Option<Decode>,
) -> io::Result<()> {
    for delivery in &mapping.deliveries {
        line(out, &Delivery::of(delivery, first, decode))?;
    }
    for (message, reason) in &mapping.rejections {
        rejection(out, first + u64::from(*message), reason)?;
    }
    for message in &mapping.filtered {
        line(out, &json!({"message": first + u64::from(*message), "filtered": true}))?;
    }
    Ok(())
}

/// One message that is rejected.
pub fn rejection(out: &mut impl Write, message: u64, reason: &str) -> io::Result<()> {
    line(out, &json!({"message": message, "rejected": reason}))
}

fn line(out: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

#[derive(serde::Serialize)]
struct Delivery<'a> {
    messages: Vec<u64>,
    target: Option<&'a str>,
    headers: Headers<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packet: Option<Value>,
}

/// As one object, in their order. A name that comes twice is there twice.
struct Headers<'a>(&'a [(String, String)]);

impl<'a> Delivery<'a> {
    fn of(delivery: &'a MappedDelivery, first: u64, decode: Option<Decode>) -> Self {
        let body = std::str::from_utf8(&delivery.body).ok();
        Self {
            messages: delivery.messages.iter().map(|message| first + u64::from(*message)).collect(),
            target: delivery.target.as_deref(),
            headers: Headers(&delivery.headers),
            body,
            body_base64: body.is_none().then(|| BASE64.encode(&delivery.body)),
            packet: decode.map(|decode| decode(&delivery.body)),
        }
    }
}

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}
