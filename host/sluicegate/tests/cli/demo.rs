//! Runs the demo as a newcomer does, with its output in a pipe.

use std::process::Command;

#[test]
fn demo_passes() {
    let output = Command::new(env!("CARGO_BIN_EXE_sluicegate"))
        .args(["demo", "--for", "45s", "--seed", "7"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(widest <= 80, "a line of {widest} characters in:\n{text}");
    // A long line is continued under its first word.
    let story = text.replace("\n       ", " ");
    let mut rest = &*story;
    for line in [
        "KILL -9: the gateway process is killed",
        "The gateway is ready ",
        "All messages arrived at all five receivers (",
        "OUTAGE: one destination goes offline",
        "POISON: two messages that cannot be delivered",
        "HOT RELOAD: a running script is edited, then broken",
        " took over ",
        "Replaced the mapper's WebAssembly by its first half",
        "Rejected; ",
        "PASSED: every message arrived",
    ] {
        let at = rest.find(line).unwrap_or_else(|| panic!("no line with {line:?} in its place in:\n{text}"));
        rest = &rest[at..];
    }
    for line in [
        "Wialon caught up",
        "One dead letter in each of the five streams. Reason: \"the payload is not one JSON object",
        "One dead letter in http; the good messages arrived. Reply: \"400 Bad Request: the message of",
    ] {
        assert!(story.contains(line), "no line with {line:?} in:\n{text}");
    }
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("Sent ") && last.contains(", missing 0, wrong bytes 0, duplicates "), "{last}");
}

#[test]
fn demo_rejects_too_short_duration() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_sluicegate")).args(["demo", "--for", "5s"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("5s is too short to show anything, expected at least 10 s"), "{text}");
}
