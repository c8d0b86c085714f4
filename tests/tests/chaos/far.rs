//! The far side: the destination, and the link to it.

use std::time::Duration;

use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::receiver::Receiver;
use tokio::time::{Instant, sleep};

use crate::dice::Dice;
use crate::faults::{Counts, strike};
use crate::site::History;

pub struct Far {
    pub receiver: Receiver,
    pub link: Proxy,
    pub dice: Dice,
    pub counts: Counts,
}

impl Far {
    /// One fault after another until the time is over; then all is whole.
    pub async fn suffer(&mut self, time: Duration, history: &History) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let text = self.fault(time).await;
            history.add(text);
            sleep(self.dice.millis(200..2_500)).await;
        }
    }

    async fn fault(&mut self, run: Duration) -> String {
        match self.dice.number(0..12) {
            0 | 1 => {
                let time = self.dice.spell(run);
                self.receiver.plug().unplug().await.unwrap();
                sleep(time).await;
                self.receiver.plug().plug().await.unwrap();
                self.counts.outages += 1;
                format!("destination: away for {time:?}")
            }
            2..6 => {
                let time = self.dice.spell(run);
                let refusals = self.receiver.refusals();
                let refusal = self.dice.one_of(&refusals);
                self.receiver.refuse(refusal).await;
                sleep(time).await;
                // Not on an open connection: a destination that throws one
                // message away and takes the next one of those that are under
                // way changes their order itself.
                self.receiver.plug().unplug().await.unwrap();
                self.receiver.accept();
                self.receiver.plug().plug().await.unwrap();
                self.counts.refusals += 1;
                format!("destination: refused everything ({}) for {time:?}", refusal.word)
            }
            _ => strike(&self.link, "link to the destination", &mut self.dice, run, &mut self.counts).await,
        }
    }
}
