//! The admin listener: what an operator, a supervisor and Prometheus ask.
//!
//! [`pages`] only read and show no message, though a reason may quote of one;
//! [`calls`] change something or show messages and want the token. All of it answers only requests that name a
//! loopback host: a page in a browser that rebinds its own name to
//! 127.0.0.1 gets nothing.

mod by_stream;
mod calls;
mod pages;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use admin_api::answer::Refusal;
use admin_api::token::AdminToken;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{delete, get, post};
use telemetry::Metrics;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::gateway::Gateway;
use crate::operate::OperateError;

/// Bytes of a request's body: the ids of thousands of dead letters.
const MAX_BODY: usize = 256 << 10;
/// Bytes of a script.
const MAX_SCRIPT: usize = script::MAX_SIZE;

/// Why the listener cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address is taken, or not ours.
    #[error("[admin] listen = \"{address}\": cannot listen on this address: {source}")]
    Bind {
        /// What the configuration says.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
}

/// What every answer is made from.
#[derive(Clone)]
struct Shared {
    gateway: Arc<Gateway>,
    metrics: Metrics,
    token: AdminToken,
}

/// An error answer.
#[derive(Debug)]
struct Problem(StatusCode, String);

/// Binds the address; serving starts with [`serve`].
pub async fn bind(address: SocketAddr) -> Result<TcpListener, AdminError> {
    TcpListener::bind(address).await.map_err(|source| AdminError::Bind { address, source })
}

/// Serves until `stop`.
pub async fn serve(
    listener: TcpListener,
    gateway: Arc<Gateway>,
    metrics: Metrics,
    token: AdminToken,
    stop: CancellationToken,
) {
    let app = app(Shared { gateway, metrics, token });
    let served = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "admin listener stopped");
    }
}

fn app(shared: Shared) -> Router {
    let with_token = Router::new()
        .route("/streams/{name}", delete(calls::forget))
        .route("/streams/{name}/pause", post(calls::pause))
        .route("/streams/{name}/resume", post(calls::resume))
        .route("/streams/{name}/rewind", post(calls::rewind))
        .route("/streams/{name}/reload", post(calls::reload))
        .route("/streams/{name}/update", post(calls::update))
        .route("/streams/{name}/rollback", post(calls::roll_back))
        .route("/streams/{name}/versions", get(calls::versions))
        .route("/streams/{name}/compare", post(calls::compare).layer(DefaultBodyLimit::max(MAX_SCRIPT)))
        .route("/messages", get(calls::messages))
        .route("/plan", post(calls::plan))
        .route("/apply", post(calls::apply))
        .route("/dead-letters", get(calls::dead_letters))
        .route("/dead-letters/{id}", get(calls::dead_letter))
        .route("/dead-letters/replay", post(calls::replay))
        .route("/dead-letters/drop", post(calls::drop_dead_letters))
        .route_layer(middleware::from_fn_with_state(shared.clone(), calls::only_with_token));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(pages::readyz))
        .route("/streams", get(pages::streams))
        .route("/journal", get(pages::journal))
        .route("/metrics", get(pages::metrics))
        .merge(with_token)
        .fallback(|| async { Problem(StatusCode::NOT_FOUND, "unknown path".to_owned()) })
        .method_not_allowed_fallback(|| async {
            Problem(StatusCode::METHOD_NOT_ALLOWED, "the page is there, but not with this method".to_owned())
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(only_loopback))
        .with_state(shared)
}

async fn only_loopback(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    if is_loopback(host) {
        next.run(request).await
    } else {
        let text = "the Host header must name a loopback address";
        Problem(StatusCode::FORBIDDEN, text.to_owned()).into_response()
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

// === impl Problem ===

impl From<OperateError> for Problem {
    fn from(error: OperateError) -> Self {
        let status = match &error {
            OperateError::Wrong(_) => StatusCode::BAD_REQUEST,
            OperateError::Unknown(_) => StatusCode::NOT_FOUND,
            OperateError::NotNow(_) => StatusCode::CONFLICT,
        };
        Self(status, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.0, Json(Refusal { error: self.1 })).into_response()
    }
}
