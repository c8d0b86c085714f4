//! The bytes of a chunk in a segment file: the messages of one commit.
//!
//! ```text
//! "SLCH" | chunk u64 | count u32 | count x message
//! message: received_at u64 | topic length u32 | payload length u32 | kind u8 | topic | payload
//!          bit 0 of the kind: a stored delivery follows; bit 1: it was read before
//! stored delivery: length u32 | JSON of target and headers | body length u32 | body
//! ```
//! Little endian. The index holds the length and the checksum of the chunk.

use std::sync::Arc;

use bytes::Bytes;
use message::Message;
use serde::{Deserialize, Serialize};

use crate::types::StoredDelivery;

const MAGIC: &[u8; 4] = b"SLCH";
/// Magic, number, count.
const HEAD: usize = 16;
/// Time, two lengths and kind.
const MESSAGE_HEAD: usize = 17;

/// One message of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub message: Message,
    pub as_is: Option<Arc<StoredDelivery>>,
    /// It was read before.
    pub reread: bool,
}

/// The bytes are not the expected chunk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Damage(pub String);

#[derive(Serialize, Deserialize)]
struct Target {
    target: Option<String>,
    headers: Vec<(String, String)>,
}

pub(crate) fn encode(chunk: u64, items: &[Item]) -> Vec<u8> {
    let size = items.iter().map(|i| i.message.size() + MESSAGE_HEAD).sum::<usize>();
    let mut bytes = Vec::with_capacity(HEAD + size);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&chunk.to_le_bytes());
    bytes.extend_from_slice(&length(items.len()));
    for Item { message, as_is, reread } in items {
        bytes.extend_from_slice(&message.received_at.to_le_bytes());
        bytes.extend_from_slice(&length(message.topic.len()));
        bytes.extend_from_slice(&length(message.payload.len()));
        bytes.push(u8::from(as_is.is_some()) | u8::from(*reread) << 1);
        bytes.extend_from_slice(message.topic.as_bytes());
        bytes.extend_from_slice(&message.payload);
        if let Some(delivery) = as_is {
            encode_delivery(delivery, &mut bytes);
        }
    }
    bytes
}

/// The length of a chunk of one message.
pub(crate) fn encoded_len(message: &Message, as_is: Option<&StoredDelivery>) -> usize {
    let delivery = as_is.map_or(0, |delivery| 4 + target(delivery).len() + 4 + delivery.body.len());
    HEAD + MESSAGE_HEAD + message.size() + delivery
}

/// Target and headers as JSON.
fn target(delivery: &StoredDelivery) -> Vec<u8> {
    let target = Target { target: delivery.target.clone(), headers: delivery.headers.clone() };
    // Strings and lists of strings: this cannot fail.
    serde_json::to_vec(&target).unwrap_or_default()
}

/// Reads the output of [`encode`]. The payloads share the memory of `bytes`.
pub(crate) fn decode(chunk: u64, bytes: &Bytes) -> Result<Vec<Item>, Damage> {
    let mut rest = Cursor { bytes, at: 0 };
    if rest.take(4)?.as_ref() != MAGIC {
        return Err(Damage("it does not begin like a chunk".to_owned()));
    }
    let number = rest.u64()?;
    if number != chunk {
        return Err(Damage(format!("it is chunk {number}")));
    }
    let count = rest.u32()?;
    let mut items = Vec::new();
    for _ in 0..count {
        let received_at = rest.u64()?;
        let (topic, payload) = (rest.u32()? as usize, rest.u32()? as usize);
        let kind = rest.take(1)?;
        let topic = rest.take(topic)?;
        let topic = std::str::from_utf8(&topic).map_err(|_| Damage("a topic is not UTF-8".to_owned()))?;
        let message = Message { topic: topic.into(), payload: rest.take(payload)?, received_at };
        let kind = match kind.as_ref() {
            [kind @ 0..=3] => *kind,
            other => return Err(Damage(format!("a message of unknown kind {other:?}"))),
        };
        let as_is = if kind & 1 != 0 { Some(Arc::new(decode_delivery(&mut rest)?)) } else { None };
        items.push(Item { message, as_is, reread: kind & 2 != 0 });
    }
    if rest.at != bytes.len() {
        return Err(Damage(format!("{} bytes after the last message", bytes.len() - rest.at)));
    }
    Ok(items)
}

fn encode_delivery(delivery: &StoredDelivery, bytes: &mut Vec<u8>) {
    let head = target(delivery);
    bytes.extend_from_slice(&length(head.len()));
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(&length(delivery.body.len()));
    bytes.extend_from_slice(&delivery.body);
}

fn decode_delivery(rest: &mut Cursor<'_>) -> Result<StoredDelivery, Damage> {
    let head = rest.u32()? as usize;
    let head = rest.take(head)?;
    let Target { target, headers } =
        serde_json::from_slice(&head).map_err(|e| Damage(format!("a stored delivery: {e}")))?;
    let body = rest.u32()? as usize;
    Ok(StoredDelivery { target, headers, body: rest.take(body)? })
}

/// MQTT packets end at 256 MiB, so every length fits a u32.
fn length(of: usize) -> [u8; 4] {
    u32::try_from(of).unwrap_or(u32::MAX).to_le_bytes()
}

struct Cursor<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Cursor<'_> {
    fn take(&mut self, count: usize) -> Result<Bytes, Damage> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| Damage(format!("it ends after {} bytes", self.bytes.len())))?;
        let taken = self.bytes.slice(self.at..end);
        self.at = end;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, Damage> {
        let mut number = [0; 4];
        number.copy_from_slice(&self.take(4)?);
        Ok(u32::from_le_bytes(number))
    }

    fn u64(&mut self) -> Result<u64, Damage> {
        let mut number = [0; 8];
        number.copy_from_slice(&self.take(8)?);
        Ok(u64::from_le_bytes(number))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn item() -> impl Strategy<Value = Item> {
        let delivery = (
            prop::option::of("[a-z/?=]{0,9}"),
            prop::collection::vec(("[a-z-]{1,9}", ".{0,9}"), 0..3),
            prop::collection::vec(any::<u8>(), 0..40),
        )
            .prop_map(|(target, headers, body)| {
                Arc::new(StoredDelivery { target, headers, body: body.into() })
            });
        (
            ".{0,20}",
            prop::collection::vec(any::<u8>(), 0..60),
            any::<u64>(),
            prop::option::of(delivery),
            any::<bool>(),
        )
            .prop_map(|(topic, payload, received_at, as_is, reread)| Item {
                message: Message { topic: topic.into(), payload: payload.into(), received_at },
                as_is,
                reread,
            })
    }

    proptest! {
        #[test]
        fn encoded_chunk_is_decoded(chunk in any::<u64>(), items in prop::collection::vec(item(), 0..8)) {
            let bytes = Bytes::from(encode(chunk, &items));
            prop_assert_eq!(decode(chunk, &bytes).unwrap(), items);
            prop_assert!(decode(chunk.wrapping_add(1), &bytes).is_err());
        }

        #[test]
        fn damaged_bytes_are_refused_without_a_panic(
            items in prop::collection::vec(item(), 0..4), cut in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), with in any::<u8>(),
        ) {
            let mut bytes = encode(7, &items);
            let at = at.index(bytes.len());
            bytes[at] ^= with;
            let _ = decode(7, &Bytes::from(bytes.clone()));
            bytes.truncate(cut.index(bytes.len()));
            prop_assert!(decode(7, &Bytes::from(bytes)).is_err());
        }
    }
}
