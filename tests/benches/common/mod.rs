//! What the benchmarks share: the machine's facts, and the figures' form.

use std::fmt::Display;
use std::process::Command;

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
