//! The books are compared with the marks, for as long as the gateway runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::gateway::Gateway;
use crate::telemetry::event;

/// How often. Counting costs about a millisecond for each 10,000 chunks that
/// hold something.
const EVERY: Duration = Duration::from_secs(60);

/// Counts, once a minute, what is marked as pending, and says where the books
/// or the records of chunks and segments say something else, for ever.
pub async fn run(gateway: Arc<Gateway>) {
    let mut ticks = interval_at(Instant::now() + EVERY, EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match gateway.journal.check().await {
            Ok(differences) => {
                metrics::gauge!("sluicegate_books_differences").set(differences.len() as f64);
                for difference in &differences {
                    event::BooksDiffer { what: &difference.what }.emit();
                }
            }
            Err(error) => tracing::warn!(%error, "the books cannot be checked now"),
        }
    }
}
