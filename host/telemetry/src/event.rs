//! The notable events: one type per event emits the log line and the metric.
//! They hold plain text and bytes, so that every crate can use them.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use metrics::counter;
use tracing::{debug, error, info, warn};

/// Target of the lines that hold dead letters.
pub(super) const DEAD_LETTER: &str = "sluicegate::dead_letter";

/// A stream has changed its state.
pub struct StateChanged<'a> {
    /// The stream.
    pub stream: &'a str,
    /// The state before.
    pub before: &'static str,
    /// The state now.
    pub after: &'static str,
    /// The reason, if there is one.
    pub reason: Option<&'a str>,
    /// Whether the operator must act.
    pub needs_operator: bool,
}

/// A message will not be delivered. The journal keeps it. The log line holds it
/// as well, so that it can still be found after the dead letter was dropped.
pub struct DeadLettered<'a> {
    /// The stream.
    pub stream: &'a str,
    /// Where the message is in the journal.
    pub position: &'a dyn fmt::Display,
    /// The reason, in the words of the script or destination that refused it.
    pub reason: &'a str,
    /// Name and version of the script.
    pub script: &'a str,
    /// The message.
    pub topic: &'a str,
    /// Its payload.
    pub payload: &'a [u8],
    /// When it was received, Unix milliseconds.
    pub received_at: u64,
    /// Target and body of the delivery that the destination refused, if there was one.
    pub delivery: Option<(Option<&'a str>, &'a [u8])>,
}

/// The backlog has passed a share of its limit.
pub struct BacklogAlarm<'a> {
    /// The stream whose quota it is; none: the journal as a whole.
    pub stream: Option<&'a str>,
    /// The share in percent.
    pub percent: u64,
    /// Current bytes.
    pub bytes: u64,
    /// Maximum bytes.
    pub limit: u64,
}

/// An exact counter would have fallen below 0: a fault of the gateway itself.
pub struct CounterFault<'a> {
    /// The counter.
    pub counter: &'a str,
    /// Its value.
    pub value: u64,
    /// The amount that was to be taken from it.
    pub amount: u64,
}

/// The counters of a stream differ from the content of the journal: a fault of
/// the gateway itself.
pub struct CountersDiffer<'a> {
    /// The counters and the content.
    pub what: &'a str,
}

/// The disk has failed. The bus is not acknowledged until the journal is open
/// again.
pub struct JournalBroken<'a> {
    /// The error of the operating system.
    pub reason: &'a dyn fmt::Display,
}

/// Changed certificates or secrets are in use for new connections.
pub struct Renewed<'a> {
    /// The stream, or `bus`.
    pub of: &'a str,
}

/// Changed certificates or secrets were rejected: the old connections stay.
pub struct RenewalRefused<'a> {
    /// The stream, or `bus`.
    pub of: &'a str,
    /// The reason.
    pub reason: &'a str,
}

/// A certificate expires soon, or has expired.
pub struct CertificateExpires<'a> {
    /// The subject, the file and the time.
    pub told: &'a str,
    /// Whether it has expired.
    pub expired: bool,
}

/// A script has failed and lost its instance.
pub struct ScriptFaulted<'a> {
    /// The stream.
    pub stream: &'a str,
    /// Messages in the batch.
    pub messages: usize,
    /// The fault.
    pub fault: &'a dyn fmt::Display,
}

/// A new version of a script runs.
pub struct ScriptReplaced<'a> {
    /// The stream.
    pub stream: &'a str,
    /// Name and version of the one before.
    pub before: &'a str,
    /// Of the new one.
    pub after: &'a str,
    /// Messages that both versions have mapped for comparison.
    pub compared: usize,
    /// Number of them with different output.
    pub differing: usize,
}

/// A lane has switched to another version of its script.
pub struct ScriptTakenUp<'a> {
    /// The stream.
    pub stream: &'a str,
    /// Number of the lane.
    pub lane: u32,
    /// Name and version.
    pub script: &'a str,
    /// Extra time that a batch has waited because of the switch.
    pub paused: Duration,
}

/// The binary includes another version of an adapter than the one that
/// runs.
pub struct ScriptUpdateWaits<'a> {
    /// The stream.
    pub stream: &'a str,
    /// Name and version that runs.
    pub running: &'a str,
    /// Name and version in the binary.
    pub waiting: &'a str,
}

/// A new version of a script was rejected: the previous one keeps running.
pub struct ScriptRefused<'a> {
    /// The stream.
    pub stream: &'a str,
    /// The reason.
    pub reason: &'a dyn fmt::Display,
}

/// A script was rolled back.
pub struct ScriptRolledBack<'a> {
    /// The stream.
    pub stream: &'a str,
    /// Name and version that ran.
    pub from: &'a str,
    /// Name and version that runs again.
    pub to: &'a str,
    /// How it failed; none: the operator ordered the rollback.
    pub because: Option<&'a str>,
}

/// A script was compiled, or the compiler has rejected it.
pub struct ScriptCompiled<'a> {
    /// Its version.
    pub version: &'a dyn fmt::Display,
    /// Bytes of its file.
    pub bytes: usize,
    /// How long it took.
    pub took: Duration,
    /// The reason why there is no code.
    pub error: Option<&'a dyn fmt::Display>,
}

/// An entry of the compiled-code cache is corrupt.
pub struct CompiledCodeSpoiled<'a> {
    /// The file, which was deleted.
    pub path: &'a Path,
    /// The defect.
    pub reason: &'a str,
}

/// An instance of a script was replaced because of its age or size.
pub struct InstanceRecycled<'a> {
    /// Name of the script.
    pub script: &'a str,
    /// The limit that it reached: `calls` or `memory`.
    pub reason: &'static str,
}

impl StateChanged<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let Self { stream, before, after, reason, needs_operator } = self;
        counter!("sluicegate_stream_state_changes_total", "stream" => stream.to_owned(), "state" => after)
            .increment(1);
        match reason {
            Some(reason) if needs_operator => error!(stream, before, reason, "stream is {after}"),
            Some(reason) => warn!(stream, before, reason, "stream is {after}"),
            None => info!(stream, before, "stream is {after}"),
        }
    }
}

impl Renewed<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let Self { of } = self;
        counter!("sluicegate_renewals_total", "of" => of.to_owned(), "result" => "taken").increment(1);
        info!(of, "certificates or secrets changed and were accepted; reconnecting");
    }
}

impl RenewalRefused<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let Self { of, reason } = self;
        counter!("sluicegate_renewals_total", "of" => of.to_owned(), "result" => "refused").increment(1);
        warn!(of, reason, "certificates or secrets changed but were rejected; still using the previous ones");
    }
}

impl CertificateExpires<'_> {
    /// Logs; the metric is always exported.
    pub fn emit(self) {
        let Self { told, expired } = self;
        if expired { error!("{told}") } else { warn!("{told}") }
    }
}

impl DeadLettered<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        counter!("sluicegate_dead_letters_total", "stream" => self.stream.to_owned()).increment(1);
        let (target, body) = self.delivery.unzip();
        warn!(
            target: DEAD_LETTER,
            stream = self.stream,
            position = %self.position,
            reason = self.reason,
            script = self.script,
            topic = self.topic,
            received_at = self.received_at,
            payload = readable(self.payload),
            target = target.map(|t| t.unwrap_or("(the stream's own)")),
            body = body.map(readable),
            "dead letter"
        );
    }
}

impl BacklogAlarm<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let Self { stream, percent, bytes, limit } = self;
        let label = stream.unwrap_or("").to_owned();
        counter!("sluicegate_backlog_alarms_total", "stream" => label, "percent" => percent.to_string())
            .increment(1);
        match stream {
            Some(stream) => warn!(stream, bytes, limit, "the backlog has passed {percent} % of max_backlog"),
            None => warn!(bytes, limit, "the journal has passed {percent} % of max_size"),
        }
    }
}

impl CounterFault<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let Self { counter, value, amount } = self;
        counter!("sluicegate_counter_faults_total").increment(1);
        error!(counter, value, amount, "a counter would have fallen below 0: please report this fault");
    }
}

impl CountersDiffer<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        counter!("sluicegate_books_differences_total").increment(1);
        error!(what = self.what, "the counters do not balance: please report this");
    }
}

impl JournalBroken<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        counter!("sluicegate_journal_failures_total").increment(1);
        error!(reason = %self.reason, "the journal has failed: the bus is not acknowledged until it is open again");
    }
}

impl ScriptFaulted<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        counter!("sluicegate_script_faults_total", "stream" => self.stream.to_owned()).increment(1);
        warn!(stream = self.stream, messages = self.messages, fault = %self.fault, "script failed; instance replaced");
    }
}

impl ScriptReplaced<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let Self { stream, before, after, compared, differing } = self;
        count_reload(stream, "replaced");
        info!(stream, before, after, compared, differing, "new script version in use");
    }
}

impl ScriptTakenUp<'_> {
    /// Logs, for `make bench` and for diagnosis.
    pub fn emit(self) {
        let Self { stream, lane, script, paused } = self;
        // Larger integers are logged as text.
        let paused_us = u64::try_from(paused.as_micros()).unwrap_or(u64::MAX);
        debug!(stream, lane, script, paused_us, "lane switched to another script version");
    }
}

impl ScriptUpdateWaits<'_> {
    /// Logs.
    pub fn emit(self) {
        let Self { stream, running, waiting } = self;
        info!(
            stream,
            running,
            waiting,
            "this binary includes another version of the adapter: `sluicegate streams update {stream}` shows the \
             changes"
        );
    }
}

impl ScriptRefused<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        count_reload(self.stream, "refused");
        let (stream, reason) = (self.stream, self.reason);
        warn!(stream, %reason, "new script version rejected; still running the previous one");
    }
}

impl ScriptRolledBack<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let Self { stream, from, to, because } = self;
        count_reload(stream, "rolled-back");
        match because {
            Some(because) => {
                warn!(
                    stream,
                    from, to, because, "script failed during probation; rolled back to the previous version"
                )
            }
            None => info!(stream, from, to, "script rolled back by operator"),
        }
    }
}

fn count_reload(stream: &str, outcome: &'static str) {
    counter!("sluicegate_script_reloads_total", "stream" => stream.to_owned(), "outcome" => outcome)
        .increment(1);
}

impl ScriptCompiled<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let Self { version, bytes, took, error } = self;
        let outcome = if error.is_none() { "compiled" } else { "refused" };
        counter!("sluicegate_script_compilations_total", "outcome" => outcome).increment(1);
        let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        match error {
            None => debug!(%version, bytes, milliseconds, "script compiled"),
            // The stream that needs it reports this as well, at each attempt.
            Some(error) => debug!(%version, bytes, milliseconds, %error, "script not compiled"),
        }
    }
}

impl CompiledCodeSpoiled<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        counter!("sluicegate_script_cache_spoiled_total").increment(1);
        let Self { path, reason } = self;
        warn!(path = %path.display(), reason, "compiled-code cache entry is corrupt; recompiling");
    }
}

impl InstanceRecycled<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let Self { script, reason } = self;
        counter!("sluicegate_script_recycled_total", "script" => script.to_owned(), "reason" => reason)
            .increment(1);
        debug!(script, reason, "script instance recycled");
    }
}

/// Text as it is, other bytes as `base64:...`.
fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("base64:{}", STANDARD.encode(bytes)),
    }
}
