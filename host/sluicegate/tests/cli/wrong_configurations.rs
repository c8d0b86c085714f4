//! Wrong configurations and exactly what is said about them. Each file of the
//! folder of the same name is a case: the files of the configuration, each
//! below a line `--- path`, and below `--- errors` the text of all errors.
//! Where there is no `sluicegate.toml` a good one is put there.
//!
//! `BLESS=1 cargo test -p sluicegate --test cli wrong_configurations` writes the errors anew;
//! read the difference before you commit it.

use std::fs;
use std::path::Path;

use settings::Config;
use settings_reader::ConfigError;

const MAIN: &str = "[bus]\nurl = \"mqtt://broker:1883\"\nclient_id = \"gw\"\n";

/// Path and text of each file of a case, and the expected errors.
fn parse(case: &str) -> (Vec<(&str, String)>, String) {
    let mut files: Vec<(&str, String)> = Vec::new();
    for line in case.lines() {
        match line.strip_prefix("--- ") {
            Some(path) => files.push((path, String::new())),
            None => {
                let text = &mut files.last_mut().expect("the case begins with `--- path`").1;
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    let (name, errors) = files.pop().unwrap();
    assert_eq!(name, "errors");
    (files, errors)
}

fn errors_of(files: &[(&str, String)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("sluicegate.toml"), MAIN).unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let errors: Vec<ConfigError> = match Config::check(Some(&folder.path().join("sluicegate.toml"))) {
        Ok(config) => config.stream_errors().cloned().collect(),
        Err(unusable) => unusable.errors.0,
    };
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let text = texts.join("\n\n").replace(&format!("{}/", folder.path().display()), "");
    format!("{text}\n")
}

#[test]
fn wrong_configuration_has_exact_error_text() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wrong_configurations");
    let bless = std::env::var_os("BLESS").is_some();
    let (mut cases, mut wrong) = (0, Vec::new());
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let case = fs::read_to_string(&path).unwrap();
        let (files, expected) = parse(&case);
        let errors = errors_of(&files);
        assert!(!errors.contains("hunter2"), "{} shows a secret:\n{errors}", path.display());
        if errors.trim().is_empty() || (errors != expected && !bless) {
            wrong.push(format!("{}\n-- expected\n{expected}-- found\n{errors}", path.display()));
        } else if bless {
            let start = case.split_inclusive("--- errors\n").next().unwrap();
            fs::write(&path, format!("{start}{errors}")).unwrap();
        }
        cases += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases >= 40, "only {cases} cases were found");
}

#[test]
fn running_opens_no_certificates_and_no_scripts() {
    let folder = tempfile::tempdir().unwrap();
    let main = folder.path().join("sluicegate.toml");
    fs::create_dir(folder.path().join("streams")).unwrap();
    fs::write(&main, MAIN).unwrap();
    let stream = "topics = [\"a\"]\n[script]\npath = \"gone.wasm\"\n[destination]\ntype = \"http\"\n\
                  url = \"https://x\"\nca = \"gone.pem\"\n";
    fs::write(folder.path().join("streams/acme.toml"), stream).unwrap();
    assert_eq!(Config::load(Some(&main)).unwrap().stream_errors().count(), 0);
    assert_eq!(Config::check(Some(&main)).unwrap().stream_errors().count(), 2);
}
