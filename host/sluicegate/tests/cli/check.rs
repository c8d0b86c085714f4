//! `sluicegate check`, as an operator calls it.

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
    check_with(folder, &[])
}

/// Checks what is in the folder.
fn check_with(folder: &Path, options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluicegate"))
        .arg("check")
        .args(options)
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
fn valid_configuration_prints_one_line_per_stream() {
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
fn invalid_stream_leaves_others_in_table() {
    let folder = tempfile::tempdir().unwrap();
    let files =
        [("sluicegate.toml", MAIN), ("streams/a.toml", WIALON), ("streams/b.toml", "topics = [\"a\"]\n")];
    let output = check(folder.path(), &files);
    assert_eq!(output.status.code(), Some(1));
    let table = text(&output.stdout, folder.path());
    assert!(table.contains("\na       fleet/+ "), "{table}");
    assert!(table.ends_with("\nb       (1 error)\n"), "{table}");
    assert_eq!(
        text(&output.stderr, folder.path()),
        "\nstreams/b.toml: `[destination]` is missing\n  expected: a table [destination] with a `type`\n  \
         meanwhile: stream `b` is blocked, the others run\n\n1 error\n"
    );
}

#[test]
fn invalid_main_file_ends_check() {
    let folder = tempfile::tempdir().unwrap();
    let output = check(folder.path(), &[("sluicegate.toml", "[bus]\n")]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout, folder.path()), "");
    assert!(text(&output.stderr, folder.path()).ends_with("\n\n2 errors\n"));
}

#[test]
fn invalid_main_file_hides_no_script_error() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = format!("{WIALON}[script.settings]\nwhere = \"position.speed >\"\n");
    let main = "[bus]\nurl = \"mqtt://broker\"\n";
    let files = [("sluicegate.toml", main), ("streams/a.toml", WIALON), ("streams/b.toml", wrong.as_str())];
    let output = check(folder.path(), &files);
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr, folder.path());
    assert!(errors.starts_with("sluicegate.toml:1:2: `client_id` is missing in `[bus]`\n"), "{errors}");
    assert!(errors.contains("\n\nstreams/b.toml:5:1: the script `wialon-retranslator` refuses "), "{errors}");
    assert!(errors.ends_with("\n  meanwhile: the gateway will not start\n\n2 errors\n"), "{errors}");
    let tried = check_with(folder.path(), &["--connect"]);
    assert!(text(&tried.stderr, folder.path()).contains("\n2 errors\nno connection was tried: "));
}

#[test]
fn invalid_stream_hides_no_script_error() {
    let folder = tempfile::tempdir().unwrap();
    let wrong =
        format!("{WIALON}[script.settings]\nwhere = \"position.speed >\"\n[delivery]\nlanes = \"four\"\n");
    let twice = format!("{WIALON}[script.settings]\nwher = \"x\"\n");
    let files = [("sluicegate.toml", MAIN), ("streams/a.toml", wrong.as_str()), ("streams/b.toml", &twice)];
    let output = check(folder.path(), &files);
    let table = text(&output.stdout, folder.path());
    assert!(table.ends_with("\na       (2 errors)\nb       (1 error)\n"), "{table}");
    let errors = text(&output.stderr, folder.path());
    assert!(errors.starts_with("\nstreams/a.toml:7:9: `lanes` is text\n"), "{errors}");
    assert!(errors.contains("\n\nstreams/a.toml:5:1: the script `wialon-retranslator` refuses "), "{errors}");
    assert!(errors.ends_with("\n\n3 errors\n"), "{errors}");
}

#[test]
fn script_error_names_the_setting() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = format!("{WIALON}[script.settings]\nwhere = \"position.speed >\"\n");
    let files = [("sluicegate.toml", MAIN), ("streams/a.toml", WIALON), ("streams/b.toml", wrong.as_str())];
    let output = check(folder.path(), &files);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout, folder.path()).ends_with("\nb       (1 error)\n"));
    let errors = text(&output.stderr, folder.path());
    assert!(
        errors.starts_with("\nstreams/b.toml:5:1: the script `wialon-retranslator` refuses its settings: "),
        "{errors}"
    );
    assert!(errors.contains("\n  5 | where = \"position.speed >\"\n    | ^^^^^\n"), "{errors}");
    assert!(errors.contains("\n  expected: the settings of `wialon-retranslator` are "), "{errors}");
}

#[test]
fn file_that_is_not_a_script_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let stream = format!("{WIALON}[script]\npath = \"mine.wasm\"\n");
    let files =
        [("sluicegate.toml", MAIN), ("streams/a.toml", stream.as_str()), ("streams/mine.wasm", "(module)")];
    let output = check(folder.path(), &files);
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr, folder.path());
    assert!(
        errors.starts_with("\nstreams/a.toml:4:2: the script `mine` cannot be used: it is not WebAssembly"),
        "{errors}"
    );
}

#[test]
fn connecting_tells_who_is_not_there() {
    // Bound and not listening any more: no other process gets the port at once.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let main = format!("[bus]\nurl = \"mqtt://127.0.0.1:{port}\"\nclient_id = \"gw\"\n");
    let stream = format!("{WIALON}url = \"tcp://127.0.0.1:{port}\"\n");
    let files = [("sluicegate.toml", main.as_str()), ("streams/a.toml", stream.as_str())];
    assert_eq!(check(folder.path(), &files).status.code(), Some(0));
    let output = check_with(folder.path(), &["--connect"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr, folder.path());
    for expected in [
        format!("\nsluicegate.toml:1:2: mqtt://127.0.0.1:{port}: Connection refused"),
        format!("\n  expected: the broker at mqtt://127.0.0.1:{port} accepts the gateway\n"),
        format!("\nstreams/a.toml:2:2: cannot connect to 127.0.0.1:{port}: "),
        "\n  meanwhile: stream `a` sends nothing and keeps retrying, the others run\n".to_owned(),
        "\n\n2 errors\n".to_owned(),
    ] {
        assert!(errors.contains(&expected), "{expected}\nis not in\n{errors}");
    }
}

#[test]
fn connecting_shows_no_secrets() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let url = format!("http://127.0.0.1:{port}/in?key=hunter2");
    let main = format!(
        "bus = {{ url = \"mqtt://127.0.0.1:{port}\", client_id = \"gw\", username = \"hunter2\" }}\n"
    );
    let dotted = format!(
        "topics = [\"a\"]\ndestination.headers.X-Key = \"hunter2\"\ndestination.type = \"http\"\n\
         destination.url = \"{url}\"\n"
    );
    let inline = format!(
        "topics = [\"a\"]\ndestination = {{ type = \"http\", url = \"{url}\", headers = {{ X-Key = \"hunter2\" }} }}\n"
    );
    let files =
        [("sluicegate.toml", &main), ("streams/dotted.toml", &dotted), ("streams/inline.toml", &inline)];
    check(folder.path(), &files.map(|(path, text)| (path, text.as_str())));
    let output = check_with(folder.path(), &["--connect"]);
    let errors = text(&output.stderr, folder.path());
    assert!(errors.ends_with("\n3 errors\n"), "{errors}");
    for line in [
        format!("  1 | bus = {{ url = \"mqtt://127.0.0.1:{port}\", client_id = \"gw\", username = *** }}"),
        "  2 | destination.headers.X-Key = ***".to_owned(),
        format!(
            "  2 | destination = {{ type = \"http\", url = \"http://127.0.0.1:{port}/in?***\", headers = {{"
        ),
    ] {
        assert!(errors.contains(&line), "{line}\nis not in\n{errors}");
    }
    assert!(!errors.contains("hunter2"), "{errors}");
}

#[test]
fn connecting_to_what_is_there() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let stream = format!("{WIALON}url = \"tcp://127.0.0.1:{port}\"\n");
    check(folder.path(), &[("sluicegate.toml", "[bus]\nurl = \"embedded\"\n"), ("streams/a.toml", &stream)]);
    let output = check_with(folder.path(), &["--connect"]);
    assert_eq!(text(&output.stderr, folder.path()), "");
    assert_eq!(output.status.code(), Some(0));
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_ok(), "it connected");
}

#[test]
fn unknown_option_exits_with_status_2() {
    let output = Command::new(env!("CARGO_BIN_EXE_sluicegate")).args(["check", "--conect"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

/// The files of `examples/fleet`, with what its operator brings: secrets in the
/// environment and in files, and certificates.
#[test]
fn example_configuration_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/fleet");
    fs::create_dir(folder.path().join("streams")).unwrap();
    for of in ["", "streams"] {
        for entry in fs::read_dir(example.join(of)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::copy(&path, folder.path().join(of).join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    let certificates = folder.path().join("certificates");
    fs::create_dir(&certificates).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(["gateway".to_owned()]).unwrap().self_signed(&key).unwrap();
    fs::write(certificates.join("AmazonRootCA1.pem"), cert.pem()).unwrap();
    fs::write(certificates.join("gateway.crt"), cert.pem()).unwrap();
    fs::write(certificates.join("gateway.key"), key.serialize_pem()).unwrap();
    fs::write(folder.path().join("mqtt-password"), "secret\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_sluicegate"))
        .args(["check", "--config"])
        .arg(folder.path().join("sluicegate.toml"))
        .envs(["FLESPI_TOKEN", "INGEST_AUTHORIZATION", "THINGSBOARD_TOKEN"].map(|name| (name, "secret")))
        .output()
        .unwrap();
    assert_eq!(text(&output.stderr, folder.path()), "");
    assert_eq!(output.status.code(), Some(0));
    let table = text(&output.stdout, folder.path());
    for (stream, row) in [
        ("aws", "aws-shadow"),
        ("http", "only 2  http-json"),
        ("mqtt", "mqtt-json"),
        ("thingsboard", "thingsboard-gateway"),
        ("wialon", "wialon-retranslator"),
    ] {
        let found = table.lines().find(|line| line.starts_with(&format!("{stream} "))).unwrap();
        assert!(found.contains(row), "{row} is not in {found}");
    }
}
