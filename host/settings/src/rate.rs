//! Rates, and `[rate_limit_groups]` of sluicegate.toml.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use settings_reader::section::Section;
use toml::de::DeValue;

use super::read_stream::is_stream_name;

/// What a rate looks like in a file.
pub const RATE: &str = "a rate, as text: \"100/s\" or \"30/min\", from 1/min to 1000000/s";

/// So many in a second or in a minute. Never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: u32,
    per: Per,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Per {
    Second,
    Minute,
}

/// The rates of `[rate_limit_groups]` by the names of the groups.
pub type RateLimitGroups = BTreeMap<String, Rate>;

impl Rate {
    /// Most in a second that a file may ask for.
    const MAX: u32 = 1_000_000;

    /// Reads `100/s` or `30/min`.
    pub fn parse(text: &str) -> Option<Self> {
        let (count, unit) = text.split_once('/')?;
        if !count.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let count = count.parse().ok()?;
        let (per, most) = match unit {
            "s" => (Per::Second, Self::MAX),
            "min" => (Per::Minute, Self::MAX * 60),
            _ => return None,
        };
        (1..=most).contains(&count).then_some(Self { count, per })
    }

    /// How many a second; often less than one.
    pub fn per_second(self) -> f64 {
        f64::from(self.count) / self.period().as_secs_f64()
    }

    /// The time from one to the next.
    pub fn interval(self) -> Duration {
        self.period() / self.count
    }

    fn period(self) -> Duration {
        match self.per {
            Per::Second => Duration::from_secs(1),
            Per::Minute => Duration::from_secs(60),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.per {
            Per::Second => write!(f, "{}/s", self.count),
            Per::Minute => write!(f, "{}/min", self.count),
        }
    }
}

/// Reads a rate; what is no rate is reported.
pub fn read_rate(section: &mut Section<'_>, key: &'static str) -> Option<Rate> {
    let given = section.parsed(key, RATE, |text| {
        Rate::parse(text).ok_or_else(|| format!("`{key}`: \"{}\" is not a rate", text.escape_debug()))
    });
    given.map(|given| given.value)
}

/// Reads `[rate_limit_groups]`. A group whose rate is wrong is there all the
/// same, so that the streams that name it are not held to be wrong as well.
pub fn read_groups(section: &Section<'_>) -> RateLimitGroups {
    let doc = section.doc();
    let mut groups = RateLimitGroups::new();
    for (name, value) in section.entries() {
        if !is_stream_name(name.value) {
            let what = format!("`{}` is not a valid group name", name.value.escape_debug());
            doc.error(Some(name.span), what, "1 to 64 characters `a-z 0-9 . _ -`");
        }
        let rate = match value.get_ref() {
            DeValue::String(text) => {
                let rate = Rate::parse(text);
                if rate.is_none() {
                    let what = format!("`{}`: \"{}\" is not a rate", name.value, text.escape_debug());
                    doc.error(Some(value.span()), what, RATE);
                }
                rate
            }
            other => {
                section.wrong_type(name.value, value.span(), other, RATE);
                None
            }
        };
        groups.insert(name.value.to_owned(), rate.unwrap_or(Rate { count: 1, per: Per::Second }));
    }
    groups
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates() {
        for (text, per_second, interval) in [
            ("100/s", 100.0, Duration::from_millis(10)),
            ("30/min", 0.5, Duration::from_secs(2)),
            ("1/min", 1.0 / 60.0, Duration::from_secs(60)),
            ("1000000/s", 1e6, Duration::from_micros(1)),
        ] {
            let rate = Rate::parse(text).unwrap();
            assert_eq!(
                (rate.per_second(), rate.interval(), rate.to_string()),
                (per_second, interval, text.into())
            );
        }
        for text in
            ["", "100", "/s", "0/s", "0/min", "-1/s", "+1/s", "1.5/s", "1/h", "1 /s", "1/S", "1000001/s"]
        {
            assert_eq!(Rate::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(count in 1u32..=1_000_000, minute: bool) {
            let rate = Rate { count, per: if minute { Per::Minute } else { Per::Second } };
            prop_assert_eq!(Rate::parse(&rate.to_string()), Some(rate));
            prop_assert!(rate.interval() > Duration::ZERO);
        }

        #[test]
        fn never_panics(text in ".{0,20}") {
            let _ = Rate::parse(&text);
        }
    }
}
