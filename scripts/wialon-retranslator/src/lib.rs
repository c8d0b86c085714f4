//! The official adapter `wialon-retranslator`.

pub mod packet;
