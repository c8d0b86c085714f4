//! AWS IoT device shadows over MQTT with client certificates.

mod document;
mod pacing;
mod rules;
mod settings;
#[cfg(test)]
mod tests;
mod updates;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use rumqttc::Publish;
use serde::Deserialize;
use tokio::time::{Instant, sleep_until, timeout_at};

use self::pacing::Pacer;
use self::updates::{Attempt, Updates};
use super::mqtt::client::{self, Client, Event};
use super::{Cause, Connection, Delivery, DeliveryId, Destination, Fault, Verdict};

pub use settings::{AwsIotSettings, KIND};

/// Most unacknowledged publishes that AWS accepts from a client.
const MAX_IN_FLIGHT: usize = 100;
/// Where the service says that it did not take an update; classic and named
/// shadows of all things.
const REJECTED: [&str; 2] =
    ["$aws/things/+/shadow/update/rejected", "$aws/things/+/shadow/name/+/update/rejected"];

/// Updates device shadows, and publishes, on AWS IoT Core.
pub struct AwsIotDestination {
    settings: AwsIotSettings,
}

impl AwsIotDestination {
    /// A destination; nothing is opened yet.
    pub fn new(mut settings: AwsIotSettings) -> Self {
        settings.access.in_flight = settings.access.in_flight.min(MAX_IN_FLIGHT);
        Self { settings }
    }
}

#[async_trait]
impl Destination for AwsIotDestination {
    fn window(&self) -> usize {
        usize::from(client::window(&self.settings.access))
    }

    fn check(&self, delivery: &Delivery) -> Result<(), String> {
        rules::check(delivery)
    }

    fn slot(&self, delivery: &Delivery) -> Option<String> {
        rules::shadow_update(delivery).map(str::to_owned)
    }

    fn merge(&self, older: &Delivery, newer: &Delivery) -> Option<Delivery> {
        if rules::shadow_update(older)? != rules::shadow_update(newer)? {
            return None;
        }
        let merged = document::merge(&older.body, &newer.body)?;
        let mut headers = newer.headers.clone();
        for (name, value) in &mut headers {
            if name.eq_ignore_ascii_case(rules::CLIENT_TOKEN) {
                value.clone_from(&merged.token);
            }
        }
        Some(Delivery { target: newer.target.clone(), headers, body: merged.body.into(), identity: None })
    }

    fn files(&self) -> Vec<PathBuf> {
        self.settings.access.files()
    }

    fn renewed(&self) -> Result<Option<Arc<dyn Destination>>, Fault> {
        let access = self.settings.access.renewed()?;
        Ok(Some(Arc::new(Self::new(AwsIotSettings { access, ..self.settings.clone() }))))
    }

    async fn connect(&self, lane: u32) -> Result<Box<dyn Connection>, Fault> {
        let access = &self.settings.access;
        let id = format!("{}-{lane}", access.client_id);
        if id.len() > rules::MAX_CLIENT_ID || id.starts_with('$') {
            return Err(Fault::persistent(
                Cause::Configuration,
                format!(
                    "{}: AWS IoT does not allow the client id {id:?}; expected at most {} bytes and no `$` in front",
                    access.url,
                    rules::MAX_CLIENT_ID
                ),
            ));
        }
        // A rejected update settles before its PUBACK has come, so that twice
        // the window may wait for one.
        let mut client = Client::connect(access, lane, 2 * self.window()).await?;
        client.subscribe(&REJECTED).await?;
        Ok(Box::new(AwsIotConnection {
            client,
            updates: Updates::new(self.settings.reject_window),
            pacer: Pacer::new(self.settings.publishes_per_second),
        }))
    }
}

struct AwsIotConnection {
    client: Client<Attempt>,
    updates: Updates,
    pacer: Pacer,
}

#[async_trait]
impl Connection for AwsIotConnection {
    async fn send(&mut self, id: DeliveryId, delivery: &Delivery) -> Result<(), Fault> {
        let ready = self.pacer.ready_at(Instant::now());
        if ready > Instant::now() {
            sleep_until(ready).await;
        }
        self.pacer.record(Instant::now());

        let topic = delivery.target.as_deref().unwrap_or_default();
        let answer = rules::answer(delivery);
        let attempt = self.updates.begin(id, answer);
        let headers = delivery.headers.iter().filter(|(n, _)| !n.eq_ignore_ascii_case(rules::CLIENT_TOKEN));
        if let Err(reply) =
            self.client.publish(attempt, topic, headers.cloned().collect(), delivery.body.clone())
        {
            self.updates.acked(attempt, Verdict::Refused(reply), Instant::now());
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<(DeliveryId, Verdict), Fault> {
        loop {
            // What has arrived goes before what the clock says: a rejection
            // that waits to be read still counts.
            while let Some(event) = self.client.arrived() {
                self.take(event);
            }
            self.updates.elapsed(Instant::now());
            if let Some(verdict) = self.updates.next_verdict() {
                return Ok(verdict);
            }
            match self.updates.next_end() {
                None => {
                    let event = self.client.next().await?;
                    self.take(event);
                }
                Some(end) => {
                    if let Ok(event) = timeout_at(end, self.client.next()).await {
                        self.take(event?);
                    }
                }
            }
        }
    }

    async fn close(self: Box<Self>) {
        self.client.close().await;
    }
}

impl AwsIotConnection {
    fn take(&mut self, event: Event<Attempt>) {
        match event {
            Event::Acked(attempt, verdict) => self.updates.acked(attempt, verdict, Instant::now()),
            Event::Message(message) => self.hear(&message),
        }
    }

    fn hear(&mut self, message: &Publish) {
        #[derive(Deserialize)]
        struct Rejection {
            code: u64,
            #[serde(default)]
            message: String,
            #[serde(rename = "clientToken")]
            token: String,
        }
        let topic = std::str::from_utf8(&message.topic).ok().and_then(|t| t.strip_suffix("/rejected"));
        // Without a token it answers somebody else: ours all carry one.
        if let (Some(topic), Ok(said)) = (topic, serde_json::from_slice::<Rejection>(&message.payload)) {
            self.updates.rejected(topic, &said.token, updates::of_rejection(said.code, &said.message));
        }
    }
}
