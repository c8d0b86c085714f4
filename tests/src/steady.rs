//! A publisher that continues whatever happens to the broker, and knows at the
//! end which messages the broker has taken over.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::PubAckReason;
use rumqttc::{AsyncClient, PublishOptions, PublishResult};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::LOOK;
use crate::fleet::Fleet;
use crate::subscriber::plain_connection;

/// Publishes the messages of a fleet one after the other at a steady rate and
/// QoS 1, on one connection after another. It ends with this value.
///
/// A message counts as taken over when its PUBACK says that a client has
/// subscribed (before that the broker throws it away), and it is published
/// again until then. At most one message of each device is under way, so that
/// publishing again changes no device's order.
///
/// mosquitto acknowledges before it persists: where it is killed, its last
/// acknowledgements are worth nothing. See [`Steady::broker_died`].
pub struct Steady {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    progress: Mutex<Progress>,
    changed: Notify,
}

struct Progress {
    /// When the PUBACK of each message came that is taken over; the next one
    /// to publish is behind them.
    taken: Vec<SystemTime>,
    /// How many have been published at least once.
    published: u64,
    /// No more messages than these.
    end: u64,
    /// How often the broker has died.
    deaths: u64,
}

impl Steady {
    /// Starts with message 0; `fleet.messages` is the most that are published.
    pub fn start(port: u16, fleet: Fleet, rate: u32) -> Self {
        let progress = Progress { taken: Vec::new(), published: 0, end: fleet.messages, deaths: 0 };
        let shared = Arc::new(Shared { progress: Mutex::new(progress), changed: Notify::new() });
        let task = tokio::spawn(publish(port, fleet, rate, shared.clone()));
        Self { shared, task }
    }

    /// To be called between a `kill -9` of the broker and its next start, with
    /// the time of the file that it left: what was acknowledged later is
    /// published again.
    ///
    /// The broker is one thread. It serves no client while it writes the file, so
    /// every acknowledgement that arrived here before the file was complete
    /// was given for a message that is in it.
    pub fn broker_died(&self, saved: Option<SystemTime>) {
        let mut progress = self.shared.lock();
        let safe = progress.taken.iter().take_while(|came| saved.is_some_and(|saved| **came < saved)).count();
        progress.taken.truncate(safe);
        progress.deaths += 1;
        self.shared.changed.notify_waiters();
    }

    /// Stops with the messages that have been published; returns how many, as
    /// soon as the broker has taken over all of them.
    pub async fn finish(&self) -> u64 {
        loop {
            let changed = self.shared.changed.notified();
            {
                let mut progress = self.shared.lock();
                let end = progress.published;
                progress.end = end;
                if progress.taken.len() as u64 == end {
                    return end;
                }
            }
            // Looked at from time to time, for the change may fall between the two.
            tokio::select! {
                () = changed => {}
                () = sleep(LOOK) => {}
            }
        }
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection after another.
async fn publish(port: u16, fleet: Fleet, rate: u32, shared: Arc<Shared>) {
    loop {
        let (client, mut events) = plain_connection(port);
        let connection = tokio::spawn(async move { while events.poll().await.is_ok() {} });
        publish_on(&client, fleet, rate, &shared).await;
        connection.abort();
        sleep(4 * LOOK).await;
    }
}

/// Returns when the connection is of no more use.
async fn publish_on(client: &AsyncClient, fleet: Fleet, rate: u32, shared: &Shared) {
    let (deaths, mut next) = {
        let progress = shared.lock();
        (progress.deaths, progress.taken.len() as u64)
    };
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut under_way = VecDeque::new();
    loop {
        let room = (under_way.len() as u64) < fleet.devices;
        let oldest = async {
            match under_way.front_mut() {
                Some(notice) => notice.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = ticks.tick(), if room => {
                {
                    let mut progress = shared.lock();
                    if next >= progress.end {
                        continue;
                    }
                    // Before it is sent: the end is never put before it.
                    progress.published = progress.published.max(next + 1);
                }
                let options = PublishOptions::new(QoS::AtLeastOnce);
                let sent = client.publish_tracked(fleet.topic(next), fleet.payload(next), options).await;
                let Ok(notice) = sent else { return };
                under_way.push_back(Box::pin(notice.wait_async()));
                next += 1;
            }
            completed = oldest => {
                under_way.pop_front();
                let mut progress = shared.lock();
                let taken = matches!(
                    completed,
                    Ok(PublishResult::Qos1(puback)) if puback.reason == PubAckReason::Success
                );
                if !taken || progress.deaths != deaths {
                    return;
                }
                progress.taken.push(SystemTime::now());
                shared.changed.notify_waiters();
            }
            // The end may have been set.
            () = shared.changed.notified() => if shared.lock().deaths != deaths { return },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use standins::Inbox;

    use super::*;
    use crate::PATIENCE;
    use crate::broker::Broker;
    use crate::subscriber::Subscriber;

    /// The tool itself: a message without a subscriber and what a dead broker
    /// had not saved is published again, in order.
    #[tokio::test]
    async fn unpersisted_messages_are_published_again() {
        let broker = Broker::start().await;
        let fleet = Fleet::new(4, u64::MAX);
        let steady = Steady::start(broker.port(), fleet, 200);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while steady.shared.lock().published == 0 {
            assert!(tokio::time::Instant::now() < deadline, "nothing is published");
            sleep(LOOK).await;
        }
        let inbox = Inbox::default();
        let _subscriber = Subscriber::start(&broker, "flespi/#", inbox.clone()).await;
        assert!(inbox.wait_until(PATIENCE, |all| all.len() >= 50).await);
        let early = SystemTime::UNIX_EPOCH;
        steady.broker_died(Some(early));
        let messages = steady.finish().await;
        assert!(messages >= 50, "{messages}");
        let repeats = Fleet { messages, ..fleet }.until_arrived(&inbox).await;
        assert!(repeats >= 40, "{repeats}");
    }
}
