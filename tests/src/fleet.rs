//! Numbered messages, and the counting of what arrived of them.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Value, json};
use sluicegate::cli::demo::standin::wialon::Value as WialonValue;
use sluicegate::cli::demo::standin::{Inbox, Received};
use tokio::time::{Instant, sleep};

use crate::{LOOK, PATIENCE};

/// Messages numbered from 0, of a few devices in turn. Message `n` has its
/// number in the field `n`.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// How many devices.
    pub devices: u64,
    /// How many messages.
    pub messages: u64,
}

/// One numbered message that arrived somewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrival {
    /// The `ident` of its device, as the destination calls it.
    pub device: String,
    /// Its number.
    pub number: u64,
    /// All of it, where the destination gets it as one object.
    pub object: Option<Value>,
}

impl Fleet {
    /// `messages` messages of `devices` devices.
    pub const fn new(devices: u64, messages: u64) -> Self {
        Self { devices, messages }
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
            "timestamp": 1_700_000_000 + number,
            "position.latitude": 52.5,
            "position.longitude": 13.25,
            "position.speed": number % 90,
            "position.satellites": 9,
            "engine.ignition.status": true,
            "text": "naïve ☃",
            "fuel.level": 41.75
        })
    }

    /// Topic and payload of all of them, in order.
    pub fn all(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.some(0..self.messages)
    }

    /// Topic and payload of some of them.
    pub fn some(&self, numbers: std::ops::Range<u64>) -> impl Iterator<Item = (String, String)> + '_ {
        numbers.map(|number| (self.topic(number), self.message(number).to_string()))
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
        let mut times: HashMap<u64, u64> = HashMap::new();
        let mut last: BTreeMap<&str, u64> = BTreeMap::new();
        for Arrival { device, number, object } in arrivals {
            assert!(*number < self.messages && wanted(*number), "message {number} has no business here");
            assert_eq!(*device, self.device(*number), "message {number} came under a wrong device");
            if let Some(object) = object {
                assert_eq!(*object, self.message(*number), "message {number} was changed");
            }
            let count = times.entry(*number).or_default();
            *count += 1;
            if *count == 1 {
                let before = last.insert(device, *number);
                assert!(
                    before.is_none_or(|before| before < *number),
                    "{device}: message {number} came after message {before:?}"
                );
            }
        }
        let missing: Vec<u64> = (0..self.messages).filter(|n| wanted(*n) && !times.contains_key(n)).collect();
        let first = &missing[..missing.len().min(20)];
        assert!(missing.is_empty(), "{} messages are missing, the first: {first:?}", missing.len());
        times.values().map(|count| count - 1).sum()
    }
}

/// The numbered messages in what a receiver recorded, in the order of
/// arrival: publishes and HTTP objects whole, ThingsBoard entries and Wialon
/// packets by device and number, and nothing of AWS shadows, which coalesce.
///
/// # Panics
/// On what is no numbered message.
pub fn arrivals(received: &[Received]) -> Vec<Arrival> {
    received.iter().flat_map(arrivals_of).collect()
}

/// The same of an inbox whose receiver found no rule broken.
///
/// # Panics
/// When a rule was broken.
pub fn arrivals_in(inbox: &Inbox) -> Vec<Arrival> {
    assert_eq!(inbox.violations(), [] as [String; 0]);
    arrivals(&inbox.all())
}

fn arrivals_of(received: &Received) -> Vec<Arrival> {
    match received {
        Received::Publish { payload, .. } => {
            vec![whole(serde_json::from_slice(payload).expect("a publish of JSON"))]
        }
        Received::Request { objects, .. } => objects.iter().cloned().map(whole).collect(),
        Received::Telemetry { device, ts, values } => {
            let number = values.get("n").and_then(Value::as_u64).expect("a number");
            assert_eq!(*ts, (1_700_000_000 + i64::try_from(number).expect("a small number")) * 1000);
            vec![Arrival { device: device.clone(), number, object: None }]
        }
        Received::Packet(packet) => {
            let number = packet.blocks.iter().find(|block| block.name == "n").map(|block| &block.value);
            let Some(WialonValue::Int32(number)) = number else { panic!("no number in {packet:?}") };
            let number = u64::try_from(*number).expect("a number");
            assert_eq!(u64::from(packet.time), 1_700_000_000 + number, "{packet:?}");
            vec![Arrival { device: packet.uid.clone(), number, object: None }]
        }
        Received::Shadow(_) | Received::DeviceConnected { .. } | Received::Attributes { .. } => vec![],
        Received::Violation(text) => panic!("{text}"),
    }
}

fn whole(object: Value) -> Arrival {
    let device = object["ident"].as_str().unwrap_or_else(|| panic!("no ident in {object}")).to_owned();
    let number = object["n"].as_u64().unwrap_or_else(|| panic!("no number in {object}"));
    Arrival { device, number, object: Some(object) }
}
