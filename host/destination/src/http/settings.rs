//! What `[destination] type = "http"` may say, checked.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use settings_reader::section::{Plain, Section, TlsUse};
use settings_reader::units::parse_http_url;
use settings_reader::{Secret, SecretError, TlsSettings};

use super::HttpDestination;
use crate::{Destination, DestinationSettings, InFlight, Key, Kind, MAX_LANES};

/// The row of the table of kinds.
pub static KIND: Kind = Kind {
    name: "http",
    adapter: "http-json",
    max_lanes: MAX_LANES,
    in_flight: InFlight::One,
    keys: &[
        Key {
            name: "url",
            default: "required",
            meaning: "the receiver, `https://host/path` or `http://host/path`",
        },
        Key { name: "method", default: "POST", meaning: "`POST`, `PUT` or `PATCH`" },
        Key {
            name: "headers",
            default: "",
            meaning: "a table of headers; a value is text or a reference to a secret",
        },
        Key { name: "gzip", default: "false", meaning: "whether bodies of 1 KiB and more are compressed" },
        Key {
            name: "compat",
            default: "",
            meaning: "`flespi`: only 200 is success, every other status is retried",
        },
        Key {
            name: "timeout",
            default: "30s",
            meaning: "longest wait for the whole answer, 100 ms to 10 min",
        },
        Key {
            name: "ca",
            default: "the system's",
            meaning: "certificates that the server's must descend from, a PEM file",
        },
        Key { name: "cert", default: "", meaning: "the gateway's certificate, a PEM file" },
        Key { name: "key", default: "", meaning: "the key of `cert`, a PEM file" },
    ],
    decode: None,
    read: |section, _| Some(Arc::new(HttpSettings::read(section)?)),
};

/// Settings of an HTTP destination.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// `http://` or `https://`, without login and fragment; a delivery's target
    /// is path and query below it.
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

/// Headers that follow from the connection and the body.
const OWN_HEADERS: [&str; 4] = ["host", "content-length", "transfer-encoding", "connection"];

impl HttpSettings {
    /// The files whose content a new connection makes use of.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        settings_reader::files(&self.tls, self.headers.iter().map(|(_, value)| value))
    }

    /// The same with what the files say now. Blocks.
    pub(super) fn renewed(&self) -> Result<Self, SecretError> {
        let headers = self.headers.iter().map(|(name, value)| Ok((name.clone(), value.renewed()?)));
        Ok(Self { headers: headers.collect::<Result<_, _>>()?, tls: self.tls.renewed(), ..self.clone() })
    }

    /// Reads `[destination]`.
    pub fn read(section: &mut Section<'_>) -> Option<Self> {
        const URL: &str = "the address of the receiver, \"https://host/path\" or \"http://host/path\"";
        let url = section.url("url", None, URL, parse_http_url).map(|given| given.value);
        let usage = match &url {
            None => TlsUse::Unknown,
            Some(url) if url.scheme() == "https" => TlsUse::Yes,
            Some(_) => TlsUse::OnlyWith("https://"),
        };
        let method = section.parsed("method", "`POST`, `PUT` or `PATCH`", |text| match text {
            "POST" => Ok(HttpMethod::Post),
            "PUT" => Ok(HttpMethod::Put),
            "PATCH" => Ok(HttpMethod::Patch),
            _ => Err(format!("`method` is \"{}\"", text.escape_debug())),
        });
        let compat =
            section.parsed(
                "compat",
                "`flespi`: only 200 is success, all else is retried",
                |text| match text {
                    "flespi" => Ok(true),
                    _ => Err(format!("`compat` is \"{}\"", text.escape_debug())),
                },
            );
        let seconds = Duration::from_secs;
        let headers = read_headers(section.section("headers"));
        let tls = section.tls(usage);
        let gzip = section.flag("gzip").unwrap_or(false);
        let timeout =
            section.duration("timeout", Duration::from_millis(100)..=seconds(600)).unwrap_or(seconds(30));
        Some(Self {
            url: url?,
            method: method.map(|given| given.value).unwrap_or_default(),
            headers,
            tls,
            gzip,
            timeout,
            flespi: compat.is_some_and(|given| given.value),
        })
    }
}

impl DestinationSettings for HttpSettings {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn address(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.to_string()
    }

    fn tls(&self) -> Option<&TlsSettings> {
        Some(&self.tls)
    }

    fn build(&self) -> Arc<dyn Destination> {
        Arc::new(HttpDestination::new(self.clone()))
    }
}

fn read_headers(section: Section<'_>) -> Vec<(String, Secret)> {
    let doc = section.doc();
    let mut headers: Vec<(String, Secret)> = Vec::new();
    for (name, value) in section.entries() {
        // Read first: a value may be a secret whatever is wrong with its name.
        let text = section.read_secret(name.value, value, Plain::Allowed);
        let wrong = if hyper::header::HeaderName::from_bytes(name.value.as_bytes()).is_err() {
            Some(("is no name of a header", "letters, digits and `-`"))
        } else if OWN_HEADERS.contains(&name.value.to_ascii_lowercase().as_str()) {
            Some(("is set by the gateway itself", "no such header: it follows from `url` and the body"))
        } else if headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name.value)) {
            Some(("is given twice", "each header once; upper and lower case are the same"))
        } else {
            None
        };
        if let Some((what, expected)) = wrong {
            doc.error(
                Some(name.span),
                format!("the header `{}` {what}", name.value.escape_debug()),
                expected,
            );
            continue;
        }
        let Some(text) = text else { continue };
        if hyper::header::HeaderValue::from_str(text.expose()).is_err() {
            let what = format!("the header `{}` has a value that HTTP cannot carry", name.value);
            doc.error(Some(value.span()), what, "one line without control characters");
            continue;
        }
        headers.push((name.value.to_owned(), text));
    }
    headers
}
