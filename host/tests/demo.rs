//! The demo as a newcomer runs it, its output into a pipe: it says that all is
//! good, and why.

#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn the_demo_ends_well() {
    let output = Command::new(env!("CARGO_BIN_EXE_sluicegate"))
        .args(["demo", "--for", "30s", "--seed", "7"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    for line in [
        "Something poisonous is published",
        "All five streams have set it aside",
        "The Wialon receiver is unplugged",
        "Wialon has caught up",
        "fleet-to-http has set it aside",
        "Good: every message is where it belongs",
    ] {
        assert!(text.contains(line), "no line with {line:?} in:\n{text}");
    }
}

#[test]
fn a_demo_too_short_for_its_story_is_refused() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_sluicegate")).args(["demo", "--for", "5s"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("5s is too short for the story, expected at least 30 s"), "{text}");
}
