//! What may be sent, and as what: target, headers and body of one request.
//! Pure functions; RFC 9110 (headers), RFC 3986 (paths).

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use url::Url;

use crate::{Delivery, Identity};

/// Smallest body that compression pays for.
const GZIP_FROM: usize = 1024;

/// Equal for equal deliveries, however often they are sent
/// (draft-ietf-httpapi-idempotency-key-header; without the quotes of a
/// structured field, as the services that know it take it).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Which messages the body carries.
const POSITIONS: HeaderName = HeaderName::from_static("sluicegate-positions");

/// Maximum number of headers of a delivery. Servers take about as many, and the library's
/// map panics at 24,577.
const MAX_HEADERS: usize = 100;

/// How often a path may be percent-encoded in itself. Each round is a pass over
/// it, and a long enough `%2525...` has as many rounds as characters.
const MAX_ENCODINGS: usize = 4;

/// Headers that belong to the connection, to the host's framing or to the
/// stream's credentials: a script may not set them.
const FORBIDDEN: [&str; 16] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// The address of a delivery: `target` is path and query below `base`.
/// The error says what was found and what is allowed.
pub(super) fn address(base: &Url, target: Option<&str>) -> Result<Url, String> {
    let mut url = base.clone();
    let Some(target) = target.filter(|t| !t.is_empty()) else { return Ok(url) };

    check_target(target)?;
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    if !path.is_empty() {
        let joined = format!("{}/{}", base.path().trim_end_matches('/'), path.trim_start_matches('/'));
        url.set_path(&joined);
    }
    match (base.query(), query) {
        (_, None) => {}
        (None, Some(query)) => url.set_query(Some(query)),
        (Some(own), Some(query)) => url.set_query(Some(&format!("{own}&{query}"))),
    }
    Ok(url)
}

fn check_target(target: &str) -> Result<(), String> {
    let wrong = |what: &str| {
        Err(format!("target {target:?} {what}; it has to be a path and query below the stream's URL"))
    };
    if target.chars().any(char::is_control) {
        return wrong("has control characters");
    }
    if target.contains('#') {
        return wrong("has a fragment");
    }
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    if path.starts_with("//") || path.starts_with("\\") {
        return wrong("names a host");
    }
    if path.split_once("://").is_some_and(|(scheme, _)| is_scheme(scheme)) {
        return wrong("has a scheme");
    }
    // Servers decode before they resolve dots, so both spellings count; a
    // backslash is a slash to WHATWG URLs and to some servers.
    let Some(decoded) = decode_separators(path) else {
        return wrong("is percent-encoded again and again");
    };
    if decoded.split(['/', '\\']).any(|segment| segment == "." || segment == "..") {
        return wrong("leaves the stream's URL by \".\" or \"..\"");
    }
    Ok(())
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// Undoes the percent-encoding of `.`, `/`, `\` and `%`, until nothing changes;
/// none where that takes more than [`MAX_ENCODINGS`] rounds.
fn decode_separators(path: &str) -> Option<String> {
    let mut text = path.to_ascii_lowercase();
    for _ in 0..=MAX_ENCODINGS {
        let next = text.replace("%2e", ".").replace("%2f", "/").replace("%5c", "\\").replace("%25", "%");
        if next == text {
            return Some(text);
        }
        text = next;
    }
    None
}

/// The script's headers, checked: valid, not the host's, not the stream's.
pub(super) fn script_headers(delivery: &Delivery, stream: &HeaderMap) -> Result<HeaderMap, String> {
    let count = delivery.headers.len();
    if count > MAX_HEADERS {
        return Err(format!("the delivery has {count} headers; at most {MAX_HEADERS} are allowed"));
    }
    let mut headers = HeaderMap::with_capacity(count);
    for (name, value) in &delivery.headers {
        let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
            format!("header name {name:?} is not allowed by HTTP (letters, digits and -_ are)")
        })?;
        if FORBIDDEN.contains(&parsed.as_str()) {
            return Err(format!(
                "header {name:?} may not be set by a script: it belongs to the gateway or to the stream's credentials"
            ));
        }
        if stream.contains_key(&parsed) {
            return Err(format!(
                "header {name:?} is set by the stream's [destination] headers, not by the script"
            ));
        }
        let value = HeaderValue::from_str(value)
            .map_err(|_| format!("the value of header {name:?} has line ends or control characters"))?;
        headers.append(parsed, value);
    }
    Ok(headers)
}

/// All headers of a request and its body as it goes on the wire.
pub(super) fn head_and_body(
    script: HeaderMap,
    stream: &HeaderMap,
    identity: Option<&Identity>,
    body: &Bytes,
    gzip: bool,
) -> (HeaderMap, Bytes) {
    let mut headers = stream.clone();
    headers.extend(script);
    if let Some(Identity { key, positions }) = identity {
        // In the place of what the script or the stream may have set: a key
        // of another origin would promise what only ours can keep.
        for (name, text) in [(IDEMPOTENCY_KEY, key), (POSITIONS, positions)] {
            // Both are printable ASCII, which is always a value.
            if let Ok(value) = HeaderValue::from_str(text) {
                headers.insert(name, value);
            }
        }
    }
    if !headers.contains_key(header::CONTENT_TYPE) && looks_like_json(body) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if !headers.contains_key(header::USER_AGENT) {
        headers.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("sluicegate/", env!("CARGO_PKG_VERSION"))),
        );
    }
    if gzip
        && body.len() >= GZIP_FROM
        && !headers.contains_key(header::CONTENT_ENCODING)
        && let Some(packed) = compress(body)
    {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        return (headers, packed);
    }
    (headers, body.clone())
}

/// Whether a body starts as a JSON object or list does.
fn looks_like_json(body: &[u8]) -> bool {
    matches!(body.trim_ascii_start().first(), Some(b'{' | b'['))
}

/// None where compressing would not make the body smaller. The output is a
/// function of the body alone: a retry sends equal bytes.
fn compress(body: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 2), Compression::default());
    encoder.write_all(body).ok()?;
    let packed = encoder.finish().ok()?;
    (packed.len() < body.len()).then(|| Bytes::from(packed))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Read;

    use super::*;

    fn joined(base: &str, target: &str) -> Result<String, String> {
        address(&Url::parse(base).unwrap(), Some(target)).map(|url| url.to_string())
    }

    fn delivery(headers: &[(&str, &str)]) -> Delivery {
        Delivery {
            target: None,
            headers: headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect(),
            body: Bytes::new(),
            identity: None,
        }
    }

    #[test]
    fn targets_are_joined_below_the_url() {
        for (base, target, expected) in [
            ("http://h/api", "devices/1", "http://h/api/devices/1"),
            ("http://h/api/", "/devices/1?x=2", "http://h/api/devices/1?x=2"),
            ("http://h", "a:b/c", "http://h/a:b/c"),
            ("http://h/in?key=k", "?x=2", "http://h/in?key=k&x=2"),
            ("http://h/in?key=k", "a", "http://h/in/a?key=k"),
            ("http://h/in", "a b/ü", "http://h/in/a%20b/%C3%BC"),
            ("http://h/in", "x?u=http://other/..", "http://h/in/x?u=http://other/.."),
            ("http://h/in", "v1..2/...", "http://h/in/v1..2/..."),
        ] {
            assert_eq!(joined(base, target).unwrap(), expected, "{base} {target}");
        }
        let base = Url::parse("https://h/in?key=k").unwrap();
        assert_eq!(address(&base, None).unwrap().as_str(), "https://h/in?key=k");
    }

    #[test]
    fn targets_that_leave_the_url_are_refused() {
        for target in [
            "http://evil/x",
            "//evil/x",
            "\\\\evil",
            "../x",
            "a/../../x",
            "a/..",
            "./x",
            "%2e%2e/x",
            "a%2F..%2fx",
            "%252e%252e/x",
            "a\\..\\x",
            "a\r\nHost: evil",
            "a\u{0}",
            "a#b",
        ] {
            let error = joined("http://h/in", target).unwrap_err();
            assert!(error.contains("below the stream's URL"), "{target}: {error}");
        }
    }

    #[test]
    fn a_script_cannot_set_what_is_not_its_own() {
        let mut stream = HeaderMap::new();
        stream.insert("x-key", HeaderValue::from_static("secret"));
        for name in FORBIDDEN.iter().copied().chain(["HOST", "Content-Length", "X-Key"]) {
            assert!(script_headers(&delivery(&[(name, "x")]), &stream).is_err(), "{name}");
        }
        assert!(script_headers(&delivery(&[("x y", "1")]), &stream).unwrap_err().contains("\"x y\""));
        assert!(script_headers(&delivery(&[("x-a", "1\r\nHost: evil")]), &stream).is_err());
        let ok = script_headers(&delivery(&[("X-A", "1"), ("x-a", "2")]), &stream).unwrap();
        assert_eq!(ok.get_all("x-a").iter().count(), 2);
    }

    #[test]
    fn no_script_makes_the_gateway_count_for_ever_or_panic() {
        let nested = format!("%{}2e/x", "25".repeat(1_000_000));
        assert!(joined("http://h/in", &nested).unwrap_err().contains("again and again"));
        assert_eq!(joined("http://h/in", "100%25").unwrap(), "http://h/in/100%25");
        let many = vec![("a", ""); 30_000];
        let error = script_headers(&delivery(&many), &HeaderMap::new()).unwrap_err();
        assert_eq!(error, "the delivery has 30000 headers; at most 100 are allowed");
    }

    #[test]
    fn json_gets_its_content_type_unless_somebody_gave_one() {
        let of = |body: &'static str, script: &[(&str, &str)]| {
            let script = script_headers(&delivery(script), &HeaderMap::new()).unwrap();
            let (headers, _) =
                head_and_body(script, &HeaderMap::new(), None, &Bytes::from_static(body.as_bytes()), false);
            headers.get(header::CONTENT_TYPE).map(|v| v.to_str().unwrap().to_owned())
        };
        assert_eq!(of(" [1]", &[]).as_deref(), Some("application/json"));
        assert_eq!(of("{}", &[("content-type", "application/x-y")]).as_deref(), Some("application/x-y"));
        assert_eq!(of("plain", &[]), None);
    }

    #[test]
    fn large_bodies_are_compressed_when_asked() {
        let body = Bytes::from(vec![b'a'; GZIP_FROM]);
        let (headers, packed) = head_and_body(HeaderMap::new(), &HeaderMap::new(), None, &body, true);
        assert_eq!(headers[header::CONTENT_ENCODING], "gzip");
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut plain).unwrap();
        assert_eq!(plain, body);

        let (headers, sent) = head_and_body(HeaderMap::new(), &HeaderMap::new(), None, &body, false);
        assert!(!headers.contains_key(header::CONTENT_ENCODING) && sent == body);
        let small = body.slice(..GZIP_FROM - 1);
        let (headers, sent) = head_and_body(HeaderMap::new(), &HeaderMap::new(), None, &small, true);
        assert!(!headers.contains_key(header::CONTENT_ENCODING) && sent == small);
    }
}
