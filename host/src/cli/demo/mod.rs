//! The command `demo`.

pub mod standin;
