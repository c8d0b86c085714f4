//! What a script may ask of the gateway: lines in the log, the state, and the
//! tables.

use wasmtime::Error;

use super::bindings::sluicegate::mapper::{log, state, table, types};
use super::host::Host;
use super::log::LogLevel;
use super::state::{StateCall, StateRefusal};
use super::text::one_line;

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
