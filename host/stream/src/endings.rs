//! What a lane has finished and the journal does not know yet: messages and how
//! they ended, their dead letters, and what the script wrote.

use std::collections::HashMap;
use std::sync::Arc;

use destination::Reply;
use journal::{DeadLetter, Journal, Outcome, Position, Settlement, StoredDelivery, StreamIndex};
use message::text::cut;
use script::Script;
use telemetry::event;
use tokio::time::Instant;

use super::clock::Clock;
use super::dead_letter_queue::DeadLetterQueue;
use super::entry::{Entry, OutgoingDelivery};
use super::remember::Unsaved;
use super::settle::Settling;
use super::status::StreamStatus;

/// Bytes of a reason or a reply that are kept: both may repeat what was refused.
const WORDS: usize = 2_048;

/// What has ended in a lane, and what has not yet.
pub(super) struct Endings {
    journal: Journal,
    index: StreamIndex,
    status: Arc<StreamStatus>,
    clock: Clock,
    settling: Settling,
    settlement: Settlement,
    /// When the delivered messages among them were received, Unix milliseconds.
    received: Vec<u64>,
    /// Of messages with other deliveries under way: the first one.
    letters: HashMap<Position, DeadLetter>,
    pub unsaved: Unsaved,
    pub dead_letters: DeadLetterQueue,
}

impl Endings {
    pub(super) fn new(journal: Journal, index: StreamIndex, status: Arc<StreamStatus>, clock: Clock) -> Self {
        Self {
            journal,
            index,
            status,
            clock,
            settling: Settling::default(),
            settlement: Settlement::default(),
            received: Vec::new(),
            letters: HashMap::new(),
            unsaved: Unsaved::default(),
            dead_letters: DeadLetterQueue::default(),
        }
    }

    /// One more delivery carries these messages.
    pub(super) fn begin(&mut self, outgoing: &OutgoingDelivery) {
        outgoing.carries.iter().for_each(|entry| self.settling.begin(entry.position));
    }

    /// Others, which have begun already, have taken the delivery's place.
    pub(super) fn replaced(&mut self, outgoing: &OutgoingDelivery) {
        for entry in &outgoing.carries {
            self.settling.end(entry.position, Outcome::Delivered);
        }
    }

    /// A message has ended that no delivery carries.
    pub(super) fn at_once(&mut self, entry: &Entry, outcome: Outcome) {
        self.settlement.ended.push((entry.position, outcome));
    }

    /// A message cannot be mapped: it is a dead letter.
    pub(super) fn rejected(&mut self, entry: &Entry, reason: &str, script: &Script) {
        self.dead_letters.add(letter(self.clock.now(), entry, reason, script.label()));
    }

    /// The delivery will never arrive: its messages are dead letters. It goes
    /// with the first of them, and the others say so: many messages in a large
    /// delivery would be many times as much as the destination was sent.
    pub(super) fn dead(&mut self, outgoing: &OutgoingDelivery, reason: &str, reply: Option<&Reply>) {
        let script = outgoing.origin.script.as_ref().map_or("", |script| script.label());
        let at = self.clock.now();
        let mut kept_with = None;
        for entry in &outgoing.carries {
            if self.letters.contains_key(&entry.position) {
                continue;
            }
            let mut letter = match kept_with {
                None => letter(at, entry, reason, script),
                Some(first) => {
                    let text = format!(
                        "{} (with message {first}, whose dead letter has the delivery)",
                        cut(reason, WORDS)
                    );
                    DeadLetter { reason: text, ..letter(at, entry, "", script) }
                }
            };
            letter.reply = reply.map(|r| cut(&r.0, WORDS));
            if kept_with.is_none() {
                kept_with = Some(entry.position);
                letter.delivery = Some(StoredDelivery {
                    target: outgoing.delivery.target.clone(),
                    headers: outgoing.delivery.headers.clone(),
                    body: outgoing.delivery.body.clone(),
                });
            }
            self.letters.insert(entry.position, letter);
        }
        self.ended(outgoing, Outcome::DeadLettered);
    }

    /// The delivery has ended, and with it those of its messages that no other
    /// one carries.
    pub(super) fn ended(&mut self, outgoing: &OutgoingDelivery, outcome: Outcome) {
        for entry in &outgoing.carries {
            match self.settling.end(entry.position, outcome) {
                Some((position, Outcome::DeadLettered)) => {
                    // There is one: it was put there with the outcome.
                    if let Some(letter) = self.letters.remove(&position) {
                        self.dead_letters.add(letter);
                    }
                }
                Some(ended) => {
                    if ended.1 == Outcome::Delivered {
                        self.received.push(entry.message.received_at);
                    }
                    self.settlement.ended.push(ended);
                }
                None => {}
            }
        }
    }

    /// Tells the journal what has ended, and what the scripts wrote meanwhile.
    pub(super) fn flush(&mut self) {
        let mut room = self.journal.dead_letter_room();
        for letter in self.dead_letters.take_storable(Instant::now(), |letter| room.reserve(letter)) {
            let reason = announce(self.status.name(), &letter);
            self.status.set_last_error(format!("dead letter {}: {reason}", letter.position));
            self.settlement.ended.push((letter.position, Outcome::DeadLettered));
            self.settlement.dead_letters.push(letter);
        }
        if self.settlement == Settlement::default() {
            return;
        }
        let mut settlement = std::mem::take(&mut self.settlement);
        for (position, _) in &settlement.ended {
            self.unsaved.settled(*position);
        }
        if !self.received.is_empty() {
            let now = self.clock.now();
            self.status.ack_latency().record(self.received.drain(..).map(|at| now.saturating_sub(at)));
        }
        self.status.memory.save(&mut self.unsaved, |values| {
            settlement.state = values;
            self.journal.settle_reserved(self.index, settlement, room);
        });
    }
}

/// A message that is given up; `script` is empty where none mapped it.
fn letter(at: u64, entry: &Entry, reason: &str, script: &str) -> DeadLetter {
    DeadLetter {
        position: entry.position,
        at,
        reason: cut(reason, WORDS),
        script: script.to_owned(),
        message: entry.message.clone(),
        delivery: None,
        reply: None,
    }
}

/// Logs a dead letter; the reason with what the far side said.
fn announce(stream: &str, letter: &DeadLetter) -> String {
    let reason = match &letter.reply {
        Some(reply) => format!("{}: {reply}", letter.reason),
        None => letter.reason.clone(),
    };
    event::DeadLettered {
        stream,
        position: &letter.position,
        reason: &reason,
        script: &letter.script,
        topic: &letter.message.topic,
        payload: &letter.message.payload,
        received_at: letter.message.received_at,
        delivery: letter.delivery.as_ref().map(|d| (d.target.as_deref(), &*d.body)),
    }
    .emit();
    reason
}
