//! What may be published to AWS IoT Core. It answers a broken rule by closing
//! the connection, which carries all devices of the stream, so every rule is
//! checked before. Source: AWS IoT developer guide ("Reserved topics", "AWS
//! IoT Device Shadow service") and "AWS IoT Core endpoints and quotas".

use super::document;
use crate::Delivery;
use crate::mqtt::rules::{check_publish, check_topic};

/// The header that repeats the `clientToken` of a shadow update's body.
pub(super) const CLIENT_TOKEN: &str = "client-token";
/// Longest client token, bytes.
const MAX_TOKEN: usize = 64;
/// Largest payload, bytes.
const MAX_PAYLOAD: usize = 128 * 1024;
/// Longest topic, bytes.
const MAX_TOPIC: usize = 256;
/// Maximum number of slashes in a topic.
const MAX_SLASHES: usize = 7;
/// Longest name of a thing and of a shadow, characters.
const MAX_THING: usize = 128;
const MAX_SHADOW: usize = 64;
/// Longest client id, bytes.
pub(super) const MAX_CLIENT_ID: usize = 128;

/// Whether the delivery may be sent at all.
pub(super) fn check(delivery: &Delivery) -> Result<(), String> {
    let Some(topic) = delivery.target.as_deref() else {
        return Err(
            "the delivery has no target; expected $aws/things/<thing>/shadow/update or a topic".to_owned()
        );
    };
    if topic.starts_with('$') {
        check_shadow_topic(topic)?;
        check_token(delivery)?;
    } else {
        check_topic(topic)?;
    }
    if topic.len() > MAX_TOPIC {
        return Err(format!("the topic has {} bytes; AWS IoT allows {MAX_TOPIC}", topic.len()));
    }
    let slashes = topic.matches('/').count();
    if slashes > MAX_SLASHES {
        return Err(format!("the topic {topic:?} has {slashes} slashes; AWS IoT allows {MAX_SLASHES}"));
    }
    if delivery.body.len() > MAX_PAYLOAD {
        return Err(format!("the body has {} bytes; AWS IoT allows {MAX_PAYLOAD}", delivery.body.len()));
    }
    check_publish(topic, delivery)
}

/// Topic of the shadow that the delivery updates.
pub(super) fn shadow_update(delivery: &Delivery) -> Option<&str> {
    delivery.target.as_deref().filter(|topic| topic.starts_with('$'))
}

/// What a rejection of this shadow update will be recognised by: its topic and
/// client token.
pub(super) fn answer(delivery: &Delivery) -> Option<(String, String)> {
    let topic = shadow_update(delivery)?;
    let token = match delivery.header(CLIENT_TOKEN) {
        Some(token) => token.to_owned(),
        None => document::token(&delivery.body).ok()??,
    };
    Some((topic.to_owned(), token))
}

fn check_shadow_topic(topic: &str) -> Result<(), String> {
    let wrong = || {
        format!(
            "the topic {topic:?} is reserved; expected $aws/things/<thing>/shadow/update or \
             $aws/things/<thing>/shadow/name/<shadow>/update"
        )
    };
    let (thing, rest) =
        topic.strip_prefix("$aws/things/").and_then(|t| t.split_once('/')).ok_or_else(wrong)?;
    check_name("thing name", thing, MAX_THING, "a-z A-Z 0-9 : _ -", |c| {
        c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '-')
    })?;
    if rest == "shadow/update" {
        return Ok(());
    }
    let shadow =
        rest.strip_prefix("shadow/name/").and_then(|r| r.strip_suffix("/update")).ok_or_else(wrong)?;
    check_name("shadow name", shadow, MAX_SHADOW, "a-z A-Z 0-9 $ : _ -", |c| {
        c.is_ascii_alphanumeric() || matches!(c, '$' | ':' | '_' | '-')
    })
}

fn check_name(
    what: &str,
    name: &str,
    max: usize,
    set: &str,
    allowed: fn(char) -> bool,
) -> Result<(), String> {
    if let Some(c) = name.chars().find(|c| !allowed(*c)) {
        return Err(format!("the {what} {name:?} contains {c:?}; AWS IoT allows {set}"));
    }
    if name.is_empty() || name.len() > max {
        return Err(format!("the {what} {name:?} has {} characters; AWS IoT allows 1 to {max}", name.len()));
    }
    Ok(())
}

/// Without a token that the service can repeat, a rejection would go unheard.
fn check_token(delivery: &Delivery) -> Result<(), String> {
    let in_body = document::token(&delivery.body)?.ok_or(
        "the shadow update has no `clientToken` in its body, by which a rejection could be recognised"
            .to_owned(),
    )?;
    if in_body.is_empty() || in_body.len() > MAX_TOKEN {
        return Err(format!("the clientToken has {} bytes; AWS IoT allows 1 to {MAX_TOKEN}", in_body.len()));
    }
    match delivery.header(CLIENT_TOKEN) {
        Some(header) if header != in_body => Err(format!(
            "the header `{CLIENT_TOKEN}` says {header:?} and the body's clientToken {in_body:?}; expected the same"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::mqtt::testing::delivery;

    const UPDATE: &str = r#"{"state":{"reported":{}},"clientToken":"t"}"#;

    fn said(topic: &str) -> String {
        check(&delivery(topic, &[], UPDATE)).unwrap_err()
    }

    #[test]
    fn shadow_topics() {
        let longest = format!("$aws/things/{}/shadow/name/{}/update", "t".repeat(128), "s".repeat(64));
        for good in
            ["$aws/things/a:b_c-9/shadow/update", "$aws/things/T/shadow/name/$s:_-/update", longest.as_str()]
        {
            assert_eq!(check(&delivery(good, &[], UPDATE)), Ok(()), "{good}");
        }
        for reserved in [
            "$aws/things/T/shadow/get",
            "$aws/things/T/shadow/update/accepted",
            "$aws/things/T/shadow/name/s/x/update",
            "$aws/rules/r/x",
            "$SYS/x",
            "$aws/things/T",
        ] {
            let said = said(reserved);
            assert!(said.contains("reserved") || said.contains("shadow name"), "{said}");
        }
        assert!(said("$aws/things/a b/shadow/update").contains("contains ' '"));
        assert!(said("$aws/things/ä/shadow/update").contains("contains 'ä'"));
        assert!(said("$aws/things/+/shadow/update").contains("contains '+'"));
        assert!(said("$aws/things//shadow/update").contains("1 to 128"));
        assert!(said(&format!("$aws/things/{}/shadow/update", "t".repeat(129))).contains("129 characters"));
        assert!(
            said(&format!("$aws/things/T/shadow/name/{}/update", "s".repeat(65))).contains("65 characters")
        );
    }

    #[test]
    fn plain_topics() {
        let check = |topic: &str, body: usize| check(&delivery(topic, &[], "x".repeat(body)));
        assert_eq!(check("a/b/c/d/e/f/g/h", 131_072), Ok(()));
        assert!(check("a/b/c/d/e/f/g/h/i", 1).unwrap_err().contains("8 slashes"));
        assert!(check("a", 131_073).unwrap_err().contains("131073 bytes"));
        assert_eq!(check(&"x".repeat(256), 1), Ok(()));
        assert!(check(&"x".repeat(257), 1).unwrap_err().contains("257 bytes"));
        assert!(check("a/#", 1).is_err());
        assert!(check("", 1).is_err());
    }

    #[test]
    fn tokens() {
        let check = |headers: &[(&str, &str)], body: &str| {
            check(&delivery("$aws/things/T/shadow/update", headers, body.to_owned()))
        };
        assert_eq!(check(&[("Client-Token", "t")], UPDATE), Ok(()));
        assert!(check(&[("client-token", "u")], UPDATE).unwrap_err().contains("expected the same"));
        assert!(check(&[("client-token", "t")], r#"{"state":{}}"#).unwrap_err().contains("no `clientToken`"));
        assert!(check(&[], "[]").unwrap_err().contains("not a JSON object"));
        let long = format!(r#"{{"state":{{}},"clientToken":"{}"}}"#, "t".repeat(65));
        assert!(check(&[], &long).unwrap_err().contains("65 bytes"));
        assert!(check(&[], r#"{"clientToken":""}"#).is_err());
    }
}
