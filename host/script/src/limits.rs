//! What a script may use, and the guards that hold it to that.

use std::time::Duration;

use wasmtime::ResourceLimiter;

/// Maximum size of a script file in bytes.
pub const MAX_SIZE: usize = 32 << 20;

/// What one script may use. All of it holds for one instance or one call, so
/// a script that takes too much disturbs nobody but itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time that any call may take (default 250 ms), counted while the script
    /// runs, in steps of [`TICK`].
    pub time: Duration,
    /// Time on top of it for each message of a batch (default 10 ms).
    pub time_per_message: Duration,
    /// Bytes of linear memory of an instance (default 64 MiB).
    pub memory: usize,
    /// Bytes that one call may return: bodies, targets, headers, reasons
    /// (default 16 MiB).
    pub output_bytes: usize,
    /// Deliveries that one call may return for each message of its batch
    /// (default 16), on top of 64.
    pub deliveries_per_message: usize,
    /// Calls of the gateway (log, state, tables) that one call may make for
    /// each message of its batch (default 1,000), on top of 20,000.
    pub host_calls_per_message: u32,
    /// Bytes of names, keys, values and lines in all of them (default 64 MiB).
    pub host_call_bytes: u64,
    /// Log lines that reach the log each second, for each lane (default 50).
    pub log_lines_per_second: u32,
    /// Bytes that the stream's state may hold, keys counted (default 16 MiB).
    pub state_bytes: usize,
}

/// The step in which running time is counted. Within it other tasks of the
/// same thread wait for a busy script; after it they get their turn.
pub const TICK: Duration = Duration::from_millis(5);

/// Elements of all tables of an instance. A C++ or Go program needs a few
/// thousand, a JavaScript engine about ten thousand.
const TABLE_ELEMENTS: usize = 100_000;

impl Default for Limits {
    fn default() -> Self {
        Self {
            time: Duration::from_millis(250),
            time_per_message: Duration::from_millis(10),
            memory: 64 << 20,
            output_bytes: 16 << 20,
            deliveries_per_message: 16,
            host_calls_per_message: 1_000,
            host_call_bytes: 64 << 20,
            log_lines_per_second: 50,
            state_bytes: 16 << 20,
        }
    }
}

impl Limits {
    /// Time that a call with so many messages may take.
    pub(super) fn time_of(&self, messages: usize) -> Duration {
        let messages = u32::try_from(messages).unwrap_or(u32::MAX);
        self.time.saturating_add(self.time_per_message.saturating_mul(messages))
    }

    /// Calls of the gateway that a call with so many messages may make.
    pub(super) fn host_calls_of(&self, messages: usize) -> u64 {
        u64::from(self.host_calls_per_message).saturating_mul(messages as u64).saturating_add(20_000)
    }

    /// Deliveries that a call with so many messages may return.
    pub(super) fn deliveries_of(&self, messages: usize) -> usize {
        self.deliveries_per_message.saturating_mul(messages).saturating_add(64)
    }
}

/// Running time that a call has left. Counted in slices between two ticks of
/// the engine rather than by the clock, because a call that has yielded to
/// other tasks must not pay for the time that those take.
#[derive(Debug, Default)]
pub(super) struct Budget {
    slices: u32,
}

impl Budget {
    /// Starts a call that may run that long.
    pub(super) fn start(&mut self, time: Duration) {
        let slices = time.as_nanos().div_ceil(TICK.as_nanos());
        // The first slice ends at the next tick, which may be at once.
        self.slices = u32::try_from(slices).unwrap_or(u32::MAX).saturating_add(1);
    }

    /// A tick has come while the script ran. False: its time is up.
    pub(super) fn spend(&mut self) -> bool {
        self.slices = self.slices.saturating_sub(1);
        self.slices > 0
    }
}

/// What a call may still ask of the gateway. Time does not bound it: a call of
/// the gateway is not interrupted, and its work is done outside of the script.
#[derive(Debug, Default)]
pub(super) struct HostCalls {
    calls: u64,
    most_calls: u64,
    bytes: u64,
    most_bytes: u64,
}

/// A call of the gateway too many; the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CallRefusal {
    #[error("more than {0} calls")]
    Often(u64),
    #[error("more than {0} bytes")]
    Much(u64),
}

impl HostCalls {
    /// Starts a call that may make so many calls with so many bytes.
    pub(super) fn start(&mut self, most_calls: u64, most_bytes: u64) {
        *self = Self { calls: 0, most_calls, bytes: 0, most_bytes };
    }

    /// The script has called, or its call has brought, so many bytes.
    pub(super) fn spend(&mut self, calls: u64, bytes: usize) -> Result<(), CallRefusal> {
        self.calls = self.calls.saturating_add(calls);
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.calls > self.most_calls {
            return Err(CallRefusal::Often(self.most_calls));
        }
        if self.bytes > self.most_bytes {
            return Err(CallRefusal::Much(self.most_bytes));
        }
        Ok(())
    }
}

/// Bounds the memories and tables of one instance, all of them together.
#[derive(Debug)]
pub(super) struct MemoryGuard {
    limit: usize,
    memory: usize,
    elements: usize,
    refused: bool,
}

impl MemoryGuard {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, memory: 0, elements: 0, refused: false }
    }

    /// Whether the script was refused memory. It may live with that; if it
    /// traps afterwards, this is why.
    pub(super) fn refused(&self) -> bool {
        self.refused
    }

    /// Bytes that the memories have grown to.
    pub(super) fn held(&self) -> usize {
        self.memory
    }

    /// Forgets refusals of earlier calls.
    pub(super) fn start(&mut self) {
        self.refused = false;
    }
}

impl ResourceLimiter for MemoryGuard {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let memory = self.memory.saturating_add(desired.saturating_sub(current));
        if memory > self.limit {
            self.refused = true;
            return Ok(false);
        }
        self.memory = memory;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let elements = self.elements.saturating_add(desired.saturating_sub(current));
        if elements > TABLE_ELEMENTS {
            self.refused = true;
            return Ok(false);
        }
        self.elements = elements;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn time_grows_with_the_batch() {
        let limits = Limits::default();
        assert_eq!(limits.time_of(1), Duration::from_millis(260));
        assert_eq!(limits.time_of(128), Duration::from_millis(1_530));
        assert_eq!(limits.deliveries_of(2), 96);
    }

    #[test]
    fn a_budget_lasts_for_its_ticks_and_one_that_was_cut_short() {
        let mut budget = Budget::default();
        budget.start(TICK * 3);
        assert_eq!(
            [budget.spend(), budget.spend(), budget.spend(), budget.spend()],
            [true, true, true, false]
        );
        assert!(!budget.spend());
    }

    #[test]
    fn calls_of_the_gateway_are_counted_for_each_call_of_the_script() {
        let limits = Limits::default();
        assert_eq!(limits.host_calls_of(0), 20_000);
        assert_eq!(limits.host_calls_of(128), 148_000);
        let mut calls = HostCalls::default();
        for _ in 0..2 {
            calls.start(2, 100);
            assert_eq!([calls.spend(1, 60), calls.spend(1, 40)], [Ok(()), Ok(())]);
            assert_eq!(calls.spend(1, 0), Err(CallRefusal::Often(2)));
        }
        calls.start(2, 100);
        assert_eq!(calls.spend(1, 101), Err(CallRefusal::Much(100)));
    }

    #[test]
    fn memories_of_one_instance_are_counted_together() {
        let mut guard = MemoryGuard::new(100);
        assert!(guard.memory_growing(0, 60, None).unwrap());
        assert!(guard.memory_growing(0, 40, None).unwrap());
        assert!(!guard.refused());
        assert!(!guard.memory_growing(40, 41, None).unwrap());
        assert!(guard.refused());
        guard.start();
        assert!(!guard.refused());
        assert!(guard.memory_growing(60, 60, None).unwrap());
    }
}
