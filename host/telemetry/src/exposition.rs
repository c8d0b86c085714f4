//! Metrics that are made anew at every scrape, in the Prometheus text format.

use std::fmt::Write as _;

/// What is written so far.
#[derive(Debug, Default)]
pub struct Exposition(String);

/// What a metric is.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

impl Exposition {
    /// One metric with its samples; nothing where there is none.
    pub fn family<'a, const LABELS: usize>(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        samples: impl IntoIterator<Item = ([(&'a str, &'a str); LABELS], f64)>,
    ) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let mut head = Some(format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        for (labels, value) in samples {
            if let Some(head) = head.take() {
                self.0.push_str(&head);
            }
            let labels: Vec<String> =
                labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
            // Writing to a string does not fail.
            let _ = writeln!(self.0, "{name}{{{}}} {value}", labels.join(","));
        }
    }

    /// All of it.
    pub fn finish(self) -> String {
        self.0
    }
}

/// As the value of a label.
pub(super) fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_its_head_and_its_samples() {
        let mut text = Exposition::default();
        let samples =
            [([("stream", "a\"b"), ("state", "x")], 1.0), ([("stream", "c"), ("state", "y")], 0.25)];
        text.family("t_total", Kind::Counter, "Things.", samples);
        text.family::<1>("none", Kind::Gauge, "Nothing.", []);
        let expected = "# HELP t_total Things.\n# TYPE t_total counter\n\
                        t_total{stream=\"a\\\"b\",state=\"x\"} 1\nt_total{stream=\"c\",state=\"y\"} 0.25\n";
        assert_eq!(text.finish(), expected);
    }
}
