//! What `/metrics` says of each stream. Made anew at every scrape: the journal
//! counts the counters, and a stream that is gone leaves nothing behind, which
//! the recorder of the metrics library would keep for ever.

use std::sync::Arc;

use journal::{Backlog, Counters};
use message::unix_millis;
use stream::StreamStatus;
use telemetry::exposition::{Exposition, Kind};
use telemetry::histogram;

use super::super::gateway::Gateway;
use crate::operate::convert;

const STATES: [&str; 6] = ["starting", "running", "paused", "retrying", "blocked", "stopped"];

/// A stream at one moment.
struct Seen {
    status: Arc<StreamStatus>,
    counters: Counters,
    /// None: it cannot run.
    backlog: Option<Backlog>,
}

/// All of it, in the text format of Prometheus.
pub(super) fn render(gateway: &Gateway) -> String {
    let seen = |status: Arc<StreamStatus>| Seen {
        counters: gateway.counters(&status),
        backlog: status.index().map(|index| gateway.journal.backlog(index)),
        status,
    };
    let streams: Vec<Seen> = gateway.statuses().into_iter().map(seen).collect();
    let now = unix_millis();
    let mut text = Exposition::default();
    counters(&mut text, &streams, now);
    backlogs(&mut text, &streams);
    states(&mut text, &streams);
    let running = streams.iter().filter(|s| s.status.index().is_some());
    let latencies = running.map(|s| (s.status.name(), s.status.ack_latency()));
    let help = "From receipt of a message to its settlement as delivered, by stream";
    text.finish() + &histogram::render("sluicegate_ack_latency_seconds", help, latencies)
}

fn counters(text: &mut Exposition, streams: &[Seen], now: u64) {
    let each = |value: fn(&Seen, u64) -> f64| {
        streams.iter().map(move |s| ([("stream", s.status.name())], value(s, now)))
    };
    let counter = Kind::Counter;
    let read = "Messages that entered the journal, by stream";
    text.family("sluicegate_messages_read_total", counter, read, each(|s, _| s.counters.read as f64));
    let reread = "How many of them were read again by replay and rewind, by stream";
    text.family("sluicegate_messages_reread_total", counter, reread, each(|s, _| s.counters.reread as f64));
    let outcomes = streams.iter().flat_map(|Seen { status, counters, .. }| {
        let labels = |outcome| [("stream", status.name()), ("outcome", outcome)];
        counters.outcomes().map(move |(outcome, count)| (labels(outcome), count as f64))
    });
    let settled = "Messages settled, by stream and outcome";
    text.family("sluicegate_messages_total", counter, settled, outcomes);
    let queued = "Messages not settled yet, by stream";
    text.family("sluicegate_messages_queued", Kind::Gauge, queued, each(|s, _| s.counters.queued as f64));
    let lag = "Age of the oldest message not settled yet, by stream";
    text.family("sluicegate_lag_seconds", Kind::Gauge, lag, each(|s, now| convert::lag(&s.counters, now)));
    let balance = "1 while read equals the sum of outcomes and queue, by stream";
    let balances = each(|s, _| f64::from(u8::from(s.counters.balance())));
    text.family("sluicegate_books_balance", Kind::Gauge, balance, balances);
    let retries = "Deliveries sent again, by stream";
    text.family(
        "sluicegate_delivery_retries_total",
        counter,
        retries,
        each(|s, _| s.status.retries() as f64),
    );
}

fn backlogs(text: &mut Exposition, streams: &[Seen]) {
    type Value = fn(&Backlog) -> u64;
    let families: [(&str, &str, Value); 3] = [
        ("sluicegate_backlog_bytes", "Bytes of the messages queued, by stream", |b| b.bytes),
        ("sluicegate_backlog_max_bytes", "Bytes that may be queued, by stream", |b| b.max_bytes),
        ("sluicegate_backlog_alarm_percent", "50 or 80 once so much of it is used, else 0, by stream", |b| {
            b.alarm
        }),
    ];
    for (name, help, value) in families {
        let known = streams.iter().filter_map(|s| Some((s.status.name(), s.backlog.as_ref()?)));
        let samples = known.map(|(name, backlog)| ([("stream", name)], value(backlog) as f64));
        text.family(name, Kind::Gauge, help, samples);
    }
}

fn states(text: &mut Exposition, streams: &[Seen]) {
    let states = streams.iter().flat_map(|s| {
        let now = s.status.state().word();
        let name = s.status.name();
        STATES.map(move |word| ([("stream", name), ("state", word)], f64::from(u8::from(word == now))))
    });
    let help = "1 for the state that the stream is in";
    text.family("sluicegate_stream_state", Kind::Gauge, help, states);
    let blocked = streams.iter().flat_map(|s| {
        let codes = s.status.codes().into_iter();
        codes.map(|(code, now)| ([("stream", s.status.name()), ("code", code)], f64::from(u8::from(now))))
    });
    let help = "1 while the stream is blocked for that reason";
    text.family("sluicegate_stream_blocked", Kind::Gauge, help, blocked);
}
