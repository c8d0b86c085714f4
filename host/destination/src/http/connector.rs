//! Opens the TCP and TLS connections of one lane.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tower_service::Service;

use crate::{Cause, Fault};

/// A connection opened ahead is used only while it is this young: a server
/// may close an idle one at any time, and the request that meets the close
/// would fail for nothing.
const OPENED_AHEAD: Duration = Duration::from_secs(2);

/// Idle connections are probed by TCP after this time, so that a lane notices
/// a receiver that vanished.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;
type BoxError = Box<dyn Error + Send + Sync>;

/// A connector that may hold one connection opened ahead, so that `connect`
/// can tell a wrong address or certificate before anything is sent, and does
/// not open a connection in vain.
#[derive(Clone)]
pub(super) struct Connector {
    inner: HttpsConnector<HttpConnector>,
    ahead: Arc<Mutex<Option<(Instant, Stream)>>>,
}

impl Connector {
    pub(super) fn new(tls: rustls::ClientConfig, timeout: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(TCP_KEEPALIVE));
        tcp.set_connect_timeout(Some(timeout));
        let inner = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(tcp);
        Self { inner, ahead: Arc::default() }
    }

    /// Opens a connection and keeps it for the first request.
    pub(super) async fn open_ahead(&mut self, uri: Uri) -> Result<(), BoxError> {
        std::future::poll_fn(|cx| self.inner.poll_ready(cx)).await?;
        let stream = self.inner.call(uri).await?;
        *self.ahead.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), stream));
        Ok(())
    }

    /// Gives the connection that was opened ahead away; an error where the far
    /// side ends it within `patience`. With TLS 1.3 a client counts as
    /// connected before the server has judged its certificate.
    pub(super) async fn lasts(self, patience: Duration) -> Result<(), BoxError> {
        let ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((_, stream)) = ahead else { return Ok(()) };
        match timeout(patience, TokioIo::new(stream).read(&mut [0])).await {
            Ok(Ok(0)) => Err("it closed the connection at once".into()),
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        match self.ahead.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some((opened, stream)) if opened.elapsed() < OPENED_AHEAD => Box::pin(async { Ok(stream) }),
            _ => self.inner.call(uri),
        }
    }
}

/// What a failed attempt to connect to `place` means: a refused certificate
/// needs an operator, everything else may pass.
pub(super) fn connect_fault(place: &str, error: &(dyn Error + 'static)) -> Fault {
    let reason = format!("cannot connect to {place}: {}", root_cause(error));
    if is_tls(error) { Fault::persistent(Cause::Tls, reason) } else { Fault::transient(reason) }
}

/// The innermost error, which is the one that says what happened.
pub(super) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn is_tls(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        // An io::Error hides what it was made of from `source`.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if inner.is_some_and(|e| e.is::<rustls::Error>() || is_tls(e)) || error.is::<rustls::Error>() {
            return true;
        }
        next = error.source();
    }
    false
}
