//! The ThingsBoard gateway MQTT API: MQTT 5, QoS 1, one connection for many
//! devices, each announced with its profile before its first data.

mod devices;
mod rules;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::json;

use self::devices::{Admission, Devices};
use super::mqtt::client::{self, Client, Event};
use super::{Connection, Delivery, DeliveryId, Destination, Fault, Reply, Verdict};

pub use settings::{KIND, ThingsBoardSettings};

/// Publishes as a ThingsBoard gateway.
pub struct ThingsBoardDestination {
    settings: ThingsBoardSettings,
}

impl ThingsBoardDestination {
    /// A destination; nothing is opened yet.
    pub fn new(settings: ThingsBoardSettings) -> Self {
        Self { settings }
    }
}

#[async_trait]
impl Destination for ThingsBoardDestination {
    fn window(&self) -> usize {
        usize::from(client::window(&self.settings.access))
    }

    fn check(&self, delivery: &Delivery) -> Result<(), String> {
        rules::check(delivery)
    }

    fn files(&self) -> Vec<PathBuf> {
        self.settings.access.files()
    }

    fn renewed(&self) -> Result<Option<Arc<dyn Destination>>, Fault> {
        let access = self.settings.access.renewed()?;
        Ok(Some(Arc::new(Self::new(ThingsBoardSettings { access }))))
    }

    async fn connect(&self, lane: u32) -> Result<Box<dyn Connection>, Fault> {
        // Each delivery may need a `connect` of its own.
        let client = Client::connect(&self.settings.access, lane, 2 * self.window()).await?;
        Ok(Box::new(ThingsBoardConnection { client, devices: Devices::default(), verdicts: VecDeque::new() }))
    }
}

struct ThingsBoardConnection {
    client: Client<Tag>,
    devices: Devices<Data>,
    /// Known without, or besides, the PUBACK that is asked for next.
    verdicts: VecDeque<(DeliveryId, Verdict)>,
}

/// What a publish of this connection is.
#[derive(Debug)]
enum Tag {
    Data(DeliveryId),
    /// The `connect` of the device with this name.
    Connect(String),
}

/// A delivery without what the destination consumes.
#[derive(Debug)]
struct Data {
    id: DeliveryId,
    topic: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

#[async_trait]
impl Connection for ThingsBoardConnection {
    async fn send(&mut self, id: DeliveryId, delivery: &Delivery) -> Result<(), Fault> {
        let data = Data {
            id,
            topic: delivery.target.clone().unwrap_or_default(),
            headers: delivery.headers.iter().filter(|(n, _)| !rules::consumed(n)).cloned().collect(),
            body: delivery.body.clone(),
        };
        match rules::device(delivery) {
            None => {
                // A script may end a device's session itself.
                if let (rules::DISCONNECT, Some(device)) =
                    (data.topic.as_str(), delivery.header(rules::DEVICE))
                {
                    self.devices.disconnected(device);
                }
                self.publish(data);
            }
            Some(device) => match self.devices.admit(device, data) {
                Admission::Send(data) => self.publish(data),
                Admission::Hold => {}
                Admission::Connect => self.announce(device, delivery.header(rules::DEVICE_TYPE)),
            },
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<(DeliveryId, Verdict), Fault> {
        loop {
            if let Some(verdict) = self.verdicts.pop_front() {
                return Ok(verdict);
            }
            match self.client.next().await? {
                Event::Acked(Tag::Data(id), verdict) => return Ok((id, verdict)),
                Event::Acked(Tag::Connect(device), verdict) => self.announced(&device, verdict),
                Event::Message(message) if message.topic == rules::DISCONNECT => {
                    if let Some(device) = device_of(&message.payload) {
                        self.devices.disconnected(&device);
                    }
                }
                // RPC and shared attributes are for gateways that listen to them.
                Event::Message(_) => {}
            }
        }
    }

    async fn close(self: Box<Self>) {
        self.client.close().await;
    }
}

impl ThingsBoardConnection {
    fn publish(&mut self, data: Data) {
        let Data { id, topic, headers, body } = data;
        if let Err(reply) = self.client.publish(Tag::Data(id), &topic, headers, body) {
            self.verdicts.push_back((id, Verdict::Refused(reply)));
        }
    }

    fn announce(&mut self, device: &str, profile: Option<&str>) {
        let body = match profile {
            Some(profile) => json!({ "device": device, "type": profile }),
            // The platform then takes the profile `default`.
            None => json!({ "device": device }),
        };
        let tag = Tag::Connect(device.to_owned());
        if let Err(reply) = self.client.publish(tag, rules::CONNECT, Vec::new(), body.to_string().into()) {
            self.announced(device, Verdict::Refused(reply));
        }
    }

    fn announced(&mut self, device: &str, verdict: Verdict) {
        let about = |said: &str| format!("connect of device {device:?}: {said}");
        let verdict = match verdict {
            Verdict::Delivered => {
                for data in self.devices.connected(device) {
                    self.publish(data);
                }
                return;
            }
            Verdict::Refused(reply) => Verdict::Refused(Reply(about(&reply.0))),
            Verdict::Deferred(fault) => Verdict::Deferred(Fault { reason: about(&fault.reason), ..fault }),
        };
        let waiting = self.devices.refused(device);
        self.verdicts.extend(waiting.into_iter().map(|data| (data.id, verdict.clone())));
    }
}

/// The device in `{"device": "...", ...}`.
fn device_of(payload: &[u8]) -> Option<String> {
    let message: serde_json::Value = serde_json::from_slice(payload).ok()?;
    message.get("device")?.as_str().map(str::to_owned)
}
