#![allow(clippy::unwrap_used)]
use clap::Parser;
use script::cases::INTERVAL;
use serde_json::json;

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    map: MapArgs,
}

/// Delivers the payload; rejects, filters or traps by its first letter.
fn guest() -> Vec<u8> {
    let (prelude, rest) = (include_str!("../../../script/src/prelude.wat"), include_str!("guest.wat"));
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
async fn trap_affects_only_its_message() {
    let (printed, well) = mapped(&[], b"one\nXtraps\nthree\n").await.unwrap();
    let lines: Vec<&str> = printed.lines().collect();
    assert!(lines[0].starts_with(r#"{"messages":[0]"#), "{printed}");
    assert!(lines[1].starts_with(r#"{"message":1,"rejected":"the script trapped: "#), "{printed}");
    assert!(lines[2].starts_with(r#"{"messages":[2]"#), "{printed}");
    assert!(!well);
}

#[tokio::test]
async fn empty_line_is_a_message_and_empty_input_is_none() {
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
        "--adapter aws: unknown adapter; expected one of \
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
    assert!(wrong.starts_with(&format!("{manifest}: it is not WebAssembly")), "{wrong}");
    let wrong = text(&["--adapter", "mqtt-json", "--settings", r#"{"colour":1}"#]).await;
    assert!(
        wrong.starts_with("mqtt-json: its settings are wrong: there is no setting `colour`, "),
        "{wrong}"
    );
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
    let batch = Input::Lines(&b"a\r\n\n b"[..]).next_batch(&args, 3).unwrap();
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
async fn stream_option_uses_script_and_decodes_packets() {
    let (_folder, config) = configuration();
    let args = args(&["--stream", "one", "--config", &config]).unwrap();
    let mut out = Vec::new();
    assert!(map(&args, &b"plain\n"[..], &mut out).await.unwrap());
    let line: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(line["body"], "plain");
    assert!(line["packet"]["error"].is_string(), "{line}");
}

#[tokio::test]
async fn unknown_or_invalid_stream_is_an_error() {
    let (folder, config) = configuration();
    let text = async |name: &str| {
        let args = args(&["--stream", name, "--config", &config]).unwrap();
        map(&args, &b""[..], Vec::new()).await.unwrap_err().to_string()
    };
    let streams = folder.path().join("streams").display().to_string();
    assert_eq!(
        text("two").await,
        format!("--stream two: no such stream in {streams}; expected one of: one, wrong")
    );
    assert!(text("wrong").await.contains("wrong.toml:1:"));
}

#[tokio::test]
async fn tables_come_from_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("names=.csv");
    std::fs::write(&file, "imei,id\n8612,truck-7\n").unwrap();
    let table = format!("names={}", file.display());
    let settings = r#"{"topic":"fleet/{names[ident]}"}"#;
    let run = async |tables: &[&str]| {
        let tables: Vec<&str> = tables.iter().flat_map(|table| ["--table", table]).collect();
        let args =
            args(&[&["--adapter", "mqtt-json", "--settings", settings], &tables[..]].concat()).unwrap();
        let mut out = Vec::new();
        let input = b"{\"ident\":8612}\n{\"ident\":\"8613\"}\n";
        map(&args, &input[..], &mut out).await.map(|_| String::from_utf8(out).unwrap())
    };
    let printed = run(&[&table]).await.unwrap();
    assert!(printed.contains(r#""target":"fleet/truck-7""#), "{printed}");
    assert!(
        printed.contains(
            r#""rejected":"template `fleet/{names[ident]}`: the table `names` has no key \"8613\"""#
        ),
        "{printed}"
    );
    let none = run(&[]).await.unwrap_err().to_string();
    assert!(none.contains("`topic` = ") && none.contains("there is no table `names`"), "{none}");
    assert_eq!(
        run(&[&table, &table]).await.unwrap_err().to_string(),
        "--table names: the name is used twice"
    );
    let gone = run(&["names=/nowhere.csv"]).await.unwrap_err().to_string();
    assert!(gone.starts_with("table `names`: /nowhere.csv: it cannot be read: "), "{gone}");
    for wrong in ["names", "names=", "topic=x.csv", "a.b=x.csv"] {
        assert!(args(&["--adapter", "mqtt-json", "--table", wrong]).is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn stream_option_uses_tables() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    std::fs::create_dir(folder.path().join("streams")).unwrap();
    file("sluicegate.toml", "[bus]\nurl = \"mqtt://127.0.0.1:1883\"\nclient_id = \"c\"\n");
    file("streams/ids.csv", "customer,imei,id\nAcme,8612,7001\n");
    file(
        "streams/one.toml",
        "topics = [\"a/+\"]\n[destination]\ntype = \"http\"\nurl = \"http://x\"\n[script.settings]\nident = \"{ids[ident]}\"\n\
         [tables.ids]\nfile = \"ids.csv\"\nkey = \"imei\"\nvalue = \"id\"\n",
    );
    let config = folder.path().join("sluicegate.toml").to_str().unwrap().to_owned();
    let args = args(&["--stream", "one", "--config", &config]).unwrap();
    let mut out = Vec::new();
    assert!(map(&args, &b"{\"ident\":\"8612\"}\n"[..], &mut out).await.unwrap());
    let printed = String::from_utf8(out).unwrap();
    assert!(printed.contains("7001"), "{printed}");
    file("streams/ids.csv", "customer,imei,id\nAcme,8612,7001\nAcme,8612,7002\n");
    let wrong = map(&args, &b""[..], Vec::new()).await.unwrap_err().to_string();
    assert!(wrong.contains("ids.csv:3: the key \"8612\" is in line 2 already"), "{wrong}");
}

/// Says so when it is written to.
#[derive(Clone)]
struct Page(tokio::sync::watch::Sender<String>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send_modify(|text| text.push_str(std::str::from_utf8(bytes).unwrap()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn watch_maps_messages_again_after_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest.wasm");
    std::fs::write(&path, guest()).unwrap();
    let args = args(&["--script", path.to_str().unwrap(), "--watch"]).unwrap();
    let page = Page(tokio::sync::watch::Sender::default());
    let mut shown = page.0.subscribe();
    let mapping = map(&args, &b"plain\nfiltered\n"[..], page);
    let acts = async {
        shown.wait_for(|text| text.lines().count() == 2).await.unwrap();
        let once = shown.borrow().clone();
        // What cannot be used is said, and the next change is waited for.
        std::fs::write(&path, b"half").unwrap();
        let mut other = guest();
        other.extend(b"\0\x02\x01x");
        let beside = folder.path().join("new");
        std::fs::write(&beside, other).unwrap();
        std::fs::rename(&beside, &path).unwrap();
        shown.wait_for(|text| text.lines().count() == 4).await.unwrap();
        assert_eq!(*shown.borrow(), once.repeat(2));
    };
    tokio::select! {
        ended = mapping => panic!("{ended:?}"),
        () = acts => {}
    }
}

#[tokio::test]
async fn embedded_adapter_cannot_be_watched() {
    let args = args(&["--adapter", "http-json", "--watch"]).unwrap();
    let error = map(&args, &b""[..], Vec::new()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "--watch: nothing to watch: neither the adapter nor its settings are files"
    );
}

#[tokio::test]
async fn messages_come_from_the_journal_where_no_gateway_runs() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("streams")).unwrap();
    let file = folder.path().join("sluicegate.toml");
    std::fs::write(&file, "[bus]\nurl = \"mqtt://b\"\nclient_id = \"g\"\n[admin]\nlisten = \"off\"\n")
        .unwrap();
    let stream =
        "topics = [\"fleet\"]\nkey = \"ident\"\n[destination]\ntype = \"http\"\nurl = \"https://h/\"\n";
    std::fs::write(folder.path().join("streams/fleet.toml"), stream).unwrap();
    let config = Config::load(Some(&file)).unwrap();
    let journal = wiring::open_journal(&config).await.unwrap();
    let index = journal.stream("fleet").unwrap();
    for (topic, ident, number) in [("fleet", 7, 0), ("fleet", 8, 1), ("yard", 7, 2), ("fleet", 7, 3)] {
        let payload = json!({"ident": ident, "n": number}).to_string().into();
        let message = Message { topic: topic.into(), payload, received_at: 1_700_000_000_000 };
        drop(journal.append(vec![journal::Append { message, streams: vec![index] }]).await);
    }
    journal.close().await;
    let config = file.to_str().unwrap().to_owned();
    let printed = async |more: &[&str]| {
        let args = args(&[more, &["--config", &config]].concat()).unwrap();
        let mut out = Vec::new();
        map(&args, &b"not read"[..], &mut out).await.unwrap();
        let out = String::from_utf8(out).unwrap();
        let numbers = out.split("\\\"n\\\":").skip(1).filter_map(|rest| rest.chars().next());
        numbers.collect::<String>()
    };
    assert_eq!(printed(&["--stream", "fleet", "--last", "2"]).await, "13");
    assert_eq!(printed(&["--stream", "fleet", "--key", "7"]).await, "03");
    assert_eq!(printed(&["--adapter", "http-json", "--key", "7", "--last", "2"]).await, "23");
}
