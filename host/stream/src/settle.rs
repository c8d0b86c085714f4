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
#[path = "settle_model.rs"]
mod model;

#[cfg(test)]
mod tests {
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
}
