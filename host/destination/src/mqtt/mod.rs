//! MQTT 5 publish at QoS 1; PUBACK is delivered.

pub mod client;
mod flight;
mod reason;
pub mod rules;
mod settings;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use self::client::{Client, Event};
use super::{Connection, Delivery, DeliveryId, Destination, Fault, Verdict};

pub use settings::{
    CA, CERT, IN_FLIGHT, KEEP_ALIVE, KEY, KIND, MqttAccess, MqttSettings, TIMEOUT, read_access, tls_use,
};

/// User property that is equal for equal deliveries, however often they are sent.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Publishes to any MQTT 5 broker.
pub struct MqttDestination {
    settings: MqttSettings,
}

impl MqttDestination {
    /// A destination; nothing is opened yet.
    pub fn new(settings: MqttSettings) -> Self {
        Self { settings }
    }

    fn topic<'a>(&'a self, delivery: &'a Delivery) -> Option<&'a str> {
        delivery.target.as_deref().or(self.settings.topic.as_deref())
    }
}

#[async_trait]
impl Destination for MqttDestination {
    fn window(&self) -> usize {
        usize::from(client::window(&self.settings.access))
    }

    fn check(&self, delivery: &Delivery) -> Result<(), String> {
        let Some(topic) = self.topic(delivery) else {
            return Err("the delivery has no target, and `[destination] topic` names no default".to_owned());
        };
        rules::check_topic(topic)?;
        rules::check_publish(topic, delivery)
    }

    fn wants_identity(&self) -> bool {
        true
    }

    fn files(&self) -> Vec<PathBuf> {
        self.settings.access.files()
    }

    fn renewed(&self) -> Result<Option<Arc<dyn Destination>>, Fault> {
        let access = self.settings.access.renewed()?;
        Ok(Some(Arc::new(Self::new(MqttSettings { access, ..self.settings.clone() }))))
    }

    async fn connect(&self, lane: u32) -> Result<Box<dyn Connection>, Fault> {
        let client = Client::connect(&self.settings.access, lane, self.window()).await?;
        Ok(Box::new(MqttConnection {
            client,
            topic: self.settings.topic.clone().unwrap_or_default(),
            verdicts: VecDeque::new(),
        }))
    }
}

/// The headers of a delivery, and its identity in the place of what the script
/// may have put there.
fn user_properties(delivery: &Delivery) -> Vec<(String, String)> {
    let Some(identity) = &delivery.identity else { return delivery.headers.clone() };
    let others = delivery.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case(IDEMPOTENCY_KEY));
    others.cloned().chain([(IDEMPOTENCY_KEY.to_owned(), identity.key.clone())]).collect()
}

struct MqttConnection {
    client: Client<DeliveryId>,
    /// Where deliveries without a target go.
    topic: String,
    /// Said by the gateway itself, before anything was sent.
    verdicts: VecDeque<(DeliveryId, Verdict)>,
}

#[async_trait]
impl Connection for MqttConnection {
    async fn send(&mut self, id: DeliveryId, delivery: &Delivery) -> Result<(), Fault> {
        let topic = delivery.target.as_deref().unwrap_or(&self.topic);
        if let Err(reply) = self.client.publish(id, topic, user_properties(delivery), delivery.body.clone()) {
            self.verdicts.push_back((id, Verdict::Refused(reply)));
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<(DeliveryId, Verdict), Fault> {
        loop {
            if let Some(verdict) = self.verdicts.pop_front() {
                return Ok(verdict);
            }
            match self.client.next().await? {
                Event::Acked(id, verdict) => return Ok((id, verdict)),
                // Nothing is subscribed; whatever the server sends is not ours.
                Event::Message(_) => {}
            }
        }
    }

    async fn close(self: Box<Self>) {
        self.client.close().await;
    }
}
