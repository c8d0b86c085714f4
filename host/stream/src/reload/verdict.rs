//! Whether a new script may take the place of the old one.

use std::fmt;
use std::time::Duration;

use journal::JournalError;
use message::text as words;
use script::cases::CaseFault;
use script::{LoadError, one_line};

use super::shadow::{self, Comparison, Difference, Fate};

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
    #[error("it does not pass its own cases: {shown}")]
    Cases {
        /// The first that it does not pass.
        first: String,
        /// How many more there are.
        more: usize,
        /// What is wrong with them, in many lines.
        shown: String,
    },
    /// Its own cases take too long.
    #[error("its own cases take longer than {} s", .0.as_secs_f32())]
    SlowCases(Duration),
    /// The same messages, settings and state give other deliveries.
    #[error("it is not pure: {0}")]
    Impure(String),
    /// It fails on messages that the old one maps.
    #[error("{}; {example}", fails(*.count, *.of, .old))]
    Fails {
        /// Such messages.
        count: usize,
        /// Messages that were compared.
        of: usize,
        /// The script that runs.
        old: String,
        /// One of them, and what happens.
        example: Example,
    },
    /// It rejects messages that the old one does not.
    #[error("{}; {example}", rejects(*.count, *.of, .old, *.most))]
    Rejects {
        /// Such messages.
        count: usize,
        /// Messages that were compared.
        of: usize,
        /// Maximum that may be.
        most: usize,
        /// The script that runs.
        old: String,
        /// One of them, and why it is rejected.
        example: Example,
    },
    /// It has run before, and an operator or its probation has put it aside.
    #[error(
        "version {version} has been taken back before; `sluicegate streams reload {stream}` takes it all the same"
    )]
    Quarantined {
        /// The version.
        version: String,
        /// The stream.
        stream: String,
    },
    /// It cannot be validated in time.
    #[error(
        "it maps so slowly that it cannot be validated to be pure: {} s were not enough for the latest messages",
        shadow::PROOF.as_secs()
    )]
    Unvalidated,
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

/// A message that a new script would lose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Its place among the latest, counted from 1.
    place: usize,
    /// What happens to it, in the script's words.
    what: String,
    /// The beginning of its payload.
    payload: String,
}

fn fails(count: usize, of: usize, old: &str) -> String {
    format!("it fails on {count} of the {of} latest messages, which {old} maps")
}

fn rejects(count: usize, of: usize, old: &str, most: usize) -> String {
    format!(
        "it rejects {count} of the {of} latest messages, which {old} maps ([reload] max_new_rejections = {most})"
    )
}

impl From<JournalError> for Refusal {
    fn from(error: JournalError) -> Self {
        Self::Disk(error.to_string())
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
            None => {
                "the stream has had no version before this one that was not taken back; name one by `--to`"
                    .to_owned()
            }
        })
    }

    /// At least one case that a script does not pass.
    pub(super) fn of_cases(faults: &[CaseFault]) -> Self {
        let shown = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let shown = words::cut(&shown, SHOWN_OF_CASES);
        let first = faults.first().map(|fault| fault.case.clone()).unwrap_or_default();
        Self::Cases { first, more: faults.len().saturating_sub(1), shown }
    }

    /// In one line and without anything of a payload: for the log, and for
    /// `/streams`, which shows it to anybody.
    pub(super) fn in_public(&self) -> String {
        let text = match self {
            Self::Cases { first, more, .. } => {
                let more = if *more == 0 { String::new() } else { format!(" and {more} more of its own cases") };
                format!("it does not pass its own case `{first}`{more}; `sluicegate test` shows what it makes of it")
            }
            Self::Impure(_) => "it is not pure: an instance that has mapped others before makes something else of the \
                                latest messages than a fresh one; a script must not remember anything in its globals"
                .to_owned(),
            Self::Fails { count, of, old, example } => {
                format!("{}; {}", fails(*count, *of, old), example.in_public())
            }
            Self::Rejects { count, of, most, old, example } => {
                format!("{}; {}", rejects(*count, *of, old, *most), example.in_public())
            }
            other => other.to_string(),
        };
        one_line(&text)
    }
}

/// Bytes of a payload that an error shows, and of failing cases.
const SHOWN: usize = 200;
const SHOWN_OF_CASES: usize = 16 << 10;

/// Refuses what would lose messages that the old script maps. Everything else
/// that differs is what a new script is for.
pub(super) fn judge(comparison: &Comparison, old: &str, max_new_rejections: usize) -> Result<(), Refusal> {
    if let Some(what) = &comparison.impure {
        return Err(Refusal::Impure(what.clone()));
    }
    if comparison.unvalidated {
        return Err(Refusal::Unvalidated);
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

fn example(difference: &Difference) -> Example {
    let payload = String::from_utf8_lossy(&difference.message.payload);
    let what = match &difference.new {
        Fate::Failed(fault) => fault.clone(),
        Fate::Rejected(reason) => reason.clone(),
        Fate::Delivered(_) | Fate::Filtered => String::new(),
    };
    Example { place: difference.place, what, payload: words::one_line(&payload, SHOWN) }
}

impl Example {
    fn in_public(&self) -> String {
        let Self { place, what, .. } = self;
        format!("the first is number {place} of them: {what} (`sluicegate diff` shows it)")
    }
}

impl fmt::Display for Example {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: `{}`", self.what, self.payload)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use message::Message;
    use script::cases::CaseProblem;

    use super::*;

    fn difference(new: Fate) -> Difference {
        let message = Message { topic: "t".into(), payload: "{\"a\":1}".into(), received_at: 0 };
        Difference { place: 7, message, old: Fate::Filtered, new }
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

    #[test]
    fn in_public_nothing_is_said_of_what_messages_hold() {
        let said = |comparison: &Comparison| judge(comparison, "mine 0123", 0).unwrap_err().in_public();
        let mut comparison = Comparison { messages: 9, ..Comparison::default() };
        comparison.new_rejections = vec![difference(Fate::Rejected("no ident\nand more".into()))];
        assert_eq!(
            said(&comparison),
            "it rejects 1 of the 9 latest messages, which mine 0123 maps ([reload] max_new_rejections = 0); \
             the first is number 7 of them: no ident\\nand more (`sluicegate diff` shows it)"
        );
        comparison.new_failures = vec![difference(Fate::Failed("it trapped ".repeat(200)))];
        let long = said(&comparison);
        assert!(long.starts_with(
            "it fails on 1 of the 9 latest messages, which mine 0123 maps; the first is number 7"
        ));
        assert!(long.len() < 1_100 && !long.contains("\"a\""), "{long}");
        comparison.impure = Some("delivery 0 is {\"a\":1}".into());
        assert!(!said(&comparison).contains("\"a\""));
    }

    #[test]
    fn failing_cases_are_a_page_for_who_asks_and_a_line_in_public() {
        let fault = |case: &str| CaseFault { case: case.to_owned(), problem: CaseProblem::NothingExpected };
        let one = Refusal::of_cases(&[fault("a")]);
        assert_eq!(one.to_string(), "it does not pass its own cases: a: expected.jsonl is missing");
        assert_eq!(
            one.in_public(),
            "it does not pass its own case `a`; `sluicegate test` shows what it makes of it"
        );
        let many: Vec<_> = (0..2_000).map(|n| fault(&n.to_string())).collect();
        let many = Refusal::of_cases(&many);
        assert!(many.to_string().len() < SHOWN_OF_CASES + 100);
        assert!(many.in_public().contains("case `0` and 1999 more"), "{}", many.in_public());
    }
}
