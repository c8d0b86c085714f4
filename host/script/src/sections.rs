//! The parts of an adapter in the custom sections of its WebAssembly, so that
//! one `.wasm` is one adapter.
//!
//! ```text
//! sluicegate:adapter              the text of adapter.toml
//! sluicegate:cases/<case>/<file>  a file of the folder cases/
//! ```
//!
//! The build script uses this file as well, before anything else of the crate
//! is there: it needs the standard library only.

use std::ops::Range;
use std::path::Path;
use std::{fs, io};

/// What the names of all our sections begin with.
pub const PREFIX: &str = "sluicegate:";

/// The section with the text of `adapter.toml`.
pub const MANIFEST: &str = "sluicegate:adapter";

/// What the names of the sections with cases begin with.
pub const CASES: &str = "sluicegate:cases/";

/// The folder of a case with its lookup tables.
pub const TABLES: &str = "tables";

/// Maximum bytes of a manifest or of a file of a case.
pub const MAX_FILE: u64 = 4 << 20;

/// Magic number and version, of a module as of a component.
const HEADER: usize = 8;

/// A custom section at the top level of a module or component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Custom<'a> {
    /// What it is called.
    pub name: &'a str,
    /// Where its content is in the file.
    pub data: Range<usize>,
}

/// The custom sections of ours, in their order. Ends where the bytes are no
/// WebAssembly any more: whoever compiles them says what is wrong.
pub fn ours(wasm: &[u8]) -> Vec<Custom<'_>> {
    let sections = Sections { wasm, at: HEADER };
    sections.filter_map(|section| section.custom).filter(|custom| custom.name.starts_with(PREFIX)).collect()
}

/// The same module or component with these sections of ours, and no others,
/// behind everything else.
pub fn replace<'s>(wasm: &[u8], sections: impl IntoIterator<Item = (&'s str, &'s [u8])>) -> Vec<u8> {
    let mut sealed = strip(wasm);
    for (name, data) in sections {
        let mut content = Vec::with_capacity(name.len() + data.len() + 5);
        write_length(&mut content, name.len());
        content.extend_from_slice(name.as_bytes());
        content.extend_from_slice(data);
        sealed.push(0);
        write_length(&mut sealed, content.len());
        sealed.extend_from_slice(&content);
    }
    sealed
}

/// The module or component without the sections of ours.
pub fn strip(wasm: &[u8]) -> Vec<u8> {
    without(wasm, |name| name.starts_with(PREFIX))
}

/// The module or component without the sections of ours, nor those that a
/// compiler leaves for debuggers: larger than the code, and of no use to a
/// gateway.
pub fn bare(wasm: &[u8]) -> Vec<u8> {
    without(wasm, |name| name.starts_with(PREFIX) || name.starts_with(".debug"))
}

fn without(wasm: &[u8], unwanted: impl Fn(&str) -> bool) -> Vec<u8> {
    let mut stripped = Vec::with_capacity(wasm.len());
    let mut copied = 0;
    for section in (Sections { wasm, at: HEADER }) {
        if section.custom.is_some_and(|custom| unwanted(custom.name)) {
            stripped.extend_from_slice(&wasm[copied..section.range.start]);
            copied = section.range.end;
        }
    }
    stripped.extend_from_slice(&wasm[copied..]);
    stripped
}

/// What a folder becomes: the names and contents of the sections, `adapter.toml`
/// first, then the cases by name. Hidden files are left out.
pub fn of_folder(folder: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut sections = vec![(MANIFEST.to_owned(), read(&folder.join("adapter.toml"))?)];
    for case in names(&folder.join("cases"))? {
        let path = folder.join("cases").join(&case);
        if !path.is_dir() {
            return Err(io::Error::other(format!("{}: only folders are expected here", path.display())));
        }
        for file in names(&path)? {
            if file != TABLES {
                sections.push((format!("{CASES}{case}/{file}"), read(&path.join(&file))?));
                continue;
            }
            for table in names(&path.join(TABLES))? {
                let content = read(&path.join(TABLES).join(&table))?;
                sections.push((format!("{CASES}{case}/{TABLES}/{table}"), content));
            }
        }
    }
    Ok(sections)
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let failed = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
    match fs::metadata(file).map_err(failed)? {
        // A pipe would keep us waiting.
        found if !found.is_file() => {
            Err(io::Error::other(format!("{}: it is not a regular file", file.display())))
        }
        found if found.len() > MAX_FILE => {
            let max = MAX_FILE >> 20;
            Err(io::Error::other(format!("{}: it is larger than {max} MiB", file.display())))
        }
        _ => fs::read(file).map_err(failed),
    }
}

/// The names in a folder, in their order; none where there is no such folder.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries,
    };
    let failed = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
    let mut names = Vec::new();
    for entry in entries.map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.into_string().map_err(|name| {
            io::Error::other(format!("{}: the name {name:?} is not UTF-8", folder.display()))
        })?;
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Walks over the sections at the top level; ends at the first that is none.
struct Sections<'a> {
    wasm: &'a [u8],
    at: usize,
}

struct Section<'a> {
    /// All of it: its id, its length, its content.
    range: Range<usize>,
    custom: Option<Custom<'a>>,
}

impl<'a> Iterator for Sections<'a> {
    type Item = Section<'a>;

    fn next(&mut self) -> Option<Section<'a>> {
        let start = self.at;
        let id = *self.wasm.get(start)?;
        let (length, content) = read_length(self.wasm, start + 1)?;
        let end = content.checked_add(length).filter(|end| *end <= self.wasm.len())?;
        self.at = end;
        Some(Section {
            range: start..end,
            custom: (id == 0).then(|| custom(self.wasm, content..end)).flatten(),
        })
    }
}

/// None if its name is none; the compiler will say so.
fn custom(wasm: &[u8], content: Range<usize>) -> Option<Custom<'_>> {
    let (length, name) = read_length(wasm, content.start)?;
    let data = name.checked_add(length).filter(|data| *data <= content.end)?;
    Some(Custom { name: std::str::from_utf8(wasm.get(name..data)?).ok()?, data: data..content.end })
}

/// An unsigned LEB128 number of at most 32 bits, and where it ends.
fn read_length(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let mut value = 0_u64;
    for (position, byte) in bytes.get(at..)?.iter().take(5).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * position);
        if byte & 0x80 == 0 {
            return Some((usize::try_from(value).ok()?, at + position + 1));
        }
    }
    None
}

fn write_length(bytes: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    /// A module with a custom section of somebody else.
    fn module() -> Vec<u8> {
        wat::parse_str(r#"(module (memory 1) (@custom "other" "x") (func (export "f")))"#).unwrap()
    }

    fn read(wasm: &[u8]) -> Vec<(&str, &[u8])> {
        ours(wasm).into_iter().map(|custom| (custom.name, &wasm[custom.data])).collect()
    }

    #[test]
    fn what_is_put_in_comes_out_and_the_rest_stays() {
        let long = vec![7_u8; 300];
        let sections = [(MANIFEST, &b"a = 1"[..]), ("sluicegate:cases/x/input.jsonl", &long)];
        let sealed = replace(&module(), sections);
        assert_eq!(read(&sealed), sections);
        assert_eq!(strip(&sealed), module());
        let debugged = replace(&module(), [(".debug_info", &b"x"[..]), (MANIFEST, b"")]);
        assert_eq!(bare(&debugged), module());
        assert_eq!(read(&module()), []);
        // Sealing again takes the old ones out.
        assert_eq!(replace(&sealed, [(MANIFEST, &b""[..])]), replace(&module(), [(MANIFEST, &b""[..])]));
        let component = wat::parse_str("(component (core module))").unwrap();
        assert_eq!(read(&replace(&component, sections)), sections);
    }

    #[test]
    fn sections_of_inner_modules_are_not_its_own() {
        let inner = r#"(component (core module (@custom "sluicegate:adapter" "x")))"#;
        assert_eq!(read(&wat::parse_str(inner).unwrap()), []);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), cut in 0usize..200) {
            strip(&bytes);
            ours(&bytes);
            let mut sealed = replace(&module(), [(MANIFEST, &bytes[..])]);
            sealed.truncate(cut.min(sealed.len()));
            strip(&sealed);
            ours(&sealed);
        }
    }
}
