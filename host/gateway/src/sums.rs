//! The sums that the log gets between changes of state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use journal::Counters;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::info;

use super::gateway::Gateway;

/// How often a stream that does something says how much.
const EVERY: Duration = Duration::from_secs(60);

/// Logs, once a minute, one line for each stream whose counters have changed, for
/// ever.
pub async fn log(gateway: Arc<Gateway>) {
    let mut ticks = interval_at(Instant::now() + EVERY, EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let counters = || -> BTreeMap<String, Counters> {
        gateway.statuses().iter().map(|s| (s.name().to_owned(), gateway.counters(s))).collect()
    };
    let mut before = counters();
    loop {
        ticks.tick().await;
        for status in gateway.statuses() {
            let now = gateway.counters(&status);
            // One that was forgotten and is new begins with nothing.
            let known = before.get(status.name()).copied();
            let before = known.filter(|before| before.read <= now.read).unwrap_or_default();
            if now != before {
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
            }
        }
        before = counters();
    }
}

/// How much was added. Counters go back where an unsynced commit was lost and the
/// journal opened again.
fn more(now: u64, before: u64) -> u64 {
    now.saturating_sub(before)
}
