//! The log lines of a script, limited in rate.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::text::one_line;

/// Where the lines go that a script logs. They arrive already limited in rate
/// and length, without control characters. Called from within a mapping, so
/// it must not block.
pub type LogSink = Arc<dyn Fn(LogLevel, &str) + Send + Sync>;

/// The weight of a line that a script logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// For the author of the script.
    Debug,
    /// For whoever reads the log anyway.
    Info,
    /// Something is odd; the script goes on.
    Warn,
    /// Something is wrong; the script goes on.
    Error,
}

/// Where the lines of an instance go. Cloning shares the limit, so that it
/// outlives instances.
#[derive(Clone)]
pub(super) struct Log(Option<Arc<Mutex<Limited>>>);

struct Limited {
    sink: LogSink,
    gate: Gate,
}

/// So many lines a second, the rest counted.
struct Gate {
    per_second: u32,
    since: Instant,
    passed: u32,
    held: u64,
}

/// What becomes of a line.
#[derive(Debug, PartialEq, Eq)]
enum Passage {
    Pass,
    /// It passes, and so many before it did not.
    PassAfter(u64),
    Hold,
}

// ----- impl Log -----

impl Log {
    pub(super) fn to(sink: LogSink, per_second: u32) -> Self {
        let gate = Gate { per_second, since: Instant::now(), passed: 0, held: 0 };
        Self(Some(Arc::new(Mutex::new(Limited { sink, gate }))))
    }

    /// For calls that only repeat what has been logged already.
    pub(super) fn silent() -> Self {
        Self(None)
    }

    pub(super) fn write(&self, level: LogLevel, text: &str) {
        let Some(log) = &self.0 else { return };
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        match log.gate.passage(Instant::now()) {
            Passage::Hold => return,
            Passage::Pass => {}
            Passage::PassAfter(held) => {
                let per_second = log.gate.per_second;
                (log.sink)(
                    LogLevel::Warn,
                    &format!("{held} lines of the script were left out (limit: {per_second} a second)"),
                );
            }
        }
        (log.sink)(level, &one_line(text));
    }
}

// ----- impl Gate -----

impl Gate {
    fn passage(&mut self, now: Instant) -> Passage {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            self.since = now;
            self.passed = 0;
        }
        if self.passed >= self.per_second {
            self.held += 1;
            return Passage::Hold;
        }
        self.passed += 1;
        match std::mem::take(&mut self.held) {
            0 => Passage::Pass,
            held => Passage::PassAfter(held),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_a_second_pass_and_the_rest_is_counted() {
        let start = Instant::now();
        let mut gate = Gate { per_second: 2, since: start, passed: 0, held: 0 };
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(gate.passage(at(0)), Passage::Pass);
        assert_eq!(gate.passage(at(1)), Passage::Pass);
        assert_eq!(gate.passage(at(2)), Passage::Hold);
        assert_eq!(gate.passage(at(999)), Passage::Hold);
        assert_eq!(gate.passage(at(1_000)), Passage::PassAfter(2));
        assert_eq!(gate.passage(at(1_001)), Passage::Pass);
        assert_eq!(gate.passage(at(1_002)), Passage::Hold);
    }
}
