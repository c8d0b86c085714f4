//! A receiver behind a real broker.

use std::sync::Arc;

use bytes::Bytes;
use rumqttc::mqttbytes::QoS;
use rumqttc::{
    AsyncClient, Broker as Address, BrokerSessionResumePolicy, Event, EventLoop, MqttOptions, Packet,
    PublishOptions, SubscribeFilter, TlsConfiguration, Transport,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use standins::{Inbox, Received};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::broker::Broker;
use crate::certificates::Certificates;
use crate::publisher::client_id;
use crate::{LOOK, PATIENCE};

/// Subscribes at QoS 1 and records every message as [`Received::Publish`].
pub struct Subscriber {
    task: JoinHandle<()>,
}

impl Subscriber {
    /// Returns when the subscription stands.
    pub async fn start(broker: &Broker, filter: &str, inbox: Inbox) -> Self {
        Self::start_answering(broker, filter, inbox, |_, _| None).await
    }

    /// Connects again whenever the connection ends, and has a session that
    /// lasts: a broker that keeps its sessions may be killed meanwhile, and what
    /// it has not handed over comes later.
    ///
    /// # Panics
    /// When the broker does not take the subscription.
    pub async fn start_lasting(broker: &Broker, filter: &str, inbox: Inbox) -> Self {
        let mut options = options(broker.port());
        options
            .set_clean_start(false)
            .set_session_expiry_interval(Some(3600))
            .set_broker_session_resume_policy(BrokerSessionResumePolicy::AllowBrokerOnly);
        let connection = AsyncClient::builder(options).capacity(1000).build();
        Self::run(connection, filter, inbox, |_, _| None, true).await
    }

    /// Publishes, too, what `answer` makes of topic and payload of a message:
    /// a topic and a payload.
    ///
    /// # Panics
    /// When the broker does not take the subscription.
    pub async fn start_answering<F>(broker: &Broker, filter: &str, inbox: Inbox, answer: F) -> Self
    where
        F: Fn(&str, &Bytes) -> Option<(String, Bytes)> + Send + 'static,
    {
        Self::run(connection(broker), filter, inbox, answer, false).await
    }

    async fn run<F>(
        (client, mut events): (AsyncClient, EventLoop),
        filter: &str,
        inbox: Inbox,
        answer: F,
        connects_again: bool,
    ) -> Self
    where
        F: Fn(&str, &Bytes) -> Option<(String, Bytes)> + Send + 'static,
    {
        let answers = client.clone();
        let task = tokio::spawn(async move {
            loop {
                let publish = match events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(publish))) => publish,
                    Ok(_) => continue,
                    Err(_) if connects_again => {
                        sleep(4 * LOOK).await;
                        continue;
                    }
                    // The end of the connection is the end of the test's broker.
                    Err(_) => return,
                };
                let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                let answer = answer(&topic, &publish.payload);
                let properties = publish.properties.map(|p| p.user_properties).unwrap_or_default();
                inbox.record(Received::Publish { topic, payload: publish.payload, properties });
                if let Some((topic, payload)) = answer {
                    // Waiting here would stop the loop that empties the channel.
                    let sent = answers.try_publish(topic, payload, PublishOptions::new(QoS::AtLeastOnce));
                    sent.expect("room for an answer");
                }
            }
        });
        let filters = [SubscribeFilter::new(filter, QoS::AtLeastOnce)];
        let notice = client.subscribe_many_tracked(filters).await.expect("the subscriber is connected");
        let done = timeout(PATIENCE, notice.wait_completion_async()).await;
        done.expect("the broker answers in time").expect("the broker takes the subscription");
        Self { task }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection of a client of its own, with the broker's login and
/// certificates where it has some.
pub(crate) fn connection(broker: &Broker) -> (AsyncClient, EventLoop) {
    let mut options = options(broker.port());
    if let Some((user, password)) = broker.login() {
        options.set_credentials(user, password);
    }
    if let Some(certificates) = &broker.certificates {
        options.set_transport(Transport::tls_with_config(tls(certificates)));
    }
    AsyncClient::builder(options).capacity(1000).build()
}

/// A connection of a client of its own to a broker that needs no login.
pub(crate) fn plain_connection(port: u16) -> (AsyncClient, EventLoop) {
    AsyncClient::builder(options(port)).capacity(1000).build()
}

fn options(port: u16) -> MqttOptions {
    let mut options = MqttOptions::new(client_id(), Address::tcp("localhost", port));
    options.set_clean_start(true).set_keep_alive(30).set_max_packet_size(Some(4 << 20));
    options
}

/// Trusts the authority and shows the client certificate.
fn tls(certificates: &Certificates) -> TlsConfiguration {
    let pem = |name: &str| std::fs::read(certificates.file(name)).expect("a PEM file");
    let certificate = |name| CertificateDer::from_pem_slice(&pem(name)).expect("a certificate");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate("ca.pem")).expect("a root certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![certificate("client.pem")],
            PrivateKeyDer::from_pem_slice(&pem("client.key")).expect("a private key"),
        )
        .expect("a client identity");
    TlsConfiguration::from(config)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::broker::BrokerOptions;
    use crate::fleet::{Fleet, arrivals_in};
    use crate::publisher::Publisher;

    /// The tools themselves: a test that counts with them must not count wrong.
    #[tokio::test]
    async fn subscriber_receives_over_tls_and_after_restart() {
        let options = BrokerOptions { persistence: true, login: Some(("test", "secret")), tls: true };
        let mut broker = Broker::start_with(options).await;
        for _ in 0..2 {
            let inbox = Inbox::default();
            let _subscriber = Subscriber::start(&broker, "#", inbox.clone()).await;
            let fleet = Fleet::new(3, 500);
            Publisher::connect(&broker).publish_all(fleet.all()).await;
            assert_eq!(fleet.until_arrived(&inbox).await, 0);
            broker.stop().await;
            broker.resume().await;
        }
    }

    #[tokio::test]
    async fn subscriber_answers_on_aws_topics() {
        let broker = Broker::start().await;
        let (updates, answers) = (Inbox::default(), Inbox::default());
        let _listener =
            Subscriber::start(&broker, "$aws/things/+/shadow/update/rejected", answers.clone()).await;
        let _service =
            Subscriber::start_answering(&broker, "$aws/things/+/shadow/update", updates, |topic, payload| {
                Some((format!("{topic}/rejected"), payload.clone()))
            })
            .await;
        let fleet = Fleet::new(1, 1);
        let payload = fleet.message(0).to_string();
        Publisher::connect(&broker).publish("$aws/things/unit-0/shadow/update", payload).await;
        fleet.until_arrived(&answers).await;
        assert_eq!(arrivals_in(&answers).len(), 1);
    }
}
