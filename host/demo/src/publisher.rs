//! Publishes the fleet over MQTT, as trackers' platforms do: QoS 1, in order.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::mqttbytes::QoS;
use rumqttc::{AsyncClient, Broker, Event, EventLoop, Incoming, MqttOptions, PublishNotice, PublishOptions};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::site::{Error, MAX_PACKET};

/// Publishes that may wait for their acknowledgement.
const WINDOW: usize = 100;
/// For the connection and for one acknowledgement.
const PATIENCE: Duration = Duration::from_secs(30);

/// One connection to the broker.
pub struct Publisher {
    client: AsyncClient,
    notices: mpsc::Sender<PublishNotice>,
    polling: JoinHandle<Error>,
    acknowledged: JoinHandle<Result<(), Error>>,
}

impl Publisher {
    /// Connects.
    pub async fn connect(broker: SocketAddr) -> Result<Self, Error> {
        let mut options = MqttOptions::new("fleet", Broker::tcp(broker.ip().to_string(), broker.port()));
        options.set_clean_start(true).set_keep_alive(30).set_max_packet_size(Some(MAX_PACKET));
        let (client, mut eventloop) = AsyncClient::builder(options).capacity(WINDOW).build();
        timeout(PATIENCE, connected(&mut eventloop)).await.map_err(|_| "the broker did not answer")??;
        let polling = tokio::spawn(async move {
            loop {
                if let Err(error) = eventloop.poll().await {
                    return format!("the connection to the broker ended: {error}").into();
                }
            }
        });
        let (notices, inbox) = mpsc::channel(WINDOW);
        Ok(Self { client, notices, polling, acknowledged: tokio::spawn(acknowledged(inbox)) })
    }

    /// Hands one publish over; waits while too many are unacknowledged.
    pub async fn publish(&self, topic: &str, payload: Bytes) -> Result<(), Error> {
        if self.polling.is_finished() || self.acknowledged.is_finished() {
            return Err("the connection to the broker has ended".into());
        }
        let options = PublishOptions::new(QoS::AtLeastOnce);
        let send = async {
            let notice = self.client.publish_tracked(topic, payload, options).await?;
            self.notices.send(notice).await.map_err(|_| "the acknowledgements have ended")?;
            Ok::<_, Error>(())
        };
        timeout(PATIENCE, send).await.map_err(|_| "the broker does not take the fleet's messages")?
    }

    /// Waits until everything is acknowledged, and disconnects.
    pub async fn finish(self) -> Result<(), Error> {
        drop(self.notices);
        let result = self.acknowledged.await?;
        self.polling.abort();
        result
    }
}

async fn connected(eventloop: &mut EventLoop) -> Result<(), Error> {
    loop {
        if let Event::Incoming(Incoming::ConnAck(_)) = eventloop.poll().await? {
            return Ok(());
        }
    }
}

async fn acknowledged(mut notices: mpsc::Receiver<PublishNotice>) -> Result<(), Error> {
    while let Some(notice) = notices.recv().await {
        timeout(PATIENCE, notice.wait_completion_async())
            .await
            .map_err(|_| "the broker did not acknowledge a message of the fleet")??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use standins::mqtt::{Mode, MqttStandin};
    use standins::mqtt_server::Reply;
    use standins::{Inbox, Received};

    use super::*;

    #[tokio::test]
    async fn finishing_waits_for_every_acknowledgement() {
        let inbox = Inbox::default();
        let broker = MqttStandin::start(inbox.clone(), None).await.unwrap();
        let publisher = Publisher::connect(broker.plug().address()).await.unwrap();
        for number in 0..300 {
            publisher.publish("a/b", Bytes::from(number.to_string())).await.unwrap();
        }
        publisher.finish().await.unwrap();
        let payload = |received: &Received| match received {
            Received::Publish { payload, .. } => String::from_utf8(payload.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        };
        let expected: Vec<String> = (0..300).map(|number| number.to_string()).collect();
        assert_eq!(inbox.all().iter().map(payload).collect::<Vec<_>>(), expected);
    }

    #[tokio::test]
    async fn broken_connection_is_an_error() {
        let broker = MqttStandin::start(Inbox::default(), None).await.unwrap();
        let publisher = Publisher::connect(broker.plug().address()).await.unwrap();
        broker.set_mode(Mode::Reply(Reply::Close));
        publisher.publish("a/b", Bytes::from_static(b"1")).await.unwrap();
        assert!(publisher.finish().await.is_err());
    }
}
