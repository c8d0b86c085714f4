//! Numbers as ThingsBoard's `JsonConverter` stores them as numbers.
//!
//! It types a number by its text: without a point it is a 64-bit integer, and
//! beyond 64 bits text; with a point it is a double, unless the text has more
//! than 16 decimals, which makes it text too. One such value among the numbers
//! of a key breaks its charts and rules.

use sluicegate_sdk::json;

/// Most decimals of a double.
const MOST_DECIMALS: usize = 16;

/// Appends a JSON number as the platform should store it: integers of 64 bits
/// and doubles of up to 16 decimals with all their digits, other doubles
/// rounded to 15 significant digits and at most 16 decimals, always without
/// an exponent and with a point. A number that is neither, beyond 64 bits or
/// the range of doubles, is written as text, so that it keeps its digits.
pub(crate) fn write(out: &mut Vec<u8>, raw: &str) {
    if !raw.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
        match raw.parse::<i64>() {
            Ok(_) => out.extend_from_slice(raw.as_bytes()),
            Err(_) => json::write_str(out, raw),
        }
        return;
    }
    let exponent = raw.bytes().any(|byte| matches!(byte, b'e' | b'E'));
    let decimals = raw.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    if !exponent && decimals <= MOST_DECIMALS {
        out.extend_from_slice(raw.as_bytes());
        return;
    }
    match raw.parse::<f64>() {
        Ok(number) if number.is_finite() => out.extend_from_slice(rounded(number).as_bytes()),
        _ => json::write_str(out, raw),
    }
}

fn rounded(number: f64) -> String {
    // The double nearest to 15 digits prints as those digits.
    let fewer_digits = format!("{number:.14e}").parse().unwrap_or(number);
    let mut text = format!("{fewer_digits}");
    let decimals = text.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    if decimals > MOST_DECIMALS {
        text = format!("{fewer_digits:.MOST_DECIMALS$}");
        text.truncate(text.trim_end_matches('0').len());
    }
    if text.ends_with('.') {
        text.push('0');
    } else if !text.contains('.') {
        text.push_str(".0");
    }
    if text == "-0.0" { "0.0".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn written(raw: &str) -> String {
        let mut out = Vec::new();
        write(&mut out, raw);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_numbers_become() {
        let table = [
            ("43", "43"),
            ("-0", "-0"),
            ("43.0", "43.0"),
            ("9223372036854775807", "9223372036854775807"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("9223372036854775808", "\"9223372036854775808\""),
            ("123456789012345678901234567890", "\"123456789012345678901234567890\""),
            ("0.1234567890123456", "0.1234567890123456"),
            ("0.12345678901234567", "0.123456789012346"),
            ("0.30000000000000004", "0.3"),
            ("54.687200000000000000", "54.6872"),
            ("123456789.12345678901234567", "123456789.123457"),
            ("2.00000000000000000000001", "2.0"),
            ("1e3", "1000.0"),
            ("1.5E+2", "150.0"),
            ("1.5e-7", "0.00000015"),
            ("1.23456789e-12", "0.0000000000012346"),
            ("1e-20", "0.0"),
            ("-1e-20", "0.0"),
            ("-0.00000000000000000", "0.0"),
            ("1e22", "10000000000000000000000.0"),
            ("1e400", "\"1e400\""),
            ("-1e400", "\"-1e400\""),
        ];
        for (raw, expected) in table {
            assert_eq!(written(raw), expected, "{raw}");
        }
    }

    proptest! {
        #[test]
        fn any_double_stays_a_double_and_near(number in any::<f64>().prop_filter("finite", |n| n.is_finite())) {
            for raw in [format!("{number:e}"), format!("{number:?}")] {
                let text = written(&raw);
                let (whole, decimals) = text.split_once('.').unwrap();
                prop_assert!(whole.trim_start_matches('-').bytes().all(|digit| digit.is_ascii_digit()));
                prop_assert!((1..=16).contains(&decimals.len()), "{}", text);
                prop_assert!(decimals.bytes().all(|digit| digit.is_ascii_digit()), "{}", text);
                let back: f64 = text.parse().unwrap();
                prop_assert!((back - number).abs() <= 1e-14 * number.abs() + 1e-16, "{}", text);
            }
        }
    }
}
