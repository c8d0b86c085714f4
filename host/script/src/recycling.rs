//! When an instance is recycled. Memory that a script leaks, and data that it
//! piles up in its globals, go with the instance before they reach a limit in
//! the middle of a batch.

/// The use of one instance so far.
#[derive(Debug, Default)]
pub(super) struct Usage {
    calls: u32,
    /// Bytes of memory after the first call.
    at_first: usize,
}

/// Why an instance is recycled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecycleReason {
    Calls,
    Memory,
}

/// Maximum calls of one instance. A fresh one costs 30 us with its first call,
/// one of JavaScript or Python a millisecond: nothing, divided by this.
const CALLS: u32 = 100_000;

/// Calls before memory counts: a script that needs much at once must not pay
/// for a fresh instance with each batch.
const SOON: u32 = 16;

impl RecycleReason {
    /// The word in the log and in `/metrics`.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Memory => "memory",
        }
    }
}

impl Usage {
    /// Counts a call, after which the instance holds `memory` bytes. Recycles
    /// a heap that has grown to half of the limit and to twice its first size:
    /// it will probably grow on.
    pub(super) fn after_call(&mut self, memory: usize, limit: usize) -> Option<RecycleReason> {
        self.calls += 1;
        if self.calls == 1 {
            self.at_first = memory;
        }
        if self.calls >= CALLS {
            return Some(RecycleReason::Calls);
        }
        let grown = memory > limit / 2 && memory / 2 >= self.at_first;
        (grown && self.calls >= SOON).then_some(RecycleReason::Memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The call after which an instance is recycled, given its memory after
    /// each call.
    fn recycled_after(memory: impl Fn(u32) -> usize) -> (u32, RecycleReason) {
        let mut usage = Usage::default();
        (1..).find_map(|call| Some((call, usage.after_call(memory(call), 1_000)?))).unwrap()
    }

    #[test]
    fn many_calls_recycle_an_instance() {
        assert_eq!(recycled_after(|_| 900), (CALLS, RecycleReason::Calls));
        assert_eq!(recycled_after(|call| if call < 50 { 300 } else { 500 }), (CALLS, RecycleReason::Calls));
    }

    #[test]
    fn growing_heap_recycles_an_instance_at_half_the_limit() {
        assert_eq!(recycled_after(|call| 10 * call as usize), (51, RecycleReason::Memory));
        assert_eq!(recycled_after(|call| 100 * call as usize), (SOON, RecycleReason::Memory));
        assert_eq!(
            recycled_after(|call| if call == 1 { 400 } else { 400 + call as usize }),
            (400, RecycleReason::Memory)
        );
    }
}
