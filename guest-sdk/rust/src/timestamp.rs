//! The `timestamp` of a message: seconds since the Unix epoch with a fraction,
//! or ISO 8601 text. Both forms are what flespi's channels accept.

use crate::value::{Kind, Value};

/// When the device took the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamp<'a> {
    /// Milliseconds since the Unix epoch; digits beyond are cut off.
    pub millis: i64,
    /// As it stands in the message.
    pub original: Value<'a>,
}

/// The last millisecond of the year 9999.
const LAST: i64 = 253_402_300_799_999;

impl<'a> Timestamp<'a> {
    /// None when the value is no time from 1970 to 9999.
    pub(crate) fn parse(value: Value<'a>) -> Option<Self> {
        let millis = match value.kind() {
            Kind::Number => from_seconds(value)?,
            Kind::String => from_iso(value.as_str()?.as_bytes())?,
            _ => return None,
        };
        (0..=LAST).contains(&millis).then_some(Self { millis, original: value })
    }

    /// Whole seconds since the Unix epoch.
    pub fn seconds(self) -> i64 {
        self.millis.div_euclid(1000)
    }
}

/// By the decimal text, since 1700000000.123 has no exact double.
fn from_seconds(value: Value<'_>) -> Option<i64> {
    let text = value.raw();
    if text.bytes().any(|b| matches!(b, b'e' | b'E')) {
        let millis = value.as_f64()? * 1000.0;
        #[allow(clippy::cast_possible_truncation)]
        return (0.0..=9e15).contains(&millis).then(|| millis.floor() as i64);
    }
    // An i64 has no -0: the whole of -0.5 would read as 0, and the time as 0.5.
    let text = (!text.starts_with('-')).then_some(text)?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    whole.parse::<i64>().ok()?.checked_mul(1000)?.checked_add(millis_of(fraction.as_bytes())?)
}

/// The first three of the digits after the point.
fn millis_of(digits: &[u8]) -> Option<i64> {
    let mut millis = 0;
    for place in 0..3 {
        let digit = digits.get(place).copied().unwrap_or(b'0');
        millis = millis * 10 + i64::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    Some(millis)
}

/// `2026-11-23T10:20:30[.123][Z|+02:00|+0200]`; without a zone it is UTC.
fn from_iso(text: &[u8]) -> Option<i64> {
    let mut rest = text;
    let year = number(&mut rest, 4)?;
    literal(&mut rest, b"-")?;
    let month = number(&mut rest, 2)?;
    literal(&mut rest, b"-")?;
    let day = number(&mut rest, 2)?;
    literal(&mut rest, b"Tt ")?;
    let hour = number(&mut rest, 2)?;
    literal(&mut rest, b":")?;
    let minute = number(&mut rest, 2)?;
    literal(&mut rest, b":")?;
    let second = number(&mut rest, 2)?;
    let mut millis = 0;
    if literal(&mut rest, b".,").is_some() {
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        let (fraction, after) = rest.split_at_checked(digits)?;
        if fraction.is_empty() {
            return None;
        }
        millis = millis_of(fraction)?;
        rest = after;
    }
    let offset = match rest {
        b"" | b"Z" | b"z" => 0,
        _ => {
            let sign = if literal(&mut rest, b"+-")? == b'-' { -1 } else { 1 };
            let hours = number(&mut rest, 2)?;
            let _ = literal(&mut rest, b":");
            let minutes = if rest.is_empty() { 0 } else { number(&mut rest, 2)? };
            if !rest.is_empty() || hours > 23 || minutes > 59 {
                return None;
            }
            sign * (hours * 60 + minutes)
        }
    };
    // A leap second reads as the second after it, as in Unix time.
    if !(1..=12).contains(&month)
        || day < 1
        || day > days_in(year, month)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let minutes = days_since_epoch(year, month, day) * 1440 + hour * 60 + minute - offset;
    Some((minutes * 60 + second) * 1000 + millis)
}

/// Takes exactly `digits` digits.
fn number(rest: &mut &[u8], digits: usize) -> Option<i64> {
    let (taken, after) = rest.split_at_checked(digits)?;
    *rest = after;
    taken.iter().try_fold(0, |sum, b| b.is_ascii_digit().then(|| sum * 10 + i64::from(b - b'0')))
}

/// Takes one byte if it is one of `any`.
fn literal(rest: &mut &[u8], any: &[u8]) -> Option<u8> {
    let (first, after) = rest.split_first()?;
    any.contains(first).then(|| *rest = after)?;
    Some(*first)
}

fn is_leap(year: i64) -> bool {
    (year % 4 == 0 && year % 100 != 0) || year % 400 == 0
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let leaps = |before: i64| {
        (before - 1).div_euclid(4) - (before - 1).div_euclid(100) + (before - 1).div_euclid(400)
    };
    let years = (year - 1970) * 365 + leaps(year) - leaps(1970);
    years + (1..month).map(|m| days_in(year, m)).sum::<i64>() + day - 1
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn millis(raw: &str) -> Option<i64> {
        Timestamp::parse(Value::new(raw)).map(|t| t.millis)
    }

    #[test]
    fn every_form_of_a_time() {
        let table = [
            ("1700000000", Some(1_700_000_000_000)),
            ("1700000000.123456", Some(1_700_000_000_123)),
            ("1700000000.9", Some(1_700_000_000_900)),
            ("1.7e9", Some(1_700_000_000_000)),
            ("0", Some(0)),
            ("253402300799.999", Some(LAST)),
            ("253402300800", None),
            ("1700000000000", None),
            ("-1", None),
            ("-0.5", None),
            ("1e400", None),
            ("99999999999999999999", None),
            ("true", None),
            ("null", None),
            (r#""2023-11-14T22:13:20Z""#, Some(1_700_000_000_000)),
            (r#""2023-11-14T22:13:20.5Z""#, Some(1_700_000_000_500)),
            (r#""2023-11-15T00:13:20+02:00""#, Some(1_700_000_000_000)),
            (r#""2023-11-14T17:13:20-0500""#, Some(1_700_000_000_000)),
            (r#""2023-11-14 22:13:20""#, Some(1_700_000_000_000)),
            (r#""2024-02-29T00:00:00Z""#, Some(1_709_164_800_000)),
            (r#""2000-03-01T00:00:00Z""#, Some(951_868_800_000)),
            (r#""1970-01-01T00:00:00Z""#, Some(0)),
            (r#""1969-12-31T23:59:59Z""#, None),
            (r#""2023-02-29T00:00:00Z""#, None),
            (r#""2023-13-01T00:00:00Z""#, None),
            (r#""2023-11-14T24:00:00Z""#, None),
            (r#""2023-11-14T22:13Z""#, None),
            (r#""2023-11-14T22:13:20.Z""#, None),
            (r#""2023-11-14""#, None),
            (r#""1700000000""#, None),
            (r#""""#, None),
        ];
        for (raw, expected) in table {
            assert_eq!(millis(raw), expected, "{raw}");
        }
    }

    #[test]
    fn days_agree_with_counting_them() {
        let mut day_number = 0;
        for year in 1970..2110 {
            for month in 1..=12 {
                for day in 1..=days_in(year, month) {
                    assert_eq!(days_since_epoch(year, month, day), day_number, "{year}-{month}-{day}");
                    day_number += 1;
                }
            }
        }
    }
}
