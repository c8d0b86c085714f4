//! When to look at the files, and when what was seen is worth a report. No
//! I/O and no clock: the times come with the calls.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::content::Print;

/// What a look saw, by the paths that were asked for.
pub(super) type Seen = BTreeMap<PathBuf, Print>;

/// Quiet after the last event before the files are looked at, and between two
/// looks that have to agree.
pub(super) const QUIET: Duration = Duration::from_millis(200);

/// Longest wait where the events do not stop, or one file does not come to
/// rest while others have.
pub(super) const LONGEST: Duration = Duration::from_secs(2);

/// The rules of one set of paths.
#[derive(Debug)]
pub(super) struct Settle {
    paths: BTreeSet<PathBuf>,
    /// What the owner knows of.
    reported: Seen,
    /// What the last look saw.
    before: Seen,
    /// Time of the first and the last event since the last look began.
    stirred: Option<(Instant, Instant)>,
    /// Since when something differs from what was reported.
    differs_since: Option<Instant>,
    /// When a difference is looked at again.
    again_at: Option<Instant>,
    /// Looks in a row that saw something new.
    restless: u32,
    /// When to look although nothing seems to happen.
    check_at: Instant,
    every: Duration,
}

impl Settle {
    /// Rules for no paths yet. Whatever happens, the files are looked at `every`
    /// so often.
    pub(super) fn new(every: Duration, now: Instant) -> Self {
        Self {
            paths: BTreeSet::new(),
            reported: Seen::new(),
            before: Seen::new(),
            stirred: None,
            differs_since: None,
            again_at: None,
            restless: 0,
            check_at: now,
            every,
        }
    }

    /// From now on these paths. What a new one holds at the first look is what
    /// its owner knows.
    pub(super) fn set_paths(&mut self, paths: impl IntoIterator<Item = PathBuf>, now: Instant) {
        self.paths = paths.into_iter().collect();
        self.reported.retain(|path, _| self.paths.contains(path));
        self.before.retain(|path, _| self.paths.contains(path));
        self.check_at = now;
    }

    /// What to look at.
    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.paths.iter()
    }

    /// Whether every path has been looked at.
    pub(super) fn is_ready(&self) -> bool {
        self.paths.iter().all(|path| self.reported.contains_key(path))
    }

    /// Something happened near the files.
    pub(super) fn touched(&mut self, now: Instant) {
        let first = self.stirred.map_or(now, |(first, _)| first);
        self.stirred = Some((first, now));
    }

    /// When to look.
    pub(super) fn due(&self) -> Instant {
        let stirred = self.stirred.map(|(first, last)| (last + QUIET).min(first + LONGEST));
        [stirred, self.again_at].into_iter().flatten().fold(self.check_at, Instant::min)
    }

    /// A look begins; events from here on belong to the next one.
    pub(super) fn looking(&mut self, now: Instant) {
        self.stirred = None;
        self.again_at = None;
        self.check_at = now + self.every;
    }

    /// The paths to report: those that hold something else than was reported,
    /// and the same at the last two looks. They wait for each other, so that a
    /// certificate and its key are one change, but not for longer than
    /// [`LONGEST`].
    pub(super) fn looked(&mut self, mut seen: Seen, now: Instant) -> Vec<PathBuf> {
        seen.retain(|path, _| self.paths.contains(path));
        for (path, print) in &seen {
            self.reported.entry(path.clone()).or_insert_with(|| print.clone());
        }
        let (settled, moving): (Vec<_>, Vec<_>) = seen
            .iter()
            .filter(|(path, print)| self.reported.get(*path) != Some(print))
            .partition(|(path, print)| self.before.get(*path) == Some(print));
        let since = *self.differs_since.get_or_insert(now);
        let report = moving.is_empty() || now >= since + LONGEST;
        let changed: Vec<PathBuf> =
            settled.iter().filter(|_| report).map(|(path, _)| (*path).clone()).collect();
        let wait = !moving.is_empty() || (!settled.is_empty() && !report);
        for path in &changed {
            if let Some(print) = seen.get(path) {
                self.reported.insert(path.clone(), print.clone());
            }
        }
        self.before = seen;
        if wait {
            let pause = QUIET.saturating_mul(1 << self.restless.min(8)).min(LONGEST);
            self.again_at = Some(now + pause);
            self.restless += 1;
        } else {
            self.differs_since = None;
            self.restless = 0;
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const EVERY: Duration = Duration::from_secs(10);

    fn print(text: &str) -> Print {
        Print::of(text.as_bytes())
    }

    fn seen(files: &[(&str, &str)]) -> Seen {
        files.iter().map(|(path, text)| (PathBuf::from(path), print(text))).collect()
    }

    /// Rules for the paths, which hold what `files` says, and the time.
    fn settled(files: &[(&str, &str)]) -> (Settle, Instant) {
        let now = Instant::now();
        let mut settle = Settle::new(EVERY, now);
        settle.set_paths(files.iter().map(|(path, _)| PathBuf::from(path)), now);
        assert!(!settle.is_ready());
        assert_eq!(settle.due(), now);
        assert!(look(&mut settle, now, files).is_empty());
        assert!(settle.is_ready());
        (settle, now)
    }

    fn look(settle: &mut Settle, now: Instant, files: &[(&str, &str)]) -> Vec<PathBuf> {
        settle.looking(now);
        settle.looked(seen(files), now)
    }

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn a_change_is_reported_once_when_two_looks_agree() {
        let (mut settle, start) = settled(&[("a", "1")]);
        settle.touched(start);
        assert_eq!(settle.due(), start + QUIET);
        let now = settle.due();
        assert_eq!(look(&mut settle, now, &[("a", "2")]), paths(&[]));
        assert_eq!(settle.due(), now + QUIET);
        let now = settle.due();
        assert_eq!(look(&mut settle, now, &[("a", "2")]), paths(&["a"]));
        assert_eq!(settle.due(), now + EVERY);
        assert_eq!(look(&mut settle, now + EVERY, &[("a", "2")]), paths(&[]));
    }

    #[test]
    fn the_same_content_is_no_report_however_often_it_is_written() {
        let (mut settle, start) = settled(&[("a", "1")]);
        for step in 0..5 {
            let now = start + QUIET * step;
            settle.touched(now);
            assert_eq!(look(&mut settle, now, &[("a", "1")]), paths(&[]));
        }
        assert_eq!(settle.due(), start + QUIET * 4 + EVERY);
    }

    #[test]
    fn a_file_that_is_being_written_is_looked_at_less_and_less_and_reported_at_rest() {
        let (mut settle, start) = settled(&[("a", "")]);
        settle.touched(start);
        let mut last = start;
        let mut text = String::new();
        let mut pauses = Vec::new();
        for _ in 0..6 {
            text.push('x');
            let now = settle.due();
            pauses.push(now - last);
            last = now;
            assert_eq!(look(&mut settle, now, &[("a", &text)]), paths(&[]));
        }
        assert_eq!(pauses, [200, 200, 400, 800, 1600, 2000].map(Duration::from_millis));
        let now = settle.due();
        assert_eq!(look(&mut settle, now, &[("a", &text)]), paths(&["a"]));
    }

    #[test]
    fn events_that_do_not_stop_are_waited_for_two_seconds() {
        let (mut settle, start) = settled(&[("a", "1")]);
        for step in 0..30 {
            settle.touched(start + Duration::from_millis(100) * step);
        }
        assert_eq!(settle.due(), start + LONGEST);
    }

    #[test]
    fn without_any_event_the_files_are_looked_at_now_and_then() {
        let (mut settle, start) = settled(&[("a", "1")]);
        assert_eq!(settle.due(), start + EVERY);
        assert_eq!(look(&mut settle, start + EVERY, &[("a", "2")]), paths(&[]));
        let now = settle.due();
        assert_eq!(now, start + EVERY + QUIET);
        assert_eq!(look(&mut settle, now, &[("a", "2")]), paths(&["a"]));
    }

    #[test]
    fn a_certificate_waits_for_its_key_but_not_for_ever() {
        let (mut settle, start) = settled(&[("cert", "1"), ("key", "1")]);
        settle.touched(start);
        let now = settle.due();
        assert_eq!(look(&mut settle, now, &[("cert", "2"), ("key", "1")]), paths(&[]));
        let now = settle.due();
        assert_eq!(look(&mut settle, now, &[("cert", "2"), ("key", "2")]), paths(&[]), "the key has moved");
        let now = settle.due();
        assert_eq!(look(&mut settle, now, &[("cert", "2"), ("key", "2")]), paths(&["cert", "key"]));

        let began = now + QUIET;
        settle.touched(now);
        let mut text = String::new();
        let reported = loop {
            text.push('x');
            let now = settle.due();
            let changed = look(&mut settle, now, &[("cert", "3"), ("key", &text)]);
            if !changed.is_empty() {
                assert!(now >= began + LONGEST && now <= began + 2 * LONGEST);
                break changed;
            }
        };
        assert_eq!(reported, paths(&["cert"]));
    }

    #[test]
    fn a_file_that_vanishes_for_a_moment_has_not_changed() {
        let (mut settle, start) = settled(&[("a", "1")]);
        settle.touched(start);
        let gone = Seen::from([(PathBuf::from("a"), Print::Missing)]);
        let now = settle.due();
        settle.looking(now);
        assert_eq!(settle.looked(gone.clone(), now), paths(&[]));
        let now = settle.due();
        assert_eq!(look(&mut settle, now, &[("a", "1")]), paths(&[]));

        for expected in [paths(&[]), paths(&["a"])] {
            settle.touched(now);
            let now = settle.due();
            settle.looking(now);
            assert_eq!(settle.looked(gone.clone(), now), expected);
        }
    }

    #[test]
    fn an_event_during_a_look_is_not_forgotten() {
        let (mut settle, start) = settled(&[("a", "1")]);
        settle.touched(start);
        settle.looking(start + QUIET);
        settle.touched(start + QUIET);
        assert_eq!(settle.looked(seen(&[("a", "1")]), start + QUIET), paths(&[]));
        assert_eq!(settle.due(), start + 2 * QUIET);
    }

    #[test]
    fn new_paths_are_looked_at_once_and_the_others_keep_what_was_reported() {
        let (mut settle, start) = settled(&[("a", "1"), ("b", "1")]);
        settle.looking(start);
        settle.set_paths(paths(&["a", "c"]), start);
        // The look that was under way has nothing about `c`, and too much.
        assert_eq!(settle.looked(seen(&[("a", "1"), ("b", "2")]), start), paths(&[]));
        assert!(!settle.is_ready());
        assert_eq!(settle.due(), start);
        assert_eq!(look(&mut settle, start, &[("a", "2"), ("c", "1")]), paths(&[]));
        assert!(settle.is_ready());
        let now = settle.due();
        assert_eq!(look(&mut settle, now, &[("a", "2"), ("c", "1")]), paths(&["a"]));
    }
}
