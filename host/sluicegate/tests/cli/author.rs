//! The way of an author of a script in Rust: new, build, inspect, test, map,
//! with the tool chain that makes the official adapters.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A place where an author works.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Runs `sluicegate` in that place, with `input` to read.
    fn sluicegate(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sluicegate"))
            .args(arguments)
            .current_dir(self.0.path())
            // What one run has compiled, the next one finds.
            .env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("author"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// What it prints if it ends well.
    fn good(&self, arguments: &[&str], input: &str) -> String {
        let output = self.sluicegate(arguments, input);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// What it prints, and says of why, if it ends with status 1.
    fn bad(&self, arguments: &[&str]) -> (String, String) {
        let output = self.sluicegate(arguments, "");
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {out}{err}");
        (out, err)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// Edits a file. What it replaces has to be there.
    fn edit(&self, path: &str, from: &str, to: &str) {
        let file = self.path(path);
        let before = fs::read_to_string(&file).unwrap();
        assert!(before.contains(from), "{path} has no {from:?}");
        fs::write(file, before.replace(from, to)).unwrap();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const SOURCE: &str = "speed/src/lib.rs";
const SETTINGS: &str = r#"{"topic":"fleet/{ident}/speed"}"#;
const BODY: &str = "let mut body = Vec::new();";

#[test]
fn from_an_idea_to_an_adapter() {
    let desk = Desk::new();
    desk.good(&["new", "speed", "--lang", "rust"], "");
    // The crates that are here already, in the versions that we test with.
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.lock"), desk.path("speed/Cargo.lock"))
        .unwrap();

    let built = desk.good(&["build", "speed"], "");
    assert!(built.starts_with("speed 0.1.0: speed/speed.wasm\n"), "{built}");
    assert!(built.contains("the manifest and 3 cases"), "{built}");
    fs::copy(desk.path("speed/speed.wasm"), desk.path("alone.wasm")).unwrap();
    let anatomy = desk.good(&["inspect", "alone.wasm"], "");
    assert!(anatomy.starts_with("speed 0.1.0\n"), "{anatomy}");
    assert!(anatomy.contains("\n3 cases\n") && anatomy.contains("(required)"), "{anatomy}");
    for script in ["speed", "alone.wasm"] {
        let tested = desk.good(&["test", script], "");
        assert!(tested.ends_with("\n3 passed, 0 failed\n"), "{tested}");
    }

    // Who stands still is of no interest, says the author, and the cases say no.
    desk.edit(
        SOURCE,
        "let speed = match",
        "if speed == 0.0 { return Ok(Mapped::Filtered) }\n        let speed = match",
    );
    let (tested, _) = desk.bad(&["test", "speed"]);
    assert!(tested.contains("\nFAIL  a-speed-is-published\n"), "{tested}");
    assert!(tested.contains("\n    + {\"message\":1,\"filtered\":true}\n"), "{tested}");
    assert!(tested.ends_with("\n2 passed, 1 failed\n"), "{tested}");
    let blessed = desk.good(&["test", "speed", "--bless"], "");
    assert!(blessed.ends_with("\n2 passed, 0 failed, 1 blessed\n"), "{blessed}");
    desk.good(&["test", "speed"], "");

    // A panic takes its message along and tells where it was.
    desk.edit(SOURCE, BODY, "assert!(speed < 500.0, \"{speed} is too fast\"); let mut body = Vec::new();");
    desk.good(&["build", "speed"], "");
    let messages =
        [60, 900].map(|speed| format!(r#"{{"ident":"1","timestamp":1,"position.speed":{speed}}}"#));
    let map = ["map", "--script", "speed", "--settings", SETTINGS];
    let output = desk.sluicegate(&map, &messages.join("\n"));
    assert_eq!(output.status.code(), Some(1), "the script failed on a message");
    let mapped = text(&output.stdout);
    let (first, second) = mapped.trim().split_once('\n').unwrap();
    assert!(first.starts_with(r#"{"messages":[0],"target":"fleet/1/speed""#), "{first}");
    assert!(second.starts_with(r#"{"message":1,"rejected":"the script trapped: "#), "{second}");
    assert!(second.contains("it had logged: panicked at src/lib.rs:"), "{second}");
    assert!(second.contains(": 900 is too fast"), "{second}");

    // What does not compile leaves what was built.
    let before = fs::read(desk.path("speed/speed.wasm")).unwrap();
    desk.edit(SOURCE, BODY, "let mut body = ;");
    for command in ["build", "test"] {
        let (_, error) = desk.bad(&[command, "speed"]);
        assert!(
            error.contains("expected expression") && error.contains("speed: it does not compile"),
            "{error}"
        );
    }
    assert_eq!(fs::read(desk.path("speed/speed.wasm")).unwrap(), before);
}
