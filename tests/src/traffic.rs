//! Messages without end, while something else happens.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::PATIENCE;
use crate::broker::Broker;
use crate::fleet::Fleet;
use crate::publisher::Publisher;

/// Publishes a fleet's messages in their order until it is told to stop.
pub struct Traffic {
    published: watch::Receiver<u64>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Traffic {
    /// One message every 2 ms.
    pub fn start(broker: &Broker, fleet: Fleet) -> Self {
        Self::in_bursts(broker, fleet, 1, Duration::from_millis(2))
    }

    /// So many at a time, again and again.
    pub fn in_bursts(broker: &Broker, fleet: Fleet, burst: u64, every: Duration) -> Self {
        let publisher = Publisher::connect(broker);
        let (progress, published) = watch::channel(0);
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut pace = interval(every);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !*stopped.borrow() {
                pace.tick().await;
                let number = *progress.borrow();
                publisher.publish_all(fleet.some(number..number + burst)).await;
                progress.send_replace(number + burst);
            }
        });
        Self { published, stop, task }
    }

    /// How many were taken over by the broker so far.
    pub fn count(&self) -> u64 {
        *self.published.borrow()
    }

    /// Waits until so many more were.
    ///
    /// # Panics
    /// When they are not in time.
    pub async fn more(&self, count: u64) -> u64 {
        let wanted = self.count() + count;
        let mut published = self.published.clone();
        let reached = timeout(PATIENCE, published.wait_for(|now| *now >= wanted)).await;
        *reached.expect("it continues in time").expect("it continues")
    }

    /// How many there were in all.
    ///
    /// # Panics
    /// When the broker did not take one.
    pub async fn end(self) -> u64 {
        self.stop.send_replace(true);
        self.task.await.expect("the broker took everything");
        *self.published.borrow()
    }
}
