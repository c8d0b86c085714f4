//! The wall clock of a stream.

use std::fmt;

use message::unix_millis;

/// The wall clock that ages, records and letters of a stream go by.
#[derive(Clone, Copy)]
pub struct Clock(pub fn() -> u64);

impl Default for Clock {
    fn default() -> Self {
        Self(unix_millis)
    }
}

impl Clock {
    /// Unix milliseconds.
    pub fn now(self) -> u64 {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}
