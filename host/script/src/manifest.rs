//! What `adapter.toml` says of an adapter.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde_json::Value;

use super::schema::{Schema, SchemaError};

/// What `adapter.toml` says.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// As `[script] adapter` names it.
    pub name: String,
    /// Version of the adapter.
    pub version: Release,
    /// What it does, in one sentence.
    pub description: String,
    /// The `[destination] type`s that it maps for.
    pub destinations: Vec<String>,
    /// What it keeps in the state: where this number differs between two
    /// versions, the later one cannot read what the earlier one wrote.
    pub state_version: u32,
    /// What `[script.settings]` may be.
    pub settings: Schema,
}

/// The version that an author gives an adapter: `1.4.2`. Within one first
/// number streams that ran go on to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// What a pin such as `aws-shadow@1` names.
    pub major: u32,
    /// More can be set, what was possible stays.
    pub minor: u32,
    /// Mended.
    pub patch: u32,
}

/// Why a text is no manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// No TOML, or not these keys.
    #[error("{0}")]
    Toml(String),
    /// A value that cannot be.
    #[error("`{key}` is {found:?}, expected {expected}")]
    Value {
        /// Which key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The schema of the settings.
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    name: String,
    version: String,
    description: String,
    destinations: Vec<String>,
    #[serde(default)]
    state_version: u32,
    settings: Value,
}

/// What [`is_name`] asks for.
pub const NAME: &str = "1 to 64 lower-case letters, digits, `-` and `_`, the first a letter";

// ----- impl Manifest -----

impl Manifest {
    /// Reads the text of an `adapter.toml`.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let form: Form = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            let line = line.map_or_else(String::new, |line| format!("line {line}: "));
            ManifestError::Toml(format!("{line}{}", error.message()))
        })?;
        if !is_name(&form.name) {
            return Err(ManifestError::Value { key: "name", found: form.name, expected: NAME });
        }
        let Ok(version) = form.version.parse() else {
            let expected = "three numbers such as 1.4.2";
            return Err(ManifestError::Value { key: "version", found: form.version, expected });
        };
        Ok(Self {
            name: form.name,
            version,
            description: form.description,
            destinations: form.destinations,
            state_version: form.state_version,
            settings: Schema::read(&form.settings)?,
        })
    }

    /// Whether it maps for destinations of that type.
    pub fn serves(&self, destination: &str) -> bool {
        self.destinations.iter().any(|known| known == destination)
    }
}

/// Whether an adapter may be called that: the name is that of its file, too.
pub fn is_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
}

// ----- impl Release -----

impl FromStr for Release {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut numbers = text.split('.').map(|number| {
            let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
            if digits { number.parse().map_err(drop) } else { Err(()) }
        });
        let mut next = || numbers.next().unwrap_or(Err(()));
        let release = Self { major: next()?, minor: next()?, patch: next()? };
        if numbers.next().is_none() { Ok(release) } else { Err(()) }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const GOOD: &str = "name = \"speed\"\nversion = \"1.4.2\"\ndescription = \"d\"\ndestinations = [\"mqtt\"]\n\
                        [settings]\ntype = \"object\"\n";

    #[test]
    fn a_good_one_is_read() {
        let manifest = Manifest::parse(GOOD).unwrap();
        assert_eq!((manifest.name.as_str(), manifest.state_version), ("speed", 0));
        assert_eq!(manifest.version, Release { major: 1, minor: 4, patch: 2 });
        assert_eq!(manifest.version.to_string(), "1.4.2");
        assert!(manifest.serves("mqtt") && !manifest.serves("http"));
    }

    #[test]
    fn errors_say_which_key_and_what_was_expected() {
        let table = [
            (
                "name = \"speed\"",
                "name = \"Speed\"",
                "`name` is \"Speed\", expected 1 to 64 lower-case letters",
            ),
            ("1.4.2", "1.4", "`version` is \"1.4\", expected three numbers such as 1.4.2"),
            ("1.4.2", "1.4.+2", "`version` is \"1.4.+2\", expected "),
            ("1.4.2", "1.4.2.0", "`version` is \"1.4.2.0\", expected "),
            ("description = \"d\"\n", "", "line 1: missing field `description`"),
            ("description", "descrption", "line 3: unknown field `descrption`, expected one of "),
            ("[settings]", "[settings", "line 5: "),
            ("type = \"object\"", "pattern = 1", "settings: unknown word `pattern`"),
        ];
        for (from, to, expected) in table {
            let error = Manifest::parse(&GOOD.replace(from, to)).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
