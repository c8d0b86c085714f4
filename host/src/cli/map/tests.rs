#![allow(clippy::unwrap_used)]
use clap::Parser;

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    map: MapArgs,
}

/// Delivers the payload; rejects, filters or traps by its first letter.
fn guest() -> Vec<u8> {
    let (prelude, rest) = (include_str!("../../script/tests/prelude.wat"), include_str!("guest.wat"));
    wat::parse_str(format!("(module {prelude} {rest})")).unwrap()
}

fn args(more: &[&str]) -> Result<MapArgs, clap::Error> {
    Ok(Cli::try_parse_from(["map"].iter().chain(more))?.map)
}

/// What is printed for this input, and whether all went well.
async fn mapped(more: &[&str], input: &[u8]) -> Result<(String, bool), MapError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest.wasm");
    std::fs::write(&path, guest()).unwrap();
    let args = args(&[&["--script", path.to_str().unwrap()], more].concat()).unwrap();
    let mut out = Vec::new();
    let well = map(&args, input, &mut out).await?;
    Ok((String::from_utf8(out).unwrap(), well))
}

#[tokio::test]
async fn prints_one_line_for_each_fate() {
    let (printed, well) = mapped(&[], b"plain\nrejected\nfiltered\n\xff\xfe\n\"quoted\"").await.unwrap();
    assert_eq!(
        printed,
        r#"{"messages":[0],"target":"t/1","headers":{"b":"1","a":"2"},"body":"plain"}
{"messages":[3],"target":"t/1","headers":{"b":"1","a":"2"},"body_base64":"//4="}
{"messages":[4],"target":"t/1","headers":{"b":"1","a":"2"},"body":"\"quoted\""}
{"message":1,"rejected":"because"}
{"message":2,"filtered":true}
"#
    );
    assert!(well, "a rejection is no failure unless asked");
}

#[tokio::test]
async fn numbers_go_on_from_batch_to_batch() {
    let (printed, _) = mapped(&["--batch", "2"], b"a\nfiltered\nc\nrejected\n").await.unwrap();
    let numbers: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(numbers[0]["messages"][0], 0);
    assert_eq!(numbers[1]["message"], 1);
    assert_eq!(numbers[2]["messages"][0], 2);
    assert_eq!(numbers[3]["message"], 3);
}

#[tokio::test]
async fn strict_makes_a_rejection_a_failure() {
    assert!(!mapped(&["--strict"], b"rejected\n").await.unwrap().1);
    assert!(mapped(&["--strict"], b"plain\nfiltered\n").await.unwrap().1);
}

#[tokio::test]
async fn a_message_that_traps_takes_no_other_along() {
    let (printed, well) = mapped(&[], b"one\nXtraps\nthree\n").await.unwrap();
    let lines: Vec<&str> = printed.lines().collect();
    assert!(lines[0].starts_with(r#"{"messages":[0]"#), "{printed}");
    assert!(lines[1].starts_with(r#"{"message":1,"rejected":"the script trapped: "#), "{printed}");
    assert!(lines[2].starts_with(r#"{"messages":[2]"#), "{printed}");
    assert!(!well);
}

#[tokio::test]
async fn an_empty_input_prints_nothing_and_an_empty_line_is_a_message() {
    assert_eq!(mapped(&[], b"").await.unwrap().0, "");
    assert_eq!(mapped(&[], b"\n").await.unwrap().0.lines().count(), 1);
}

#[tokio::test]
async fn errors_say_where_and_what_was_expected() {
    let text = async |more: &[&str]| {
        let args = args(more).unwrap();
        map(&args, &b""[..], Vec::new()).await.unwrap_err().to_string()
    };
    assert_eq!(
        text(&["--script", "/nowhere.wasm"]).await,
        "/nowhere.wasm: No such file or directory (os error 2)"
    );
    assert_eq!(
        text(&["--adapter", "aws"]).await,
        "--adapter aws: there is no such official adapter; there are \
         aws-shadow, thingsboard-gateway, wialon-retranslator, http-json, mqtt-json"
    );
    assert_eq!(
        text(&["--adapter", "mqtt-json", "--settings", "[]"]).await,
        "--settings: it is JSON, but no object; expected one JSON object, for example {\"fields\":[\"ident\"]}"
    );
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let wrong = text(&["--adapter", "mqtt-json", "--settings", &format!("@{manifest}")]).await;
    assert!(wrong.starts_with(&format!("{manifest}: expected value at line 1")), "{wrong}");
    let wrong = text(&["--script", manifest]).await;
    assert!(wrong.starts_with(&format!("{manifest}: it is no WebAssembly")), "{wrong}");
    let wrong = text(&["--adapter", "mqtt-json", "--settings", r#"{"colour":1}"#]).await;
    assert!(wrong.starts_with("mqtt-json: it refuses its settings: "), "{wrong}");
}

#[test]
fn exactly_one_source_is_needed() {
    assert!(args(&[]).is_err());
    assert!(args(&["--script", "a.wasm", "--adapter", "b"]).is_err());
    let args = args(&["--adapter", "b"]).unwrap();
    assert_eq!((args.topic.as_str(), args.received_at, args.batch), (TOPIC, RECEIVED_AT, 128));
}

#[test]
fn lines_are_taken_as_they_are() {
    let args = args(&["--adapter", "b", "--topic", "x/y", "--received-at", "5"]).unwrap();
    let batch = read_batch(&mut &b"a\r\n\n b"[..], &args, 3).unwrap();
    let payloads: Vec<&[u8]> = batch.iter().map(|message| message.payload.as_ref()).collect();
    assert_eq!(payloads, [&b"a\r"[..], b"", b" b"]);
    assert_eq!(batch[1].received_at, 5 + 4 * INTERVAL);
    assert_eq!(&*batch[0].topic, "x/y");
}

/// A configuration with one stream of the guest above, to Wialon.
fn configuration() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    std::fs::create_dir(folder.path().join("streams")).unwrap();
    file("sluicegate.toml", b"[bus]\nurl = \"mqtt://127.0.0.1:1883\"\nclient_id = \"c\"\n");
    file("streams/guest.wasm", &guest());
    let stream = "topics = [\"a/+\"]\n[script]\npath = \"guest.wasm\"\n[destination]\ntype = \"wialon\"\n";
    file("streams/one.toml", stream.as_bytes());
    file("streams/wrong.toml", b"topics = 1\n");
    let config = folder.path().join("sluicegate.toml").to_str().unwrap().to_owned();
    (folder, config)
}

#[tokio::test]
async fn a_stream_brings_its_script_and_shows_packets_of_its_destination() {
    let (_folder, config) = configuration();
    let args = args(&["--stream", "one", "--config", &config]).unwrap();
    let mut out = Vec::new();
    assert!(map(&args, &b"plain\n"[..], &mut out).await.unwrap());
    let line: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(line["body"], "plain");
    assert!(line["packet"]["error"].is_string(), "{line}");
}

#[tokio::test]
async fn a_stream_that_is_not_there_or_cannot_be_used() {
    let (folder, config) = configuration();
    let text = async |name: &str| {
        let args = args(&["--stream", name, "--config", &config]).unwrap();
        map(&args, &b""[..], Vec::new()).await.unwrap_err().to_string()
    };
    let streams = folder.path().join("streams").display().to_string();
    assert_eq!(
        text("two").await,
        format!("--stream two: there is no such stream in {streams}; there are: one, wrong")
    );
    assert!(text("wrong").await.contains("wrong.toml:1:"));
}
