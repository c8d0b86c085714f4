//! Metrics in the Prometheus text format.

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// Another recorder is installed already.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the metrics: {0}")]
pub struct MetricsError(String);

/// What `/metrics` shows.
#[derive(Clone, Debug)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Starts counting; once in a process.
    pub fn install() -> Result<Self, MetricsError> {
        let handle = PrometheusBuilder::new().install_recorder().map_err(|e| MetricsError(e.to_string()))?;
        describe();
        Ok(Self(handle))
    }

    /// Metrics that nothing is counted in.
    #[cfg(any(test, feature = "test-support"))]
    pub fn unused() -> Self {
        Self(PrometheusBuilder::new().build_recorder().handle())
    }

    /// Everything counted so far, as Prometheus wants it.
    pub fn render(&self) -> String {
        self.0.run_upkeep();
        self.0.render()
    }
}

fn describe() {
    use metrics::{describe_counter, describe_gauge};
    describe_counter!("sluicegate_stream_state_changes_total", "Changes of state, by stream and new state");
    describe_counter!("sluicegate_dead_letters_total", "Messages that became dead letters, by stream");
    describe_counter!("sluicegate_script_faults_total", "Traps, time-outs and broken contracts, by stream");
    describe_counter!(
        "sluicegate_renewals_total",
        "Changes of certificates and secrets, by stream or `bus`, and whether they were taken or refused"
    );
    describe_counter!(
        "sluicegate_script_reloads_total",
        "New versions of scripts, by stream and outcome: replaced, refused, rolled-back"
    );
    describe_counter!("sluicegate_script_compilations_total", "Scripts compiled, or refused by the compiler");
    describe_counter!(
        "sluicegate_script_cache_hits_total",
        "Scripts whose code was found in the data folder"
    );
    describe_counter!("sluicegate_script_cache_spoiled_total", "Files of kept code that were not whole");
    describe_counter!(
        "sluicegate_script_recycled_total",
        "Instances replaced after many calls or with much memory, by script and reason"
    );
    describe_gauge!("sluicegate_bus_connected", "1 while connected to the bus and subscribed");
    describe_gauge!("sluicegate_bus_held_back", "1 while the bus waits for room in the window");
    describe_counter!("sluicegate_bus_received_total", "Publishes received from the bus, copies included");
    describe_counter!("sluicegate_bus_unwanted_total", "Messages that no stream wanted");
    describe_counter!("sluicegate_bus_acknowledged_total", "Messages acknowledged to the bus");
    describe_counter!("sluicegate_bus_abandoned_total", "Publishes of an ended connection; they come again");
    describe_counter!("sluicegate_bus_sessions_lost_total", "Times the bus had forgotten the session");
    describe_counter!("sluicegate_bus_take_overs_total", "Times another client took the client id over");
    describe_counter!("sluicegate_bus_reconnects_total", "Connections to the bus after the first one");
    describe_counter!(
        "sluicegate_counter_faults_total",
        "Times an exact counter of the journal would have fallen below 0"
    );
    // An alarm on it needs its first value.
    metrics::counter!("sluicegate_counter_faults_total").absolute(0);
    describe_gauge!("sluicegate_journal_messages", "Unsettled messages held");
    describe_gauge!("sluicegate_journal_bytes", "Bytes that the journal takes");
    describe_gauge!("sluicegate_journal_max_bytes", "Bytes that the journal may take");
    describe_gauge!("sluicegate_dead_letters_bytes", "Bytes of dead letters, which are in the journal");
    describe_gauge!("sluicegate_dead_letters_max_bytes", "Bytes of dead letters that there may be");
    describe_gauge!("sluicegate_journal_full", "1 while an append waits for room in the journal");
    describe_gauge!(
        "sluicegate_books_differences",
        "Differences between counters and pending bits, at the last check"
    );
    describe_gauge!("sluicegate_journal_broken", "1 while nothing can be appended because of the disk");
    describe_gauge!(
        "sluicegate_journal_alarm_percent",
        "50, 80 or 100 once so much of the journal is used, else 0"
    );
}
