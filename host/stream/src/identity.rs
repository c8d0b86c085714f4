//! What tells a receiver that it has had a delivery before: a hash of
//! everything that makes the delivery the one it is.

use std::collections::HashMap;
use std::fmt::Write as _;

use destination::Identity;
use journal::Position;
use script::MappedDelivery;
use sha2::{Digest, Sha256};

use super::entry::OutgoingDelivery;

/// Bytes of a key: half of a SHA-256.
const KEY_BYTES: usize = 16;
/// Maximum bytes that the list of positions takes: it travels in a header.
const POSITIONS_BYTES: usize = 256;

/// Makes the identities of a stream's deliveries.
#[derive(Clone, Debug)]
pub(super) struct Identities {
    /// Has taken in what all deliveries of the stream share.
    begun: Sha256,
}

// === impl Identities ===

impl Identities {
    /// `journal` is the journal's own id: positions of another journal are
    /// other messages.
    pub(super) fn new(journal: [u8; 16], stream: &str) -> Self {
        let mut begun = Sha256::new();
        begun.update(journal);
        take(&mut begun, stream.as_bytes());
        Self { begun }
    }

    /// The identity of a delivery with what it carries now.
    pub(super) fn of(&self, outgoing: &OutgoingDelivery) -> Identity {
        let mut hash = self.begun.clone();
        hash.update(outgoing.origin.generation.to_le_bytes());
        hash.update((outgoing.carries.len() as u64).to_le_bytes());
        for entry in &outgoing.carries {
            hash.update(entry.position.chunk.to_le_bytes());
            hash.update(entry.position.index.to_le_bytes());
        }
        hash.update(outgoing.ordinal.to_le_bytes());
        match &outgoing.delivery.target {
            None => hash.update([0]),
            Some(target) => {
                hash.update([1]);
                take(&mut hash, target.as_bytes());
            }
        }
        take(&mut hash, &outgoing.delivery.body);
        let mut key = String::with_capacity(2 * KEY_BYTES);
        for byte in hash.finalize().iter().take(KEY_BYTES) {
            // Writing to a string does not fail.
            let _ = write!(key, "{byte:02x}");
        }
        Identity { key, positions: ranges(outgoing.carries.iter().map(|e| e.position)) }
    }
}

/// The delivery with its identity, where the destination wants one. Call it
/// whenever the messages of the delivery have changed.
pub(super) fn identified(
    mut outgoing: OutgoingDelivery,
    identities: Option<&Identities>,
) -> OutgoingDelivery {
    outgoing.delivery.identity = identities.map(|i| i.of(&outgoing));
    outgoing
}

/// Takes in bytes of any length so that they cannot run into what follows.
fn take(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

/// For each delivery of a mapping how many before it carry the same messages.
pub(super) fn ordinals(deliveries: &[MappedDelivery]) -> Vec<u32> {
    let mut seen: HashMap<&[u32], u32> = HashMap::with_capacity(deliveries.len());
    deliveries
        .iter()
        .map(|delivery| {
            let count = seen.entry(&delivery.messages).or_default();
            *count += 1;
            *count - 1
        })
        .collect()
}

/// `12/0-5,13/0`: positions in their order, neighbours of a chunk as a range.
/// `,+37` at the end: so many more messages did not fit.
fn ranges(positions: impl Iterator<Item = Position>) -> String {
    let mut positions = positions.peekable();
    let mut text = String::new();
    while let Some(first) = positions.next() {
        let mut last = first;
        while let Some(next) =
            positions.next_if(|p| p.chunk == last.chunk && last.index.checked_add(1) == Some(p.index))
        {
            last = next;
        }
        let mut range = first.to_string();
        if last != first {
            let _ = write!(range, "-{}", last.index);
        }
        if text.len() + range.len() > POSITIONS_BYTES {
            let more = u64::from(last.index - first.index) + 1 + positions.count() as u64;
            let _ = write!(text, ",+{more}");
            break;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&range);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use destination::Delivery;
    use journal::{Pending, Reading};
    use message::{KeyRule, Message};
    use proptest::prelude::*;

    use super::*;
    use crate::entry::{Entry, Origin};

    fn at(chunk: u64, index: u32) -> Position {
        Position { chunk, index }
    }

    fn outgoing(positions: &[Position], target: Option<&str>, body: &[u8]) -> OutgoingDelivery {
        let carries = positions.iter().map(|position| {
            let message = Message { topic: "t".into(), payload: "x".into(), received_at: 0 };
            Entry::new(
                Pending { position: *position, message, as_is: None, reading: Reading::First },
                Arc::new(KeyRule::Topic),
            )
        });
        OutgoingDelivery {
            delivery: Delivery {
                target: target.map(Into::into),
                headers: Vec::new(),
                body: body.to_vec().into(),
                identity: None,
            },
            carries: carries.collect(),
            origin: Arc::default(),
            ordinal: 0,
        }
    }

    fn key(outgoing: &OutgoingDelivery) -> String {
        Identities::new([7; 16], "s").of(outgoing).key
    }

    #[test]
    fn a_key_is_32_hexadecimal_digits_and_always_the_same() {
        let one = outgoing(&[at(12, 0), at(12, 1)], Some("a"), b"body");
        // Worked out apart from this code, with Python's hashlib.
        assert_eq!(key(&one), "b6b1aacee28e61a1d075feb1ca812f7b");
        assert_eq!(key(&one), key(&one.clone()));
    }

    #[test]
    fn everything_that_makes_a_delivery_changes_its_key() {
        let one = outgoing(&[at(1, 2), at(1, 3)], Some("ab"), b"c");
        let variants = [
            one.clone(),
            outgoing(&[at(1, 3), at(1, 2)], Some("ab"), b"c"),
            outgoing(&[at(1, 2)], Some("ab"), b"c"),
            outgoing(&[at(2, 2), at(1, 3)], Some("ab"), b"c"),
            // What one field ends with the next one could begin with.
            outgoing(&[at(1, 2), at(1, 3)], Some("a"), b"bc"),
            outgoing(&[at(1, 2), at(1, 3)], None, b"abc"),
            outgoing(&[at(1, 2), at(1, 3)], Some(""), b"abc"),
            OutgoingDelivery {
                origin: Arc::new(Origin { generation: 1, ..Origin::default() }),
                ..one.clone()
            },
            OutgoingDelivery { ordinal: 1, ..one.clone() },
        ];
        let mut keys: HashSet<String> = variants.iter().map(key).collect();
        for other in [Identities::new([8; 16], "s"), Identities::new([7; 16], "s2")] {
            keys.insert(other.of(&one).key);
        }
        assert_eq!(keys.len(), variants.len() + 2);
    }

    #[test]
    fn positions_are_compact_and_bounded() {
        let of = |positions: &[Position]| ranges(positions.iter().copied());
        assert_eq!(of(&[at(12, 0)]), "12/0");
        let run: Vec<_> = (0..6).map(|n| at(12, n)).chain([at(13, 0), at(13, 2), at(13, 1)]).collect();
        assert_eq!(of(&run), "12/0-5,13/0,13/2,13/1");
        let scattered: Vec<_> = (0..1000).map(|n| at(1, 2 * n)).collect();
        let text = of(&scattered);
        assert!(text.len() <= POSITIONS_BYTES + 20, "{text}");
        let (listed, more) = text.rsplit_once(",+").unwrap_or_default();
        assert_eq!(listed.split(',').count() + more.parse::<usize>().unwrap_or_default(), 1000);
    }

    #[test]
    fn only_deliveries_of_the_same_messages_are_numbered() {
        let delivery = |messages: &[u32]| MappedDelivery {
            messages: messages.to_vec(),
            target: None,
            headers: Vec::new(),
            body: bytes::Bytes::new(),
        };
        let mapping = [&[0][..], &[1], &[0], &[0, 1], &[0], &[1, 0]].map(delivery);
        assert_eq!(ordinals(&mapping), [0, 0, 1, 0, 2, 0]);
    }

    proptest! {
        /// Written out again, the ranges are the positions.
        #[test]
        fn ranges_say_what_they_were_made_of(
            positions in prop::collection::vec((0u64..3, 0u32..6), 0..12),
        ) {
            let positions: Vec<Position> = positions.into_iter().map(|(c, i)| at(c, i)).collect();
            let text = ranges(positions.iter().copied());
            let mut read = Vec::new();
            for range in text.split(',').filter(|r| !r.is_empty()) {
                let (chunk, indexes) = range.split_once('/').unwrap_or_default();
                let (first, last) = indexes.split_once('-').unwrap_or((indexes, indexes));
                for index in first.parse::<u32>().unwrap_or(99)..=last.parse().unwrap_or(0) {
                    read.push(at(chunk.parse().unwrap_or(99), index));
                }
            }
            prop_assert_eq!(read, positions);
        }
    }
}
