//! The figures of one stream: from the gateway and from its receiver.

/// One row of the table.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Its name.
    pub stream: String,
    /// Name and version of its script.
    pub script: String,
    /// `running`, `retrying`, `blocked`, ...
    pub state: String,
    /// Why it is not running.
    pub reason: Option<String>,
    /// The last error; not shown in the table.
    pub last_error: Option<String>,
    /// Why the newest version of its script does not run.
    pub refused: Option<String>,
    /// Counted by the gateway.
    pub read: u64,
    /// Counted by the gateway.
    pub delivered: u64,
    /// Counted by the gateway.
    pub filtered: u64,
    /// Counted by the gateway.
    pub dead: u64,
    /// Counted by the gateway.
    pub queued: u64,
    /// Age of the oldest queued message, seconds.
    pub lag: f64,
    /// Counted at the receiver: overdue.
    pub missing: u64,
    /// Counted at the receiver: with a wrong value, or unexpected.
    pub wrong: u64,
    /// Counted at the receiver: received again.
    pub repeats: u64,
}
