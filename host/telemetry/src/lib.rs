//! Logs and metrics. One type per notable event in [`event`] writes the log
//! line and moves the counter together, so that they cannot disagree.

pub mod event;
pub mod exposition;
pub mod histogram;
mod logs;
mod metrics;

pub use logs::{LogError, init as init_logs};
pub use metrics::{Metrics, MetricsError};
