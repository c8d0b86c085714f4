//! The official adapter `mqtt-json`.
