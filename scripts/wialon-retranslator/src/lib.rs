//! The official adapter `wialon-retranslator`.
