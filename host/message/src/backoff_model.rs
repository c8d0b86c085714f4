//! [`Backoff`] against the table of pauses that it is documented to make.

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use super::*;

/// Full pauses in milliseconds; the last one stays.
const FULL: [u64; 8] = [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000];

/// A far side that fails and recovers: how often it has failed in a row.
#[derive(Clone, Debug)]
struct Model {
    seed: u64,
    failures: u32,
}

#[derive(Clone, Debug)]
enum Step {
    /// Perhaps with a wish, in milliseconds.
    Fail(Option<u64>),
    /// It has not worked for months.
    FailFor(u32),
    Recover,
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        any::<u64>().prop_map(|seed| Self { seed, failures: 0 }).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Step> {
        prop_oneof![
            6 => prop::option::weighted(0.3, 0u64..100_000).prop_map(Step::Fail),
            1 => any::<u32>().prop_map(Step::FailFor),
            1 => Just(Step::Recover),
        ]
        .boxed()
    }

    fn apply(model: Self, step: &Step) -> Self {
        let failures = match *step {
            Step::Fail(_) => model.failures.saturating_add(1),
            Step::FailFor(failures) => model.failures.saturating_add(failures).max(1),
            Step::Recover => 0,
        };
        Self { failures, ..model }
    }
}

struct Clock;

impl StateMachineTest for Clock {
    type SystemUnderTest = Backoff;
    type Reference = Model;

    fn init_test(model: &Model) -> Backoff {
        Backoff::new(model.seed)
    }

    fn apply(mut backoff: Backoff, model: &Model, step: Step) -> Backoff {
        let wished = match step {
            Step::Recover => return backoff,
            Step::Fail(wished) => wished.map(Duration::from_millis),
            Step::FailFor(_) => None,
        };
        let place = usize::try_from(model.failures - 1).unwrap_or(usize::MAX).min(FULL.len() - 1);
        let full = Duration::from_millis(FULL[place]);
        let pause = backoff.pause(model.failures, wished);
        let wished = wished.unwrap_or_default();
        assert!(pause >= wished, "{pause:?} is less than the far side wished: {wished:?}");
        assert!(pause >= full / 2, "failure {}: {pause:?} of {full:?}", model.failures);
        assert!(pause <= full.max(wished), "failure {}: {pause:?} of {full:?}", model.failures);
        backoff
    }
}

prop_state_machine! {
    #[test]
    fn every_pause_is_between_half_and_all_of_the_table_s_or_what_was_wished(sequential 1..60 => Clock);
}

proptest! {
    /// A thousand streams that fail together do not come back together.
    #[test]
    fn pauses_of_different_seeds_are_spread_over_the_half(first in any::<u64>()) {
        let pauses: Vec<u128> = (0..200)
            .map(|n| Backoff::new(first.wrapping_add(n)).pause(5, None).as_millis())
            .collect();
        // Four quarters of 2,000 to 4,000 ms, each with its share.
        for quarter in 0..4 {
            let from = 2_000 + quarter * 500;
            let share = pauses.iter().filter(|p| (from..from + 500).contains(*p)).count();
            prop_assert!(share >= 10, "{} of 200 pauses in {}..{} ms", share, from, from + 500);
        }
    }
}
