//! The counters of the demo: what the fleet published against what each receiver
//! got. Nothing is taken from the gateway here: a message is missing when its
//! receiver has not got it, whatever the gateway counts.

mod expect;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound::{Excluded, Included};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use standins::wialon::Packet;
use standins::{Received, ShadowUpdate};

use super::fleet::{FleetMessage, SEQUENCE};

pub use expect::TOPICS;

/// Messages of one device that are kept after every receiver has got them, so
/// that a repeat can still be compared.
const KEPT: usize = 256;
/// Problems that are kept word by word.
const KEPT_PROBLEMS: usize = 20;

/// The five receivers, in the order of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// AWS IoT shadows.
    Aws,
    /// ThingsBoard.
    ThingsBoard,
    /// Wialon Retranslator.
    Wialon,
    /// HTTP.
    Http,
    /// MQTT.
    Mqtt,
}

impl Receiver {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Aws, Self::ThingsBoard, Self::Wialon, Self::Http, Self::Mqtt];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aws => "AWS IoT",
            Self::ThingsBoard => "ThingsBoard",
            Self::Wialon => "Wialon",
            Self::Http => "HTTP",
            Self::Mqtt => "MQTT",
        }
    }
}

/// The sums of one receiver. Of each published message exactly one of
/// received, refused and missing is true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Book {
    /// Messages that it should get.
    pub published: u64,
    /// Of these, those that it got at least once (a shadow: whose values, or
    /// newer ones, it holds).
    pub received: u64,
    /// Receptions of a message that it had already.
    pub repeats: u64,
    /// Receptions with a wrong value, or out of order.
    pub wrong: u64,
    /// Receptions of what was never published, or not for this receiver, and
    /// broken rules of its protocol.
    pub unexpected: u64,
}

/// The counters of all receivers.
#[derive(Default)]
pub struct Ledger {
    devices: HashMap<Arc<str>, Device>,
    counters: [Book; 5],
    problems: Vec<String>,
    /// How often the gateway was killed.
    kills: u32,
}

#[derive(Default)]
struct Device {
    /// By sequence.
    messages: BTreeMap<u64, Entry>,
    last: u64,
    /// The newest message that each receiver got.
    newest: [u64; 5],
    /// The message that the shadow got last, and how often it has gone back to
    /// an earlier one.
    in_shadow: u64,
    went_back: u32,
    /// What the shadow must hold with it: of each field the newest value.
    shadow: Map<String, Value>,
    /// Wialon: the message whose packets are arriving, and the names of its
    /// blocks that have not come yet. What does not fit one packet comes in
    /// several, and only the first has the sequence.
    packets: Option<(u64, BTreeSet<String>)>,
}

struct Entry {
    message: FleetMessage,
    at: Instant,
    /// The receivers that have not got it.
    awaited: [bool; 5],
    refused_by: Option<Receiver>,
}

/// How a reception fits what was published.
enum Fit {
    First,
    Repeat,
    Wrong(String),
    Unexpected(String),
    /// One part of several.
    Part,
}

impl Ledger {
    /// Notes a message that is about to be published. `refused_by` will refuse
    /// it: it is not awaited there.
    pub fn publish(&mut self, message: FleetMessage, refused_by: Option<Receiver>, now: Instant) {
        let mut awaited = [true; 5];
        for receiver in Receiver::ALL {
            if refused_by == Some(receiver) {
                awaited[receiver as usize] = false;
            } else {
                self.counters[receiver as usize].published += 1;
            }
        }
        let device = self.devices.entry(Arc::clone(&message.ident)).or_default();
        device.last = message.sequence;
        device.messages.insert(message.sequence, Entry { message, at: now, awaited, refused_by });
        device.forget();
    }

    /// Notes what a receiver got.
    pub fn receive(&mut self, receiver: Receiver, received: Received) {
        match received {
            Received::Violation(text) => self.unexpected(receiver, text),
            Received::Shadow(update) => self.shadow(&update),
            Received::Telemetry { device, ts, values } => {
                let sequence = expect::sequence(&values);
                self.one(receiver, &device, sequence, |message| expect::telemetry(message, ts, &values));
            }
            Received::Attributes { device, values } => self.attributes(receiver, &device, &values),
            Received::DeviceConnected { device, device_type } => {
                if !self.devices.contains_key(device.as_str()) {
                    self.unexpected(receiver, format!("connect of the device {device:?}"));
                } else if device_type.as_deref() != Some(expect::DEVICE_TYPE) {
                    self.wrong(receiver, format!("{device}: device type {device_type:?}"));
                }
            }
            Received::Packet(packet) => self.packet(&packet),
            Received::Request { objects, target, .. } => {
                if target != expect::HTTP_TARGET {
                    self.wrong(receiver, format!("a request for {target}"));
                }
                for object in objects {
                    match object {
                        Value::Object(fields) => self.object(receiver, &fields, expect::object),
                        other => self.unexpected(receiver, format!("no object but {other}")),
                    }
                }
            }
            Received::Publish { topic, payload, .. } => match serde_json::from_slice(&payload) {
                Ok(Value::Object(fields)) => {
                    self.object(receiver, &fields, |message, fields| {
                        expect::topic(message, &topic)?;
                        expect::object(message, fields)
                    });
                }
                _ => self.unexpected(receiver, format!("{topic}: no object")),
            },
        }
    }

    /// Notes that the gateway was killed: what it had not settled comes again,
    /// from the oldest message on.
    pub fn killed(&mut self) {
        self.kills += 1;
    }

    /// The sums of one receiver.
    pub fn book(&self, receiver: Receiver) -> Book {
        self.counters[receiver as usize]
    }

    /// Messages that this receiver has not got although they were published
    /// at least `patience` ago.
    pub fn missing(&self, receiver: Receiver, now: Instant, patience: Duration) -> u64 {
        let late = |entry: &&Entry| {
            entry.awaited[receiver as usize] && now.saturating_duration_since(entry.at) >= patience
        };
        self.devices.values().map(|device| device.messages.values().filter(late).count() as u64).sum()
    }

    /// The first problems, word by word.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Whether nothing wrong and nothing unpublished arrived.
    pub fn is_clean(&self) -> bool {
        self.counters.iter().all(|book| book.wrong == 0 && book.unexpected == 0)
    }

    fn object(
        &mut self,
        receiver: Receiver,
        fields: &Map<String, Value>,
        compare: impl Fn(&FleetMessage, &Map<String, Value>) -> Result<(), String>,
    ) {
        let ident = fields.get("ident").and_then(Value::as_str).unwrap_or_default();
        self.one(receiver, ident, expect::sequence(fields), |message| compare(message, fields));
    }

    /// One message came whole.
    fn one(
        &mut self,
        receiver: Receiver,
        ident: &str,
        sequence: Option<u64>,
        compare: impl Fn(&FleetMessage) -> Result<(), String>,
    ) {
        let fit = match (self.devices.get_mut(ident), sequence) {
            (None, _) => Fit::Unexpected(format!("a message of {ident:?}")),
            (_, None) => Fit::Unexpected(format!("{ident}: a message without {SEQUENCE}")),
            (Some(device), Some(sequence)) => device.fit(receiver, sequence, compare),
        };
        self.enter(receiver, ident, fit);
    }

    /// One update stands for every older message: of each field it has brought
    /// the newest value, also of those that the newest message lacks.
    fn shadow(&mut self, update: &ShadowUpdate) {
        let receiver = Receiver::Aws;
        let fields = update.update.as_object();
        let sequence = fields.and_then(expect::sequence);
        let ident = update.thing.as_str();
        let (Some(device), Some(fields), Some(sequence)) = (self.devices.get_mut(ident), fields, sequence)
        else {
            let what = format!("an update of {ident:?} without a known {SEQUENCE}");
            return self.unexpected(receiver, what);
        };
        let mut expected = device.shadow.clone();
        if sequence < device.in_shadow {
            if device.went_back >= self.kills {
                let newer = device.in_shadow;
                let what = format!("{ident}: message {sequence} came after {newer} in the shadow");
                return self.wrong(receiver, what);
            }
            device.went_back += 1;
            // What older messages brought it has: of this one all fields count.
            device.in_shadow = sequence.saturating_sub(1);
        }
        for (_, entry) in device.messages.range((Excluded(device.in_shadow), Included(sequence))) {
            expected.extend(entry.message.fields.clone());
        }
        let fit = device
            .fit(receiver, sequence, |message| expect::shadow(message, fields, &expected, &update.merged));
        if !matches!(fit, Fit::Unexpected(_)) {
            device.in_shadow = sequence;
            device.shadow = expected;
            for entry in device.messages.range_mut(..sequence).map(|(_, entry)| entry) {
                if std::mem::take(&mut entry.awaited[receiver as usize]) {
                    self.counters[receiver as usize].received += 1;
                }
            }
        }
        self.enter(receiver, ident, fit);
    }

    fn packet(&mut self, packet: &Packet) {
        let ident = packet.uid.as_str();
        let Some(device) = self.devices.get_mut(ident) else {
            return self.unexpected(Receiver::Wialon, format!("a packet of {ident:?}"));
        };
        let fit = device.packet(packet);
        self.enter(Receiver::Wialon, ident, fit);
    }

    fn attributes(&mut self, receiver: Receiver, ident: &str, values: &Map<String, Value>) {
        let Some(device) = self.devices.get(ident) else {
            return self.unexpected(receiver, format!("attributes of {ident:?}"));
        };
        let Some((_, entry)) = device.messages.last_key_value() else { return };
        if let Err(difference) = expect::attributes(&entry.message, values) {
            self.wrong(receiver, format!("{ident}: attributes: {difference}"));
        }
    }

    fn enter(&mut self, receiver: Receiver, ident: &str, fit: Fit) {
        match fit {
            Fit::First => self.counters[receiver as usize].received += 1,
            Fit::Repeat => self.counters[receiver as usize].repeats += 1,
            Fit::Part => {}
            Fit::Wrong(text) => self.wrong(receiver, format!("{ident}: {text}")),
            Fit::Unexpected(text) => self.unexpected(receiver, text),
        }
    }

    fn wrong(&mut self, receiver: Receiver, text: String) {
        self.counters[receiver as usize].wrong += 1;
        self.problem(receiver, "wrong", &text);
    }

    fn unexpected(&mut self, receiver: Receiver, text: String) {
        self.counters[receiver as usize].unexpected += 1;
        self.problem(receiver, "unexpected", &text);
    }

    fn problem(&mut self, receiver: Receiver, kind: &str, text: &str) {
        if self.problems.len() < KEPT_PROBLEMS {
            self.problems.push(format!("{}: {kind}: {text}", receiver.name()));
        }
    }
}

impl Device {
    fn fit(
        &mut self,
        receiver: Receiver,
        sequence: u64,
        compare: impl Fn(&FleetMessage) -> Result<(), String>,
    ) -> Fit {
        let Some(entry) = self.messages.get_mut(&sequence) else {
            return match (1..=self.last).contains(&sequence) {
                // So old that all have got it and it is forgotten.
                true => Fit::Repeat,
                false => Fit::Unexpected(format!("message {sequence} was never published")),
            };
        };
        if entry.refused_by == Some(receiver) {
            return Fit::Unexpected(format!("message {sequence}, which this receiver refuses"));
        }
        // A wrong one has come all the same: it is not missing as well.
        let first = std::mem::take(&mut entry.awaited[receiver as usize]);
        let newest = &mut self.newest[receiver as usize];
        let before = std::mem::replace(newest, sequence.max(*newest));
        match compare(&entry.message) {
            Err(difference) => Fit::Wrong(format!("message {sequence}: {difference}")),
            // Repeats may be of any age.
            Ok(()) if first && sequence < before => {
                Fit::Wrong(format!("message {sequence} came first after {before} had come"))
            }
            Ok(()) if first => Fit::First,
            Ok(()) => Fit::Repeat,
        }
    }

    fn packet(&mut self, packet: &Packet) -> Fit {
        let uid = &packet.uid;
        let begins = expect::packet_sequence(packet);
        if let Some(sequence) = begins {
            let names = self.messages.get(&sequence).map(|entry| expect::packet_names(&entry.message));
            self.packets = Some((sequence, names.unwrap_or_default()));
        }
        let Some((sequence, left)) = &mut self.packets else {
            return Fit::Unexpected(format!("a packet of {uid} that continues none"));
        };
        let sequence = *sequence;
        let had_all = begins.is_none() && left.is_empty();
        for block in &packet.blocks {
            left.remove(&block.name);
        }
        let complete = left.is_empty();
        if let Some(entry) = self.messages.get(&sequence)
            && let Err(difference) = expect::packet(&entry.message, packet, begins.is_some())
        {
            return Fit::Wrong(format!("message {sequence}: {difference}"));
        }
        match (complete, had_all) {
            (false, _) => Fit::Part,
            // The end of a message came again: its sender did not hear the answer.
            (true, true) => Fit::Repeat,
            (true, false) => self.fit(Receiver::Wialon, sequence, |_| Ok(())),
        }
    }

    fn forget(&mut self) {
        while self.messages.len() > KEPT {
            match self.messages.first_entry() {
                Some(oldest) if !oldest.get().awaited.contains(&true) => oldest.remove(),
                _ => return,
            };
        }
    }
}

#[cfg(test)]
mod tests;
