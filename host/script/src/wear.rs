//! When an instance has served long enough. What a script leaks or piles up in
//! its globals goes with the instance, before it meets a limit in the middle of
//! a batch.

/// How worn an instance is.
#[derive(Debug, Default)]
pub(super) struct Wear {
    calls: u32,
    /// Bytes of memory after the first call.
    at_first: usize,
}

/// What an instance has too many of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worn {
    Calls,
    Memory,
}

/// Calls of an instance at most. A fresh one costs 30 us with its first call,
/// one of JavaScript or Python a millisecond: nothing, divided by this.
const CALLS: u32 = 100_000;

/// Calls before memory counts: a script that needs much at once must not pay
/// for a fresh instance with each batch.
const SOON: u32 = 16;

impl Worn {
    /// The word in the log and in `/metrics`.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Memory => "memory",
        }
    }
}

impl Wear {
    /// After a call that has left so much memory. A heap that has grown to half
    /// of the limit and to twice its size at first is held to be one that will
    /// not stop.
    pub(super) fn after_call(&mut self, memory: usize, limit: usize) -> Option<Worn> {
        self.calls += 1;
        if self.calls == 1 {
            self.at_first = memory;
        }
        if self.calls >= CALLS {
            return Some(Worn::Calls);
        }
        let grown = memory > limit / 2 && memory / 2 >= self.at_first;
        (grown && self.calls >= SOON).then_some(Worn::Memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The call after which an instance is worn, if its memory is this after
    /// each.
    fn worn_after(memory: impl Fn(u32) -> usize) -> (u32, Worn) {
        let mut wear = Wear::default();
        (1..).find_map(|call| Some((call, wear.after_call(memory(call), 1_000)?))).unwrap()
    }

    #[test]
    fn many_calls_wear_an_instance() {
        assert_eq!(worn_after(|_| 900), (CALLS, Worn::Calls));
        assert_eq!(worn_after(|call| if call < 50 { 300 } else { 500 }), (CALLS, Worn::Calls));
    }

    #[test]
    fn a_heap_that_grows_and_grows_wears_it_at_half_of_the_limit() {
        assert_eq!(worn_after(|call| 10 * call as usize), (51, Worn::Memory));
        assert_eq!(worn_after(|call| 100 * call as usize), (SOON, Worn::Memory));
        assert_eq!(worn_after(|call| if call == 1 { 400 } else { 400 + call as usize }), (400, Worn::Memory));
    }
}
