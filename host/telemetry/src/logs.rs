//! The log: readable lines on a terminal, JSON otherwise.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

use super::event::DEAD_LETTER;

/// `SLUICEGATE_LOG` is no filter.
#[derive(Debug, thiserror::Error)]
#[error(
    "SLUICEGATE_LOG is `{given}`: {reason}; expected a level (error, warn, info, debug, trace) or filters as in `info,sluicegate=debug`"
)]
pub struct LogError {
    given: String,
    reason: String,
}

/// Starts the log on standard error. `SLUICEGATE_LOG` chooses what is shown
/// (default `info`).
pub fn init() -> Result<(), LogError> {
    let given = std::env::var("SLUICEGATE_LOG").unwrap_or_else(|_| "info".to_owned());
    // The libraries below have little to say to an operator. A dead letter's
    // line is the only copy of the message once it was dropped: no filter takes
    // it away.
    let directives = format!(
        "{given},rumqttd=off,rumqttc=error,hyper_util=warn,wasmtime=warn,cranelift_codegen=warn,{DEAD_LETTER}=warn"
    );
    let filter = EnvFilter::try_new(&directives)
        .map_err(|e| LogError { given: given.clone(), reason: e.to_string() })?;
    // A reader that went away is no reason to panic, as the report of a failed
    // write to the same standard error would.
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_timer(SystemTime)
        .log_internal_errors(false);
    // A second start (tests in one process) keeps the first log.
    let _ = if stderr().is_terminal() {
        lines.with_target(false).try_init()
    } else {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    };
    Ok(())
}
