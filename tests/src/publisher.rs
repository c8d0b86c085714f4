//! A publisher that knows what the broker has taken over.

use bytes::Bytes;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::PubAckReason;
use rumqttc::{AsyncClient, PublishNoticeError, PublishOptions};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::PATIENCE;
use crate::broker::Broker;
use crate::subscriber::connection;

/// Publishes to a broker at QoS 1 and waits for every PUBACK.
pub struct Publisher {
    client: AsyncClient,
    task: JoinHandle<()>,
}

impl Publisher {
    /// Connects to a broker, with its login or certificates where it has some.
    pub fn connect(broker: &Broker) -> Self {
        let (client, mut events) = connection(broker);
        let task = tokio::spawn(async move { while events.poll().await.is_ok() {} });
        Self { client, task }
    }

    /// Publishes all of them in order; returns when the last PUBACK has come.
    ///
    /// # Panics
    /// When the broker does not take one of them.
    pub async fn publish_all<T, P>(&self, messages: impl IntoIterator<Item = (T, P)>)
    where
        T: Into<String>,
        P: Into<Bytes>,
    {
        let publishing = async {
            let mut notices = Vec::new();
            for (topic, payload) in messages {
                let options = PublishOptions::new(QoS::AtLeastOnce);
                let notice = self.client.publish_tracked(topic.into(), payload.into(), options).await;
                notices.push(notice.expect("the publisher is connected"));
            }
            for notice in notices {
                match notice.wait_completion_async().await {
                    // No subscriber is needed.
                    Ok(_) | Err(PublishNoticeError::V5PubAck(PubAckReason::NoMatchingSubscribers)) => {}
                    Err(error) => panic!("the broker did not take a publish: {error}"),
                }
            }
        };
        timeout(PATIENCE, publishing).await.expect("the broker acknowledges in time");
    }

    /// Publishes one message.
    pub async fn publish(&self, topic: &str, payload: impl Into<Bytes>) {
        self.publish_all([(topic, payload)]).await;
    }

    /// Publishes one message at QoS 0 (a QoS 1 publish behind it tells when
    /// the broker has it).
    ///
    /// # Panics
    /// When the connection has ended.
    pub async fn publish_at_most_once(&self, topic: &str, payload: impl Into<Bytes>) {
        let options = PublishOptions::new(QoS::AtMostOnce);
        self.client.publish(topic, payload.into(), options).await.expect("the publisher is connected");
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A unique client id.
pub(crate) fn client_id() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
