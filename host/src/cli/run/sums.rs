//! The sums that the log gets between changes of state.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::info;

use super::gateway::Gateway;
use crate::journal::Books;

/// How often a stream that does something says how much.
const EVERY: Duration = Duration::from_secs(60);

/// Logs, once a minute, one line for each stream whose books have changed, for
/// ever.
pub async fn log(gateway: Arc<Gateway>) {
    let mut ticks = interval_at(Instant::now() + EVERY, EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before: Vec<Books> = gateway.streams.iter().map(|s| gateway.books(s)).collect();
    loop {
        ticks.tick().await;
        for (status, before) in gateway.streams.iter().zip(&mut before) {
            let now = gateway.books(status);
            if now != *before {
                info!(
                    stream = status.name(),
                    state = status.state().word(),
                    read = more(now.read, before.read),
                    delivered = more(now.delivered, before.delivered),
                    filtered = more(now.filtered, before.filtered),
                    expired = more(now.expired, before.expired),
                    superseded = more(now.superseded, before.superseded),
                    dead_lettered = more(now.dead_lettered, before.dead_lettered),
                    queued = now.queued,
                    "in the last {} s",
                    EVERY.as_secs()
                );
                *before = now;
            }
        }
    }
}

/// How much was added. Books go back where an unsynced commit was lost and the
/// journal opened again.
fn more(now: u64, before: u64) -> u64 {
    now.saturating_sub(before)
}
