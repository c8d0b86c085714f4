//! Shadow update documents: the client token that answers are paired by, and
//! the one document that has the effect of two. Source: AWS IoT developer
//! guide, "Device Shadow service documents".

use std::fmt::Write;

use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// Largest state document after a merge in the shadow, bytes.
const MAX_STATE: usize = 8 * 1024;

/// The `clientToken` of a document; the error says what is wrong with the body.
pub(super) fn token(body: &[u8]) -> Result<Option<String>, String> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(rename = "clientToken")]
        token: Option<String>,
    }
    // serde_json looks into no string that it skips: UTF-8 is checked here.
    let text =
        std::str::from_utf8(body).map_err(|e| format!("the body of a shadow update is not UTF-8: {e}"))?;
    if body.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Err("the body of a shadow update is not a JSON object".to_owned());
    }
    serde_json::from_str::<Document>(text)
        .map(|document| document.token)
        .map_err(|e| format!("the body of a shadow update cannot be read: {e}"))
}

/// Two updates as one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Merged {
    pub(super) body: Vec<u8>,
    pub(super) token: String,
}

/// The document with the effect of `older` followed by `newer` on every
/// shadow; none where there is no such document, or it would be too large, or
/// one of the two holds more than state and token (a `version` speaks of the
/// one update only).
pub(super) fn merge(older: &[u8], newer: &[u8]) -> Option<Merged> {
    let (older, older_token) = parts(older)?;
    let (newer, newer_token) = parts(newer)?;
    let state = compose(Value::Object(older), Value::Object(newer))?;
    let text = serde_json::to_string(&state).ok()?;
    if text.len() > MAX_STATE {
        return None;
    }
    // New bytes, new token: an answer to either of the two is not for this one.
    let digest = Sha256::new()
        .chain_update(older_token.as_bytes())
        .chain_update([0])
        .chain_update(newer_token.as_bytes())
        .chain_update([0])
        .chain_update(text.as_bytes())
        .finalize();
    let mut token = String::with_capacity(32);
    for byte in digest.iter().take(16) {
        write!(token, "{byte:02x}").ok()?;
    }
    let body = format!(r#"{{"state":{text},"clientToken":"{token}"}}"#).into_bytes();
    Some(Merged { body, token })
}

fn parts(body: &[u8]) -> Option<(Map<String, Value>, String)> {
    let Value::Object(mut document) = serde_json::from_slice(body).ok()? else { return None };
    let Value::String(token) = document.remove("clientToken")? else { return None };
    let Value::Object(state) = document.remove("state")? else { return None };
    let section = |(name, value): (&String, &Value)| {
        matches!(name.as_str(), "reported" | "desired") && (value.is_object() || value.is_null())
    };
    (document.is_empty() && state.iter().all(section)).then_some((state, token))
}

/// Objects merge, anything else replaces, null stays (it deletes in the
/// shadow). Where the older one sets or deletes a value and the newer one goes
/// into an object there, no single patch says "replace by this object".
fn compose(older: Value, newer: Value) -> Option<Value> {
    match (older, newer) {
        (Value::Object(mut older), Value::Object(newer)) => {
            for (name, value) in newer {
                match older.get_mut(&name) {
                    Some(place) => *place = compose(place.take(), value)?,
                    None => {
                        older.insert(name, value);
                    }
                }
            }
            Some(Value::Object(older))
        }
        (_, Value::Object(_)) => None,
        (_, newer) => Some(newer),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn merged(older: &str, newer: &str) -> Option<String> {
        let document = |state: &str, token| format!(r#"{{"state":{state},"clientToken":"{token}"}}"#);
        let merged = merge(document(older, "t1").as_bytes(), document(newer, "t2").as_bytes())?;
        let value: Value = serde_json::from_slice(&merged.body).unwrap();
        assert_eq!(value["clientToken"], merged.token);
        assert_eq!(token(&merged.body).unwrap().as_ref(), Some(&merged.token));
        assert_eq!(merged.token.len(), 32);
        Some(value["state"].to_string())
    }

    #[test]
    fn fields_are_united_and_the_newer_value_wins() {
        assert_eq!(
            merged(
                r#"{"reported":{"a":1,"b":{"c":1,"d":[1,2]}}}"#,
                r#"{"reported":{"b":{"d":[3]},"e":null}}"#
            )
            .unwrap(),
            r#"{"reported":{"a":1,"b":{"c":1,"d":[3]},"e":null}}"#
        );
        assert_eq!(
            merged(r#"{"reported":{"a":1}}"#, r#"{"desired":{"a":2},"reported":null}"#).unwrap(),
            r#"{"reported":null,"desired":{"a":2}}"#
        );
    }

    #[test]
    fn the_text_of_numbers_survives() {
        assert_eq!(
            merged(
                r#"{"reported":{"a":1.10,"b":123456789012345678901234567890}}"#,
                r#"{"reported":{"c":1e-7}}"#
            )
            .unwrap(),
            r#"{"reported":{"a":1.10,"b":123456789012345678901234567890,"c":1e-7}}"#
        );
    }

    #[test]
    fn what_cannot_be_one_document() {
        // Sequentially `x` ends as {"q":2}; a merged patch would keep what the shadow had in it.
        assert_eq!(merged(r#"{"reported":{"x":null}}"#, r#"{"reported":{"x":{"q":2}}}"#), None);
        assert_eq!(merged(r#"{"reported":{"x":5}}"#, r#"{"reported":{"x":{"q":2}}}"#), None);
        assert_eq!(merged(r#"{"reported":null}"#, r#"{"reported":{"q":2}}"#), None);
        let half = "x".repeat(5000);
        assert!(merged(&format!(r#"{{"reported":{{"a":"{half}"}}}}"#), r#"{"reported":{"b":1}}"#).is_some());
        assert_eq!(
            merged(
                &format!(r#"{{"reported":{{"a":"{half}"}}}}"#),
                &format!(r#"{{"reported":{{"b":"{half}"}}}}"#)
            ),
            None
        );
    }

    #[test]
    fn what_is_not_a_plain_update_is_left_alone() {
        let good = br#"{"state":{"reported":{}},"clientToken":"t"}"#;
        assert!(merge(good, good).is_some());
        for other in [
            r#"{"state":{"reported":{}},"clientToken":"t","version":3}"#,
            r#"{"state":{"reported":{}}}"#,
            r#"{"state":{"reported":5},"clientToken":"t"}"#,
            r#"{"state":{"other":{}},"clientToken":"t"}"#,
            r#"{"state":null,"clientToken":"t"}"#,
            r#"{"clientToken":"t"}"#,
            "[]",
            "no JSON",
        ] {
            assert_eq!(merge(good, other.as_bytes()), None, "{other}");
            assert_eq!(merge(other.as_bytes(), good), None, "{other}");
        }
    }

    #[test]
    fn tokens() {
        assert_eq!(token(br#" {"state":{},"clientToken":"t"}"#), Ok(Some("t".to_owned())));
        assert_eq!(token(b"{}"), Ok(None));
        for bad in [&b"[\"t\"]"[..], b"", b"{\"clientToken\":5}", b"{\"a\":}", b"{\"a\":\"\xff\"}", b"{} x"] {
            assert!(token(bad).is_err(), "{bad:?}");
        }
    }

    /// What AWS does with an update: RFC 7386 on the sections.
    fn apply(target: &Value, patch: &Value) -> Value {
        let Value::Object(patch) = patch else { return patch.clone() };
        let mut result = target.as_object().cloned().unwrap_or_default();
        for (name, value) in patch {
            if value.is_null() {
                result.remove(name);
            } else {
                let old = result.get(name).cloned().unwrap_or(Value::Null);
                result.insert(name.clone(), apply(&old, value));
            }
        }
        Value::Object(result)
    }

    /// Few names and shallow values, so that the two often meet.
    fn section() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            (0..3_i32).prop_map(Value::from),
            Just(json!([1, 2])),
            Just(json!("text")),
        ];
        let value = leaf.prop_recursive(3, 12, 3, |inner| {
            proptest::collection::hash_map("[abc]", inner, 0..3)
                .prop_map(|m| Value::Object(m.into_iter().collect()))
        });
        proptest::collection::hash_map("[abc]", value, 0..4)
            .prop_map(|m| Value::Object(m.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn one_after_the_other_is_the_same_as_both_at_once(shadow in section(), a in section(), b in section()) {
            // A shadow itself holds no nulls.
            let shadow = apply(&json!({}), &shadow);
            let document = |section: &Value, token: &str| json!({"state": {"reported": section}, "clientToken": token}).to_string();
            let Some(both) = merge(document(&a, "t1").as_bytes(), document(&b, "t2").as_bytes()) else { return Ok(()) };
            let both: Value = serde_json::from_slice(&both.body).unwrap();
            let sequentially = apply(&apply(&shadow, &a), &b);
            prop_assert_eq!(apply(&shadow, &both["state"]["reported"]), sequentially);
        }

        /// Updates with the same fields, the usual case, always merge.
        #[test]
        fn flat_updates_always_merge(a in 0..9_i32, b in 0..9_i32) {
            let document = |n: i32| json!({"state": {"reported": {"n": n, "p": {"q": n}}}, "clientToken": "t"}).to_string();
            let both = merge(document(a).as_bytes(), document(b).as_bytes()).unwrap();
            let both: Value = serde_json::from_slice(&both.body).unwrap();
            prop_assert_eq!(&both["state"]["reported"], &json!({"n": b, "p": {"q": b}}));
        }
    }
}
