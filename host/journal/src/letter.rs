//! A dead letter as bytes, and its size.
//!
//! `stream u32 | head length u32 | head as JSON | chunk of one message`, little
//! endian.

use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::chunk::{self, Damage, Item};
use crate::types::{DeadLetter, Position, REPLY_BYTES, StreamIndex};

/// Everything but the message and the delivery.
#[derive(Serialize)]
struct Head<'a> {
    chunk: u64,
    index: u32,
    at: u64,
    reason: &'a str,
    script: &'a str,
    reply: Option<&'a str>,
}

#[derive(Deserialize)]
struct StoredHead {
    chunk: u64,
    index: u32,
    at: u64,
    reason: String,
    script: String,
    reply: Option<String>,
}

/// Stream and length of the head.
const PREFIX: usize = 8;

impl DeadLetter {
    /// Bytes that it takes in the journal: exactly as many as are stored.
    pub fn size(&self) -> u64 {
        let mut head = Counted(0);
        // Numbers and strings: this cannot fail.
        let _ = serde_json::to_writer(&mut head, &Head::of(self));
        (PREFIX + head.0 + chunk::encoded_len(&self.message, self.delivery.as_ref())) as u64
    }
}

impl<'a> Head<'a> {
    fn of(letter: &'a DeadLetter) -> Self {
        Self {
            chunk: letter.position.chunk,
            index: letter.position.index,
            at: letter.at,
            reason: &letter.reason,
            script: &letter.script,
            reply: letter.reply.as_deref().map(|reply| {
                let end = reply.char_indices().nth(REPLY_BYTES).map_or(reply.len(), |(end, _)| end);
                reply.get(..end).unwrap_or(reply)
            }),
        }
    }
}

/// Counts the bytes that are written to it.
struct Counted(usize);

impl io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn encode(stream: StreamIndex, letter: &DeadLetter) -> Vec<u8> {
    // Numbers and strings: this cannot fail.
    let head = serde_json::to_vec(&Head::of(letter)).unwrap_or_default();
    let item = Item {
        message: letter.message.clone(),
        as_is: letter.delivery.clone().map(Into::into),
        reread: false,
    };
    let mut bytes = stream.0.to_le_bytes().to_vec();
    bytes.extend_from_slice(&u32::try_from(head.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&head);
    bytes.extend(chunk::encode(0, &[item]));
    bytes
}

/// Reads the output of [`encode`].
pub(crate) fn decode(bytes: &[u8]) -> Result<(StreamIndex, DeadLetter), Damage> {
    let damage = || Damage("a dead letter is cut off".to_owned());
    let number = |at: usize| {
        let bytes: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes))
    };
    let stream = StreamIndex(number(0).ok_or_else(damage)?);
    let end = PREFIX + number(4).ok_or_else(damage)? as usize;
    let head = bytes.get(PREFIX..end).ok_or_else(damage)?;
    let head: StoredHead = serde_json::from_slice(head).map_err(|e| Damage(format!("a dead letter: {e}")))?;
    let rest = Bytes::copy_from_slice(bytes.get(end..).ok_or_else(damage)?);
    let item = chunk::decode(0, &rest)?.pop().ok_or_else(damage)?;
    let letter = DeadLetter {
        position: Position { chunk: head.chunk, index: head.index },
        at: head.at,
        reason: head.reason,
        script: head.script,
        message: item.message,
        delivery: item.as_is.map(|d| (*d).clone()),
        reply: head.reply,
    };
    Ok((stream, letter))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use message::Message;
    use proptest::prelude::*;

    use super::*;
    use crate::types::StoredDelivery;

    fn letter() -> impl Strategy<Value = DeadLetter> {
        let delivery = (
            prop::option::of(".{0,9}"),
            prop::collection::vec((".{0,9}", ".{0,9}"), 0..3),
            prop::collection::vec(any::<u8>(), 0..40),
        )
            .prop_map(|(target, headers, body)| StoredDelivery {
                target,
                headers,
                body: body.into(),
            });
        let texts = (".{0,40}", "[\\x00-\\x1f\"\\\\é]{0,40}", ".{0,9}", prop::option::of(".{0,40}"));
        (texts, prop::option::of(delivery), any::<(u64, u32, u64)>()).prop_map(
            |((topic, reason, script, reply), delivery, (chunk, index, at))| DeadLetter {
                position: Position { chunk, index },
                at,
                reason,
                script,
                message: Message { topic: topic.into(), payload: "payload".into(), received_at: at },
                delivery,
                reply,
            },
        )
    }

    proptest! {
        #[test]
        fn letter_has_the_size_of_its_bytes_and_is_read_back(letter in letter()) {
            let bytes = encode(StreamIndex(3), &letter);
            prop_assert_eq!(letter.size(), bytes.len() as u64);
            prop_assert_eq!(decode(&bytes).unwrap(), (StreamIndex(3), letter));
        }
    }

    #[test]
    fn long_reply_is_cut() {
        let letter = DeadLetter {
            position: Position { chunk: 1, index: 0 },
            at: 0,
            reason: String::new(),
            script: String::new(),
            message: Message { topic: "".into(), payload: Bytes::new(), received_at: 0 },
            delivery: None,
            reply: Some("é".repeat(REPLY_BYTES + 1)),
        };
        let bytes = encode(StreamIndex(0), &letter);
        assert_eq!(letter.size(), bytes.len() as u64);
        assert_eq!(decode(&bytes).unwrap().1.reply, Some("é".repeat(REPLY_BYTES)));
    }
}
