//! Scripts in WAT against the real engine.
