//! The official adapter `http-json`.
