//! Why a stream is blocked, in one word: for alarms and for programs that read
//! `/streams`. The sentence beside it is for people.

use destination::{Cause, Fault};
use script::ScriptFault;

/// Why a stream is blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// Its file cannot be used.
    Configuration,
    /// The script's file cannot be read.
    ScriptMissing,
    /// The script's file is there, and is no script; or a table of it cannot be
    /// used.
    ScriptInvalid,
    /// Ten messages in a row failed in the script, no instance of it starts, or
    /// it asks for a table that the stream does not define.
    ScriptFault,
    /// Two lanes use one key of the script's state.
    StateConflict,
    /// The script's state holds as much as it may.
    StateFull,
    /// The journal cannot be read.
    Journal,
    /// No room for one more dead letter.
    DeadLettersFull,
    /// The destination refuses everything that it is sent.
    RefusesEverything,
    /// The destination has refused what little there was to send.
    Refused,
    /// The destination needs an operator.
    Destination(Cause),
}

impl Code {
    /// The word in `/streams` and in `/metrics`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Configuration | Self::Destination(Cause::Configuration) => "configuration",
            Self::ScriptMissing => "script-missing",
            Self::ScriptInvalid => "script-invalid",
            Self::ScriptFault => "script-fault",
            Self::StateConflict => "state-conflict",
            Self::StateFull => "state-full",
            Self::Journal => "journal",
            Self::DeadLettersFull => "dead-letters-full",
            Self::RefusesEverything => "refuses-everything",
            Self::Refused => "refused",
            Self::Destination(Cause::Credentials) => "credentials",
            Self::Destination(Cause::Tls) => "tls",
            Self::Destination(Cause::NotFound) => "not-found",
            Self::Destination(Cause::TakenOver) => "taken-over",
            Self::Destination(Cause::UnexpectedAnswer) => "unexpected-answer",
        }
    }
}

/// Of a persistent fault; others have no cause to speak of.
impl From<&Fault> for Code {
    fn from(fault: &Fault) -> Self {
        Self::Destination(fault.cause.unwrap_or(Cause::UnexpectedAnswer))
    }
}

impl From<&ScriptFault> for Code {
    fn from(fault: &ScriptFault) -> Self {
        match fault {
            ScriptFault::StateConflict { .. } => Self::StateConflict,
            ScriptFault::StateFull(_) => Self::StateFull,
            ScriptFault::Trap(_)
            | ScriptFault::Time(_)
            | ScriptFault::Memory(_)
            | ScriptFault::HostCalls(_)
            | ScriptFault::HostBytes(_)
            | ScriptFault::Contract(_)
            | ScriptFault::Failed(_)
            | ScriptFault::UnknownTable { .. }
            | ScriptFault::Start(_) => Self::ScriptFault,
        }
    }
}
