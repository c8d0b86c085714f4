#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::testing;

const PAYLOAD: &str = r#"{
    "ident": "86\u00e9", "empty": "", "n": 5, "neg": -2.5, "big": 9223372036854775807, "huge": 1e999,
    "yes": true, "no": false, "null": null, "list": [1], "object": {"in": 3, "deep": {"x": "y"}},
    "position": {"speed": 60, "valid": true}, "position.speed": 50, "odd-name": 7, "din.1": true, "has": 1
}"#;

fn holds(expression: &str) -> Result<bool, String> {
    let raw = testing::message(PAYLOAD);
    let message = Message::parse(0, &raw).unwrap();
    Ok(Condition::parse(expression)?.holds(&message))
}

#[test]
fn truth_table() {
    let table = [
        // comparisons of numbers
        ("n == 5", true),
        ("n == 5.0", true),
        ("n != 5", false),
        ("n < 5", false),
        ("n <= 5", true),
        ("n > 4.99", true),
        ("5 >= n", true),
        ("neg < -2", true),
        ("neg == -25e-1", true),
        ("big == 9223372036854775807", true),
        ("big == 9223372036854775806", false),
        ("big > n", true),
        // of text and booleans
        ("ident == \"86\u{e9}\"", true),
        ("ident == '86\u{e9}'", true),
        ("ident > '85'", true),
        ("empty == ''", true),
        ("ident == '\\8\\6\u{e9}'", true),
        ("yes == true", true),
        ("no != yes", true),
        ("yes", true),
        ("!no", true),
        ("true", true),
        ("false", false),
        // of different types
        ("ident == 86", false),
        ("ident != 86", true),
        ("ident > 5", false),
        ("!(ident > 5)", false),
        ("yes > no", false),
        ("!(yes > no)", false),
        ("list == 1", false),
        ("object != 1", true),
        ("n", false),
        ("!n", false),
        ("ident || true", false),
        // missing makes all false
        ("gone == 1", false),
        ("gone != 1", false),
        ("!(gone == 1)", false),
        ("gone", false),
        ("!gone", false),
        ("gone == 1 || true", false),
        ("true || gone == 1", true),
        ("false && gone == 1 || yes", true),
        ("n in [5] && gone in [1]", false),
        ("null == 1", false),
        ("msg[\"null\"] != 1", false),
        ("msg['huge'] > 5", true),
        // has
        ("has(n)", true),
        ("has(gone)", false),
        ("!has(gone)", true),
        ("!has(gone) || gone > 5", true),
        ("has(gone) && gone > 5", false),
        ("has(msg['null'])", false),
        ("has(position.speed)", true),
        ("has(position.valid)", true),
        ("has(list) && has(object)", true),
        ("has == 1", true),
        // flat first, then nested, odd names
        ("position.speed == 50", true),
        ("position.valid", true),
        ("object.deep.x == 'y'", true),
        ("object.in == 3", true),
        ("din.1", true),
        ("msg[\"odd-name\"] == 7", true),
        ("msg['position.valid']", true),
        // in
        ("n in [1, 5]", true),
        ("n in [1]", false),
        ("ident in ['a', '86\u{e9}', 3]", true),
        ("!(n in ['5'])", true),
        ("3 in [3]", true),
        // precedence and brackets
        ("true || true && false", true),
        ("(true || true) && false", false),
        ("!false && true", true),
        ("!(false && true)", true),
        ("!!yes", true),
        ("n>4&&n<6||no", true),
    ];
    for (expression, expected) in table {
        let expected = if expression.starts_with("null ") { Err(()) } else { Ok(expected) };
        assert_eq!(holds(expression).map_err(drop), expected, "{expression}");
    }
}

#[test]
fn errors_name_the_place_and_what_was_expected() {
    let table = [
        ("", "at 1: found the end, expected a field or a literal"),
        ("n =", "at 3: `=` means nothing here; equality is `==`"),
        ("n & m", "at 3: `&` means nothing here; write it twice"),
        ("$n", "at 1: `$` means nothing here; a field is written without it"),
        ("n > 5 x", "at 7: found `x`, expected `&&`, `||` or the end"),
        ("(n > 5", "at 7: found the end, expected `)`"),
        ("n == 'a", "at 6: the text has no closing '"),
        ("n == null", "at 6: `null` is not compared; ask with `has(field)`"),
        ("n in 5", "at 6: found `5`, expected `[`"),
        ("n in []", "at 7: found `]`, expected a field or a literal"),
        ("has('n')", "at 5: found \"n\", expected a field in `has()`"),
        ("msg[n]", "at 5: found `n`, expected a name in quotes in `msg[]`"),
        ("5", "at 2: found the end, expected a comparison after the literal"),
        ("n > 1.", "at 5: not a number"),
        ("n > 01", "at 5: not a number"),
        ("a..b", "at 1: `a..b` is no field name; write msg[\"a..b\"]"),
        ("1 < n < 5", "at 7: found `<`, expected `&&`, `||` or the end"),
        ("\u{e9} == 1", "at 1: `\u{e9}` means nothing here; other names are written msg[\"the name\"]"),
    ];
    for (expression, expected) in table {
        assert_eq!(holds(expression).unwrap_err(), expected, "{expression}");
    }
}

#[test]
fn depth_is_bounded() {
    let brackets = |n: usize| format!("{}yes{}", "(".repeat(n), ")".repeat(n));
    assert_eq!(holds(&brackets(50)), Ok(true));
    assert!(holds(&brackets(51)).is_err());
    assert!(holds(&"!".repeat(100_000)).is_err());
    let long = vec!["yes"; 10_000].join(" && ");
    assert_eq!(holds(&long), Ok(true));
}

#[test]
fn required_fields_must_be_there_and_not_null() {
    let raw = testing::message(PAYLOAD);
    let message = Message::parse(0, &raw).unwrap();
    let passes = |names: &[&str]| {
        Filter::new(names.iter().map(|&name| name.to_owned()).collect(), None).passes(&message)
    };
    assert!(passes(&[]));
    assert!(passes(&["n", "position.speed", "object.deep.x", "odd-name"]));
    assert!(!passes(&["n", "gone"]));
    assert!(!passes(&["null"]));
}

proptest! {
    #[test]
    fn no_expression_panics(expression in any::<String>()) {
        let _ = holds(&expression);
    }

    #[test]
    fn no_row_of_words_panics(words in prop::collection::vec(
        prop::sample::select(vec![
            "n", "gone", "yes", "5", "-1e3", "'x'", "msg[", "\"n\"", "]", "[", "(", ")", "has(", "!", "&&", "||",
            "==", "<", "in", ",", "true", "null",
        ]), 0..14)
    ) {
        let _ = holds(&words.join(" "));
    }
}
