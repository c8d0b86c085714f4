//! Whether a new script may take the place of the old one.

use super::shadow::{self, Comparison, Difference, Fate};
use crate::journal::JournalError;
use crate::script::LoadError;

/// Why a new script is not taken. The one before it stays in place.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Its file cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// It cannot be loaded.
    #[error("{0}")]
    Load(#[from] LoadError),
    /// It does not do what its own cases say.
    #[error("it does not pass its own cases: {0}")]
    Cases(String),
    /// The same messages, settings and state give other deliveries.
    #[error("it is not pure: {0}")]
    Impure(String),
    /// It fails on messages that the old one maps.
    #[error("it fails on {count} of the {of} latest messages, which {old} maps; {example}")]
    Fails {
        /// Such messages.
        count: usize,
        /// Messages that were compared.
        of: usize,
        /// The script that runs.
        old: String,
        /// One of them, and what happens.
        example: String,
    },
    /// It rejects messages that the old one does not.
    #[error(
        "it rejects {count} of the {of} latest messages, which {old} maps ([reload] max_new_rejections = {most}); \
         {example}"
    )]
    Rejects {
        /// Such messages.
        count: usize,
        /// Messages that were compared.
        of: usize,
        /// Most that may be.
        most: usize,
        /// The script that runs.
        old: String,
        /// One of them, and why it is rejected.
        example: String,
    },
    /// It has run before, and an operator or its trial has put it aside.
    #[error(
        "version {version} has been taken back before; `sluicegate streams reload {stream}` takes it all the same"
    )]
    PutAside {
        /// The version.
        version: String,
        /// The stream.
        stream: String,
    },
    /// It cannot be proven in time.
    #[error(
        "it maps so slowly that it cannot be proven to be pure: {} s were not enough for the latest messages",
        shadow::PROOF.as_secs()
    )]
    Unproven,
    /// There is no such version to go back to.
    #[error("{0}")]
    NoVersion(String),
    /// Nothing runs that it could be compared with, or taken back to.
    #[error("no script runs yet; /streams says why")]
    NoScript,
    /// The stream has ended meanwhile.
    #[error("the stream has stopped")]
    Stopped,
    /// The messages to compare with, or the state, cannot be had, or what is
    /// accepted cannot be kept.
    #[error("{0}")]
    Disk(String),
}

impl From<JournalError> for Refusal {
    fn from(error: JournalError) -> Self {
        Self::Disk(error.0)
    }
}

impl Refusal {
    /// `to` is the beginning of a version that the stream has not had, unless it
    /// is the one that is running.
    pub(super) fn no_version(to: Option<&str>, running: Option<&str>) -> Self {
        Self::NoVersion(match to {
            Some(to) if running.is_some_and(|running| running.starts_with(to)) => {
                format!("version {to} is the one that runs already")
            }
            Some(to) => format!("the stream has had no version {}", to.escape_debug()),
            None => "the stream has had no version before this one".to_owned(),
        })
    }
}

/// Bytes of a payload that an error shows.
const SHOWN: usize = 200;

/// Refuses what would lose messages that the old script maps. Everything else
/// that differs is what a new script is for.
pub(super) fn judge(comparison: &Comparison, old: &str, max_new_rejections: usize) -> Result<(), Refusal> {
    if let Some(what) = &comparison.impure {
        return Err(Refusal::Impure(what.clone()));
    }
    if comparison.unproven {
        return Err(Refusal::Unproven);
    }
    let of = comparison.messages;
    if let Some(first) = comparison.new_failures.first() {
        let (count, old, example) = (comparison.new_failures.len(), old.to_owned(), example(first));
        return Err(Refusal::Fails { count, of, old, example });
    }
    match comparison.new_rejections.as_slice() {
        [first, ..] if comparison.new_rejections.len() > max_new_rejections => Err(Refusal::Rejects {
            count: comparison.new_rejections.len(),
            of,
            most: max_new_rejections,
            old: old.to_owned(),
            example: example(first),
        }),
        _ => Ok(()),
    }
}

fn example(difference: &Difference) -> String {
    let payload = String::from_utf8_lossy(&difference.message.payload);
    let cut = payload.floor_char_boundary(SHOWN);
    let more = if cut < payload.len() { "..." } else { "" };
    // A terminal must not obey it.
    let plain = |c: char| if c.is_control() { c.escape_default().collect() } else { c.to_string() };
    let shown: String = payload.get(..cut).unwrap_or_default().chars().map(plain).collect();
    let what = match &difference.new {
        Fate::Failed(fault) => fault.as_str(),
        Fate::Rejected(reason) => reason.as_str(),
        Fate::Delivered(_) | Fate::Filtered => "",
    };
    format!("{what}: `{shown}{more}`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Message;

    fn difference(new: Fate) -> Difference {
        let message = Message { topic: "t".into(), payload: "{\"a\":1}".into(), received_at: 0 };
        Difference { message, old: Fate::Filtered, new }
    }

    fn said(comparison: &Comparison, most: usize) -> String {
        judge(comparison, "mine 0123", most)
            .map_or_else(|refusal| refusal.to_string(), |()| "taken".to_owned())
    }

    #[test]
    fn other_deliveries_are_what_a_reload_is_for() {
        let differences = vec![difference(Fate::Delivered(vec![]))];
        let comparison = Comparison { messages: 9, differing: 9, differences, ..Comparison::default() };
        assert_eq!(said(&comparison, 0), "taken");
    }

    #[test]
    fn what_would_be_lost_refuses_it() {
        let mut comparison = Comparison { messages: 9, ..Comparison::default() };
        comparison.new_rejections = vec![difference(Fate::Rejected("no ident".into()))];
        assert_eq!(said(&comparison, 1), "taken");
        assert_eq!(
            said(&comparison, 0),
            "it rejects 1 of the 9 latest messages, which mine 0123 maps ([reload] max_new_rejections = 0); \
             no ident: `{\"a\":1}`"
        );
        comparison.new_failures = vec![difference(Fate::Failed("the script trapped: unreachable".into()))];
        assert_eq!(
            said(&comparison, 1),
            "it fails on 1 of the 9 latest messages, which mine 0123 maps; the script trapped: unreachable: \
             `{\"a\":1}`"
        );
        comparison.impure = Some("it remembers".into());
        assert_eq!(said(&comparison, 1), "it is not pure: it remembers");
    }
}
