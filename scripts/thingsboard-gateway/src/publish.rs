//! The publishes of one device while a batch is mapped: entries and attributes
//! gather until a publish is full or the batch ends.
//!
//! Source: ThingsBoard's gateway MQTT API. One device in a publish, since
//! servers before 4.2.1 acknowledge a publish once for each device in it.

use sluicegate_sdk::{Delivery, Output, Result, json};

use crate::values::Pairs;

const TELEMETRY: &str = "v1/gateway/telemetry";
const ATTRIBUTES: &str = "v1/gateway/attributes";
/// What an MQTT 5 PUBLISH of QoS 1 has beside topic and body: type, remaining
/// length (at most 3 bytes here), length of the topic, packet id, no properties.
const MQTT_OVERHEAD: usize = 1 + 3 + 2 + 2 + 1;

/// A device of the batch, with the publishes that are still open.
pub(crate) struct Device {
    name: String,
    profile: Option<String>,
    /// `{"name":`
    head: Vec<u8>,
    /// Most bytes of a body on either topic, head and end aside.
    entries_room: usize,
    attributes_room: usize,
    entries: Open,
    /// One pair for each key; a later message's value takes the place of an earlier one's.
    attributes: Vec<Attribute>,
    attributes_size: usize,
    attributes_of: Vec<u32>,
}

struct Attribute {
    key: Vec<u8>,
    pair: Vec<u8>,
}

/// Entries with commas between them, and the messages that they are from.
#[derive(Default)]
struct Open {
    messages: Vec<u32>,
    text: Vec<u8>,
}

impl Device {
    pub(crate) fn new(name: &str, profile: Option<String>, max_publish: usize) -> Self {
        let mut head = vec![b'{'];
        json::write_key(&mut head, name);
        let room = |topic: &str, brackets: usize| {
            max_publish.saturating_sub(MQTT_OVERHEAD + topic.len() + head.len() + brackets)
        };
        Self {
            name: name.to_owned(),
            profile,
            entries_room: room(TELEMETRY, "[]}".len()),
            attributes_room: room(ATTRIBUTES, "{}}".len()),
            head,
            entries: Open::default(),
            attributes: Vec::new(),
            attributes_size: 0,
            attributes_of: Vec::new(),
        }
    }

    pub(crate) fn is(&self, name: &str, profile: Option<&str>) -> bool {
        self.name == name && self.profile.as_deref() == profile
    }

    /// Refuses what no publish has room for, even alone.
    pub(crate) fn has_room(&self, telemetry: &Pairs, attributes: &Pairs) -> Result<()> {
        let entry_room = self.entries_room.saturating_sub(entry_size(0));
        for (pairs, room) in [(telemetry, entry_room), (attributes, self.attributes_room)] {
            if let Some((key, pair)) = pairs.iter().find(|(_, pair)| pair.len() > room) {
                let key = String::from_utf8_lossy(key);
                let size = pair.len();
                let reason =
                    format!("the key {key} and its value take {size} bytes, a publish has room for {room}");
                return Err(reason.into());
            }
        }
        Ok(())
    }

    /// Adds the values of a message as one entry; as several with the same
    /// time, each in its own publish, where one publish cannot hold them.
    pub(crate) fn add_telemetry(&mut self, message: u32, ts: i64, pairs: &Pairs, output: &mut Output) {
        if pairs.is_empty() {
            return;
        }
        let size = entry_size(pairs.text().len());
        let comma = usize::from(!self.entries.text.is_empty());
        if self.entries.text.len() + comma + size > self.entries_room {
            self.close_entries(output);
        }
        if size <= self.entries_room {
            self.entries.add(message, ts, pairs.text());
            return;
        }
        for run in pairs.runs(self.entries_room.saturating_sub(entry_size(0))) {
            self.close_entries(output);
            self.entries.add(message, ts, run);
        }
    }

    /// Adds the attributes of a message; a key that an earlier message of the
    /// publish had too gets the later value.
    pub(crate) fn add_attributes(&mut self, message: u32, pairs: &Pairs, output: &mut Output) {
        for (key, pair) in pairs.iter() {
            let known = self.attributes.iter().position(|attribute| attribute.key == key);
            let replaced =
                known.and_then(|known| self.attributes.get(known)).map_or(0, |it| it.pair.len() + 1);
            if self.attributes_size + pair.len() + 1 - replaced > self.attributes_room + 1 {
                self.close_attributes(output);
            }
            // Closing empties the list, so it is looked at again.
            match self.attributes.iter_mut().find(|attribute| attribute.key == key) {
                Some(attribute) => {
                    self.attributes_size -= attribute.pair.len() + 1;
                    attribute.pair = pair.to_vec();
                }
                None => self.attributes.push(Attribute { key: key.to_vec(), pair: pair.to_vec() }),
            }
            self.attributes_size += pair.len() + 1;
            if self.attributes_of.last() != Some(&message) {
                self.attributes_of.push(message);
            }
        }
    }

    /// Publishes what is open.
    pub(crate) fn close(mut self, output: &mut Output) {
        self.close_entries(output);
        self.close_attributes(output);
    }

    fn close_entries(&mut self, output: &mut Output) {
        let open = std::mem::take(&mut self.entries);
        if !open.messages.is_empty() {
            let body = [&self.head, b"[".as_slice(), &open.text, b"]}"].concat();
            output.deliver(self.delivery(TELEMETRY, open.messages, body));
        }
    }

    fn close_attributes(&mut self, output: &mut Output) {
        let attributes = std::mem::take(&mut self.attributes);
        let messages = std::mem::take(&mut self.attributes_of);
        self.attributes_size = 0;
        if !messages.is_empty() {
            let pairs: Vec<&[u8]> = attributes.iter().map(|attribute| attribute.pair.as_slice()).collect();
            let body = [&self.head, b"{".as_slice(), &pairs.join(&b','), b"}}"].concat();
            output.deliver(self.delivery(ATTRIBUTES, messages, body));
        }
    }

    fn delivery(&self, topic: &str, messages: Vec<u32>, body: Vec<u8>) -> Delivery {
        let delivery = Delivery::new(messages, body).to(topic).header("device", self.name.as_str());
        match &self.profile {
            Some(profile) => delivery.header("device-type", profile.as_str()),
            None => delivery,
        }
    }
}

impl Open {
    fn add(&mut self, message: u32, ts: i64, pairs: &[u8]) {
        if !self.text.is_empty() {
            self.text.push(b',');
        }
        self.text.extend_from_slice(b"{\"ts\":");
        json::write_i64(&mut self.text, ts);
        self.text.extend_from_slice(b",\"values\":{");
        self.text.extend_from_slice(pairs);
        self.text.extend_from_slice(b"}}");
        self.messages.push(message);
    }
}

/// Bytes of an entry with so many bytes of pairs, at most: times have 13
/// digits until 2286, and 15 until the year 9999.
fn entry_size(pairs: usize) -> usize {
    "{\"ts\":,\"values\":{}}".len() + 15 + pairs
}
