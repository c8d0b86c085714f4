//! [`Settling`] against a list of every delivery that was ever begun.

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use super::*;

/// Few enough that messages settle and come again (replay).
const MESSAGES: u32 = 6;

/// Deliveries in the order in which they began: of which message, and how they
/// ended. A message's rows go when the last of them has ended.
#[derive(Clone, Debug, Default)]
struct Model {
    deliveries: Vec<(u32, Option<Outcome>)>,
    /// What the last step must have answered.
    settles: Option<(u32, Outcome)>,
}

#[derive(Clone, Debug)]
enum Step {
    Begin(u32),
    /// Also of messages that have nothing open.
    End(u32, Outcome),
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        5 => Just(Outcome::Delivered),
        1 => Just(Outcome::Expired),
        1 => Just(Outcome::DeadLettered),
    ]
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self::default()).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Step> {
        prop_oneof![
            (0..MESSAGES).prop_map(Step::Begin),
            (0..MESSAGES, outcome()).prop_map(|(m, outcome)| Step::End(m, outcome)),
        ]
        .boxed()
    }

    fn apply(mut model: Self, step: &Step) -> Self {
        model.settles = None;
        match *step {
            Step::Begin(message) => model.deliveries.push((message, None)),
            Step::End(message, outcome) => {
                let open = model.deliveries.iter_mut().find(|(m, end)| *m == message && end.is_none());
                if let Some((_, end)) = open {
                    *end = Some(outcome);
                    let all = model.deliveries.iter().filter(|(m, _)| *m == message);
                    let ends: Vec<Option<Outcome>> = all.map(|(_, end)| *end).collect();
                    if ends.iter().all(Option::is_some) {
                        let worst = [Outcome::DeadLettered, Outcome::Expired, Outcome::Delivered];
                        let outcome = worst.into_iter().find(|o| ends.contains(&Some(*o)));
                        model.settles = outcome.map(|o| (message, o));
                        model.deliveries.retain(|(m, _)| *m != message);
                    }
                }
            }
        }
        model
    }
}

struct Lane;

impl StateMachineTest for Lane {
    type SystemUnderTest = Settling;
    type Reference = Model;

    fn init_test(_: &Model) -> Settling {
        Settling::default()
    }

    fn apply(mut settling: Settling, model: &Model, step: Step) -> Settling {
        let at = |message| Position { chunk: u64::from(message), index: message };
        let settled = match step {
            Step::Begin(message) => {
                settling.begin(at(message));
                None
            }
            Step::End(message, outcome) => settling.end(at(message), outcome),
        };
        assert_eq!(settled, model.settles.map(|(message, outcome)| (at(message), outcome)));
        settling
    }

    fn check_invariants(settling: &Settling, model: &Model) {
        let mut open: Vec<u32> = model.deliveries.iter().map(|(m, _)| *m).collect();
        open.sort_unstable();
        open.dedup();
        assert_eq!(settling.open.len(), open.len(), "nothing is remembered of what has settled");
    }
}

prop_state_machine! {
    #[test]
    fn a_message_settles_once_when_its_last_delivery_ends(sequential 1..80 => Lane);
}
