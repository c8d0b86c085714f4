//! What the benchmarks share: the machine's facts, the figures' form, the CPU
//! clocks, and the message and the journal that several of them use.

use std::fmt::Display;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use journal::{JournalSettings, OnFull, Quota, StreamQuota, SyncMode};
use tempfile::TempDir;

/// Bytes of a [`payload`].
pub const PAYLOAD: usize = 500;
/// Devices that the messages come from, in turns.
pub const DEVICES: usize = 50;

/// The middle of some figures.
///
/// # Panics
/// When there is none, or one is no number.
pub fn median(figures: &[f64]) -> f64 {
    let sorted = sorted(figures);
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2.0 }
}

/// The least and the most of some figures.
///
/// # Panics
/// As [`median`].
pub fn range(figures: &[f64]) -> (f64, f64) {
    let sorted = sorted(figures);
    (sorted[0], sorted[sorted.len() - 1])
}

fn sorted(figures: &[f64]) -> Vec<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).expect("a figure is a number"));
    assert!(!sorted.is_empty(), "no figures");
    sorted
}

/// A figure beside what it must not exceed.
pub fn verdict(figure: f64, most: f64, unit: &str) -> String {
    let word = if figure <= most { "reached" } else { "MISSED" };
    format!("{figure:.1} {unit} (target {most:.1} {unit}: {word})")
}

/// What, where and with what was measured: the head of each benchmark.
pub fn print_head(title: &str, facts: &[(&str, String)]) {
    println!("{title}\n");
    let line = |name: &str, fact: &dyn Display| println!("  {name:<10} {fact}");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    line("machine", &format_args!("{cores} cores, {}", cpu_model()));
    line("system", &first_line("uname", &["-srm"]));
    line("compiler", &first_line("rustc", &["--version"]));
    line("sluicegate", &env!("CARGO_PKG_VERSION"));
    line("command", &"make bench");
    for (name, fact) in facts {
        line(name, fact);
    }
    println!();
}

fn cpu_model() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or("unknown processor".to_owned(), |(_, name)| name.trim().to_owned())
}

/// The first line that a program prints, wherever it prints it.
pub fn first_line(program: &str, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).output() else {
        return format!("no {program} found");
    };
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}

// ----- clocks -----

/// CPU time that this thread has used. `/proc/thread-self/schedstat` says the
/// same, but for a running thread only as of the last tick of the scheduler.
pub fn thread_cpu() -> Duration {
    cpu_clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU time that this process has used, all its threads together.
pub fn process_cpu() -> Duration {
    cpu_clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

#[allow(unsafe_code)]
fn cpu_clock(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live local of the type that the call fills.
    let status = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(status, 0, "the system has no such CPU clock");
    let seconds = u64::try_from(time.tv_sec).expect("a time");
    Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(time.tv_nsec).expect("a time"))
}

// ----- messages -----

/// The topic of a message.
pub fn topic(number: usize) -> String {
    format!("flespi/message/gw/devices/{}", number % DEVICES)
}

/// A message as a tracker's, of [`PAYLOAD`] bytes.
pub fn payload(number: usize) -> Bytes {
    let mut text = format!(
        concat!(
            r#"{{"ident":"35262500{:07}","timestamp":{}.250,"server.timestamp":{}.731,"channel.id":1105211,"#,
            r#""device.id":{},"protocol.id":14,"peer":"10.21.7.7:40112","position.latitude":54.{:06},"#,
            r#""position.longitude":25.{:06},"position.altitude":112,"position.speed":{},"position.direction":271,"#,
            r#""position.satellites":14,"position.valid":true,"engine.ignition.status":true,"din":3,"#,
            r#""external.powersource.voltage":13.871,"battery.voltage":4.05,"gsm.signal.level":71,"note":""#,
        ),
        number % DEVICES,
        1_760_000_000 + number,
        1_760_000_000 + number,
        4_100_000 + number % DEVICES,
        number * 131 % 1_000_000,
        number * 173 % 1_000_000,
        number % 90,
    );
    while text.len() < PAYLOAD - 2 {
        text.push('x');
    }
    text.push_str("\"}");
    assert_eq!(text.len(), PAYLOAD);
    text.into()
}

// ----- disk and journal -----

/// A folder beside the built programs: `/tmp` may be in memory, where syncing
/// costs nothing.
pub fn disk_folder() -> TempDir {
    let program = std::env::current_exe().expect("the path of the benchmark");
    let beside = program.parent().expect("a folder");
    tempfile::Builder::new().prefix("bench-").tempdir_in(beside).expect("a folder on the disk")
}

/// What kind of file system a folder is on.
pub fn file_system(folder: &Path) -> String {
    first_line("stat", &["-f", "-c", "%T", &folder.display().to_string()])
}

/// A journal in this folder.
pub fn journal_settings(folder: &Path, max_size: u64, sync: SyncMode, keep: Duration) -> JournalSettings {
    JournalSettings { path: folder.to_owned(), max_size, keep, sync, dead_letters_max_size: 64 << 20 }
}

/// A stream that may fill the whole journal and never lets anything expire.
pub fn journal_stream(name: &str) -> Vec<StreamQuota> {
    let quota = Quota { max_backlog: u64::MAX, on_full: OnFull::Block };
    vec![StreamQuota { name: name.to_owned(), quota, live_first: false, conflates: false }]
}
