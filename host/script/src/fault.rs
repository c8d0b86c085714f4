//! What can go wrong in a script, in one line for an operator.

use std::time::Duration;

use wasmtime::{Error, Trap, WasmBacktrace};

use super::host::Host;
use super::limits::CallRefusal;
use super::state::StateRefusal;
use super::tables::UnknownTable;
use super::text::one_line;

/// A call of a script that gave no usable mapping. State that it wrote is
/// discarded. Each kind says in its text what happened and what the bound is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScriptFault {
    /// The script stopped itself or did what WebAssembly forbids.
    #[error("the script trapped: {0}")]
    Trap(String),
    /// It ran longer than it may; the limit of that call.
    #[error("the script ran longer than its limit of {} ms", .0.as_millis())]
    Time(Duration),
    /// It asked for more memory than it may have and could not go on; the
    /// limit in bytes.
    #[error("the script needs more memory than its limit of {} MiB", .0 >> 20)]
    Memory(usize),
    /// It called the gateway more often than it may; the limit of that call.
    #[error("the script called the gateway more often than its limit of {0} times in one call")]
    HostCalls(u64),
    /// It exchanged more data with the gateway than it may; the limit in bytes.
    #[error("the script exchanged more data with the gateway than its limit of {} MiB in one call", .0 >> 20)]
    HostBytes(u64),
    /// It returned what the contract forbids.
    #[error("the script broke its contract: {0}")]
    Contract(String),
    /// `transform` returned an error; its text.
    #[error("the script failed: {0}")]
    Failed(String),
    /// Two lanes use one key of the state.
    #[error(
        "lane {lane} touched the state key `{key}`, which lane {owner} owns: state keys must follow the key of the stream"
    )]
    StateConflict {
        /// The key of the state.
        key: String,
        /// The lane that touched it first.
        owner: u32,
        /// The lane that touched it now.
        lane: u32,
    },
    /// The state holds as much as it may; the limit in bytes.
    #[error("the state of the stream has reached its limit of {} KiB", .0 >> 10)]
    StateFull(usize),
    /// It asked for a table that the stream does not define.
    #[error("the script asked for the table `{asked}`; the stream defines {known}")]
    UnknownTable {
        /// The name that it asked for.
        asked: String,
        /// The names that there are, with commas.
        known: String,
    },
    /// No instance could be made: the gateway has no room for one more, or a
    /// fresh instance failed before its first message.
    #[error("no instance of the script could be started: {0}")]
    Start(String),
}

impl ScriptFault {
    /// Whether the fault says nothing about single messages: then mapping
    /// them one by one is of no use, and the stream is blocked until an
    /// operator or time changes something.
    pub fn is_batch_wide(&self) -> bool {
        matches!(
            self,
            Self::StateConflict { .. } | Self::StateFull(_) | Self::UnknownTable { .. } | Self::Start(_)
        )
    }

    /// Whether the instance can be used again. After a trap wasmtime refuses
    /// every further call; after a broken contract nobody knows what else is
    /// broken in there.
    pub(super) fn spares_the_instance(&self) -> bool {
        matches!(self, Self::Failed(_))
    }

    /// The fault behind an error of wasmtime, in a call that may take `time`.
    pub(super) fn of(error: &Error, host: &Host, time: Duration) -> Self {
        if let Some(refusal) = error.downcast_ref::<StateRefusal>() {
            return refusal.clone().into();
        }
        if let Some(refusal) = error.downcast_ref::<CallRefusal>() {
            return match *refusal {
                CallRefusal::Often(limit) => Self::HostCalls(limit),
                CallRefusal::Much(limit) => Self::HostBytes(limit),
            };
        }
        if let Some(UnknownTable { asked, known }) = error.downcast_ref::<UnknownTable>() {
            return Self::UnknownTable { asked: asked.clone(), known: known.clone() };
        }
        let trap = error.downcast_ref::<Trap>();
        if trap == Some(&Trap::Interrupt) {
            return Self::Time(time);
        }
        if host.memory.refused() {
            return Self::Memory(host.memory_limit);
        }
        let text = error.root_cause().to_string();
        // The error type of wasmtime behind this sentence is private.
        if text.contains("fuel allocated for hostcalls") {
            return Self::Contract(format!(
                "more data in one call than the limit of {} KiB",
                host.output_limit >> 10
            ));
        }
        let text = text.strip_prefix("wasm trap: ").unwrap_or(&text);
        let words = host.last_words.as_ref().map(|words| format!("; it had logged: {words}"));
        Self::Trap(one_line(&format!("{text}{}{}", place(error), words.unwrap_or_default())))
    }
}

impl From<StateRefusal> for ScriptFault {
    fn from(refusal: StateRefusal) -> Self {
        match refusal {
            StateRefusal::Conflict { key, owner, lane } => Self::StateConflict { key, owner, lane },
            StateRefusal::Full { limit } => Self::StateFull(limit),
            StateRefusal::Misuse(text) => Self::Contract(text),
        }
    }
}

/// The innermost functions that were running, as ` in a, called from b`.
fn place(error: &Error) -> String {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return String::new() };
    // Only the printed form has demangled names: `  0:  0x1f - module!name`.
    let printed = backtrace.to_string();
    let names: Vec<&str> = printed
        .lines()
        .filter_map(|line| line.split_once(" - "))
        .map(|(_, name)| name.split_once('!').map_or(name, |(_, name)| name))
        .take(3)
        .collect();
    if names.is_empty() { String::new() } else { format!(" in {}", names.join(", called from ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_says_what_happened_in_one_line() {
        let faults = [
            (ScriptFault::Time(Duration::from_millis(260)), "the script ran longer than its limit of 260 ms"),
            (ScriptFault::Memory(64 << 20), "the script needs more memory than its limit of 64 MiB"),
            (
                ScriptFault::StateConflict { key: "k".into(), owner: 0, lane: 3 },
                "lane 3 touched the state key `k`, which lane 0 owns: state keys must follow the key of the stream",
            ),
        ];
        for (fault, text) in faults {
            assert_eq!(fault.to_string(), text);
        }
    }
}
