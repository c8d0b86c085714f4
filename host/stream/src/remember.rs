//! What a script remembers: loaded when its stream starts, saved with the
//! messages, cleared by a rewind.
//!
//! What a call of the script wrote leaves in the settlement that ends its last
//! message, and never before what an earlier call of the lane wrote.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use journal::{Journal, JournalError, Position, StreamIndex};
use script::{State, Written};

/// The state of a stream's script while the stream runs. The lanes share it.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub state: State,
    /// How many are clearing what is saved: nothing may be saved meanwhile.
    clearing: Mutex<u32>,
}

/// What the calls of one lane wrote and what is not saved yet.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
    /// By their number, in the order of the calls. No two neighbours are both
    /// settled: what a stuck message holds back stays as small as the state.
    calls: BTreeMap<u64, Call>,
    of_message: HashMap<Position, u64>,
    next: u64,
}

#[derive(Debug)]
struct Call {
    /// Messages of the call that have not settled.
    open: usize,
    epoch: u64,
    values: BTreeMap<Arc<str>, Option<Bytes>>,
}

/// Counts a clearing, also when its future is dropped half-way.
struct Clearing<'a>(&'a Memory);

// === impl Memory ===

impl Memory {
    /// Takes over what the journal has, and nothing of lanes that were before:
    /// what they wrote for messages that did not settle is mapped again. To be
    /// called before the first mapping.
    pub(super) async fn load(&self, journal: &Journal, stream: StreamIndex) -> Result<(), JournalError> {
        self.state.clear();
        loop {
            let epoch = self.state.epoch();
            if self.state.fill(epoch, journal.state(stream).await?) {
                return Ok(());
            }
        }
    }

    /// Calls `settle` with what may be saved now.
    pub(super) fn save(&self, unsaved: &mut Unsaved, settle: impl FnOnce(Vec<(String, Option<Bytes>)>)) {
        // Held while it is handed over: what comes out of here after a clearing
        // has begun could reach the journal behind it.
        let clearing = self.clearing();
        settle(if *clearing == 0 { unsaved.take(self.state.epoch()) } else { Vec::new() });
    }

    /// Runs `clear`, which clears what is saved, and then forgets the rest:
    /// what was written until then is lost, in both places.
    pub(super) async fn clear_with<T, E>(&self, clear: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        *self.clearing() += 1;
        let _clearing = Clearing(self);
        let cleared = clear.await?;
        self.state.clear();
        Ok(cleared)
    }

    fn clearing(&self) -> MutexGuard<'_, u32> {
        self.clearing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Clearing<'_> {
    fn drop(&mut self) {
        *self.0.clearing() -= 1;
    }
}

// === impl Unsaved ===

impl Unsaved {
    /// A call has mapped these messages, each once, and written that.
    pub(super) fn begin(&mut self, messages: &[Position], written: Written) {
        let number = self.next;
        self.next += 1;
        let values = written.values.into_iter().collect();
        self.calls.insert(number, Call { open: messages.len(), epoch: written.epoch, values });
        self.of_message.extend(messages.iter().map(|m| (*m, number)));
    }

    /// The message has settled.
    pub(super) fn settled(&mut self, message: Position) {
        let Some(number) = self.of_message.remove(&message) else { return };
        let Some(call) = self.calls.get_mut(&number) else { return };
        call.open -= 1;
        if call.open > 0 {
            return;
        }
        self.unite(number + 1..);
        self.unite(number..);
    }

    /// Adds the first of these calls to the one before it, if both have settled.
    fn unite(&mut self, from: std::ops::RangeFrom<u64>) {
        let newer = self.calls.range(from.clone()).next().filter(|(_, c)| c.open == 0).map(|(n, _)| *n);
        let older = self.calls.range(..from.start).next_back().filter(|(_, c)| c.open == 0).map(|(n, _)| *n);
        if let (Some(newer), Some(older)) = (newer, older)
            && let Some(newer) = self.calls.remove(&newer)
            && let Some(older) = self.calls.get_mut(&older)
        {
            if newer.epoch != older.epoch {
                older.epoch = newer.epoch;
                older.values.clear();
            }
            older.values.extend(newer.values);
        }
    }

    /// What the oldest calls wrote, if all their messages have settled. What
    /// is not of this epoch is forgotten.
    fn take(&mut self, epoch: u64) -> Vec<(String, Option<Bytes>)> {
        match self.calls.first_entry() {
            Some(call) if call.get().open == 0 => {
                let call = call.remove();
                if call.epoch != epoch {
                    return Vec::new();
                }
                call.values.into_iter().map(|(key, value)| (key.as_ref().to_owned(), value)).collect()
            }
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(index: u32) -> Position {
        Position { chunk: 1, index }
    }

    fn wrote(epoch: u64, values: &[(&str, &str)]) -> Written {
        let values = values.iter().map(|(k, v)| ((*k).into(), Some(v.to_string().into()))).collect();
        Written { epoch, values }
    }

    fn saved(unsaved: &mut Unsaved) -> Vec<(String, String)> {
        let text = |v: Option<Bytes>| String::from_utf8_lossy(&v.unwrap_or_default()).into_owned();
        unsaved.take(0).into_iter().map(|(k, v)| (k, text(v))).collect()
    }

    fn pairs(values: &[(&str, &str)]) -> Vec<(String, String)> {
        values.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn writes_leave_with_the_last_message_of_their_call_and_in_order() {
        let mut unsaved = Unsaved::default();
        unsaved.begin(&[at(0), at(1)], wrote(0, &[("a", "1")]));
        unsaved.begin(&[at(2)], wrote(0, &[("a", "2"), ("b", "2")]));
        unsaved.begin(&[at(3)], wrote(0, &[("c", "3")]));
        unsaved.settled(at(2));
        unsaved.settled(at(0));
        assert_eq!(saved(&mut unsaved), [], "the first call has not settled");
        unsaved.settled(at(1));
        assert_eq!(saved(&mut unsaved), pairs(&[("a", "2"), ("b", "2")]));
        unsaved.settled(at(3));
        unsaved.settled(at(3));
        assert_eq!(saved(&mut unsaved), pairs(&[("c", "3")]));
        assert!(unsaved.calls.is_empty() && unsaved.of_message.is_empty());
    }

    #[test]
    fn a_stuck_message_holds_back_no_more_than_the_newest_values() {
        let mut unsaved = Unsaved::default();
        unsaved.begin(&[at(0)], wrote(0, &[("a", "0")]));
        for n in 1..1000 {
            unsaved.begin(&[at(n)], wrote(0, &[("a", &n.to_string())]));
            unsaved.settled(at(n));
            assert!(unsaved.calls.len() <= 2);
            assert_eq!(saved(&mut unsaved), []);
        }
        unsaved.settled(at(0));
        assert_eq!(saved(&mut unsaved), pairs(&[("a", "999")]));
    }

    #[tokio::test]
    async fn nothing_is_saved_while_the_state_is_cleared_and_nothing_old_afterwards() {
        let memory = Memory::default();
        let mut unsaved = Unsaved::default();
        let save = |unsaved: &mut Unsaved| {
            let mut out = Vec::new();
            memory.save(unsaved, |values| out = values);
            out.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        unsaved.begin(&[at(0)], wrote(0, &[("a", "0")]));
        unsaved.settled(at(0));
        let failed: Result<(), &str> = memory
            .clear_with(async {
                assert_eq!(save(&mut unsaved), [""; 0]);
                Err("disk")
            })
            .await;
        assert_eq!(failed, Err("disk"));
        assert_eq!(save(&mut unsaved), ["a"], "nothing was cleared");

        unsaved.begin(&[at(1)], wrote(0, &[("b", "0")]));
        unsaved.settled(at(1));
        unsaved.begin(&[at(2)], wrote(0, &[("b", "0")]));
        let cleared: Result<u32, &str> = memory.clear_with(async { Ok(7) }).await;
        assert_eq!(cleared, Ok(7));
        unsaved.begin(&[at(3)], wrote(1, &[("c", "0")]));
        unsaved.settled(at(3));
        assert_eq!(save(&mut unsaved), [""; 0]);
        unsaved.settled(at(2));
        assert_eq!(save(&mut unsaved), ["c"]);
        drop(memory.clear_with(std::future::pending::<Result<(), ()>>()));
        assert_eq!(*memory.clearing(), 0);
    }

    proptest! {
        /// Whatever the order in which messages settle: what has been saved is
        /// what the calls wrote up to the first unsettled one, or a bit less
        /// when nobody has asked since.
        #[test]
        fn what_is_saved_is_the_state_after_some_call(
            calls in prop::collection::vec(prop::collection::vec(0u8..3, 0..3), 1..12),
            order in prop::collection::vec(any::<u32>(), 36),
        ) {
            let mut unsaved = Unsaved::default();
            let mut messages = Vec::new();
            for (number, keys) in (0u32..).zip(&calls) {
                let carried = [at(3 * number), at(3 * number + 1), at(3 * number + 2)];
                let text = number.to_string();
                let names: Vec<String> = keys.iter().map(u8::to_string).collect();
                let values: Vec<(&str, &str)> = names.iter().map(|k| (k.as_str(), text.as_str())).collect();
                unsaved.begin(&carried, wrote(0, &values));
                messages.extend(carried);
            }
            let mut waiting = messages.clone();
            let mut settled = Vec::new();
            let mut disk: BTreeMap<String, String> = BTreeMap::new();
            for pick in order.into_iter().take(messages.len()) {
                let message = waiting.remove(pick as usize % waiting.len());
                settled.push(message);
                unsaved.settled(message);
                disk.extend(saved(&mut unsaved));
                let whole = calls.iter().enumerate().take_while(|(n, _)| {
                    (0..3).all(|m| settled.contains(&messages[3 * n + m]))
                });
                let mut expected = BTreeMap::new();
                for (number, keys) in whole {
                    expected.extend(keys.iter().map(|k| (k.to_string(), number.to_string())));
                }
                prop_assert_eq!(&disk, &expected);
            }
        }
    }
}
