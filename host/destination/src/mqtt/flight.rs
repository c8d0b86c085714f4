//! Which publish a PUBACK belongs to: pairs packet identifiers, which the MQTT
//! library hands out, with the tags of those who published. Plain state; the
//! clock is handed in.

use std::collections::VecDeque;

use tokio::time::Instant;

/// The publishes of one connection that wait for their PUBACK.
///
/// The library takes publishes strictly in the order in which they were handed
/// over, so the oldest queued tag is the one that it has just given an
/// identifier to.
#[derive(Debug)]
pub struct Flight<T> {
    queued: VecDeque<T>,
    sent: VecDeque<Sent<T>>,
}

#[derive(Debug)]
struct Sent<T> {
    packet: u16,
    at: Instant,
    tag: T,
}

impl<T> Default for Flight<T> {
    fn default() -> Self {
        Self { queued: VecDeque::new(), sent: VecDeque::new() }
    }
}

impl<T> Flight<T> {
    /// A publish is about to be handed to the library.
    pub fn queue(&mut self, tag: T) {
        self.queued.push_back(tag);
    }

    /// The library did not take the publish that was queued last.
    pub fn unqueue(&mut self) {
        self.queued.pop_back();
    }

    /// The library has written a publish under this identifier.
    pub fn sent(&mut self, packet: u16, at: Instant) {
        if let Some(tag) = self.queued.pop_front() {
            self.sent.push_back(Sent { packet, at, tag });
        }
    }

    /// A PUBACK for this identifier: the tag of its publish, once.
    pub fn acked(&mut self, packet: u16) -> Option<T> {
        // Brokers acknowledge in order, or nearly so: the search ends early.
        let place = self.sent.iter().position(|s| s.packet == packet)?;
        self.sent.remove(place).map(|s| s.tag)
    }

    /// When the publish that has waited longest for its PUBACK was written.
    pub fn oldest(&self) -> Option<Instant> {
        self.sent.front().map(|s| s.at)
    }

    /// Whether the receiver has seen a publish that it has not acknowledged.
    pub fn unacknowledged(&self) -> bool {
        !self.sent.is_empty()
    }

    /// Whether anything waits, written or not.
    pub fn waiting(&self) -> bool {
        !self.sent.is_empty() || !self.queued.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_identifier_names_its_publish_once() {
        let start = Instant::now();
        let mut flight = Flight::default();
        flight.queue('a');
        flight.queue('b');
        assert!(flight.waiting() && !flight.unacknowledged());
        flight.sent(7, start);
        flight.sent(9, start + Duration::from_secs(1));
        assert_eq!(flight.oldest(), Some(start));
        assert_eq!(flight.acked(9), Some('b'));
        assert_eq!(flight.acked(9), None);
        assert_eq!(flight.acked(8), None);
        assert_eq!(flight.oldest(), Some(start));
        assert_eq!(flight.acked(7), Some('a'));
        assert_eq!(flight.oldest(), None);
        assert!(!flight.waiting());
    }

    #[test]
    fn a_publish_that_was_not_taken_leaves_no_trace() {
        let mut flight = Flight::default();
        flight.queue(1);
        flight.queue(2);
        flight.unqueue();
        flight.queue(3);
        flight.sent(1, Instant::now());
        flight.sent(2, Instant::now());
        assert_eq!((flight.acked(1), flight.acked(2)), (Some(1), Some(3)));
    }

    proptest! {
        /// Whatever order the acknowledgements come in, with identifiers that
        /// are used again, each tag comes back exactly once.
        #[test]
        fn every_tag_returns_once(steps in proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..200)) {
            let now = Instant::now();
            let mut flight = Flight::default();
            let mut next_tag = 0_u32;
            let mut open: Vec<(u16, u32)> = Vec::new();
            for (publish, choice) in steps {
                if publish || open.is_empty() {
                    let free = (1..).find(|p| open.iter().all(|(used, _)| used != p)).unwrap();
                    flight.queue(next_tag);
                    flight.sent(free, now);
                    open.push((free, next_tag));
                    next_tag += 1;
                } else {
                    let (packet, tag) = open.remove(choice.index(open.len()));
                    prop_assert_eq!(flight.acked(packet), Some(tag));
                    prop_assert_eq!(flight.acked(packet), None);
                }
            }
            prop_assert_eq!(flight.unacknowledged(), !open.is_empty());
        }
    }
}
