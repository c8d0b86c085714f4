//! While the gateway runs: compares the counters with the pending bits, and
//! deletes data that no stream needs.

use std::sync::Arc;
use std::time::Duration;

use journal::Journal;
use telemetry::event;
use tokio::time::{MissedTickBehavior, interval};

use super::gateway::Gateway;

/// How often. Counting costs about a millisecond for each 10,000 chunks that
/// hold something.
const EVERY: Duration = Duration::from_secs(60);

/// Checks the counters, at once and then once a minute, for ever. Then forgets the
/// scripts of streams that have had no file for too long.
pub async fn run(gateway: Arc<Gateway>) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        check(&gateway.journal).await;
        gateway.streams.forget_scripts().await;
    }
}

/// Counts what is marked as pending, and says where the counters or the records of
/// chunks and segments say something else.
async fn check(journal: &Journal) {
    match journal.check().await {
        Ok(differences) => {
            metrics::gauge!("sluicegate_books_differences").set(differences.len() as f64);
            for difference in &differences {
                event::CountersDiffer { what: &difference.what }.emit();
            }
        }
        Err(error) => tracing::warn!(%error, "cannot check the counters now"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use journal::{Append, JournalSettings, OnFull, Quota, StreamIndex, StreamQuota, SyncMode};
    use message::Message;
    use metrics_exporter_prometheus::PrometheusBuilder;
    use redb::{ReadableDatabase, TableDefinition};

    use super::*;

    type Counts = (u64, u64, u64, u64, u64, u64, u64, u64);
    const COUNTERS: TableDefinition<u32, Counts> = TableDefinition::new("books");

    fn open(folder: &Path) -> Journal {
        let settings = JournalSettings {
            path: folder.to_owned(),
            max_size: 1 << 30,
            keep: Duration::ZERO,
            sync: SyncMode::Always,
            dead_letters_max_size: 1 << 20,
        };
        let quota = Quota { max_backlog: 1 << 29, on_full: OnFull::Block };
        let stream = StreamQuota { name: "a".to_owned(), quota, live_first: false, conflates: false };
        Journal::open(&settings, vec![stream]).unwrap()
    }

    /// What `/metrics` says once the journal has been checked.
    async fn differences(journal: &Journal) -> String {
        let recorder = PrometheusBuilder::new().build_recorder();
        let _counts_here = metrics::set_default_local_recorder(&recorder);
        check(journal).await;
        let text = recorder.handle().render();
        let line = text.lines().find(|line| line.starts_with("sluicegate_books_differences "));
        line.expect("it is counted").to_owned()
    }

    #[tokio::test]
    async fn counters_that_differ_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let journal = open(folder.path());
        for _ in 0..3 {
            let message = Message::received_now("t", "x");
            journal.append(vec![Append { message, streams: vec![StreamIndex(0)] }]).await.await.unwrap();
        }
        assert_eq!(differences(&journal).await, "sluicegate_books_differences 0");
        journal.close().await;
        drop(journal);

        let database = redb::Database::open(folder.path().join("index.redb")).unwrap();
        let found =
            database.begin_read().unwrap().open_table(COUNTERS).unwrap().get(0).unwrap().unwrap().value();
        assert_eq!(found.0, 3, "read");
        let writing = database.begin_write().unwrap();
        writing.open_table(COUNTERS).unwrap().insert(0, (4, 0, 0, 0, 0, 0, 0, found.7)).unwrap();
        writing.commit().unwrap();
        drop(database);

        let journal = open(folder.path());
        assert_eq!(differences(&journal).await, "sluicegate_books_differences 1");
        let counters = journal.counters(StreamIndex(0));
        assert!(!counters.balance() && counters.queued == 3, "{counters:?}");
        journal.close().await;
    }
}
