//! `sluicegate check`, as an operator calls it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Writes the files and checks them.
fn check(folder: &Path, files: &[(&str, &str)]) -> Output {
    for (path, text) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    Command::new(env!("CARGO_BIN_EXE_sluicegate"))
        .arg("check")
        .env("SLUICEGATE_CONFIG", folder.join("sluicegate.toml"))
        .output()
        .unwrap()
}

fn text(bytes: &[u8], folder: &Path) -> String {
    String::from_utf8(bytes.to_vec()).unwrap().replace(&format!("{}/", folder.display()), "")
}

const MAIN: &str = "[bus]\nurl = \"mqtt://broker\"\nclient_id = \"gw\"\n";
const HTTP: &str = "topics = [\"fleet/+\", \"vans/#\"]\nkey = \"ident\"\nexcept = [\"7001\"]\n[destination]\n\
                    type = \"http\"\nurl = \"http://receiver.example/in?token=hidden\"\n";
const WIALON: &str = "topics = [\"fleet/+\"]\n[destination]\ntype = \"wialon\"\n";

#[test]
fn a_good_configuration_is_one_line_a_stream() {
    let folder = tempfile::tempdir().unwrap();
    let files = [("sluicegate.toml", MAIN), ("streams/http.toml", HTTP), ("streams/wialon.toml", WIALON)];
    let output = check(folder.path(), &files);
    assert_eq!(text(&output.stderr, folder.path()), "");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        text(&output.stdout, folder.path()),
        "config  sluicegate.toml\n\
         bus     mqtt://broker:1883 as gw\n\
         admin   127.0.0.1:8080\n\
         data    data\n\
         \n\
         STREAM  TOPICS      KEY    SERVES     SCRIPT               DESTINATION                         LANES\n\
         http    fleet/+ +1  ident  all but 1  http-json            http http://receiver.example/in     1\n\
         wialon  fleet/+     topic  all        wialon-retranslator  wialon tcp://193.193.165.165:20163  1\n"
    );
}

#[test]
fn a_wrong_stream_leaves_the_others_in_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let files =
        [("sluicegate.toml", MAIN), ("streams/a.toml", WIALON), ("streams/b.toml", "topics = [\"a\"]\n")];
    let output = check(folder.path(), &files);
    assert_eq!(output.status.code(), Some(1));
    let table = text(&output.stdout, folder.path());
    assert!(table.contains("\na       fleet/+ "), "{table}");
    assert!(table.ends_with("\nb       blocked: 1 error\n"), "{table}");
    assert_eq!(
        text(&output.stderr, folder.path()),
        "\nstreams/b.toml: `[destination]` is missing\n  expected: a table [destination] with a `type`\n  \
         meanwhile: stream `b` is blocked, the others run\n\n1 error\n"
    );
}

#[test]
fn an_unusable_main_file_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let output = check(folder.path(), &[("sluicegate.toml", "[bus]\n")]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout, folder.path()), "");
    assert!(text(&output.stderr, folder.path()).ends_with("\n\n2 errors\n"));
}

#[test]
fn an_unknown_option_is_status_2() {
    let output = Command::new(env!("CARGO_BIN_EXE_sluicegate")).args(["check", "--conect"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
