//! What `[destination] type = "http"` may say, checked.

use std::time::Duration;

use crate::config::{Secret, TlsSettings};

/// Settings of an HTTP destination.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// `http://` or `https://`; a delivery's target is path and query below it.
    pub url: url::Url,
    /// `POST` (default), `PUT` or `PATCH`.
    pub method: HttpMethod,
    /// Headers of every request, in the order of the file; the values may be
    /// secrets. Names are valid HTTP header names, unique without regard to case.
    pub headers: Vec<(String, Secret)>,
    /// CA, client certificate and key for `https://`.
    pub tls: TlsSettings,
    /// Whether bodies of 1 KiB and more are sent gzip-compressed.
    pub gzip: bool,
    /// Longest wait for the whole answer (default 30 s).
    pub timeout: Duration,
    /// `compat = "flespi"`: only 200 is success, every other status is retried.
    pub flespi: bool,
}

/// An HTTP method that carries a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HttpMethod {
    /// The default.
    #[default]
    Post,
    /// Replaces a resource.
    Put,
    /// Changes a resource.
    Patch,
}
