//! What the admin listener is asked and answers, the client that asks it, and
//! the token that it wants.

pub mod answer;
mod client;
pub mod moment;
pub mod token;

pub use client::{Client, ClientError};
