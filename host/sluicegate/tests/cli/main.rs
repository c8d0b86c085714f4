//! The program's commands that need no broker, in one test binary: each
//! further binary would link the whole gateway again. `compiler` and
//! `toolchain` are binaries of their own: the first limits its own process,
//! and the second writes programs and starts them, which fails while another
//! thread starts a child.

#![allow(clippy::unwrap_used)]

mod author;
mod check;
#[cfg(feature = "demo")]
mod demo;
mod wrong_configurations;
