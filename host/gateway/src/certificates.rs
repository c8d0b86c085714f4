//! Certificates that are named in the configuration, and how long they are
//! good for: in the metrics, and in the log before it is too late.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::watch::Watch;
use message::unix_millis;
use settings_reader::Expiry;
use telemetry::event;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

/// How often the time that is left is looked at.
const EVERY: Duration = Duration::from_secs(3600);

/// Warned of once when less is left, seconds.
const WARNINGS: [i64; 4] = [30 * 86_400, 7 * 86_400, 86_400, 0];

/// What is known of the certificates.
pub struct Certificates {
    files: watch::Sender<Vec<PathBuf>>,
    seen: Mutex<Seen>,
}

type Seen = BTreeMap<PathBuf, Expiry>;

/// Which warnings have been given.
#[derive(Debug, Default)]
struct Warnings {
    /// The certificate, and the last of [`WARNINGS`] that was given for it.
    given: BTreeMap<PathBuf, (Expiry, usize)>,
}

// === impl Warnings ===

impl Warnings {
    /// Whether to warn now; each of [`WARNINGS`] once for a certificate, and
    /// of several that are due only the last. `now` in Unix seconds.
    fn due(&mut self, file: &Path, expiry: &Expiry, now: u64) -> bool {
        let left = expiry.seconds_left(now);
        let Some(passed) = WARNINGS.iter().rposition(|warning| left <= *warning) else { return false };
        match self.given.get(file) {
            Some((given, last)) if given == expiry && *last >= passed => false,
            _ => {
                self.given.insert(file.to_owned(), (expiry.clone(), passed));
                true
            }
        }
    }

    /// Forgets files that are not there any more.
    fn keep(&mut self, seen: &Seen) {
        self.given.retain(|file, _| seen.contains_key(file));
    }
}

// === impl Certificates ===

impl Certificates {
    /// Those in these files.
    pub fn new(files: Vec<PathBuf>) -> Self {
        Self { files: watch::Sender::new(files), seen: Mutex::default() }
    }

    /// From now on those in these files.
    pub fn set_files(&self, files: Vec<PathBuf>) {
        self.files.send_replace(files);
    }

    /// Looks at them once an hour and when they change, for ever.
    pub async fn run(self: Arc<Self>, watch: Watch) {
        let mut files = self.files.subscribe();
        let mut changes = watch.paths(files.borrow_and_update().clone());
        changes.ready().await;
        let mut warnings = Warnings::default();
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = changes.next() => {}
                // Never an error: `self` has the other end.
                _ = files.changed() => changes.set_paths(files.borrow().clone()),
            }
            let named = files.borrow().clone();
            if let Ok(seen) = tokio::task::spawn_blocking(move || read(named)).await {
                warnings.keep(&seen);
                let now = unix_millis() / 1000;
                for (file, expiry) in seen.iter().filter(|(file, expiry)| warnings.due(file, expiry, now)) {
                    let told = expiry.told(file, now).to_string();
                    event::CertificateExpires { told: &told, expired: expiry.seconds_left(now) <= 0 }.emit();
                }
                *self.seen() = seen;
            }
        }
    }

    /// The gauge in the Prometheus text format; seconds that are left at `now`
    /// (Unix seconds). Not kept as a metric: one that is kept stays for ever,
    /// and a file may be named no more.
    pub fn render(&self, now: u64) -> String {
        const NAME: &str = "sluicegate_certificate_expires_seconds";
        const HELP: &str = "Until the first certificate in the file expires, negative after that; by file";
        let mut text = format!("# HELP {NAME} {HELP}\n# TYPE {NAME} gauge\n");
        for (file, expiry) in &*self.seen() {
            let file = file.display().to_string();
            let file = file.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            // Writing to a string does not fail.
            let _ = writeln!(text, "{NAME}{{file=\"{file}\"}} {}", expiry.seconds_left(now));
        }
        text
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file that cannot be read has no line: the part that needs it reports it.
fn read(files: Vec<PathBuf>) -> Seen {
    let expiry = |file: PathBuf| {
        let expiry = Expiry::read(&file).ok().flatten()?;
        Some((file, expiry))
    };
    files.into_iter().filter_map(expiry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn expiry(at: u64) -> Expiry {
        Expiry { subject: "CN=gateway".to_owned(), at }
    }

    /// The days on which there is a warning, looked at every hour.
    fn days(warnings: &mut Warnings, expiry: &Expiry, days: std::ops::Range<u64>) -> Vec<u64> {
        let hours = (days.start * 24..days.end * 24).map(|hour| hour * 3600);
        hours.filter(|now| warnings.due(Path::new("a.pem"), expiry, *now)).map(|now| now / DAY).collect()
    }

    #[test]
    fn each_warning_is_given_once_for_each_certificate() {
        let mut warnings = Warnings::default();
        assert_eq!(days(&mut warnings, &expiry(100 * DAY), 0..120), [70, 93, 99, 100]);
        assert_eq!(days(&mut warnings, &expiry(100 * DAY), 0..120), [0; 0], "all of them were given");
        assert_eq!(days(&mut warnings, &expiry(200 * DAY), 120..300), [170, 193, 199, 200]);
    }

    #[test]
    fn late_start_gives_one_warning() {
        let mut warnings = Warnings::default();
        assert_eq!(days(&mut warnings, &expiry(100 * DAY), 97..120), [97, 99, 100]);
        let mut warnings = Warnings::default();
        assert_eq!(days(&mut warnings, &expiry(100 * DAY), 110..120), [110]);
    }

    #[test]
    fn unused_certificate_is_forgotten() {
        let mut warnings = Warnings::default();
        assert!(warnings.due(Path::new("a.pem"), &expiry(10), 20));
        warnings.keep(&Seen::new());
        assert!(warnings.due(Path::new("a.pem"), &expiry(10), 20));
    }

    #[test]
    fn metric_has_one_line_per_file() {
        let certificates = Certificates::new(vec![]);
        let seen = [("a\"b.pem", 1_000), ("c.pem", 10)];
        *certificates.seen() = seen.iter().map(|(file, at)| (PathBuf::from(file), expiry(*at))).collect();
        let text = certificates.render(100);
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "sluicegate_certificate_expires_seconds{file=\"a\\\"b.pem\"} 900",
                "sluicegate_certificate_expires_seconds{file=\"c.pem\"} -90",
            ]
        );
    }
}
