//! HTTP and HTTPS (RFC 9110, HTTP/1.1 or HTTP/2 by ALPN): one request per
//! delivery; 2xx is delivered.
//!
//! One delivery is in flight per lane, on a connection that is kept alive.
//! Redirects are not followed: they would carry the payload, and the stream's
//! credentials, to an address that nobody configured.

mod answer;
mod connector;
mod request;
mod settings;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use connector::{Connector, connect_fault, root_cause};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use settings_reader::tls;
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::{Cause, Connection, Delivery, DeliveryId, Destination, Fault, Verdict};

pub use settings::{HttpMethod, HttpSettings, KIND};

/// Longest wait for TCP and TLS, within the stream's own time-out.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Below the idle time-outs of common servers (nginx 75 s, Node.js 5 s is the
/// exception that a retry covers), so that requests seldom meet a close.
const IDLE: Duration = Duration::from_secs(20);

/// Most bytes of an answer that are read; then the connection is given up.
const MAX_ANSWER: usize = 64 * 1024;

/// How long a connection has to last before its certificate counts as taken.
const TAKEN: Duration = Duration::from_secs(1);

/// Longest wait for the rest of an answer whose status is known: reading it
/// only serves the next request on the connection, and the reason.
const REST_OF_ANSWER: Duration = Duration::from_secs(5);

/// An HTTP destination.
pub struct HttpDestination {
    settings: HttpSettings,
    /// `host:port`, for reasons.
    place: String,
    /// The stream's headers; the error is told at every attempt to connect.
    headers: Result<HeaderMap, String>,
}

/// What the requests of one lane share.
struct Lane {
    client: Client<Connector, Full<Bytes>>,
    base: Url,
    place: String,
    method: Method,
    headers: HeaderMap,
    gzip: bool,
    flespi: bool,
    timeout: Duration,
}

type InFlight = Pin<Box<dyn Future<Output = Result<Verdict, Fault>> + Send>>;

struct HttpConnection {
    lane: Arc<Lane>,
    /// Kept here and not inside `next`, so that cancelling `next` loses nothing.
    in_flight: Option<(DeliveryId, InFlight)>,
}

// === impl HttpDestination ===

impl HttpDestination {
    /// A destination with these settings; files are read when a lane connects.
    pub fn new(settings: HttpSettings) -> Self {
        let host = settings.url.host_str().unwrap_or_default();
        let port = settings.url.port_or_known_default().unwrap_or_default();
        let place = format!("{host}:{port}");
        let headers = stream_headers(&settings);
        Self { settings, place, headers }
    }

    /// A connector that holds an open connection.
    async fn open(&self) -> Result<Connector, Fault> {
        let limit = self.settings.timeout.min(CONNECT_TIMEOUT);
        let mut connector = Connector::new(self.tls().await?, limit);
        let base = request::address(&self.settings.url, None).map_err(unusable)?;
        // Without the address itself: its query may be a secret.
        let uri: Uri = base.as_str().parse().map_err(|e| unusable(format!("url to {}: {e}", self.place)))?;
        match tokio::time::timeout(limit, connector.open_ahead(uri)).await {
            Ok(Ok(())) => Ok(connector),
            Ok(Err(error)) => Err(connect_fault(&self.place, &*error)),
            Err(_) => Err(Fault::transient(format!("cannot connect to {} within {limit:?}", self.place))),
        }
    }

    async fn tls(&self) -> Result<rustls::ClientConfig, Fault> {
        let config = if self.settings.url.scheme() == "https" {
            let settings = self.settings.tls.clone();
            // Reads files, and the system's certificates take their time.
            tokio::task::spawn_blocking(move || tls::client_config(&settings)).await.map_err(|e| {
                Fault::transient(format!("{}: reading the TLS files was interrupted: {e}", self.place))
            })?
        } else {
            tls::trust_nobody()
        };
        let mut config =
            Arc::unwrap_or_clone(config.map_err(|e| Fault::persistent(Cause::Tls, e.to_string()))?);
        // The connector offers h2 and http/1.1, and insists on doing it itself.
        config.alpn_protocols.clear();
        Ok(config)
    }
}

fn unusable(error: String) -> Fault {
    Fault::persistent(Cause::Configuration, error)
}

/// The configured headers, secrets marked so that they are never printed.
fn stream_headers(settings: &HttpSettings) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in &settings.headers {
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("[destination] headers: {name:?} is no HTTP header name"))?;
        let mut value = HeaderValue::from_str(value.expose()).map_err(|_| {
            format!("[destination] headers: the value of {name:?} has line ends or control characters")
        })?;
        value.set_sensitive(true);
        headers.append(parsed, value);
    }
    Ok(headers)
}

#[async_trait]
impl Destination for HttpDestination {
    fn window(&self) -> usize {
        1
    }

    fn check(&self, delivery: &Delivery) -> Result<(), String> {
        let url = request::address(&self.settings.url, delivery.target.as_deref())?;
        url.as_str().parse::<Uri>().map_err(|e| format!("target {:?}: {e}", delivery.target))?;
        match &self.headers {
            Ok(headers) => request::script_headers(delivery, headers).map(drop),
            Err(_) => Ok(()),
        }
    }

    fn wants_identity(&self) -> bool {
        true
    }

    fn files(&self) -> Vec<PathBuf> {
        self.settings.files()
    }

    fn renewed(&self) -> Result<Option<Arc<dyn Destination>>, Fault> {
        let renewed = Self::new(self.settings.renewed()?);
        match renewed.headers {
            Ok(_) => Ok(Some(Arc::new(renewed))),
            Err(error) => Err(unusable(error)),
        }
    }

    async fn prove(&self, _lane: u32) -> Result<(), Fault> {
        let connector = self.open().await?;
        if self.settings.tls.identity.is_some() {
            connector.lasts(TAKEN).await.map_err(|error| connect_fault(&self.place, &*error))?;
        }
        Ok(())
    }

    async fn connect(&self, _lane: u32) -> Result<Box<dyn Connection>, Fault> {
        let headers = self.headers.clone().map_err(unusable)?;
        let connector = self.open().await?;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .build(connector);
        let lane = Lane {
            client,
            base: self.settings.url.clone(),
            place: self.place.clone(),
            method: match self.settings.method {
                HttpMethod::Post => Method::POST,
                HttpMethod::Put => Method::PUT,
                HttpMethod::Patch => Method::PATCH,
            },
            headers,
            gzip: self.settings.gzip,
            flespi: self.settings.flespi,
            timeout: self.settings.timeout,
        };
        Ok(Box::new(HttpConnection { lane: Arc::new(lane), in_flight: None }))
    }
}

#[async_trait]
impl Connection for HttpConnection {
    async fn send(&mut self, id: DeliveryId, delivery: &Delivery) -> Result<(), Fault> {
        let request = self.lane.request(delivery).map_err(|e| Fault::persistent(Cause::Configuration, e))?;
        let lane = self.lane.clone();
        self.in_flight = Some((id, Box::pin(async move { lane.exchange(request).await })));
        Ok(())
    }

    async fn next(&mut self) -> Result<(DeliveryId, Verdict), Fault> {
        // Between requests there is no connection to lose: the server may
        // close an idle one whenever it likes.
        let Some((id, exchange)) = &mut self.in_flight else { return std::future::pending().await };
        let (id, verdict) = (*id, exchange.await);
        self.in_flight = None;
        verdict.map(|verdict| (id, verdict))
    }

    async fn close(self: Box<Self>) {}
}

// === impl Lane ===

impl Lane {
    fn request(&self, delivery: &Delivery) -> Result<Request<Full<Bytes>>, String> {
        let url = request::address(&self.base, delivery.target.as_deref())?;
        let uri: Uri = url.as_str().parse().map_err(|e| format!("target {:?}: {e}", delivery.target))?;
        let script = request::script_headers(delivery, &self.headers)?;
        let identity = delivery.identity.as_ref();
        let (headers, body) =
            request::head_and_body(script, &self.headers, identity, &delivery.body, self.gzip);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// One request and its answer. A fault ends the connection.
    ///
    /// HTTP has statuses to refuse a body with, so a far side that hangs up
    /// or stays silent has said nothing about this delivery: a destination
    /// fault, never a message fault.
    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Verdict, Fault> {
        let deadline = Instant::now() + self.timeout;
        let response = match timeout_at(deadline, self.client.request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if error.is_connect() => return Err(connect_fault(&self.place, &error)),
            Ok(Err(error)) => {
                return Err(Fault::transient(format!(
                    "no answer from {}: {}",
                    self.place,
                    root_cause(&error)
                )));
            }
            Err(_) => {
                return Err(Fault::transient(format!(
                    "no answer from {} within {:?}",
                    self.place, self.timeout
                )));
            }
        };
        let status = response.status();
        let pause = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| answer::retry_after(value, SystemTime::now()));
        let body = rest_of(response, deadline.min(Instant::now() + REST_OF_ANSWER)).await;
        Ok(answer::verdict(status, pause, &body, self.flespi))
    }
}

/// As much of the answer's body as comes in time and is of use. The status is
/// known already, so whatever goes wrong here changes no verdict.
async fn rest_of(response: Response<Incoming>, deadline: Instant) -> Vec<u8> {
    let mut incoming = response.into_body();
    let mut body = Vec::new();
    while body.len() < MAX_ANSWER {
        match timeout_at(deadline, incoming.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    body.extend_from_slice(data);
                }
            }
            Ok(Some(Err(_)) | None) | Err(_) => break,
        }
    }
    body
}

#[cfg(test)]
mod tests;
