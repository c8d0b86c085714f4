//! The summary at the end of the demo.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use admin_api::answer::StreamLine;

use super::gateway::{balances, log_tail};
use super::ledger::{Book, Ledger, Receiver};
use super::site::{Error, Site};

/// The result of the demo: figures and problems.
pub struct Verdict {
    published: u64,
    receivers: Vec<(Receiver, Book, u64)>,
    problems: Vec<String>,
    folder: PathBuf,
    log: PathBuf,
}

impl Verdict {
    /// Compares counters, gateway and exit status with what they should be;
    /// `unshown` are further problems.
    pub fn new(
        published: u64,
        ledger: &Ledger,
        streams: &[StreamLine],
        expected_dead: &[u64; 5],
        unshown: Vec<String>,
        exit: Result<ExitStatus, Error>,
        site: &Site,
    ) -> Self {
        let mut problems = ledger.problems().to_vec();
        problems.extend(unshown);
        let receivers: Vec<(Receiver, Book, u64)> = Receiver::ALL
            .iter()
            .map(|receiver| {
                let missing = ledger.missing(*receiver, Instant::now(), Duration::ZERO);
                (*receiver, ledger.book(*receiver), missing)
            })
            .collect();
        for (receiver, _, missing) in &receivers {
            if *missing > 0 {
                problems.push(format!("{}: {missing} messages did not arrive", receiver.name()));
            }
        }
        for (line, expected) in streams.iter().zip(expected_dead) {
            if line.dead_lettered != *expected {
                let found = line.dead_lettered;
                problems.push(format!("{}: {found} dead letters, expected {expected}", line.name));
            }
            if !balances(line) {
                problems.push(format!("{}: the gateway's counters do not balance", line.name));
            }
        }
        match exit {
            Ok(status) if status.success() => {}
            Ok(status) => problems.push(format!("the gateway stopped with {status}, expected exit status 0")),
            Err(error) => problems.push(error.to_string()),
        }
        Self { published, receivers, problems, folder: site.folder.clone(), log: site.log.clone() }
    }

    /// Whether nothing is missing, wrong or unexpected.
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n {:<12} {:>8} {:>8} {:>8} {:>6} {:>11} {:>11}",
            "RECEIVER", "EXPECTED", "RECEIVED", "MISSING", "WRONG", "UNEXPECTED", "DUPLICATES"
        )?;
        for (receiver, book, missing) in &self.receivers {
            let Book { published, received, repeats, wrong, unexpected } = book;
            writeln!(
                f,
                " {:<12} {published:>8} {received:>8} {missing:>8} {wrong:>6} {unexpected:>11} {repeats:>11}",
                receiver.name()
            )?;
        }
        writeln!(f)?;
        if self.is_good() {
            writeln!(f, "PASSED: every message arrived, with every field correct, in order per vehicle.")?;
            writeln!(f, "Nothing unexpected arrived, and the gateway shut down cleanly.")?;
            writeln!(f, "Its configuration and log: {}", self.folder.display())?;
        } else {
            writeln!(f, "FAILED:")?;
            for problem in &self.problems {
                writeln!(f, "  {problem}")?;
            }
            writeln!(f, "The end of the gateway's log, {}:\n{}", self.log.display(), log_tail(&self.log))?;
        }
        let sum = |of: fn(&(Receiver, Book, u64)) -> u64| self.receivers.iter().map(of).sum::<u64>();
        writeln!(
            f,
            "Sent {}, missing {}, wrong bytes {}, duplicates {}.",
            self.published,
            sum(|(_, _, missing)| *missing),
            sum(|(_, book, _)| book.wrong + book.unexpected),
            sum(|(_, book, _)| book.repeats),
        )
    }
}
