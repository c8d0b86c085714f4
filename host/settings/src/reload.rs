//! `[reload]` of sluicegate.toml.

use std::time::Duration;

use settings_reader::section::{Section, number_or};
use stream::reload::ReloadRules;

/// How changes come in while the gateway runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReloadSettings {
    /// When stream files take effect (default [`StreamFiles::Apply`]).
    pub streams: StreamFiles,
    /// What a new version of a script has to stand.
    pub rules: ReloadRules,
}

/// Messages that a new version and the old one both map before it is taken up.
const MAX_COMPARED: u64 = 1_000;
/// A trial that does not end would keep two versions for ever.
const MAX_GUARD: Duration = Duration::from_secs(24 * 60 * 60);
const MAX_GUARDED: u64 = 1_000_000_000;

/// When a changed stream file takes effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StreamFiles {
    /// When somebody says `sluicegate apply`.
    #[default]
    Apply,
    /// As soon as it is changed.
    Watch,
}

impl ReloadSettings {
    /// Reads `[reload]`.
    pub(super) fn read(mut reload: Section<'_>) -> Self {
        const STREAMS: &str = "\"apply\": changed stream files take effect on `sluicegate apply`; or \
                               \"watch\": as soon as they change";
        let streams = reload.parsed("streams", STREAMS, |text| match text {
            "apply" => Ok(StreamFiles::Apply),
            "watch" => Ok(StreamFiles::Watch),
            other => Err(format!("`streams` is \"{}\"", other.escape_debug())),
        });
        let mut rules = ReloadRules::default();
        let rejections = reload.number("max_new_rejections", 0..=MAX_COMPARED);
        rules.max_new_rejections = number_or(rejections, rules.max_new_rejections);
        if let Some(time) = reload.duration("guard_time", Duration::ZERO..=MAX_GUARD) {
            rules.guard.time = time;
        }
        if let Some(messages) = reload.number("guard_messages", 0..=MAX_GUARDED) {
            rules.guard.messages = messages.value;
        }
        let settings = Self { streams: streams.map(|given| given.value).unwrap_or_default(), rules };
        reload.finish();
        settings
    }
}
