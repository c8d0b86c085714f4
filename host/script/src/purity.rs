//! Whether a script is pure: the same messages, settings and state give the
//! same deliveries, whatever its instance has seen before.
//!
//! No host call can break that, because there is none with a clock or chance
//! behind it. Globals of the script can. So batches are mapped in an instance
//! that has mapped all of them before and, each, in a fresh one.

use std::collections::BTreeMap;
use std::fmt::Debug;

use message::Message;

use super::instance::Instance;
use super::log::Log;
use super::mapper::{run, start};
use super::mapping::Mapping;
use super::state::StateCall;
use super::text::one_line;
use super::{Script, ScriptFault, State};

/// What each batch gives, in a fresh instance.
pub type Outcomes = Vec<Result<Mapping, ScriptFault>>;

/// A used instance made something else of a batch than a fresh one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "batch {batch} gives another result in an instance that has mapped others before: {difference}; \
     a script must not remember anything in its globals"
)]
pub struct Impurity {
    /// Position of the batch.
    pub batch: usize,
    /// What differs first: with a fresh instance, with a used one.
    pub difference: String,
}

/// Maps the batches, in this order, each from the state that the one before
/// left; the first from `state`, which itself is not changed. Faults are no
/// impurity where both instances have one: they are among the outcomes.
pub async fn check(script: &Script, state: &State, batches: &[Vec<Message>]) -> Result<Outcomes, Impurity> {
    let mut used = Side::new(script, state);
    for batch in batches {
        let _ = used.map(batch).await;
    }
    used.state = state.copy();
    let mut fresh = Side::new(script, state);
    let mut outcomes = Vec::with_capacity(batches.len());
    for (number, batch) in batches.iter().enumerate() {
        fresh.instance = None;
        let (expected, found) = (fresh.map(batch).await, used.map(batch).await);
        if let Some(difference) = difference(&expected, &found) {
            return Err(Impurity { batch: number, difference });
        }
        outcomes.push(expected);
    }
    Ok(outcomes)
}

/// One of the two instances, with a state of its own.
struct Side<'s> {
    script: &'s Script,
    state: State,
    instance: Option<Instance>,
}

impl<'s> Side<'s> {
    fn new(script: &'s Script, state: &State) -> Self {
        Self { script, state: state.copy(), instance: None }
    }

    async fn map(&mut self, batch: &[Message]) -> Result<Mapping, ScriptFault> {
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => start(self.script, Log::silent()).await?,
        };
        let state = StateCall::in_lane(&self.state, 0, self.script.limits().state_bytes);
        let outcome = run(self.script, &mut instance, batch, state).await;
        if outcome.as_ref().err().is_none_or(ScriptFault::spares_the_instance) {
            self.instance = Some(instance);
        }
        outcome
    }
}

/// What differs first, for a person. Two faults are alike: how far a script
/// came before its time was up is chance.
fn difference(fresh: &Result<Mapping, ScriptFault>, used: &Result<Mapping, ScriptFault>) -> Option<String> {
    let (fresh, used) = match (fresh, used) {
        (Ok(fresh), Ok(used)) => (fresh, used),
        (Err(_), Err(_)) => return None,
        (Ok(_), Err(fault)) => return Some(format!("a mapping, then a fault: {fault}")),
        (Err(fault), Ok(_)) => return Some(format!("a fault, then a mapping: {fault}")),
    };
    let writes = |mapping: &Mapping| mapping.written.values.iter().cloned().collect::<BTreeMap<_, _>>();
    first_difference("delivery", &fresh.deliveries, &used.deliveries)
        .or_else(|| first_difference("rejection", &fresh.rejections, &used.rejections))
        .or_else(|| first_difference("filtered message", &fresh.filtered, &used.filtered))
        .or_else(|| {
            let (fresh, used) = (writes(fresh), writes(used));
            (fresh != used).then(|| format!("state {}, then {}", show(&fresh), show(&used)))
        })
}

fn first_difference<T: PartialEq + Debug>(what: &str, fresh: &[T], used: &[T]) -> Option<String> {
    let both = fresh.len().min(used.len());
    let at = (0..both).find(|at| fresh[*at] != used[*at]);
    match at {
        Some(at) => Some(format!("{what} {at} is {}, then {}", show(&fresh[at]), show(&used[at]))),
        None if fresh.len() != used.len() => {
            Some(format!("number of times `{what}` occurs is {}, then {}", fresh.len(), used.len()))
        }
        None => None,
    }
}

fn show(value: &impl Debug) -> String {
    one_line(&format!("{value:?}"))
}
