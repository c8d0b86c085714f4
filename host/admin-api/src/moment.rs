//! Times as operators write and read them.

use settings_reader::units::parse_duration;

/// What [`parse`] reads, for error texts.
pub const EXPECTED: &str = "a time such as 2026-03-01T12:00:00Z, or an age such as 30m";

const DAY: u64 = 86_400_000;

/// Reads RFC 3339 (`2026-03-01T12:00:00.5+01:00`) or an age (`30m`: so long
/// before `now`). Unix milliseconds; what is finer is cut off.
pub fn parse(text: &str, now: u64) -> Option<u64> {
    match parse_duration(text) {
        Some(age) => Some(now.saturating_sub(u64::try_from(age.as_millis()).ok()?)),
        None => parse_rfc3339(text),
    }
}

/// Unix milliseconds as RFC 3339 in UTC: `2026-03-01T12:00:00.500Z`.
pub fn show(millis: u64) -> String {
    let (days, rest) = (millis / DAY, millis % DAY);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", rest % 1_000)
}

/// A length of time in one or two units: `0.4 s`, `12 s`, `3 min`, `2 h 5 min`, `3 d 4 h`.
pub fn show_age(seconds: f64) -> String {
    // A float saturates where it becomes an integer.
    let whole = seconds as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3_600 => format!("{} min", whole / 60),
        3_600..86_400 => format!("{} h {} min", whole / 3_600, whole / 60 % 60),
        _ => format!("{} d {} h", whole / 86_400, whole / 3_600 % 24),
    }
}

/// Checks a time on the command line without resolving it: an age counts from
/// the moment when the command does something.
pub fn check(text: &str) -> Result<String, String> {
    match parse(text, 0) {
        Some(_) => Ok(text.to_owned()),
        None => Err(format!("expected {EXPECTED}")),
    }
}

fn parse_rfc3339(text: &str) -> Option<u64> {
    let mut rest = text;
    let year = digits(&mut rest, 4)?;
    let month = after(&mut rest, "-").and_then(|()| digits(&mut rest, 2))?;
    let day = after(&mut rest, "-").and_then(|()| digits(&mut rest, 2))?;
    rest = rest.strip_prefix(['T', 't', ' '])?;
    let hour = digits(&mut rest, 2)?;
    let minute = after(&mut rest, ":").and_then(|()| digits(&mut rest, 2))?;
    let second = after(&mut rest, ":").and_then(|()| digits(&mut rest, 2))?;
    let mut millis = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let length = fraction.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, after) = fraction.split_at_checked(length).filter(|_| length > 0)?;
        millis = format!("{digits:0<3.3}").parse().ok()?;
        rest = after;
    }
    let east = match rest {
        "Z" | "z" => 0,
        _ => {
            let west = rest.starts_with('-');
            rest = rest.strip_prefix(['+', '-'])?;
            let hours = digits(&mut rest, 2)?;
            let minutes = after(&mut rest, ":").and_then(|()| digits(&mut rest, 2))?;
            if hours > 23 || minutes > 59 || !rest.is_empty() {
                return None;
            }
            let east = i64::try_from((hours * 60 + minutes) * 60_000).ok()?;
            if west { -east } else { east }
        }
    };
    // A leap second is the first of the next minute.
    let valid = (1..=days_in(year, month)?).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !valid || year < 1970 {
        return None;
    }
    let local =
        days_since_1970(year, month, day) * DAY + ((hour * 60 + minute) * 60 + second) * 1_000 + millis;
    u64::try_from(i64::try_from(local).ok()? - east).ok()
}

fn digits(rest: &mut &str, count: usize) -> Option<u64> {
    let (digits, after) = rest.split_at_checked(count)?;
    let number = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())??;
    *rest = after;
    Some(number)
}

fn after(rest: &mut &str, mark: &str) -> Option<()> {
    *rest = rest.strip_prefix(mark)?;
    Some(())
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in(year: u64, month: u64) -> Option<u64> {
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => Some(31),
        4 | 6 | 9 | 11 => Some(30),
        2 => Some(if is_leap(year) { 29 } else { 28 }),
        _ => None,
    }
}

fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let before = year - 1;
    // Leap days up to the end of the year before, less those before 1970.
    let leap_days = before / 4 - before / 100 + before / 400 - 477;
    let of_year: u64 = (1..month).filter_map(|m| days_in(year, m)).sum();
    (year - 1970) * 365 + leap_days + of_year + day - 1
}

/// Year, month and day of a number of days since 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    // 400 years have 146,097 days; the guess is at most one year too late.
    let mut year = 1970 + days * 400 / 146_097;
    if days_since_1970(year, 1, 1) > days {
        year -= 1;
    } else if days_since_1970(year + 1, 1, 1) <= days {
        year += 1;
    }
    let mut day = days - days_since_1970(year, 1, 1);
    let mut month = 1;
    while let Some(length) = days_in(year, month).filter(|length| day >= *length) {
        day -= length;
        month += 1;
    }
    (year, month, day + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    #[test]
    fn reads_times_and_ages() {
        for (text, millis) in [
            ("2023-11-14T22:13:20Z", NOW),
            ("2023-11-14 22:13:20.5z", NOW + 500),
            ("2023-11-14T22:13:20.123456789Z", NOW + 123),
            ("2023-11-15T00:13:20+02:00", NOW),
            ("2023-11-14T16:43:20.000-05:30", NOW),
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T00:00:00Z", 951_782_400_000),
            ("30m", NOW - 1_800_000),
            ("0s", NOW),
            ("40000d", 0),
        ] {
            assert_eq!(parse(text, NOW), Some(millis), "{text}");
        }
        for text in [
            "",
            "now",
            "30",
            "2023-11-14",
            "2023-11-14T22:13:20",
            "2023-11-14T22:13Z",
            "2023-02-29T00:00:00Z",
            "2023-13-01T00:00:00Z",
            "2023-00-01T00:00:00Z",
            "2023-01-00T00:00:00Z",
            "2023-11-14T24:00:00Z",
            "2023-11-14T22:13:20.Z",
            "2023-11-14T22:13:20+24:00",
            "2023-11-14T22:13:20+01:00x",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+01:00",
            "+023-11-14T22:13:20Z",
            "2023-11-14T22:13:20Ü",
        ] {
            assert_eq!(parse(text, NOW), None, "{text}");
        }
    }

    #[test]
    fn shows_ages() {
        let shown = [0.0, 9.96, 12.7, 65.0, 7_500.0, 360_000.0].map(show_age);
        assert_eq!(shown, ["0.0 s", "10.0 s", "12 s", "1 min", "2 h 5 min", "4 d 4 h"]);
    }

    proptest! {
        #[test]
        fn shown_time_parses_back(millis in 0u64..253_402_300_800_000) {
            prop_assert_eq!(parse(&show(millis), NOW), Some(millis));
        }

        #[test]
        fn never_panics(text in ".{0,40}", like in "[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{0,4})?([zZ]|[+-][0-9]{2}:[0-9]{2})?", millis: u64) {
            let _ = (parse(&text, NOW), parse(&like, NOW));
            show(millis % (1 << 50));
        }
    }
}
