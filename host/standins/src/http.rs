//! An HTTP receiver of JSON lists, as flespi's sample receivers are: the body
//! is a list of objects, 200 takes it.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::json::parse_strict;
use super::plug::Plug;
use super::{Inbox, Received, lock};

/// How the receiver behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By the rules.
    Accept,
    /// This status for every request, and `Retry-After` in seconds with it.
    Status(u16, Option<u32>),
    /// Accepts, after this time.
    Slow(Duration),
    /// Ends the connection in place of an answer.
    Close,
    /// 400 for a list with an object whose JSON contains this text; the rest
    /// is accepted.
    RefuseText(String),
}

/// The running receiver.
#[derive(Clone)]
pub struct HttpStandin {
    plug: Plug,
    receiver: Arc<Receiver>,
}

struct Receiver {
    inbox: Inbox,
    mode: Mutex<Mode>,
}

/// The connection is to end in place of an answer.
#[derive(Debug)]
struct HangUp;

impl std::fmt::Display for HangUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("hang up")
    }
}

impl std::error::Error for HangUp {}

impl HttpStandin {
    /// Starts on a free port of 127.0.0.1; with `tls` every connection is TLS.
    pub async fn start(inbox: Inbox, tls: Option<Arc<rustls::ServerConfig>>) -> io::Result<Self> {
        let receiver = Arc::new(Receiver { inbox, mode: Mutex::new(Mode::Accept) });
        let shared = Arc::clone(&receiver);
        let tls = tls.map(TlsAcceptor::from);
        let plug = Plug::start(move |stream| connection(stream, tls.clone(), Arc::clone(&shared))).await?;
        Ok(Self { plug, receiver })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.plug.address()
    }

    /// Its socket: connections counted, unplug and plug.
    pub fn plug(&self) -> &Plug {
        &self.plug
    }

    /// Behaves like this from the next request on.
    pub fn set_mode(&self, mode: Mode) {
        *lock(&self.receiver.mode) = mode;
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, receiver: Arc<Receiver>) {
    let service = service_fn(move |request| {
        let receiver = Arc::clone(&receiver);
        async move { receiver.answer(request).await }
    });
    let server = hyper::server::conn::http1::Builder::new();
    // How a connection ends is the client's to report.
    match tls {
        None => drop(server.serve_connection(TokioIo::new(stream), service).await),
        Some(acceptor) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                drop(server.serve_connection(TokioIo::new(stream), service).await);
            }
        }
    }
}

impl Receiver {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, HangUp> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| HangUp)?.to_bytes();
        let mode = lock(&self.mode).clone();
        let refused = match mode {
            Mode::Accept => None,
            Mode::Close => return Err(HangUp),
            Mode::Status(status, retry_after) => return Ok(status_only(status, retry_after)),
            Mode::Slow(time) => {
                tokio::time::sleep(time).await;
                None
            }
            Mode::RefuseText(text) => Some(text),
        };
        let headers: Vec<(String, String)> = head
            .headers
            .iter()
            .map(|(name, value)| {
                (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            })
            .collect();
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let header = |name: header::HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
        let gzip = header(header::CONTENT_ENCODING) == Some("gzip");
        let json = header(header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/json"));
        if !json {
            self.inbox.violation(format!("http: {target}: the content type is not application/json"));
        }
        let objects = match objects(&body, gzip) {
            Ok(objects) => objects,
            Err(reason) => {
                self.inbox.violation(format!("http: {target}: {reason}"));
                return Ok(response(400, reason));
            }
        };
        if let Some(refused) = refused
            && let Some(object) = objects.iter().find(|object| object.to_string().contains(&refused))
        {
            let who = object.get("ident").and_then(Value::as_str).unwrap_or("a device without ident");
            return Ok(response(400, format!("the message of {who} is not acceptable")));
        }
        self.inbox.record(Received::Request { target, headers, objects });
        Ok(response(200, String::new()))
    }
}

/// The elements of a body that is a list of objects.
fn objects(body: &[u8], gzip: bool) -> Result<Vec<Value>, String> {
    let mut unpacked = Vec::new();
    let body = if gzip {
        let mut decoder = flate2::read::GzDecoder::new(body);
        decoder.read_to_end(&mut unpacked).map_err(|error| format!("not gzip: {error}"))?;
        &unpacked
    } else {
        body
    };
    let Value::Array(objects) = parse_strict(body)? else { return Err("the body is not a list".to_owned()) };
    if objects.is_empty() || !objects.iter().all(Value::is_object) {
        return Err("the body is not a list of one or more objects".to_owned());
    }
    Ok(objects)
}

fn status_only(status: u16, retry_after: Option<u32>) -> Response<Full<Bytes>> {
    let mut response = response(status, String::new());
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from(seconds));
    }
    response
}

fn response(status: u16, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}
