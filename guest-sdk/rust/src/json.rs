//! Writing JSON by hand, for scripts that build their body straight from the
//! raw values of the message.

use std::borrow::Cow;

use crate::{Kind, Reject, Result, Value};

/// Appends a string with quotes and escapes.
pub fn write_str(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    if is_plain(text.as_bytes()) {
        out.extend_from_slice(text.as_bytes());
    } else {
        write_escaped(out, text.as_bytes());
    }
    out.push(b'"');
}

/// Whether nothing needs an escape, eight bytes at a time: nearly all keys.
fn is_plain(bytes: &[u8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // The high bit of each byte that is zero; also of one above a zero, which
    // only costs the slow way.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let (words, rest) = bytes.as_chunks::<8>();
    let special = words.iter().fold(0, |found, word| {
        let word = u64::from_le_bytes(*word);
        let below_space = zeros(word & (ONES * 0xe0));
        found | below_space | zeros(word ^ (ONES * u64::from(b'"'))) | zeros(word ^ (ONES * u64::from(b'\\')))
    });
    special == 0 && rest.iter().all(|&byte| byte >= 0x20 && byte != b'"' && byte != b'\\')
}

fn write_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut written = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(bytes.get(written..at).unwrap_or_default());
        written = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
        }
    }
    out.extend_from_slice(bytes.get(written..).unwrap_or_default());
}

/// A string with quotes and escapes.
pub fn quoted(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    write_str(&mut out, text);
    // What is escaped in UTF-8 text stays UTF-8 text.
    String::from_utf8(out).unwrap_or_default()
}

/// Appends `"key":`, with a comma before it unless it is the first of its
/// object.
pub fn write_key(out: &mut Vec<u8>, key: &str) {
    if !matches!(out.last(), Some(b'{')) {
        out.push(b',');
    }
    write_str(out, key);
    out.push(b':');
}

/// Appends an integer.
pub fn write_i64(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(number.to_string().as_bytes());
}

/// Appends a double in its shortest form with at most 16 decimals and without
/// an exponent; `null` for what JSON has no number for.
pub fn write_f64(out: &mut Vec<u8>, number: f64) {
    if number.is_finite() {
        out.extend_from_slice(short_decimals(number).as_bytes());
    } else {
        out.extend_from_slice(b"null");
    }
}

/// The text of a JSON number with at most 16 decimals: unchanged where it
/// already is (large integers and short decimals keep each digit), otherwise
/// as the nearest double in its shortest form. What an exponent makes of the
/// number of decimals is counted.
///
/// Some receivers store a number with more decimals as text.
pub fn short_number(raw: &str) -> Cow<'_, str> {
    if decimals(raw) <= MOST_DECIMALS {
        return Cow::Borrowed(raw);
    }
    match raw.parse::<f64>() {
        Ok(number) if number.is_finite() => Cow::Owned(short_decimals(number)),
        _ => Cow::Borrowed(raw),
    }
}

const MOST_DECIMALS: i64 = 16;

/// Digits after the point less the exponent.
fn decimals(raw: &str) -> i64 {
    let (digits, exponent) = match raw.find(['e', 'E']) {
        Some(at) => (raw.get(..at).unwrap_or_default(), raw.get(at + 1..).unwrap_or_default()),
        None => (raw, "0"),
    };
    let fraction = digits.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    let beyond = if exponent.starts_with('-') { -MOST_DECIMALS * 1000 } else { MOST_DECIMALS * 1000 };
    i64::try_from(fraction).unwrap_or(i64::MAX).saturating_sub(exponent.parse().unwrap_or(beyond))
}

fn short_decimals(number: f64) -> String {
    // Display never uses an exponent; -0 would come out as "-0".
    let number = if number == 0.0 { 0.0 } else { number };
    let shortest = number.to_string();
    if decimals(&shortest) <= MOST_DECIMALS {
        return shortest;
    }
    let rounded = format!("{number:.16}");
    let rounded = rounded.trim_end_matches('0');
    match rounded.strip_suffix('.') {
        Some("0" | "-0") => "0.0".to_owned(),
        Some(whole) => format!("{whole}.0"),
        None => rounded.to_owned(),
    }
}

/// How deep a value is nested: 0 for a string, number, boolean or null, 1 for
/// `[1]`, 2 for `[{}]`.
pub fn depth(value: Value<'_>) -> usize {
    match value.kind() {
        Kind::Array | Kind::Object => crate::message::depth(value.raw()),
        _ => 0,
    }
}

/// The same for the text of valid JSON.
pub fn text_depth(text: &str) -> usize {
    crate::message::depth(text)
}

/// What [`write_strict`] does with `null` as the value of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nulls {
    /// It stays.
    Keep,
    /// The key is left out.
    Drop,
}

/// Appends a value without the space between its parts and with each key of an
/// object once (its last value). `null` inside a list is refused, since some
/// receivers refuse it and leaving it out would move the others. Scalars are
/// copied as they are.
pub fn write_strict(out: &mut Vec<u8>, value: Value<'_>, nulls: Nulls) -> Result<()> {
    match value.kind() {
        Kind::Object => {
            out.push(b'{');
            for field in crate::message::parse_object(value.raw()).map_err(unreadable)? {
                if nulls == Nulls::Keep || !field.value.is_null() {
                    write_key(out, &field.key);
                    write_strict(out, field.value, nulls)?;
                }
            }
            out.push(b'}');
        }
        Kind::Array => {
            out.push(b'[');
            let elements: Vec<&serde_json::value::RawValue> =
                serde_json::from_str(value.raw()).map_err(unreadable)?;
            for (position, element) in elements.into_iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                let element = Value::new(element.get());
                if element.is_null() {
                    return Err(Reject::new("a list has `null` in it"));
                }
                write_strict(out, element, nulls)?;
            }
            out.push(b']');
        }
        _ => out.extend_from_slice(value.raw().as_bytes()),
    }
    Ok(())
}

fn unreadable(error: serde_json::Error) -> Reject {
    Reject::new(format!("a nested value cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn strict(raw: &str) -> Result<String> {
        let mut out = Vec::new();
        write_strict(&mut out, Value::new(raw), Nulls::Keep)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn numbers_keep_their_digits_up_to_16_decimals() {
        let table = [
            ("43", "43"),
            ("43.0", "43.0"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("0.1234567890123456", "0.1234567890123456"),
            ("0.30000000000000004", "0.3"),
            ("123456789.12345678901234567", "123456789.12345679"),
            ("1e-20", "0.0"),
            ("-1e-20", "0.0"),
            ("1e-9", "1e-9"),
            ("1e300", "1e300"),
            ("1e-99999999999999999999", "0.0"),
            ("2.00000000000000000000001", "2"),
            ("0.00000012345678901234567", "0.0000001234567890"),
        ];
        for (raw, expected) in table {
            let short = short_number(raw);
            let same = short == expected || short.parse::<f64>() == expected.parse::<f64>();
            assert!(same && decimals(&short) <= 16, "{raw}: {short}, expected {expected}");
        }
    }

    #[test]
    fn strict_values_lose_doubles_and_space_and_refuse_null_in_lists() {
        assert_eq!(strict(r#"{ "a" : [ 1 , {"b":null} ], "a" : "x y" }"#).unwrap(), r#"{"a":"x y"}"#);
        assert_eq!(strict(r#"[ 1.0 , {"b":null} ]"#).unwrap(), r#"[1.0,{"b":null}]"#);
        assert_eq!(strict("[1,[null]]").unwrap_err().reason(), "a list has `null` in it");
        assert_eq!(strict("[]").unwrap(), "[]");
        let mut out = Vec::new();
        write_strict(&mut out, Value::new(r#"{"a":null,"b":{"c":null,"d":1}}"#), Nulls::Drop).unwrap();
        assert_eq!(out, br#"{"b":{"d":1}}"#);
    }

    #[test]
    fn depth_counts_brackets_outside_strings() {
        assert_eq!(depth(Value::new("\"[[\"")), 0);
        assert_eq!(depth(Value::new(r#"["[\"[", {"a":[]}]"#)), 3);
    }

    proptest! {
        #[test]
        fn written_strings_read_back(text in "[a-c\"\\\\\u{0}-\u{21}\u{e9}\u{1f69a}]{0,30}") {
            let mut out = Vec::new();
            write_str(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn written_doubles_are_short_and_near(number in any::<f64>().prop_filter("finite", |n| n.is_finite())) {
            let mut out = Vec::new();
            write_f64(&mut out, number);
            let text = String::from_utf8(out).unwrap();
            prop_assert!(decimals(&text) <= 16);
            prop_assert!((text.parse::<f64>().unwrap() - number).abs() <= 1e-16);
            prop_assert!(serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok());
        }
    }
}
