//! Durations, sizes and addresses as people write them.

use std::net::SocketAddr;
use std::time::Duration;

use super::MqttUrl;

/// Reads `500ms`, `30s`, `5m`, `2h` or `7d`: a whole number and one unit, with
/// or without a blank between them.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

/// Reads `512B`, `64KiB`, `16MiB` or `1GiB`: a whole number and one unit, with
/// or without a blank between them.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let bytes = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(bytes)
}

/// The way a duration would be written in a file; the largest unit that fits.
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, factor) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if millis > 0 && millis.is_multiple_of(factor) {
            return format!("{}{unit}", millis / factor);
        }
    }
    format!("{millis}ms")
}

/// The way a size would be written in a file; the largest unit that fits.
pub fn show_size(bytes: u64) -> String {
    for (unit, factor) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes > 0 && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    format!("{bytes}B")
}

/// A size for a person: one digit after the point, `512 B`, `1.3 KiB`, `10.0 GiB`.
pub fn show_size_roughly(bytes: u64) -> String {
    for (unit, factor) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= factor {
            return format!("{:.1} {unit}", bytes as f64 / factor as f64);
        }
    }
    format!("{bytes} B")
}

/// Number and unit, with at most one blank between them; no sign, at least one digit.
fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.strip_prefix(' ').unwrap_or(unit)))
}

/// What is wrong with an address. Never repeats the address: it may hold a
/// password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// No `://`, or characters that no address has.
    #[error("is not an address")]
    NotAnAddress,
    /// Something else than was asked for.
    #[error("has the scheme `{0}://`")]
    Scheme(String),
    /// `user:password@`.
    #[error("contains a user name")]
    UserInfo,
    /// Nothing between `://` and the port.
    #[error("has no host")]
    NoHost,
    /// Not 1 to 65535.
    #[error("has a port outside 1 to 65535")]
    Port,
    /// A path, a query or a fragment.
    #[error("has a path, query or fragment, which is not allowed here")]
    Path,
}

/// Reads `scheme://host:port` with one of `schemes` (name, port where the
/// address names none). The result is the index of the scheme, the host
/// without brackets, and the port.
fn parse_authority(text: &str, schemes: &[(&str, u16)]) -> Result<(usize, String, u16), UrlError> {
    let (scheme, rest) = text.split_once("://").ok_or(UrlError::NotAnAddress)?;
    if rest.contains('@') {
        return Err(UrlError::UserInfo);
    }
    let lower = scheme.to_ascii_lowercase();
    let Some(index) = schemes.iter().position(|(name, _)| *name == lower) else {
        let plain =
            !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        return Err(if plain { UrlError::Scheme(lower) } else { UrlError::NotAnAddress });
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#']) {
        return Err(UrlError::Path);
    }
    let (host, port) = match rest.rsplit_once(':') {
        // The colons of a bare IPv6 address are no port.
        Some((host, port)) if !rest.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let port = match port {
        None => schemes.get(index).map_or(0, |(_, port)| *port),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().map_err(|_| UrlError::Port)?
        }
        Some(_) => return Err(UrlError::Port),
    };
    if port == 0 {
        return Err(UrlError::Port);
    }
    let host = match url::Host::parse(host) {
        Ok(url::Host::Ipv6(address)) => address.to_string(),
        Ok(host) => host.to_string(),
        Err(_) if host.is_empty() => return Err(UrlError::NoHost),
        Err(_) => return Err(UrlError::NotAnAddress),
    };
    Ok((index, host, port))
}

/// Reads `mqtt://` (port 1883) and `mqtts://` (port 8883).
pub fn parse_mqtt_url(text: &str) -> Result<MqttUrl, UrlError> {
    let (scheme, host, port) = parse_authority(text, &[("mqtt", 1883), ("mqtts", 8883)])?;
    Ok(MqttUrl { host, port, tls: scheme == 1 })
}

/// Reads `tcp://` into host and port.
pub fn parse_tcp_url(text: &str, default_port: u16) -> Result<(String, u16), UrlError> {
    let (_, host, port) = parse_authority(text, &[("tcp", default_port)])?;
    Ok((host, port))
}

/// Reads `http://` and `https://`; path and query are kept.
pub fn parse_http_url(text: &str) -> Result<url::Url, UrlError> {
    let url = url::Url::parse(text).map_err(|e| match e {
        url::ParseError::EmptyHost => UrlError::NoHost,
        url::ParseError::InvalidPort => UrlError::Port,
        _ => UrlError::NotAnAddress,
    })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(UrlError::Scheme(url.scheme().to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(UrlError::UserInfo);
    }
    if url.fragment().is_some() {
        return Err(UrlError::Path);
    }
    if url.port() == Some(0) {
        return Err(UrlError::Port);
    }
    Ok(url)
}

/// Reads the value of `key` as an IP address and a port.
pub fn socket_address(key: &str, text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{key}` is \"{}\"", text.escape_debug()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("0ms", 0),
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("7d", 604_800_000),
            ("5 s", 5_000),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "-1s",
            "+1s",
            "1.5s",
            "1  s",
            "1\ts",
            " 1s",
            "1s ",
            "1 ",
            "1S",
            "1w",
            "18446744073709551615d",
            "99999999999999999999s",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("1B", 1),
            ("128KiB", 131_072),
            ("64MiB", 67_108_864),
            ("256 MiB", 268_435_456),
            ("2GiB", 2_147_483_648),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "5", "5MB", "5  MiB", " 5MiB", "5 ", "MiB", " MiB", "17179869184GiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn rough_sizes() {
        let shown = [0, 1023, 1300, 3 << 20, 11 << 30].map(show_size_roughly);
        assert_eq!(shown, ["0 B", "1023 B", "1.3 KiB", "3.0 MiB", "11.0 GiB"]);
    }

    #[test]
    fn mqtt_urls() {
        for (text, shown) in [
            ("mqtt://broker", "mqtt://broker:1883"),
            ("mqtts://Broker.Example", "mqtts://broker.example:8883"),
            ("mqtts://broker:443/", "mqtts://broker:443"),
            ("mqtt://[::1]:1884", "mqtt://[::1]:1884"),
            ("mqtt://[::1]", "mqtt://[::1]:1883"),
            ("MQTT://127.0.0.1:1", "mqtt://127.0.0.1:1"),
        ] {
            assert_eq!(parse_mqtt_url(text).unwrap().to_string(), shown);
        }
        for (text, error) in [
            ("", UrlError::NotAnAddress),
            ("broker:1883", UrlError::NotAnAddress),
            ("://x", UrlError::NotAnAddress),
            ("http://x", UrlError::Scheme("http".into())),
            ("mqtt://", UrlError::NoHost),
            ("mqtt://:1883", UrlError::NoHost),
            ("mqtt://u:p@x", UrlError::UserInfo),
            ("mqtt://x/path", UrlError::Path),
            ("mqtt://x?q", UrlError::Path),
            ("mqtt://x:0", UrlError::Port),
            ("mqtt://x:", UrlError::Port),
            ("mqtt://x:65536", UrlError::Port),
            ("mqtt://x:+1", UrlError::Port),
            ("mqtt://a b", UrlError::NotAnAddress),
            ("mqtt://::1", UrlError::NotAnAddress),
        ] {
            assert_eq!(parse_mqtt_url(text), Err(error), "{text}");
        }
    }

    #[test]
    fn other_urls() {
        assert_eq!(parse_tcp_url("tcp://193.193.165.165", 20163), Ok(("193.193.165.165".into(), 20163)));
        assert_eq!(parse_http_url("https://x/a?b=c").unwrap().as_str(), "https://x/a?b=c");
        assert_eq!(parse_http_url("ftp://x"), Err(UrlError::Scheme("ftp".into())));
        assert_eq!(parse_http_url("https://u:p@x"), Err(UrlError::UserInfo));
        assert_eq!(parse_http_url("https://x/#f"), Err(UrlError::Path));
        assert_eq!(parse_http_url("example.com"), Err(UrlError::NotAnAddress));
        assert_eq!(parse_http_url("http://"), Err(UrlError::NoHost));
        assert_eq!(parse_http_url("http://x:99999"), Err(UrlError::Port));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(millis in 0u64..10_000_000_000, bytes: u64) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
            prop_assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }

        #[test]
        fn a_url_is_read_back(host in "[a-z][a-z0-9-]{0,10}(\\.[a-z][a-z0-9]{0,4}){0,2}", port in 1u16.., tls: bool) {
            let url = MqttUrl { host, port, tls };
            // "xn--..." must be valid punycode to be a host.
            if let Ok(read) = parse_mqtt_url(&url.to_string()) {
                prop_assert_eq!(read, url);
            } else {
                prop_assert!(url.host.contains("xn--"));
            }
        }

        #[test]
        fn never_panics(text in ".{0,30}") {
            let _ = (parse_duration(&text), parse_size(&text), parse_tcp_url(&text, 1), parse_http_url(&text));
            let _ = parse_mqtt_url(&format!("mqtt://{text}"));
        }
    }
}
