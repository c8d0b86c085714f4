//! What a script may ask of the gateway: lines in the log, the state, and the
//! tables.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wasmtime::Error;

use super::bindings::sluicegate::mapper::{log, state, table, types};
use super::fault::one_line;
use super::instance::Host;
use super::state::{StateCall, StateRefusal};
use super::{LogLevel, LogSink};

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

    fn write(&self, level: LogLevel, text: &str) {
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

// ----- what the generated bindings call -----

impl types::Host for Host {}

impl log::Host for Host {
    fn write(&mut self, level: log::Level, text: String) -> wasmtime::Result<()> {
        let level = match level {
            log::Level::Debug => LogLevel::Debug,
            log::Level::Info => LogLevel::Info,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Error => LogLevel::Error,
        };
        self.spend(1, text.len())?;
        self.log.write(level, &text);
        if level == LogLevel::Error {
            self.last_words = Some(one_line(&text));
        }
        Ok(())
    }
}

impl state::Host for Host {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<Vec<u8>>> {
        self.spend(1, key.len())?;
        let value = self.state()?.get(&key).map_err(Error::from)?;
        self.spend(0, value.as_ref().map_or(0, |value| value.len()))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> wasmtime::Result<()> {
        self.spend(1, key.len().saturating_add(value.len()))?;
        self.state()?.set(&key, value).map_err(Error::from)
    }

    fn delete(&mut self, key: String) -> wasmtime::Result<()> {
        self.spend(1, key.len())?;
        self.state()?.delete(&key).map_err(Error::from)
    }
}

/// In `configure`, too: tables are constants, so it is the same for every
/// instance.
impl table::Host for Host {
    fn get(&mut self, table: String, key: String) -> wasmtime::Result<Option<String>> {
        self.spend(1, table.len().saturating_add(key.len()))?;
        let value = self.tables.get(&table, &key).map_err(Error::from)?.map(str::to_owned);
        self.spend(0, value.as_ref().map_or(0, String::len))?;
        Ok(value)
    }

    fn names(&mut self) -> wasmtime::Result<Vec<String>> {
        self.spend(1, 0)?;
        let names: Vec<String> = self.tables.iter().map(|(name, _)| name.to_owned()).collect();
        self.spend(0, names.iter().map(String::len).sum())?;
        Ok(names)
    }
}

impl Host {
    /// Counts a call of the script, or what it brought.
    fn spend(&mut self, calls: u64, bytes: usize) -> wasmtime::Result<()> {
        self.calls.spend(calls, bytes).map_err(Error::from)
    }

    fn state(&mut self) -> wasmtime::Result<&mut StateCall> {
        self.state.as_mut().ok_or_else(|| {
            // An instance is configured once or many times, for no lane or
            // for any: what it did to the state would depend on that.
            let text = "the state was used in `configure`; it is there for `transform` only";
            Error::from(StateRefusal::Misuse(text.into()))
        })
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
