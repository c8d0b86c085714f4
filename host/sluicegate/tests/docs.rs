//! The documents: every link leads somewhere, every file that they name exists.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Every `*.md` that is not in a folder of build results.
fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                documents(&path, found);
            }
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// The text without fenced blocks, whose brackets are code.
fn prose(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let mut fenced = false;
    let mut kept = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// Anchors of a document's headings, as forges make them.
fn anchors(path: &Path) -> BTreeSet<String> {
    let text = prose(path);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let slug = |heading: &str| {
        let kept = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    let named = text.split("<a id=\"").skip(1).filter_map(|rest| rest.split('"').next());
    headings.map(slug).chain(named.map(str::to_owned)).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut found = Vec::new();
    documents(&root(), &mut found);
    assert!(found.len() > 20, "{} documents", found.len());
    let mut broken = Vec::new();
    let mut links = 0;
    for document in &found {
        for part in prose(document).split("](").skip(1) {
            let link = part.split([')', ' ']).next().unwrap();
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            links += 1;
            let (file, anchor) = link.split_once('#').map_or((link, None), |(f, a)| (f, Some(a)));
            let target =
                if file.is_empty() { document.clone() } else { document.parent().unwrap().join(file) };
            let good = target.exists()
                && anchor.is_none_or(|a| {
                    target.extension().is_none_or(|e| e != "md") || anchors(&target).contains(a)
                });
            if !good {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(links > 100, "{links} links");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Paths in backticks of the documents for developers, such as
/// `host/journal/src/policy.rs`, or below a crate, `journal/src/policy.rs`.
#[test]
fn every_named_source_file_exists() {
    let root = root();
    let mut missing = Vec::new();
    let mut files = 0;
    let mut named = vec![root.join("host/README.md"), root.join("CONTRIBUTING.md"), root.join("SECURITY.md")];
    documents(&root.join("host/docs/decisions"), &mut named);
    for document in named {
        for (number, word) in prose(&document).split('`').enumerate() {
            let is_path =
                number % 2 == 1 && word.ends_with(".rs") && word.contains('/') && !word.contains(' ');
            if !is_path {
                continue;
            }
            files += 1;
            let places = [root.join(word), root.join("host").join(word)];
            if !places.iter().any(|place| place.exists()) {
                missing.push(format!("{}: {word}", document.display()));
            }
        }
    }
    assert!(files > 30, "{files} files");
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
