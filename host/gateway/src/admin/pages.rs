//! Pages that only read and need no token. They show no message; what they say
//! of faults may quote a value of one, or the far side, in a short text.

use admin_api::answer::{JournalLine, ScriptLine, StreamLine};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use bus::BusSnapshot;
use message::text::cut;
use message::unix_millis;
use serde::Serialize;

use super::{Shared, by_stream};
use crate::operate::convert;

/// Maximum bytes of an error text. The whole of it is in the log
/// and in the dead letter.
pub(super) const MAX_TEXT: usize = 1_024;

/// `/readyz`.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    bus: BusSnapshot,
    /// Streams that are not loaded, the one that holds the bus back, and the
    /// journal where it cannot take anything.
    waiting_for: Vec<String>,
    journal: Fill,
}

#[derive(Serialize)]
struct Fill {
    messages: u64,
    bytes: u64,
    max_bytes: u64,
    full: bool,
    holder: Option<String>,
}

pub(super) async fn readyz(State(shared): State<Shared>) -> Response {
    let gateway = &shared.gateway;
    let holding = gateway.journal.holding();
    let bus = gateway.bus.snapshot();
    let full = holding.full || bus.held_back;
    let holder = holding.holder.filter(|_| full).and_then(|h| gateway.stream_name(h));
    let statuses = gateway.statuses();
    let loading = statuses.iter().filter(|s| s.script().is_none());
    let mut waiting_for: Vec<String> = loading
        .map(|s| match s.state().reason() {
            Some(reason) => format!("{}: {reason}", s.name()),
            None => format!("{}: {}", s.name(), s.state().word()),
        })
        .collect();
    if let Some(name) = &holder {
        waiting_for.push(format!("{name}: its backlog holds the bus back"));
    }
    if let Some(reason) = &holding.broken {
        waiting_for.push(format!("the journal: {reason}"));
    }
    let waiting_for = waiting_for.into_iter().map(|text| cut(&text, MAX_TEXT)).collect();
    // Streams that cannot be loaded are reported but do not take the gateway
    // out of service: the others run.
    let starting = statuses.iter().any(|s| s.script().is_none() && s.state().reason().is_none());
    let ready = bus.connected && !starting && !full && holding.broken.is_none();
    let (bytes, max_bytes) = (holding.bytes.used, holding.bytes.limit);
    let journal = Fill { messages: holding.messages, bytes, max_bytes, full, holder };
    let body = Readiness { ready, bus, waiting_for, journal };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

pub(super) async fn streams(State(shared): State<Shared>) -> Json<Vec<StreamLine>> {
    let gateway = &shared.gateway;
    let holding = gateway.journal.holding();
    let full = holding.full || gateway.bus.snapshot().held_back;
    let now = unix_millis();
    let lines = gateway.statuses().into_iter().map(|status| {
        let state = status.state();
        let script = status.script().map(|(name, version)| ScriptLine { name, version });
        StreamLine {
            state: state.word().to_owned(),
            reason: state.reason().map(str::to_owned).map(|text| cut(&text, MAX_TEXT)),
            code: state.code().map(|code| code.word().to_owned()),
            paused: gateway.operations.is_paused(status.index()),
            script,
            retries: status.retries(),
            holds_bus: full && holding.holder.is_some() && holding.holder == status.index(),
            last_error: status.last_error().map(|text| cut(&text, MAX_TEXT)),
            note: gateway.streams.note(status.name()).map(|text| cut(&text, MAX_TEXT)),
            refused: status.refused().map(|text| cut(&text, MAX_TEXT)),
            ..convert::stream_line(status.name(), &gateway.counters(&status), now)
        }
    });
    Json(lines.collect())
}

pub(super) async fn journal(State(shared): State<Shared>) -> Json<JournalLine> {
    Json(shared.gateway.operations.journal())
}

pub(super) async fn metrics(State(shared): State<Shared>) -> Response {
    let gateway = &shared.gateway;
    let holding = gateway.journal.holding();
    gateway.bus.measure();
    metrics::gauge!("sluicegate_journal_messages").set(holding.messages as f64);
    metrics::gauge!("sluicegate_journal_bytes").set(holding.bytes.used as f64);
    metrics::gauge!("sluicegate_journal_max_bytes").set(holding.bytes.limit as f64);
    metrics::gauge!("sluicegate_dead_letters_bytes").set(holding.dead_letters.used as f64);
    metrics::gauge!("sluicegate_dead_letters_max_bytes").set(holding.dead_letters.limit as f64);
    metrics::gauge!("sluicegate_journal_full").set(f64::from(u8::from(holding.full)));
    metrics::gauge!("sluicegate_journal_broken").set(f64::from(u8::from(holding.broken.is_some())));
    metrics::gauge!("sluicegate_journal_alarm_percent")
        .set(f64::from(convert::alarm(&holding).unwrap_or_default()));
    let content_type = (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
    let certificates = gateway.certificates.render(unix_millis() / 1000);
    let text = shared.metrics.render() + &by_stream::render(gateway) + &certificates;
    ([content_type], text).into_response()
}
