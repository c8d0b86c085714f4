//! A payload that is a JSON list is as many messages as it has elements.

use std::sync::Arc;

use bytes::Bytes;
use message::{Message, unix_millis};
use serde_json::value::RawValue;

/// Most elements that one payload is split into. A list of a million numbers
/// would cost fifty times its size in memory; it stays one message, for the
/// script to reject.
const MAX_ELEMENTS: usize = 100_000;

/// Most bytes of topic that the elements of one payload have together: the
/// journal keeps each with its topic, and a long topic over a list of small
/// numbers would become gigabytes.
const MAX_TOPICS: usize = 4 << 20;

/// The messages of one publish: one, or the elements of a JSON list, which
/// share its topic, its time and its memory.
pub(super) fn messages(topic: Arc<str>, payload: Bytes) -> Vec<Message> {
    let received_at = unix_millis();
    match elements(topic.len(), &payload) {
        Some(elements) => elements
            .into_iter()
            .map(|payload| Message { topic: topic.clone(), payload, received_at })
            .collect(),
        None => vec![Message { topic, payload, received_at }],
    }
}

/// The elements as slices of the payload; none where it is no list, or not
/// readable as one, or would take too much room.
fn elements(topic: usize, payload: &Bytes) -> Option<Vec<Bytes>> {
    if payload.trim_ascii_start().first() != Some(&b'[') {
        return None;
    }
    let elements: Vec<&RawValue> = serde_json::from_slice(payload).ok()?;
    let limit = MAX_ELEMENTS.min(MAX_TOPICS / topic.max(1));
    if elements.len() > limit {
        tracing::warn!(elements = elements.len(), limit, "list not split: too many elements");
        return None;
    }
    Some(elements.into_iter().map(|element| payload.slice_ref(element.get().as_bytes())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(payload: &str) -> Vec<String> {
        messages("t".into(), payload.to_owned().into())
            .iter()
            .map(|m| String::from_utf8_lossy(&m.payload).into_owned())
            .collect()
    }

    #[test]
    fn a_list_is_its_elements_as_they_were_written() {
        assert_eq!(
            split(r#" [ {"a": 1.50} ,[2], "x,]" ,null]"#),
            [r#"{"a": 1.50}"#, "[2]", r#""x,]""#, "null"]
        );
        assert_eq!(split("[]"), Vec::<String>::new());
    }

    #[test]
    fn what_is_no_list_stays_whole() {
        for payload in [r#"{"a":[1,2]}"#, "", "[1,2", "[1,]", "[1] x", "text"] {
            assert_eq!(split(payload), [payload]);
        }
        let raw = Bytes::from_static(b"[\"\xff\"]");
        assert_eq!(messages("t".into(), raw.clone())[0].payload, raw);
    }

    #[test]
    fn a_list_that_is_too_long_stays_whole() {
        let long = format!("[{}1]", "1,".repeat(MAX_ELEMENTS));
        assert_eq!(split(&long).len(), 1);
        let most = format!("[{}1]", "1,".repeat(MAX_ELEMENTS - 1));
        assert_eq!(split(&most).len(), MAX_ELEMENTS);
    }

    #[test]
    fn a_long_topic_is_not_multiplied_without_bound() {
        let topic: Arc<str> = "t".repeat(65_535).into();
        let list = |elements: usize| Bytes::from(format!("[{}1]", "1,".repeat(elements - 1)));
        assert_eq!(messages(topic.clone(), list(64)).len(), 64);
        assert_eq!(messages(topic, list(65)).len(), 1);
    }
}
