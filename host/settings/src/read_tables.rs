//! `[tables.NAME]` of a stream's file.

use script::{Columns, TableSettings, Tables};
use settings_reader::section::Section;

const FILE: &str = "a CSV file with a header, relative to this file";

/// Reads the tables. What is wrong with one leaves it out; `check` opens the
/// files as well.
pub fn read_tables(section: &Section<'_>) -> Vec<TableSettings> {
    section.sections().filter_map(|(name, section)| read_table(name.value, section)).collect()
}

fn read_table(name: &str, mut section: Section<'_>) -> Option<TableSettings> {
    let doc = section.doc();
    let named = TableSettings::is_name(name);
    if !named {
        let what = format!("`{}` is not a valid table name", name.escape_debug());
        let expected = "1 to 64 characters `a-z A-Z 0-9 _ -`; `topic` is reserved for the topic in templates";
        doc.error(section.span(), what, expected);
    }
    if section.value("file").is_none() {
        section.missing("file", FILE);
    }
    let file = section.path("file", FILE);
    let column = |key, section: &mut Section<'_>| {
        section.text(key, "the name of a column").map(|given| given.value.trim().to_owned())
    };
    let columns = Columns { key: column("key", &mut section), value: column("value", &mut section) };
    section.finish();
    let file = file.filter(|_| named)?;
    let settings = TableSettings { name: name.to_owned(), file: file.value, columns };
    if doc.surroundings().thorough {
        if !settings.file.is_file() {
            let what = format!("there is no file {}", settings.file.display());
            doc.error(Some(file.span), what, FILE);
        } else if let Err(error) = Tables::read(std::slice::from_ref(&settings)) {
            doc.error(Some(file.span), error.what(), error.expected());
        }
    }
    Some(settings)
}
