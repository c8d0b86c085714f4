//! `[delivery]` of a stream's file.

use std::time::Duration;

use destination::{InFlight, Kind};
use journal::{OnFull, Quota};
use settings_reader::section::{Section, listed, number_or};

use super::load::Main;
use super::rate::read_rate;
use super::{DeliverySettings, RateLimitGroups};

const DAY: Duration = Duration::from_secs(86_400);

/// Reads `[delivery]` of a stream whose destination is of this kind. What is
/// wrong has its default.
pub fn read_delivery(mut section: Section<'_>, kind: Option<&Kind>, main: &Main) -> DeliverySettings {
    let default = DeliverySettings::default();
    let in_flight = match kind.map(|kind| kind.in_flight) {
        Some(InFlight::One) => {
            section.refuse(
                "in_flight",
                "`in_flight` for a destination that takes one delivery at a time",
                "`lanes`: each lane has one delivery under way",
            );
            default.in_flight
        }
        Some(InFlight::Settable { default, max }) => number_or(section.number("in_flight", 1..=max), default),
        None => number_or(section.number("in_flight", 1..=65_535), default.in_flight),
    };
    let settings = DeliverySettings {
        lanes: read_lanes(&mut section, kind).unwrap_or(default.lanes),
        in_flight,
        batch_messages: number_or(section.number("batch_messages", 1..=10_000), default.batch_messages),
        batch_bytes: section
            .size("batch_bytes", 1 << 10..=16 << 20)
            .map_or(default.batch_bytes, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
        queue_ttl: section.duration("queue_ttl", Duration::from_millis(100)..=DAY * 365),
        rate_limit: read_rate(&mut section, "rate_limit"),
        rate_limit_group: read_group(&mut section, &main.rate_limit_groups),
        backlog_rate_limit: read_rate(&mut section, "backlog_rate_limit"),
        live_first: section.flag("live_first").unwrap_or_default(),
        conflate: read_conflation(&mut section),
        quota: read_quota(&mut section, main.journal.max_size),
    };
    section.finish();
    settings
}

fn read_lanes(section: &mut Section<'_>, kind: Option<&Kind>) -> Option<u32> {
    let given = section.number("lanes", 1..=1024)?;
    if let Some(kind) = kind.filter(|kind| given.value > kind.max_lanes) {
        let what = format!("`lanes` is {} for a destination of type `{}`", given.value, kind.name);
        section.doc().error(Some(given.span), what, format!("at most {}", kind.max_lanes));
        return None;
    }
    u32::try_from(given.value).ok()
}

fn read_group(section: &mut Section<'_>, groups: &RateLimitGroups) -> Option<String> {
    let names: Vec<&str> = groups.keys().map(String::as_str).collect();
    let expected = if names.is_empty() {
        "the name of a group; [rate_limit_groups] of sluicegate.toml defines none".to_owned()
    } else {
        format!("one of {}, the groups in [rate_limit_groups] of sluicegate.toml", listed(&names))
    };
    let given = section.parsed("rate_limit_group", &expected, |text| {
        if groups.contains_key(text) {
            Ok(text.to_owned())
        } else {
            Err(format!("there is no rate limit group \"{}\"", text.escape_debug()))
        }
    });
    given.map(|given| given.value)
}

fn read_conflation(section: &mut Section<'_>) -> Option<Duration> {
    if section.flag("conflate") == Some(true) {
        let interval = section.duration("min_interval", Duration::from_millis(10)..=DAY);
        return Some(interval.unwrap_or(Duration::from_secs(1)));
    }
    section.refuse(
        "min_interval",
        "`min_interval` is set without `conflate`",
        "`conflate = true` as well: the interval applies to conflated keys only",
    );
    None
}

fn read_quota(section: &mut Section<'_>, journal: u64) -> Quota {
    const ON_FULL: &str = "\"expire-oldest\", or \"block\", which pauses the bus and with it every stream";
    let on_full = section.parsed("on_full", ON_FULL, |text| match text {
        "expire-oldest" => Ok(OnFull::ExpireOldest),
        "block" => Ok(OnFull::Block),
        other => Err(format!("`on_full` is \"{}\"", other.escape_debug())),
    });
    Quota {
        max_backlog: section.size("max_backlog", 1 << 10..=journal).unwrap_or(journal / 5),
        on_full: on_full.map(|given| given.value).unwrap_or_default(),
    }
}
