//! The admin API: request and answer types, the client, and the access token.

pub mod answer;
mod client;
pub mod moment;
pub mod token;

pub use client::{Client, ClientError};
