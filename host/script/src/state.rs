//! The key-value store that scripts of one stream share.
//!
//! Kept in memory; whoever runs the script fills it at the start and keeps what
//! each call has [`Written`]. Rules: the first lane that touches a key owns it; a call
//! sees its own writes at once, everybody else after it has succeeded; a call
//! that fails leaves no trace, not even ownership.
//!
//! A key that has no value (it was deleted, or only asked for) still has an
//! owner. It is forgotten when room is needed, and not before nobody speaks of
//! it any more: neither a running call nor a deletion that is not saved yet,
//! which must not be saved behind what another lane writes there.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// The state of one stream. Cloning is cheap and shares it.
#[derive(Clone, Default)]
pub struct State {
    table: Arc<Mutex<Table>>,
}

/// The values that a call found under the keys that it touched, as they were
/// before it (none: the key was absent). Cloning is cheap.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct BeforeImage(Option<Arc<HashMap<Arc<str>, Option<Bytes>>>>);

/// What a call wrote to the state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// [`State::epoch`] when it was written: it means nothing in another one.
    pub epoch: u64,
    /// Keys and their new values (none: deleted), each key once. Whose key it
    /// is is not forgotten while one of these is there.
    pub values: Vec<(Arc<str>, Option<Bytes>)>,
}

/// Why an access to the state ends the call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum StateRefusal {
    #[error("state key `{key}` of lane {owner} touched by lane {lane}")]
    Conflict { key: String, owner: u32, lane: u32 },
    #[error("state full")]
    Full { limit: usize },
    #[error("{0}")]
    Misuse(String),
}

/// What one call sees of the state, and what it has written.
pub(super) struct StateCall {
    state: State,
    /// The state's epoch when the call began. When that has passed, the state
    /// is not touched any more: what the call does is about values that are gone.
    epoch: u64,
    /// None: an isolated call, which owns nothing and leaves nothing behind.
    lane: Option<u32>,
    limit: usize,
    /// What an isolated call sees before it looks at the state itself.
    image: BeforeImage,
    /// Value before this call of each key that it touched.
    before: HashMap<Arc<str>, Option<Bytes>>,
    writes: HashMap<Arc<str>, Option<Bytes>>,
    /// Keys that were nobody's before this call.
    acquired: Vec<Arc<str>>,
    /// Bytes that the writes have added to the table's count (or taken off).
    added: isize,
}

#[derive(Default)]
struct Table {
    slots: HashMap<Arc<str>, Slot>,
    /// Keys that had no value when a call ended, each once: what may be
    /// forgotten, if that is still so.
    vacant: VecDeque<Arc<str>>,
    /// What all slots count for, writes of running calls included.
    bytes: usize,
    /// How often it was cleared.
    epoch: u64,
}

struct Slot {
    owner: Option<u32>,
    /// None: touched, but absent for scripts.
    value: Option<Bytes>,
    /// Whether the key is among [`Table::vacant`].
    vacant: bool,
}

/// What a key counts for beside its own bytes and those of its value.
const SLOT_BYTES: usize = 64;

/// Bytes of a key at most.
const KEY_BYTES: usize = 1_024;

// ----- impl State -----

impl State {
    /// An empty state.
    pub fn new() -> Self {
        Self::default()
    }

    /// The committed value of a key.
    pub fn get(&self, key: &str) -> Option<Bytes> {
        self.lock().slots.get(key)?.value.clone()
    }

    /// How many keys have a value.
    pub fn len(&self) -> usize {
        self.lock().slots.values().filter(|slot| slot.value.is_some()).count()
    }

    /// Whether no key has a value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that count towards the limit.
    pub fn size(&self) -> usize {
        self.lock().bytes
    }

    /// A state of its own with the same values, and no owners.
    pub fn copy(&self) -> Self {
        let table = self.lock();
        let mut copy = Table { epoch: table.epoch, ..Table::default() };
        for (key, slot) in table.slots.iter().filter(|(_, slot)| slot.value.is_some()) {
            copy.bytes += cost(key) + slot.value.as_ref().map_or(0, Bytes::len);
            copy.slots.insert(key.clone(), Slot::kept(slot.value.clone()));
        }
        Self { table: Arc::new(Mutex::new(copy)) }
    }

    /// How often it was cleared.
    pub fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    /// Puts values in, as they were kept by [`Written`]. False, and nothing
    /// done: it has been cleared since `epoch`.
    pub fn fill(&self, epoch: u64, values: Vec<(String, Bytes)>) -> bool {
        let mut table = self.lock();
        if table.epoch != epoch {
            return false;
        }
        for (key, value) in values {
            table.bytes += cost(&key) + value.len();
            let before = table.slots.insert(key.into(), Slot::kept(Some(value)));
            debug_assert!(before.is_none(), "filled before the first call");
        }
        true
    }

    /// Forgets every value. What running calls write is lost, too.
    pub fn clear(&self) {
        let mut table = self.lock();
        *table = Table { epoch: table.epoch + 1, ..Table::default() };
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while it holds the lock half-way through a change.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.lock();
        write!(f, "State({} keys, {} bytes)", table.slots.len(), table.bytes)
    }
}

// ----- impl Table -----

impl Table {
    /// Whether so many bytes more are within the limit, after forgetting as
    /// many keys as need be that have no value and that nobody speaks of.
    fn has_room(&mut self, bytes: usize, limit: usize) -> bool {
        for _ in 0..self.vacant.len() {
            if self.bytes.saturating_add(bytes) <= limit {
                return true;
            }
            let Some(key) = self.vacant.pop_front() else { break };
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            if slot.value.is_some() {
                slot.vacant = false;
            } else if Arc::strong_count(&key) > 2 {
                // Somebody has it beside the slot and this list.
                self.vacant.push_back(key);
            } else {
                self.slots.remove(&key);
                self.bytes -= cost(&key);
            }
        }
        self.bytes.saturating_add(bytes) <= limit
    }

    /// Notes a key that a call leaves without a value.
    fn note(&mut self, key: &Arc<str>) {
        if let Some(slot) = self.slots.get_mut(key)
            && slot.value.is_none()
            && !slot.vacant
        {
            slot.vacant = true;
            self.vacant.push_back(key.clone());
        }
    }
}

impl Slot {
    /// What was there before any call: nobody owns it.
    fn kept(value: Option<Bytes>) -> Self {
        Self { owner: None, value, vacant: false }
    }
}

// ----- impl BeforeImage -----

impl BeforeImage {
    /// Whether the call touched no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn get(&self, key: &str) -> Option<&Option<Bytes>> {
        self.0.as_ref()?.get(key)
    }
}

impl fmt::Debug for BeforeImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BeforeImage({} keys)", self.0.as_ref().map_or(0, |image| image.len()))
    }
}

// ----- impl StateCall -----

impl StateCall {
    /// A call of a lane: takes ownership, and its writes are kept.
    pub(super) fn in_lane(state: &State, lane: u32, limit: usize) -> Self {
        Self::new(state, Some(lane), limit, BeforeImage::default())
    }

    /// An isolated call: sees the image, else the state; its writes are dropped.
    pub(super) fn isolated(state: &State, limit: usize, image: &BeforeImage) -> Self {
        Self::new(state, None, limit, image.clone())
    }

    fn new(state: &State, lane: Option<u32>, limit: usize, image: BeforeImage) -> Self {
        Self {
            state: state.clone(),
            epoch: state.epoch(),
            lane,
            limit,
            image,
            before: HashMap::new(),
            writes: HashMap::new(),
            acquired: Vec::new(),
            added: 0,
        }
    }

    pub(super) fn get(&mut self, key: &str) -> Result<Option<Bytes>, StateRefusal> {
        self.touch(key)?;
        Ok(self.view(key))
    }

    pub(super) fn set(&mut self, key: &str, value: Vec<u8>) -> Result<(), StateRefusal> {
        self.write(key, Some(Bytes::from(value)))
    }

    pub(super) fn delete(&mut self, key: &str) -> Result<(), StateRefusal> {
        self.write(key, None)
    }

    /// Keeps what the call has written (not for an isolated call) and returns what
    /// was there before it, and that.
    pub(super) fn commit(mut self) -> (BeforeImage, Written) {
        let mut written = Written { epoch: self.epoch, values: Vec::new() };
        let mut table = self.state.lock();
        if self.lane.is_some() && table.epoch == self.epoch {
            written.values = self.writes.drain().collect();
            for (key, value) in &written.values {
                if let Some(slot) = table.slots.get_mut(key) {
                    slot.value.clone_from(value);
                }
                table.note(key);
            }
            self.added = 0;
            // Those that were only asked for.
            self.acquired.drain(..).for_each(|key| table.note(&key));
        }
        drop(table);
        let before = std::mem::take(&mut self.before);
        (BeforeImage((!before.is_empty()).then(|| Arc::new(before))), written)
    }

    /// What this call sees under a key that it has touched.
    fn view(&self, key: &str) -> Option<Bytes> {
        self.writes.get(key).or_else(|| self.before.get(key)).cloned().flatten()
    }

    fn write(&mut self, key: &str, value: Option<Bytes>) -> Result<(), StateRefusal> {
        self.touch(key)?;
        let len = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
        let (old, new) = (len(&self.view(key)), len(&value));
        let mut table = self.state.lock();
        // Values are at most as long as an instance's memory: no wrap.
        let change = new as isize - old as isize;
        // An isolated call adds nothing to the table; its own sum is bounded alone.
        let counts = self.lane.is_some() && table.epoch == self.epoch;
        let fits = match usize::try_from(change) {
            // What takes no more than before always fits.
            Err(_) | Ok(0) => true,
            Ok(more) if counts => table.has_room(more, self.limit),
            Ok(_) => self.added + change <= self.limit as isize,
        };
        if !fits {
            return Err(StateRefusal::Full { limit: self.limit });
        }
        if counts {
            table.bytes = table.bytes.saturating_add_signed(change);
        }
        self.added += change;
        drop(table);
        let key = self.before.get_key_value(key).map_or_else(|| key.into(), |(key, _)| key.clone());
        self.writes.insert(key, value);
        Ok(())
    }

    /// Notes the value before the call and makes the lane the key's owner.
    fn touch(&mut self, key: &str) -> Result<(), StateRefusal> {
        if self.before.contains_key(key) {
            return Ok(());
        }
        if key.len() > KEY_BYTES {
            return Err(StateRefusal::Misuse(format!(
                "a state key of {} bytes; at most {KEY_BYTES} are allowed",
                key.len()
            )));
        }
        let mut table = self.state.lock();
        let Some(lane) = self.lane.filter(|_| table.epoch == self.epoch) else {
            let value = match self.image.get(key) {
                Some(value) => value.clone(),
                None => table.slots.get(key).and_then(|slot| slot.value.clone()),
            };
            self.before.insert(key.into(), value);
            return Ok(());
        };
        // The slot's own key, by which it is seen that the slot is in use.
        let known = table.slots.get_key_value(key).map(|(key, _)| key.clone());
        let (key, value) = match known {
            Some(known) => {
                let slot = table.slots.entry(known.clone()).or_insert(Slot::kept(None));
                match slot.owner {
                    Some(owner) if owner != lane => {
                        return Err(StateRefusal::Conflict { key: key.to_owned(), owner, lane });
                    }
                    Some(_) => {}
                    None => {
                        slot.owner = Some(lane);
                        self.acquired.push(known.clone());
                    }
                }
                (known, slot.value.clone())
            }
            None => {
                if !table.has_room(cost(key), self.limit) {
                    return Err(StateRefusal::Full { limit: self.limit });
                }
                let key: Arc<str> = key.into();
                table.bytes += cost(&key);
                table.slots.insert(key.clone(), Slot { owner: Some(lane), ..Slot::kept(None) });
                self.acquired.push(key.clone());
                (key, None)
            }
        };
        drop(table);
        self.before.insert(key, value);
        Ok(())
    }
}

/// What was not committed is undone: also when the future of a call is
/// dropped half-way.
impl Drop for StateCall {
    fn drop(&mut self) {
        if self.lane.is_none() || (self.added == 0 && self.acquired.is_empty()) {
            return;
        }
        let mut table = self.state.lock();
        if table.epoch != self.epoch {
            return;
        }
        table.bytes = table.bytes.saturating_add_signed(-self.added);
        for key in self.acquired.drain(..) {
            let Some(slot) = table.slots.get_mut(&key) else { continue };
            slot.owner = None;
            if slot.value.is_none() {
                table.slots.remove(&key);
                table.bytes -= cost(&key);
            }
        }
    }
}

fn cost(key: &str) -> usize {
    key.len() + SLOT_BYTES
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LIMIT: usize = 1_000;

    fn call(state: &State, lane: u32) -> StateCall {
        StateCall::in_lane(state, lane, LIMIT)
    }

    #[test]
    fn a_call_sees_its_writes_and_others_see_them_when_it_has_succeeded() {
        let state = State::new();
        let mut one = call(&state, 0);
        one.set("k", b"new".to_vec()).unwrap();
        assert_eq!(one.get("k").unwrap().unwrap(), "new");
        assert_eq!(state.get("k"), None);
        let (before, written) = one.commit();
        assert_eq!(written.values, [("k".into(), Some("new".into()))]);
        assert_eq!(state.get("k").unwrap(), "new");
        assert_eq!(before.get("k"), Some(&None));

        let mut two = call(&state, 0);
        two.delete("k").unwrap();
        assert_eq!(two.get("k").unwrap(), None);
        let (before, written) = two.commit();
        assert_eq!(before.get("k"), Some(&Some(Bytes::from("new"))));
        assert_eq!(written.values, [("k".into(), None)]);
        assert!(state.is_empty());
    }

    #[test]
    fn a_failed_call_leaves_no_trace() {
        let state = State::new();
        let mut one = call(&state, 0);
        one.set("kept", b"1".to_vec()).unwrap();
        one.commit();
        let size = state.size();

        let mut two = call(&state, 0);
        two.set("kept", b"22222".to_vec()).unwrap();
        two.set("fresh", b"3".to_vec()).unwrap();
        two.get("looked at").unwrap();
        drop(two);
        assert_eq!((state.get("kept").unwrap(), state.get("fresh")), ("1".into(), None));
        assert_eq!(state.size(), size);
        // What it touched first is free for another lane.
        assert!(call(&state, 1).get("fresh").is_ok());
    }

    #[test]
    fn a_key_belongs_to_the_lane_that_touched_it_first_until_the_lanes_drain() {
        let state = State::new();
        let mut one = call(&state, 4);
        one.get("k").unwrap();
        one.commit();
        let conflict = StateRefusal::Conflict { key: "k".into(), owner: 4, lane: 5 };
        assert_eq!(call(&state, 5).set("k", vec![]).unwrap_err(), conflict);
        assert!(call(&state, 4).set("k", vec![]).is_ok());
        let state = state.copy();
        assert_eq!(state.size(), 0, "a key without value is not kept");
        assert!(call(&state, 5).get("k").is_ok());
    }

    #[test]
    fn a_call_that_runs_holds_its_keys() {
        let state = State::new();
        let mut one = call(&state, 0);
        one.get("k").unwrap();
        assert!(matches!(call(&state, 1).get("k"), Err(StateRefusal::Conflict { owner: 0, .. })));
        drop(one);
        assert!(call(&state, 1).get("k").is_ok());
    }

    #[test]
    fn size_is_bounded_and_keys_count() {
        let state = State::new();
        let mut one = call(&state, 0);
        one.set("k", vec![0; LIMIT - cost("k")]).unwrap();
        assert_eq!(one.set("k", vec![0; LIMIT]).unwrap_err(), StateRefusal::Full { limit: LIMIT });
        assert_eq!(one.get("other").unwrap_err(), StateRefusal::Full { limit: LIMIT });
        one.set("k", vec![]).unwrap();
        assert!(one.get("other").is_ok());
        assert!(matches!(one.get(&"x".repeat(KEY_BYTES + 1)), Err(StateRefusal::Misuse(_))));
        one.commit();
        assert_eq!(state.size(), cost("k") + cost("other"));
    }

    /// What the slots count for, added up.
    fn sum(state: &State) -> usize {
        let table = state.lock();
        table.slots.iter().map(|(k, slot)| cost(k) + slot.value.as_ref().map_or(0, Bytes::len)).sum()
    }

    #[test]
    fn keys_without_a_value_make_place_for_others() {
        let state = State::new();
        let mut one = call(&state, 0);
        one.set("kept", b"1".to_vec()).unwrap();
        one.commit();
        for n in 0..10_000 {
            let (set, asked) = (format!("set {n}"), format!("asked {n}"));
            let mut one = call(&state, 0);
            one.set(&set, b"value".to_vec()).unwrap();
            assert_eq!(one.get(&asked).unwrap(), None);
            one.commit();
            let mut two = call(&state, 0);
            assert_eq!(two.get(&set).unwrap().unwrap(), "value");
            two.delete(&set).unwrap();
            two.commit();
            assert!(state.size() <= LIMIT && state.size() == sum(&state));
        }
        let all = LIMIT - cost("kept") - cost("large") - 1;
        let mut one = call(&state, 0);
        one.set("large", vec![0; all]).unwrap();
        assert!(matches!(one.get("other"), Err(StateRefusal::Full { .. })), "what has a value stays");
        one.delete("large").unwrap();
        drop(one);
        assert_eq!((state.get("kept").unwrap(), state.len()), ("1".into(), 1));
        assert_eq!(state.size(), sum(&state));
    }

    #[test]
    fn a_key_without_a_value_keeps_its_owner_while_it_is_spoken_of() {
        let state = State::new();
        let conflict =
            |key: &str| matches!(call(&state, 1).get(key), Err(StateRefusal::Conflict { owner: 0, .. }));
        // Another lane needs all the room.
        let press = || {
            let mut large = call(&state, 2);
            let _ = large.set("l", vec![0; LIMIT - cost("l")]);
            drop(large);
        };
        let mut one = call(&state, 0);
        one.set("deleted", b"1".to_vec()).unwrap();
        one.commit();
        let mut one = call(&state, 0);
        one.delete("deleted").unwrap();
        let (before, deletion) = one.commit();
        drop(before);
        let mut running = call(&state, 0);
        running.get("asked").unwrap();

        press();
        assert!(conflict("deleted") && conflict("asked"));
        drop(deletion);
        press();
        assert!(!conflict("deleted"), "it is saved, and absent for everybody");
        let (before, _) = running.commit();
        press();
        assert!(conflict("asked"), "a part of the mapping may be repeated");
        drop(before);
        press();
        assert!(!conflict("asked"));
    }

    #[test]
    fn isolated_call_sees_the_image_and_leaves_nothing() {
        let state = State::new();
        let mut one = call(&state, 0);
        one.set("a", b"1".to_vec()).unwrap();
        one.set("b", b"1".to_vec()).unwrap();
        one.commit();
        let mut two = call(&state, 0);
        two.set("a", b"2".to_vec()).unwrap();
        let (before, _) = two.commit();

        let mut isolated = StateCall::isolated(&state, LIMIT, &before);
        assert_eq!(isolated.get("a").unwrap().unwrap(), "1", "as in the image");
        assert_eq!(isolated.get("b").unwrap().unwrap(), "1", "as it is now");
        isolated.set("b", b"3".to_vec()).unwrap();
        assert_eq!(isolated.get("b").unwrap().unwrap(), "3");
        assert!(matches!(isolated.set("c", vec![0; LIMIT + 1]), Err(StateRefusal::Full { .. })));
        let size = state.size();
        assert_eq!(isolated.commit().1.values, []);
        assert_eq!((state.get("b").unwrap(), state.size()), ("1".into(), size));
    }

    #[test]
    fn what_was_kept_can_be_put_back() {
        let state = State::new();
        assert!(state.fill(0, vec![("k".into(), "1".into()), ("l".into(), "22".into())]));
        assert_eq!(state.size(), cost("k") + cost("l") + 3);
        let mut one = call(&state, 3);
        assert_eq!(one.get("k").unwrap().unwrap(), "1");
        one.delete("k").unwrap();
        assert_eq!(one.commit().1.values, [("k".into(), None)]);
        assert_eq!(state.len(), 1);
        // More than there is room for can be put back; then nothing new fits.
        let state = State::new();
        assert!(state.fill(0, vec![("k".into(), vec![0; 2 * LIMIT].into())]));
        let mut one = call(&state, 0);
        assert_eq!(one.get("k").unwrap().unwrap().len(), 2 * LIMIT);
        assert_eq!(one.get("l").unwrap_err(), StateRefusal::Full { limit: LIMIT });
        assert!(one.set("k", vec![0; LIMIT]).is_ok(), "less than before always fits");
    }

    #[test]
    fn a_call_that_runs_while_the_state_is_cleared_changes_nothing() {
        let state = State::new();
        let mut early = call(&state, 0);
        early.set("k", b"old".to_vec()).unwrap();
        early.commit();
        let mut during = call(&state, 0);
        let mut dropped = call(&state, 0);
        during.set("k", b"mixed".to_vec()).unwrap();
        dropped.set("l", b"mixed".to_vec()).unwrap();
        state.clear();
        assert!(!state.fill(0, vec![("k".into(), "late".into())]));
        let mut after = call(&state, 1);
        assert_eq!(after.get("k").unwrap(), None, "and lane 0 does not own it any more");
        after.set("k", b"new".to_vec()).unwrap();
        during.set("m", b"mixed".to_vec()).unwrap();
        assert_eq!(during.get("k").unwrap().unwrap(), "mixed");
        drop(dropped);
        let (_, written) = during.commit();
        assert_eq!(written, Written { epoch: 0, values: vec![] });
        let (_, written) = after.commit();
        assert_eq!((written.epoch, state.get("k").unwrap()), (1, "new".into()));
        assert_eq!((state.len(), state.size()), (1, cost("k") + 3));
    }
}
