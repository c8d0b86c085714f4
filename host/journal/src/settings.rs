//! `[journal]` and `[dead_letters]` of sluicegate.toml.

use std::path::{Path, PathBuf};
use std::time::Duration;

use settings_reader::section::Section;
use settings_reader::units::show_size;

/// Where the journal is and how much it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalSettings {
    /// Its folder (default `journal` in the data folder).
    pub path: PathBuf,
    /// Maximum bytes of its files (default 10 GiB); room for several of the
    /// largest packets.
    pub max_size: u64,
    /// How long settled messages are kept, for rewinds and shadow runs (default
    /// 1 h).
    pub keep: Duration,
    /// When appends are synced (default [`SyncMode::Always`]).
    pub sync: SyncMode,
    /// Maximum bytes of dead letters (default 256 MiB, or half of `max_size`).
    /// They are part of the journal: at most half of `max_size`.
    pub dead_letters_max_size: u64,
}

/// When appends are synced to the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMode {
    /// Before the bus is acknowledged.
    #[default]
    Always,
    /// Once per second: a crash of the machine loses the messages since then.
    None,
}

/// Room for a list of 100,000 messages, and for the index.
const SMALLEST: u64 = 32 << 20;
/// Default for the bytes of dead letters.
const DEFAULT_LETTERS: u64 = 256 << 20;
/// How many of the largest packets must fit: a packet that does not fit would
/// block the bus for ever.
const PACKETS: u64 = 4;

impl JournalSettings {
    /// Reads `[journal]` and `[dead_letters]`; `data` is the data folder,
    /// `max_packet` the largest packet of the bus.
    pub fn read(
        mut journal: Section<'_>,
        mut dead_letters: Section<'_>,
        data: &Path,
        max_packet: u32,
    ) -> Self {
        const PATH: &str = "the path of a folder, relative to this file";
        const SYNC: &str = "\"always\", or \"none\" to sync only once a second";
        let path = journal.path("path", PATH);
        let sync = journal.parsed("sync", SYNC, |text| match text {
            "always" => Ok(SyncMode::Always),
            "none" => Ok(SyncMode::None),
            other => Err(format!("`sync` is \"{}\"", other.escape_debug())),
        });
        let max_size = journal.size("max_size", SMALLEST..=1 << 44).unwrap_or(10 << 30);
        let letters = dead_letters.size("max_size", 64 << 10..=1 << 40);
        // Only the operator removes them, and the bus must not wait for that.
        let max_letters = max_size / 2;
        let settings = Self {
            path: path.map_or_else(|| data.join("journal"), |given| given.value),
            max_size,
            keep: journal
                .duration("keep", Duration::ZERO..=Duration::from_secs(365 * 86_400))
                .unwrap_or(Duration::from_secs(3600)),
            sync: sync.map(|given| given.value).unwrap_or_default(),
            dead_letters_max_size: letters.unwrap_or(DEFAULT_LETTERS.min(max_letters)),
        };
        if settings.dead_letters_max_size > max_letters {
            dead_letters.doc().error(
                dead_letters.value_span("max_size"),
                format!(
                    "`max_size` of [dead_letters] is {}, and that of [journal], which they lie in, {}",
                    show_size(settings.dead_letters_max_size),
                    show_size(settings.max_size)
                ),
                format!("at most half of the journal: {}", show_size(max_letters)),
            );
        }
        let least = PACKETS * u64::from(max_packet);
        if settings.max_size < least {
            journal.doc().error(
                journal.value_span("max_size"),
                format!(
                    "`max_size` is {}, and [bus] `max_packet` {}",
                    show_size(settings.max_size),
                    show_size(max_packet.into())
                ),
                format!("room for {PACKETS} of the largest packets: at least {}", show_size(least)),
            );
        }
        journal.finish();
        dead_letters.finish();
        settings
    }
}
