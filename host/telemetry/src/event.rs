//! The notable events. They hold plain words and bytes, so that every part of
//! the gateway may use them.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use metrics::counter;
use tracing::{debug, error, info, warn};

/// Target of the lines that hold dead letters.
pub(super) const DEAD_LETTER: &str = "sluicegate::dead_letter";

/// A stream is doing something else than before.
pub struct StateChanged<'a> {
    /// The stream.
    pub stream: &'a str,
    /// What it was doing.
    pub before: &'static str,
    /// What it is doing.
    pub after: &'static str,
    /// Why, where there is a why.
    pub reason: Option<&'a str>,
    /// Somebody should look.
    pub needs_operator: bool,
}

/// A message will not be delivered. The journal keeps it; the line holds it as
/// well, so that it can still be found after the dead letter was dropped.
pub struct DeadLettered<'a> {
    /// The stream.
    pub stream: &'a str,
    /// Where the message is in the journal.
    pub position: &'a dyn fmt::Display,
    /// Why it is dead, in the words of who refused it.
    pub reason: &'a str,
    /// Name and version of the script.
    pub script: &'a str,
    /// The message.
    pub topic: &'a str,
    /// Its payload.
    pub payload: &'a [u8],
    /// When it was received, Unix milliseconds.
    pub received_at: u64,
    /// Target and body of what the destination refused, if it got that far.
    pub delivery: Option<(Option<&'a str>, &'a [u8])>,
}

/// What waits in the journal has passed a share of what may wait.
pub struct BacklogAlarm<'a> {
    /// The stream whose quota it is; none: the journal as a whole.
    pub stream: Option<&'a str>,
    /// The share that was passed.
    pub percent: u64,
    /// Bytes now.
    pub bytes: u64,
    /// Bytes at most.
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

/// The counters of a stream do not say what the journal holds: a fault of the
/// gateway itself.
pub struct CountersDiffer<'a> {
    /// What they say and what is there.
    pub what: &'a str,
}

/// The disk has failed the journal; nothing is acknowledged until it was
/// opened again.
pub struct JournalBroken<'a> {
    /// What the system said.
    pub reason: &'a dyn fmt::Display,
}

/// New connections are made with what changed files say.
pub struct Renewed<'a> {
    /// The stream, or `bus`.
    pub of: &'a str,
}

/// What changed files say does not hold: the old connections stay.
pub struct RenewalRefused<'a> {
    /// The stream, or `bus`.
    pub of: &'a str,
    /// Why not.
    pub reason: &'a str,
}

/// A certificate expires soon, or has expired.
pub struct CertificateExpires<'a> {
    /// Whose, in which file, when.
    pub told: &'a str,
    /// It has.
    pub expired: bool,
}

/// A script's fault cost it its instance.
pub struct ScriptFaulted<'a> {
    /// The stream.
    pub stream: &'a str,
    /// Messages in the batch.
    pub messages: usize,
    /// What happened.
    pub fault: &'a dyn fmt::Display,
}

/// A new version of a script is in place.
pub struct ScriptReplaced<'a> {
    /// The stream.
    pub stream: &'a str,
    /// Name and version of the one before.
    pub before: &'a str,
    /// Of the new one.
    pub after: &'a str,
    /// Messages that both have mapped beforehand.
    pub compared: usize,
    /// How many of them come out otherwise.
    pub differing: usize,
}

/// A lane maps with another version from now on.
pub struct ScriptTakenUp<'a> {
    /// The stream.
    pub stream: &'a str,
    /// Number of the lane.
    pub lane: u32,
    /// Name and version.
    pub script: &'a str,
    /// How much longer a batch has waited for it than for the one before.
    pub paused: Duration,
}

/// The binary brings along another version of an adapter than the one that
/// runs.
pub struct ScriptUpdateWaits<'a> {
    /// The stream.
    pub stream: &'a str,
    /// Name and version of what runs.
    pub running: &'a str,
    /// Of what it brings along.
    pub waiting: &'a str,
}

/// A new version of a script was not taken: the one before goes on.
pub struct ScriptRefused<'a> {
    /// The stream.
    pub stream: &'a str,
    /// Why.
    pub reason: &'a dyn fmt::Display,
}

/// A version of a script was taken back.
pub struct ScriptRolledBack<'a> {
    /// The stream.
    pub stream: &'a str,
    /// Name and version of what ran.
    pub from: &'a str,
    /// Of what runs again.
    pub to: &'a str,
    /// How it failed; none: an operator has said so.
    pub because: Option<&'a str>,
}

/// A script was compiled, or the compiler would not.
pub struct ScriptCompiled<'a> {
    /// Its version.
    pub version: &'a dyn fmt::Display,
    /// Bytes of its file.
    pub bytes: usize,
    /// How long it took.
    pub took: Duration,
    /// Why there is no code.
    pub error: Option<&'a dyn fmt::Display>,
}

/// Compiled code that was kept is not what was written.
pub struct CompiledCodeSpoiled<'a> {
    /// The file, which is gone now.
    pub path: &'a Path,
    /// What is wrong with it.
    pub reason: &'a str,
}

/// An instance of a script has made place for a fresh one.
pub struct InstanceRecycled<'a> {
    /// Name of the script.
    pub script: &'a str,
    /// What it had too many of: `calls` or `memory`.
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
        info!(of, "certificates or secrets have changed and were accepted; connecting anew");
    }
}

impl RenewalRefused<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let Self { of, reason } = self;
        counter!("sluicegate_renewals_total", "of" => of.to_owned(), "result" => "refused").increment(1);
        warn!(
            of,
            reason, "certificates or secrets have changed and cannot be used; those before stay in use"
        );
    }
}

impl CertificateExpires<'_> {
    /// Logs; the metric is there all the time.
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
        error!(reason = %self.reason, "the journal has failed: nothing is acknowledged until it is open again");
    }
}

impl ScriptFaulted<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        counter!("sluicegate_script_faults_total", "stream" => self.stream.to_owned()).increment(1);
        warn!(stream = self.stream, messages = self.messages, fault = %self.fault, "script fault, a fresh instance goes on");
    }
}

impl ScriptReplaced<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let Self { stream, before, after, compared, differing } = self;
        count_reload(stream, "replaced");
        info!(stream, before, after, compared, differing, "a new version of the script is in place");
    }
}

impl ScriptTakenUp<'_> {
    /// Logs, for `make bench` and the curious.
    pub fn emit(self) {
        let Self { stream, lane, script, paused } = self;
        // Larger integers are logged as text.
        let paused_us = u64::try_from(paused.as_micros()).unwrap_or(u64::MAX);
        debug!(stream, lane, script, paused_us, "a lane maps with another version");
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
            "this binary has another version of the adapter: `sluicegate streams update {stream}` shows what it \
             changes"
        );
    }
}

impl ScriptRefused<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        count_reload(self.stream, "refused");
        let (stream, reason) = (self.stream, self.reason);
        warn!(stream, %reason, "a new version of the script is refused, the one before goes on");
    }
}

impl ScriptRolledBack<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let Self { stream, from, to, because } = self;
        count_reload(stream, "rolled-back");
        match because {
            Some(because) => {
                warn!(stream, from, to, because, "the script has failed on trial, the one before is back")
            }
            None => info!(stream, from, to, "the script before is back in place, as ordered"),
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
            // The stream that wants it says so as well, each time that it asks.
            Some(error) => debug!(%version, bytes, milliseconds, %error, "script not compiled"),
        }
    }
}

impl CompiledCodeSpoiled<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        counter!("sluicegate_script_cache_spoiled_total").increment(1);
        let Self { path, reason } = self;
        warn!(path = %path.display(), reason, "compiled code was spoiled and is compiled anew");
    }
}

impl InstanceRecycled<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let Self { script, reason } = self;
        counter!("sluicegate_script_recycled_total", "script" => script.to_owned(), "reason" => reason)
            .increment(1);
        debug!(script, reason, "instance worn, a fresh one goes on");
    }
}

/// Text as it is, other bytes as `base64:...`.
fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("base64:{}", STANDARD.encode(bytes)),
    }
}
