#![allow(clippy::unwrap_used)]

use serde::Deserialize;

use super::*;
use crate::testing;

#[derive(Debug, Deserialize)]
struct Each {
    #[serde(default)]
    shortest: usize,
}

impl Script for Each {
    fn check(&self) -> Result<(), String> {
        if self.shortest > 9 {
            Err(format!("`shortest` = {}: expected 0 to 9", self.shortest))
        } else {
            Ok(())
        }
    }

    fn map(&self, message: &Message<'_>) -> Result<Mapped> {
        let ident = message.ident()?;
        Ok(match message.i64("copies")? {
            Some(0) => Mapped::Filtered,
            Some(copies) => (0..copies).map(|_| message.delivery(&*ident)).collect::<Vec<_>>().into(),
            None => message.delivery(&*ident).to("up").header("k", "v").into(),
        })
    }
}

#[derive(Debug, Deserialize)]
struct Together;

impl BatchScript for Together {
    fn map_batch(&self, messages: &[Message<'_>], output: &mut Output) {
        let (with, without): (Vec<_>, Vec<_>) = messages.iter().partition(|m| m.get("n").is_some());
        without.into_iter().for_each(|message| output.reject(message, "no n"));
        if !with.is_empty() {
            output.deliver(Delivery::new(with.iter().map(|m| m.index()).collect(), "x"));
        }
    }
}

fn printed<S: BatchScript>(settings: &str, payloads: &[&str]) -> String {
    let batch: Vec<_> = payloads.iter().map(|payload| testing::message(*payload)).collect();
    let mut printed = String::new();
    testing::print_mapping(&mut printed, &Instance::<S>::configure(settings).unwrap().transform(&batch), 0);
    printed
}

#[test]
fn each_message_has_its_own_outcome() {
    let payloads = [
        r#"{"ident":"a"}"#,
        "broken",
        r#"{"ident":"b","copies":2}"#,
        r#"{"x":1}"#,
        r#"{"ident":"c","copies":0}"#,
        r#"{"ident":"e","copies":"x"}"#,
    ];
    assert_eq!(
        printed::<Each>("{}", &payloads),
        r#"{"messages":[0],"target":"up","headers":{"k":"v"},"body":"a"}
{"messages":[2],"target":null,"headers":{},"body":"b"}
{"messages":[2],"target":null,"headers":{},"body":"b"}
{"message":1,"rejected":"the payload is not one JSON object: expected value at line 1 column 1"}
{"message":3,"rejected":"the message has no `ident`"}
{"message":5,"rejected":"`copies` is \"x\", expected an integer of 64 bits"}
{"message":4,"filtered":true}
"#
    );
    assert_eq!(
        printed::<Each>(r#"{"require":["ident"],"where":"!has(copies) || copies > 0"}"#, &payloads[2..]),
        r#"{"messages":[0],"target":null,"headers":{},"body":"b"}
{"messages":[0],"target":null,"headers":{},"body":"b"}
{"message":1,"filtered":true}
{"message":2,"filtered":true}
{"message":3,"filtered":true}
"#
    );
}

#[test]
fn a_batch_is_mapped_as_a_whole() {
    let payloads = [r#"{"n":1}"#, "[]", r#"{"n":2,"skip":true}"#, "{}", r#"{"n":3}"#];
    assert_eq!(
        printed::<Together>(r#"{"where":"!has(skip)"}"#, &payloads),
        r#"{"messages":[0,4],"target":null,"headers":{},"body":"x"}
{"message":1,"rejected":"the payload is not one JSON object: invalid type: sequence, expected an object at line 1 column 0"}
{"message":3,"rejected":"no n"}
{"message":2,"filtered":true}
"#
    );
}

#[test]
fn the_scripts_own_check_is_asked() {
    let error = Instance::<Each>::configure(r#"{"shortest":10}"#).unwrap_err();
    assert_eq!(error, "`shortest` = 10: expected 0 to 9");
}

#[test]
fn long_reasons_are_cut() {
    let payload = format!(r#"{{"ident":"a","copies":"{}"}}"#, "\u{e9}".repeat(9_000));
    assert!(printed::<Each>("{}", &[&payload]).chars().count() < 200);
    let raw = testing::message("{}");
    let mut output = Output { mapping: Mapping { deliveries: vec![], rejections: vec![], filtered: vec![] } };
    output.reject(&Message::parse(0, &raw).unwrap(), "\u{e9}".repeat(9_000));
    assert_eq!(output.mapping.rejections[0].reason, format!("{}...", "\u{e9}".repeat(500)));
}
