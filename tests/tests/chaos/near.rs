//! The near side: the gateway, mosquitto, and the link between them.

use std::time::Duration;

use sluicegate_tests::broker::Broker;
use sluicegate_tests::gateway::{Gateway, signal};
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::steady::Steady;
use tokio::time::{Instant, sleep};

use crate::dice::Dice;
use crate::faults::{Counts, strike};
use crate::site::History;

pub struct Near {
    pub broker: Broker,
    pub link: Proxy,
    pub gateway: Gateway,
    pub dice: Dice,
    pub counts: Counts,
}

impl Near {
    /// One fault after another until the time is over; then all is whole.
    pub async fn suffer(&mut self, time: Duration, steady: &Steady, history: &History) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let text = self.fault(time, steady).await;
            history.add(text);
            sleep(self.dice.millis(200..2_500)).await;
        }
    }

    async fn fault(&mut self, run: Duration, steady: &Steady) -> String {
        match self.dice.number(0..16) {
            0..4 => {
                let pause = self.dice.millis(0..1_500);
                self.gateway.kill();
                sleep(pause).await;
                self.gateway.restart().await;
                self.counts.kills += 1;
                format!("gateway: killed, and started after {pause:?}")
            }
            4 => {
                let status = self.gateway.terminate().await;
                assert_eq!(status.code(), Some(0), "a clean stop: {status}");
                self.gateway.restart().await;
                self.counts.stops += 1;
                "gateway: stopped and started".to_owned()
            }
            5 | 6 => {
                let pause = self.dice.millis(0..1_500);
                steady.broker_died(self.broker.kill().await);
                sleep(pause).await;
                self.broker.resume().await;
                self.counts.broker_kills += 1;
                format!("mosquitto: killed, and started after {pause:?}")
            }
            7 | 8 => self.freeze("gateway", self.gateway.process(), run).await,
            9 => self.freeze("mosquitto", self.broker.process(), run).await,
            _ => strike(&self.link, "bus link", &mut self.dice, run, &mut self.counts).await,
        }
    }

    async fn freeze(&mut self, who: &str, process: u32, run: Duration) -> String {
        let time = self.dice.spell(run);
        signal(process, "STOP");
        sleep(time).await;
        signal(process, "CONT");
        self.counts.freezes += 1;
        format!("{who}: frozen for {time:?}")
    }
}
