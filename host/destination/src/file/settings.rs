//! `[destination]` of `type = "file"`, checked.

use std::path::PathBuf;
use std::sync::Arc;

use settings_reader::section::Section;

use super::FileDestination;
use crate::{Destination, DestinationSettings, InFlight, Key, Kind, Lanes};

/// The row of the table of kinds.
pub static KIND: Kind = Kind {
    name: "file",
    adapter: "mqtt-json",
    // One writer: the order of the lines is the order of the stream.
    max_lanes: 1,
    in_flight: InFlight::Settable { default: 256, max: 65_535 },
    keys: &[
        Key {
            name: "path",
            default: "required",
            meaning: "the file, relative to the stream's file; its folder must exist, and no other stream may write to it",
        },
        Key {
            name: "format",
            default: "lines",
            meaning: "`lines`: the body and a line end; `json`: one object per line with target, headers, body or body_base64, key and positions",
        },
        Key { name: "max_size", default: "64MiB", meaning: "the file is rotated before it is larger" },
        Key {
            name: "keep",
            default: "5",
            meaning: "rotated files that are kept, `PATH.1` is the newest; 1 to 1000",
        },
    ],
    decode: None,
    read: |section, lanes| Some(Arc::new(FileSettings::read(section, lanes)?)),
};

/// Settings of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSettings {
    /// The file.
    pub path: PathBuf,
    /// Maximum size of the file, in bytes.
    pub max_size: u64,
    /// Rotated files that are kept.
    pub keep: u64,
    /// What a line is.
    pub format: Format,
    /// Maximum number of lines that share one sync.
    pub in_flight: usize,
}

/// What a line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The body.
    #[default]
    Lines,
    /// An object with all parts of the delivery.
    Json,
}

impl FileSettings {
    /// Reads `[destination]`.
    pub fn read(section: &mut Section<'_>, lanes: &Lanes) -> Option<Self> {
        const PATH: &str = "a file, relative to this one, in a folder that exists";
        let given = section.value("path").is_some();
        let path = section.path("path", PATH);
        if !given {
            section.missing("path", PATH);
        }
        let format = section.parsed("format", "`lines` or `json`", |text| match text {
            "lines" => Ok(Format::Lines),
            "json" => Ok(Format::Json),
            _ => Err(format!("`format` is \"{}\"", text.escape_debug())),
        });
        let max_size = section.size("max_size", 1 << 10..=1 << 40).unwrap_or(64 << 20);
        let keep = section.number("keep", 1..=1000).map_or(5, |given| given.value);
        Some(Self {
            path: path?.value,
            max_size,
            keep,
            format: format.map(|given| given.value).unwrap_or_default(),
            in_flight: lanes.in_flight,
        })
    }
}

impl DestinationSettings for FileSettings {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn address(&self) -> String {
        self.path.display().to_string()
    }

    fn build(&self) -> Arc<dyn Destination> {
        Arc::new(FileDestination::new(self.clone()))
    }
}
