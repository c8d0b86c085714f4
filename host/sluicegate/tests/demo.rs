//! The demo as a newcomer runs it, its output into a pipe: it says that all is
//! good, and why.

#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn the_demo_ends_well() {
    let output = Command::new(env!("CARGO_BIN_EXE_sluicegate"))
        .args(["demo", "--for", "45s", "--seed", "7"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let mut rest = &*text;
    for line in [
        "KILL -9 of the gateway",
        "It is back: ready ",
        "All have arrived, at all five receivers",
        "UNPLUGGED: one destination is away",
        "POISON: two messages that cannot be delivered",
        "EDITED: a script is saved while it runs, then a broken one",
        " has taken over, ",
        "Half of the mapper's WebAssembly is written over it",
        "Refused, ",
        "Good: every message is where it belongs",
    ] {
        let at = rest.find(line).unwrap_or_else(|| panic!("no line with {line:?} in its place in:\n{text}"));
        rest = &rest[at..];
    }
    for line in [
        "Wialon has caught up",
        "A dead letter in all five streams, which go on. The scripts: \"the payload is not one JSON object",
        "A dead letter in fleet-to-http, the good ones got through. The receiver: \"400 Bad Request: the message of",
    ] {
        assert!(text.contains(line), "no line with {line:?} in:\n{text}");
    }
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("Sent ") && last.contains(", missing 0, wrong bytes 0, repeats "), "{last}");
}

#[test]
fn a_demo_too_short_for_its_story_is_refused() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_sluicegate")).args(["demo", "--for", "5s"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("5s is too short for any of the story, expected at least 10 s"), "{text}");
}
