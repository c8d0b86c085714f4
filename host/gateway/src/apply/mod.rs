//! What an apply would change, and whether all of it can be used.

mod candidate;
mod plan;

pub use candidate::{Candidate, too_many_lanes};
pub use plan::{Change, Plan};
