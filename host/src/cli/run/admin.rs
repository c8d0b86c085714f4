//! The admin listener: what an operator, a supervisor and Prometheus ask.
//!
//! It only reads. It answers requests that name a loopback host: a page in
//! somebody's browser that rebinds its own name to 127.0.0.1 gets nothing.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::gateway::Gateway;
use crate::bus::{BusSnapshot, unix_millis};
use crate::journal::Books;
use crate::stream::{Code, StreamStatus};
use crate::telemetry::Metrics;

/// Why the listener cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address is taken, or not ours.
    #[error("[admin] listen = \"{address}\": cannot listen there: {source}")]
    Bind {
        /// What the configuration says.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
}

#[derive(Clone)]
struct Shared {
    gateway: Arc<Gateway>,
    metrics: Metrics,
}

/// One stream in `/streams`.
#[derive(Serialize)]
struct StreamLine {
    name: String,
    state: &'static str,
    reason: Option<String>,
    /// The reason in one word, where the stream is blocked.
    code: Option<&'static str>,
    script: Option<ScriptLine>,
    read: u64,
    delivered: u64,
    filtered: u64,
    expired: u64,
    superseded: u64,
    dead_lettered: u64,
    queued: u64,
    retries: u64,
    /// Age of the oldest queued message in seconds; 0 with an empty queue.
    lag: f64,
    /// Whether it holds the window of unacknowledged messages: the bus waits,
    /// and so do the other streams.
    holds_window: bool,
    last_error: Option<String>,
}

#[derive(Serialize)]
struct ScriptLine {
    name: String,
    version: String,
}

/// `/readyz`.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    bus: BusSnapshot,
    /// Streams that are not loaded, or that hold the window of unacknowledged messages.
    waiting_for: Vec<String>,
    window: WindowLine,
}

#[derive(Serialize)]
struct WindowLine {
    messages: u64,
    bytes: u64,
    max_bytes: u64,
    full: bool,
    holder: Option<String>,
}

/// Binds the address; serving starts with [`serve`].
pub async fn bind(address: SocketAddr) -> Result<TcpListener, AdminError> {
    TcpListener::bind(address).await.map_err(|source| AdminError::Bind { address, source })
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, gateway: Arc<Gateway>, metrics: Metrics, stop: CancellationToken) {
    let app = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/streams", get(streams))
        .route("/metrics", get(show_metrics))
        .layer(middleware::from_fn(only_loopback))
        .with_state(Shared { gateway, metrics });
    let served = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "the admin listener has ended");
    }
}

async fn only_loopback(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    if is_loopback(host) {
        next.run(request).await
    } else {
        (StatusCode::FORBIDDEN, "the Host header must name a loopback address\n").into_response()
    }
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let gateway = &shared.gateway;
    let holding = gateway.journal.holding();
    let bus = gateway.bus.snapshot();
    let full = holding.full || bus.held_back;
    let holder = holding.holder.filter(|_| full).and_then(|h| gateway.stream_name(h));
    let loading = gateway.streams.iter().filter(|s| s.script().is_none());
    let mut waiting_for: Vec<String> = loading
        .map(|s| match s.state().reason() {
            Some(reason) => format!("{}: {reason}", s.name()),
            None => format!("{}: {}", s.name(), s.state().word()),
        })
        .collect();
    if let Some(name) = &holder {
        waiting_for.push(format!("{name}: holds the window of unacknowledged messages"));
    }
    // Streams that cannot be loaded are reported but do not take the gateway
    // out of service: the others run.
    let starting = gateway.streams.iter().any(|s| s.script().is_none() && s.state().reason().is_none());
    let ready = bus.connected && !starting && !full;
    let body = Readiness {
        ready,
        bus,
        waiting_for,
        window: WindowLine {
            messages: holding.messages,
            bytes: holding.bytes.0,
            max_bytes: holding.bytes.1,
            full,
            holder,
        },
    };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

async fn streams(State(shared): State<Shared>) -> Json<Vec<StreamLine>> {
    let gateway = &shared.gateway;
    let holding = gateway.journal.holding();
    let full = holding.full || gateway.bus.snapshot().held_back;
    let lines = gateway.streams.iter().map(|status| {
        let books = gateway.books(status);
        let state = status.state();
        StreamLine {
            name: status.name().to_owned(),
            state: state.word(),
            reason: state.reason().map(str::to_owned),
            code: state.code().map(Code::word),
            script: status.script().map(|(name, version)| ScriptLine { name, version }),
            read: books.read,
            delivered: books.delivered,
            filtered: books.filtered,
            expired: books.expired,
            superseded: books.superseded,
            dead_lettered: books.dead_lettered,
            queued: books.queued,
            retries: status.retries(),
            lag: lag(&books),
            holds_window: full && holding.holder.is_some() && holding.holder == status.index(),
            last_error: status.last_error(),
        }
    });
    Json(lines.collect())
}

async fn show_metrics(State(shared): State<Shared>) -> Response {
    for status in &shared.gateway.streams {
        measure(&shared.gateway, status);
    }
    let holding = shared.gateway.journal.holding();
    shared.gateway.bus.measure();
    metrics::gauge!("sluicegate_journal_messages").set(holding.messages as f64);
    metrics::gauge!("sluicegate_journal_bytes").set(holding.bytes.0 as f64);
    let content_type = (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
    ([content_type], shared.metrics.render()).into_response()
}

/// The books are counted in the journal; here they only become metrics.
fn measure(gateway: &Gateway, status: &StreamStatus) {
    let books = gateway.books(status);
    let stream = || status.name().to_owned();
    metrics::counter!("sluicegate_messages_read_total", "stream" => stream()).absolute(books.read);
    let outcomes = [
        ("delivered", books.delivered),
        ("filtered", books.filtered),
        ("expired", books.expired),
        ("superseded", books.superseded),
        ("dead_lettered", books.dead_lettered),
    ];
    for (outcome, count) in outcomes {
        metrics::counter!("sluicegate_messages_total", "stream" => stream(), "outcome" => outcome)
            .absolute(count);
    }
    metrics::gauge!("sluicegate_messages_queued", "stream" => stream()).set(books.queued as f64);
    metrics::gauge!("sluicegate_lag_seconds", "stream" => stream()).set(lag(&books));
    metrics::gauge!("sluicegate_books_balance", "stream" => stream())
        .set(f64::from(u8::from(books.balance())));
    metrics::counter!("sluicegate_delivery_retries_total", "stream" => stream()).absolute(status.retries());
    let now = status.state().word();
    for word in ["starting", "running", "paused", "retrying", "blocked", "stopped"] {
        metrics::gauge!("sluicegate_stream_state", "stream" => stream(), "state" => word)
            .set(f64::from(u8::from(word == now)));
    }
    for (code, now) in status.codes() {
        metrics::gauge!("sluicegate_stream_blocked", "stream" => stream(), "code" => code)
            .set(f64::from(u8::from(now)));
    }
}

fn lag(books: &Books) -> f64 {
    books.oldest.map_or(0.0, |oldest| unix_millis().saturating_sub(oldest) as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_hosts_are_answered() {
        for good in ["localhost", "localhost:8080", "127.0.0.1:8080", "127.3.4.5", "[::1]:8080", "[::1]"] {
            assert!(is_loopback(good), "{good}");
        }
        for bad in ["", "example.org", "example.org:8080", "10.0.0.1:8080", "127.0.0.1.example.org", "::2"] {
            assert!(!is_loopback(bad), "{bad}");
        }
    }
}
