//! When a message is settled: as soon as every delivery that names it has ended.

use std::collections::HashMap;

use journal::{Outcome, Position};

/// Messages with deliveries under way.
#[derive(Debug, Default)]
pub(super) struct Settling {
    open: HashMap<Position, Open>,
}

#[derive(Debug)]
struct Open {
    deliveries: u32,
    /// How the worst of those that have ended did.
    worst: Outcome,
}

impl Settling {
    /// One more delivery names the message.
    pub(super) fn begin(&mut self, position: Position) {
        let open = self.open.entry(position).or_insert(Open { deliveries: 0, worst: Outcome::Delivered });
        open.deliveries += 1;
    }

    /// A delivery of the message has ended: delivered, expired or dead. The
    /// message's outcome, if it was the last: one dead delivery makes a dead
    /// letter of it, else one that has expired makes it an expired one.
    pub(super) fn end(&mut self, position: Position, outcome: Outcome) -> Option<(Position, Outcome)> {
        let open = self.open.get_mut(&position)?;
        open.deliveries -= 1;
        if badness(outcome) > badness(open.worst) {
            open.worst = outcome;
        }
        if open.deliveries > 0 {
            return None;
        }
        self.open.remove(&position).map(|open| (position, open.worst))
    }
}

fn badness(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Delivered | Outcome::Filtered | Outcome::Superseded => 0,
        Outcome::Expired => 1,
        Outcome::DeadLettered => 2,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_delivery_settles_and_the_worst_decides() {
        use Outcome::{DeadLettered, Delivered, Expired};
        let at = |index| Position { chunk: 1, index };
        for (index, (ends, outcome)) in (0..).zip([
            (vec![Delivered], Delivered),
            (vec![Expired], Expired),
            (vec![DeadLettered, Delivered], DeadLettered),
            (vec![Delivered, DeadLettered], DeadLettered),
            (vec![Expired, Delivered], Expired),
            (vec![Delivered, Expired, Delivered], Expired),
            (vec![DeadLettered, Expired], DeadLettered),
            (vec![Expired, DeadLettered], DeadLettered),
        ]) {
            let mut settling = Settling::default();
            ends.iter().for_each(|_| settling.begin(at(index)));
            settling.begin(at(99));
            let answers: Vec<_> = ends.iter().filter_map(|end| settling.end(at(index), *end)).collect();
            assert_eq!(answers, [(at(index), outcome)], "{ends:?}");
            assert_eq!(settling.end(at(index), Delivered), None);
        }
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            5 => Just(Outcome::Delivered),
            1 => Just(Outcome::Expired),
            1 => Just(Outcome::DeadLettered),
        ]
    }

    proptest! {
        /// Deliveries of few messages end in any order; their messages settle once,
        /// with the worst outcome, and nothing of them stays.
        #[test]
        fn message_settles_with_its_last_delivery(
            ends in prop::collection::vec((0u32..6, outcome()), 1..60),
        ) {
            let at = |message| Position { chunk: 1, index: message };
            let mut settling = Settling::default();
            ends.iter().for_each(|(message, _)| settling.begin(at(*message)));
            for (place, (message, outcome)) in ends.iter().enumerate() {
                let of_message = |(other, outcome): &(u32, Outcome)| (other == message).then_some(*outcome);
                let is_last = ends[place + 1..].iter().find_map(of_message).is_none();
                let worst = ends.iter().filter_map(of_message).max_by_key(|o| badness(*o));
                let settled = settling.end(at(*message), *outcome);
                prop_assert_eq!(settled, worst.filter(|_| is_last).map(|worst| (at(*message), worst)));
            }
            prop_assert!(settling.open.is_empty());
        }
    }
}
