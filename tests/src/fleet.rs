//! Numbered messages, and how they look where they arrive.

use std::collections::HashSet;

use serde_json::{Map, Value, json};
use standins::wialon::{Packet, Value as WialonValue};
use standins::{Inbox, Received};
use tokio::time::{Instant, sleep};

use crate::oracle::Tally;
use crate::{LOOK, PATIENCE};

/// Messages numbered from 0, of a few devices in turn. Message `n` has its
/// number in the field `n`.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// How many devices.
    pub devices: u64,
    /// How many messages.
    pub messages: u64,
    /// The last of each so many messages breaks off in its middle: no script
    /// can map it, and it has to become a dead letter.
    pub broken: Option<u64>,
}

/// One numbered message that arrived somewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrival {
    /// The `ident` of its device, as the destination calls it.
    pub device: String,
    /// Its number.
    pub number: u64,
    /// What the destination got of it.
    pub content: Content,
}

/// A message as a destination shows it.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// All of it.
    Object(Value),
    /// Its values, without device and time.
    Values(Map<String, Value>),
    /// A Wialon packet.
    Packet(Packet),
}

/// The `timestamp` of message 0.
const EPOCH: u64 = 1_700_000_000;

impl Fleet {
    /// `messages` messages of `devices` devices.
    pub const fn new(devices: u64, messages: u64) -> Self {
        Self { devices, messages, broken: None }
    }

    /// The topic on which a message comes.
    pub fn topic(&self, number: u64) -> String {
        format!("flespi/message/gw/devices/{}", number % self.devices)
    }

    /// The `ident` of its device.
    pub fn device(&self, number: u64) -> String {
        format!("unit-{}", number % self.devices)
    }

    /// The message.
    pub fn message(&self, number: u64) -> Value {
        json!({
            "ident": self.device(number),
            "n": number,
            "timestamp": EPOCH + number,
            "position.latitude": 52.5,
            "position.longitude": 13.25,
            "position.speed": number % 90,
            "position.satellites": 9,
            "engine.ignition.status": true,
            "text": "naïve ☃",
            "fuel.level": 41.75
        })
    }

    /// Its payload.
    pub fn payload(&self, number: u64) -> String {
        let mut text = self.message(number).to_string();
        if self.is_broken(number) {
            text.truncate(text.len() / 2);
        }
        text
    }

    /// Whether it breaks off in its middle.
    pub fn is_broken(&self, number: u64) -> bool {
        self.broken.is_some_and(|every| number % every == every - 1)
    }

    /// The number of a message by its payload, also of a broken one.
    pub fn number_of(payload: &str) -> Option<u64> {
        let (_, rest) = payload.split_once("\"n\":")?;
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        rest[..end].parse().ok()
    }

    /// Topic and payload of all of them, in order.
    pub fn all(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.some(0..self.messages)
    }

    /// Topic and payload of some of them.
    pub fn some(&self, numbers: std::ops::Range<u64>) -> impl Iterator<Item = (String, String)> + '_ {
        numbers.map(|number| (self.topic(number), self.payload(number)))
    }

    /// Whether this is what a destination has to show of the message; the
    /// error says what is not.
    pub fn check(&self, arrival: &Arrival) -> Result<(), String> {
        let Arrival { device, number, content } = arrival;
        if *number >= self.messages {
            return Err(format!("message {number} was never published"));
        }
        if *device != self.device(*number) {
            return Err(format!("message {number} came under {device:?}"));
        }
        let message = self.message(*number);
        let same = match content {
            _ if self.is_broken(*number) => false,
            Content::Object(object) => *object == message,
            Content::Values(values) => {
                // These two are the device and the time of the entry.
                let Value::Object(mut expected) = message else { unreachable!("a message is an object") };
                expected.retain(|key, _| !matches!(key.as_str(), "ident" | "timestamp"));
                *values == expected
            }
            Content::Packet(packet) => is_packet_of(packet, *number),
        };
        if same { Ok(()) } else { Err(format!("message {number} was changed: {content:?}")) }
    }

    /// Waits until everything has arrived, and checks it as
    /// [`Fleet::assert_arrived`] does, which says what is missing after
    /// [`PATIENCE`]. Returns how many came again.
    ///
    /// # Panics
    /// When something is missing, or not as it should be.
    pub async fn until_arrived(&self, inbox: &Inbox) -> u64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let arrivals = arrivals_in(inbox);
            let numbers: HashSet<u64> = arrivals.iter().map(|arrival| arrival.number).collect();
            if numbers.len() as u64 >= self.messages || Instant::now() > deadline {
                return self.assert_arrived(&arrivals);
            }
            sleep(4 * LOOK).await;
        }
    }

    /// Waits until those of the messages that `wanted` names have arrived.
    ///
    /// # Panics
    /// When one is missing for too long.
    pub async fn until_some_arrived(&self, inbox: &Inbox, wanted: impl Fn(u64) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let numbers: HashSet<u64> = arrivals_in(inbox).iter().map(|arrival| arrival.number).collect();
            let missing = (0..self.messages).find(|number| wanted(*number) && !numbers.contains(number));
            let Some(missing) = missing else { return };
            assert!(Instant::now() < deadline, "message {missing} does not arrive");
            sleep(4 * LOOK).await;
        }
    }

    /// Checks that everything has arrived: each message at least once and
    /// unchanged, the messages of a device in their order, where what comes
    /// again may come late. Returns how many came again.
    ///
    /// # Panics
    /// When not.
    pub fn assert_arrived(&self, arrivals: &[Arrival]) -> u64 {
        self.assert_some_arrived(arrivals, |_| true)
    }

    /// The same for those of the messages that `wanted` names; no other may
    /// have arrived.
    ///
    /// # Panics
    /// When not.
    pub fn assert_some_arrived(&self, arrivals: &[Arrival], wanted: impl Fn(u64) -> bool) -> u64 {
        let mut tally = Tally::new(*self, wanted);
        arrivals.iter().for_each(|arrival| tally.arrived(arrival));
        let report = tally.close();
        assert!(report.is_clean(), "{report}");
        report.repeats
    }
}

/// The numbered messages in what a receiver recorded, in the order of
/// arrival: publishes and HTTP objects whole, ThingsBoard entries and Wialon
/// packets by device and number, and nothing of AWS shadows, which coalesce.
///
/// # Panics
/// On what is no numbered message.
pub fn arrivals(received: &[Received]) -> Vec<Arrival> {
    let read = |received| read(received).unwrap_or_else(|error| panic!("{error}"));
    received.iter().flat_map(read).collect()
}

/// The same of an inbox whose receiver found no rule broken.
///
/// # Panics
/// When a rule was broken.
pub fn arrivals_in(inbox: &Inbox) -> Vec<Arrival> {
    assert_eq!(inbox.violations(), [] as [String; 0]);
    arrivals(&inbox.all())
}

/// The numbered messages in one thing that a receiver got; the error says why
/// it is none, or which rule it broke.
pub fn read(received: &Received) -> Result<Vec<Arrival>, String> {
    match received {
        Received::Publish { payload, .. } => {
            let object = serde_json::from_slice(payload).map_err(|error| format!("a publish: {error}"))?;
            Ok(vec![whole(object)?])
        }
        Received::Request { objects, .. } => objects.iter().cloned().map(whole).collect(),
        Received::Telemetry { device, ts, values } => {
            let number = values.get("n").and_then(Value::as_u64).ok_or("telemetry without a number")?;
            if u64::try_from(*ts) != Ok((EPOCH + number) * 1000) {
                return Err(format!("message {number} came with the time {ts}"));
            }
            Ok(vec![Arrival { device: device.clone(), number, content: Content::Values(values.clone()) }])
        }
        Received::Packet(packet) => {
            let number = packet.blocks.iter().find(|block| block.name == "n").map(|block| &block.value);
            let Some(WialonValue::Int32(number)) = number else {
                return Err(format!("no number in {packet:?}"));
            };
            let number = u64::try_from(*number).map_err(|_| format!("the number {number}"))?;
            if u64::from(packet.time) != EPOCH + number {
                return Err(format!("message {number} came with the time {}", packet.time));
            }
            Ok(vec![Arrival { device: packet.uid.clone(), number, content: Content::Packet(packet.clone()) }])
        }
        Received::Shadow(_) | Received::DeviceConnected { .. } | Received::Attributes { .. } => Ok(vec![]),
        Received::Violation(text) => Err(text.clone()),
    }
}

fn whole(object: Value) -> Result<Arrival, String> {
    let device = object["ident"].as_str().ok_or_else(|| format!("no ident in {object}"))?.to_owned();
    let number = object["n"].as_u64().ok_or_else(|| format!("no number in {object}"))?;
    Ok(Arrival { device, number, content: Content::Object(object) })
}

/// Whether a packet has the position and the parameters of a message.
fn is_packet_of(packet: &Packet, number: u64) -> bool {
    let block = |name: &str| packet.blocks.iter().find(|block| block.name == name).map(|b| &b.value);
    let position = match block("posinfo") {
        Some(WialonValue::Posinfo(p)) => {
            (p.lat, p.lon, p.sats, u64::from(p.speed)) == (52.5, 13.25, 9, number % 90)
        }
        _ => false,
    };
    position
        && matches!(block("fuel_level"), Some(WialonValue::Double(level)) if *level == 41.75)
        && matches!(block("ign"), Some(WialonValue::Int32(1)))
}
