//! How long something took, counted in fixed buckets.
//!
//! Not the histograms of the metrics library: those keep every sample until
//! somebody scrapes, and nobody may.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use super::exposition::escaped;

/// Upper bounds in milliseconds, inclusive, from 1 ms to 1 h.
const BOUNDS: [u64; 20] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000,
    600_000, 1_800_000, 3_600_000,
];

/// Counts of times, in milliseconds.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One a bound, and one for what is longer.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    /// Milliseconds.
    sum: AtomicU64,
}

impl Histogram {
    /// Counts these, with one addition a bucket.
    pub fn record(&self, milliseconds: impl IntoIterator<Item = u64>) {
        let mut counts = [0_u64; BOUNDS.len() + 1];
        let mut sum = 0_u64;
        for time in milliseconds {
            sum = sum.saturating_add(time);
            let bucket = BOUNDS.partition_point(|bound| *bound < time);
            if let Some(count) = counts.get_mut(bucket) {
                *count += 1;
            }
        }
        for (bucket, count) in self.buckets.iter().zip(counts).filter(|(_, count)| *count > 0) {
            bucket.fetch_add(count, Ordering::Relaxed);
        }
        self.sum.fetch_add(sum, Ordering::Relaxed);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).sum()
    }
}

/// A family of histograms in the Prometheus text format, one a stream; in
/// seconds, as Prometheus wants it.
pub fn render<'a>(name: &str, help: &str, streams: impl Iterator<Item = (&'a str, &'a Histogram)>) -> String {
    let mut text = format!("# HELP {name} {help}\n# TYPE {name} histogram\n");
    for (stream, histogram) in streams {
        let stream = escaped(stream);
        let mut count = 0;
        let bounds = BOUNDS.iter().map(|bound| seconds(*bound)).chain(["+Inf".to_owned()]);
        // Writing to a string does not fail.
        for (bound, bucket) in bounds.zip(&histogram.buckets) {
            count += bucket.load(Ordering::Relaxed);
            let _ = writeln!(text, "{name}_bucket{{stream=\"{stream}\",le=\"{bound}\"}} {count}");
        }
        let sum = seconds(histogram.sum.load(Ordering::Relaxed));
        let _ = writeln!(text, "{name}_sum{{stream=\"{stream}\"}} {sum}");
        // Not counted again: it has to be what the last bucket says.
        let _ = writeln!(text, "{name}_count{{stream=\"{stream}\"}} {count}");
    }
    text
}

fn seconds(milliseconds: u64) -> String {
    (milliseconds as f64 / 1000.0).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_in_the_bucket_that_holds_them() {
        let histogram = Histogram::default();
        histogram.record([0, 1, 2, 3, 1_000, 1_001]);
        histogram.record([3_600_000, 3_600_001, u64::MAX / 2]);
        histogram.record([]);
        assert_eq!(histogram.count(), 9);
        let text = render("t_seconds", "Times.", [("a\"b", &histogram)].into_iter());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["# HELP t_seconds Times.", "# TYPE t_seconds histogram"]);
        for (bound, count) in [
            ("0.001", 2),
            ("0.002", 3),
            ("0.005", 4),
            ("0.5", 4),
            ("1", 5),
            ("2", 6),
            ("3600", 7),
            ("+Inf", 9),
        ] {
            let line = format!("t_seconds_bucket{{stream=\"a\\\"b\",le=\"{bound}\"}} {count}");
            assert!(lines.contains(&line.as_str()), "{line} in {text}");
        }
        assert_eq!(lines.len(), 2 + 21 + 2);
        assert_eq!(lines.last(), Some(&"t_seconds_count{stream=\"a\\\"b\"} 9"));
    }

    #[test]
    fn the_sum_is_in_seconds() {
        let histogram = Histogram::default();
        histogram.record([1_500, 500, 250]);
        let text = render("t", "h", [("s", &histogram)].into_iter());
        assert!(text.contains("t_sum{stream=\"s\"} 2.25\n"), "{text}");
    }
}
