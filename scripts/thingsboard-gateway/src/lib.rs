//! The official adapter `thingsboard-gateway`.
