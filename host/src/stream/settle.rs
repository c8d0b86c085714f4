//! When a message is settled: as soon as every delivery that names it has ended.

use std::collections::HashMap;

use crate::journal::{Outcome, Position};

/// Messages with deliveries under way.
#[derive(Debug, Default)]
pub(super) struct Settling {
    open: HashMap<Position, Open>,
}

#[derive(Debug)]
struct Open {
    deliveries: u32,
    dead: bool,
}

impl Settling {
    /// One more delivery names the message.
    pub(super) fn begin(&mut self, position: Position) {
        self.open.entry(position).or_insert(Open { deliveries: 0, dead: false }).deliveries += 1;
    }

    /// A delivery of the message has ended. The outcome, if it was the last:
    /// one dead delivery makes a dead letter of the message.
    pub(super) fn end(&mut self, position: Position, delivered: bool) -> Option<(Position, Outcome)> {
        let open = self.open.get_mut(&position)?;
        open.deliveries -= 1;
        open.dead |= !delivered;
        if open.deliveries > 0 {
            return None;
        }
        let outcome = if open.dead { Outcome::DeadLettered } else { Outcome::Delivered };
        self.open.remove(&position);
        Some((position, outcome))
    }
}

#[cfg(test)]
#[path = "settle_model.rs"]
mod model;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_delivery_settles_and_one_dead_one_decides() {
        let at = |index| Position { chunk: 1, index };
        let mut settling = Settling::default();
        settling.begin(at(0));
        settling.begin(at(1));
        settling.begin(at(1));
        assert_eq!(settling.end(at(0), true), Some((at(0), Outcome::Delivered)));
        assert_eq!(settling.end(at(1), false), None);
        assert_eq!(settling.end(at(1), true), Some((at(1), Outcome::DeadLettered)));
        assert_eq!(settling.end(at(1), true), None);
    }
}
