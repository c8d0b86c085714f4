//! The table of kinds: a new kind is a folder, and a line here.

use crate::kind::Kind;
use crate::{aws_iot, file, http, mqtt, thingsboard, wialon};

/// Every kind, in the order in which messages list them.
pub static KINDS: &[&Kind] =
    &[&aws_iot::KIND, &thingsboard::KIND, &wialon::KIND, &http::KIND, &mqtt::KIND, &file::KIND];

// === impl Kind ===

impl Kind {
    /// The kind of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        KINDS.iter().copied().find(|kind| kind.name == name)
    }

    /// Their names.
    pub fn names() -> Vec<&'static str> {
        KINDS.iter().map(|kind| kind.name).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use settings_reader::Meanwhile;
    use settings_reader::document::{Document, Surroundings};
    use settings_reader::section::Section;
    use toml::de::DeTable;

    use super::*;
    use crate::Lanes;

    /// The keys that `read` asks the section for, from the complaint about an
    /// unknown one.
    fn keys_read(kind: &Kind) -> Vec<String> {
        let text = "qqqqqqqqqqqqqqqqqqqqqqqq = 1";
        let table = DeTable::parse(text).unwrap();
        let env = |_: &str| None;
        let surroundings = Surroundings { env: &env, thorough: false, embedded: true, keys: None };
        let doc = Document::new(Path::new("a.toml"), text, Meanwhile::NothingRuns, surroundings);
        let mut section = Section::root(&doc, table.get_ref());
        let lanes = Lanes { client_id: "gateway-a".into(), count: 1, in_flight: 1 };
        let _ = (kind.read)(&mut section, &lanes);
        section.finish();
        let errors = doc.into_errors();
        let unknown = errors.iter().find(|error| error.what.contains("unknown key")).unwrap();
        let keys = unknown.expected.strip_prefix("one of ").unwrap();
        keys.split(", ").map(|key| key.trim_matches('`').to_owned()).collect()
    }

    #[test]
    fn documented_keys_are_the_keys_that_are_read() {
        for kind in KINDS {
            let mut documented: Vec<&str> = kind.keys.iter().map(|key| key.name).collect();
            documented.sort_unstable();
            assert_eq!(documented, keys_read(kind), "{}", kind.name);
        }
    }

    #[test]
    fn names_are_unique() {
        for kind in KINDS {
            assert_eq!(Kind::named(kind.name), Some(*kind));
        }
        assert_eq!(Kind::named("no-such-kind"), None);
    }
}
