//! What an HTTP answer means: delivered, a message fault or a destination
//! fault (RFC 9110). Pure functions.

use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use message::text::SAID;

use crate::{Cause, Fault, Reply, Verdict};

/// Longest pause that a `Retry-After` can ask for.
const MAX_PAUSE: Duration = Duration::from_secs(15 * 60);

/// The verdict on a delivery that was answered.
///
/// `flespi`: only 200 is success and everything else is retried, as flespi's
/// streams do.
pub(super) fn verdict(status: StatusCode, pause: Option<Duration>, body: &[u8], flespi: bool) -> Verdict {
    let delivered = if flespi { status == StatusCode::OK } else { status.is_success() };
    if delivered {
        return Verdict::Delivered;
    }
    let said = describe(status, body);
    match status.as_u16() {
        400 | 413 | 415 | 422 if !flespi => Verdict::Refused(Reply(said)),
        408 | 425 | 429 | 500..=599 => Verdict::Deferred(Fault::transient(said).after(pause)),
        code => {
            let cause = match code {
                401 | 403 | 407 => Cause::Credentials,
                404 | 410 => Cause::NotFound,
                _ => Cause::UnexpectedAnswer,
            };
            Verdict::Deferred(Fault::persistent(cause, said).after(pause))
        }
    }
}

/// `503 Service Unavailable: text of the answer`.
fn describe(status: StatusCode, body: &[u8]) -> String {
    let mut said = status.as_str().to_owned();
    if let Some(words) = status.canonical_reason() {
        said.push(' ');
        said.push_str(words);
    }
    let head = &body[..body.len().min(SAID)];
    let text: String =
        String::from_utf8_lossy(head).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let text = text.trim().trim_end_matches(char::REPLACEMENT_CHARACTER);
    if !text.is_empty() {
        said.push_str(": ");
        said.push_str(text);
    }
    said
}

/// The pause that a `Retry-After` asks for, in seconds or as an HTTP date, at
/// most 15 minutes; none where the value is neither.
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let pause = if let Ok(seconds) = value.parse::<u64>() {
        Duration::from_secs(seconds)
    } else {
        parse_http_date(value)?.duration_since(now).unwrap_or_default()
    };
    Some(pause.min(MAX_PAUSE))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, the only form that may be generated
/// (RFC 9110 section 5.6.7).
fn parse_http_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_once(", ")?.1.split(' ');
    let day: u64 = words.next()?.parse().ok()?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|m| *m == name)?;
    let year: u64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let sane =
        (1..=31).contains(&day) && (1970..=9999).contains(&year) && hour < 24 && minute < 60 && second <= 60;
    if words.next() != Some("GMT") || !sane {
        return None;
    }
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let before: u64 = (1970..year).map(|y| if leap(y) { 366 } else { 365 }).sum();
    let lengths = [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let days = before + lengths.iter().take(month).sum::<u64>() + day - 1;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::FaultKind;

    fn kind(status: u16, flespi: bool) -> &'static str {
        match verdict(StatusCode::from_u16(status).unwrap(), None, b"", flespi) {
            Verdict::Delivered => "delivered",
            Verdict::Refused(_) => "refused",
            Verdict::Deferred(fault) => match fault.kind {
                FaultKind::Transient => "transient",
                FaultKind::Persistent => "persistent",
                FaultKind::Unexplained => "unexplained",
            },
        }
    }

    #[test]
    fn statuses_are_told_apart() {
        for (statuses, expected) in [
            (&[200, 201, 202, 204, 299][..], "delivered"),
            (&[400, 413, 415, 422], "refused"),
            (&[408, 425, 429, 500, 502, 503, 504, 599], "transient"),
            (&[301, 302, 307, 308, 304, 401, 402, 403, 404, 405, 407, 409, 410, 414, 451], "persistent"),
        ] {
            for status in statuses {
                assert_eq!(kind(*status, false), expected, "{status}");
            }
        }
    }

    #[test]
    fn an_operator_is_told_where_to_look() {
        for (statuses, expected) in [
            (&[401, 403, 407][..], Cause::Credentials),
            (&[404, 410], Cause::NotFound),
            (&[302, 402, 405, 451], Cause::UnexpectedAnswer),
        ] {
            for status in statuses {
                let said = verdict(StatusCode::from_u16(*status).unwrap(), None, b"", false);
                assert!(matches!(said, Verdict::Deferred(f) if f.cause == Some(expected)), "{status}");
            }
        }
    }

    #[test]
    fn flespi_takes_only_200_and_retries_the_rest() {
        assert_eq!(kind(200, true), "delivered");
        for status in [201, 204, 301, 400, 404, 413, 422] {
            assert_eq!(kind(status, true), "persistent", "{status}");
        }
        for status in [429, 500, 503] {
            assert_eq!(kind(status, true), "transient", "{status}");
        }
    }

    #[test]
    fn a_reply_quotes_the_answer_in_one_bounded_line() {
        let body = format!("bad\r\nfield {}", "x".repeat(1000));
        let Verdict::Refused(reply) = verdict(StatusCode::BAD_REQUEST, None, body.as_bytes(), false) else {
            panic!("refused expected")
        };
        assert!(reply.0.starts_with("400 Bad Request: bad  field xxx"), "{reply}");
        assert!(reply.0.len() < 330, "{}", reply.0.len());
        let Verdict::Refused(reply) = verdict(StatusCode::BAD_REQUEST, None, &[b' ', 0xff], false) else {
            panic!("refused expected")
        };
        assert_eq!(reply.0, "400 Bad Request");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_capped() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let seconds = |text| retry_after(text, now).map(|d| d.as_secs());
        assert_eq!(seconds("0"), Some(0));
        assert_eq!(seconds(" 120 "), Some(120));
        assert_eq!(seconds("86400"), Some(900));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(0));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:50:07 GMT"), Some(30));
        assert_eq!(seconds("Tue, 29 Feb 2000 00:00:00 GMT"), Some(900));
        assert_eq!(seconds("Sun, 06 Nov 1970 00:00:00 GMT"), Some(0));
        for bad in ["", "soon", "-1", "Sun, 06 Foo 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 CET", "1.5"]
        {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_pause_reaches_the_lane() {
        let pause = Some(Duration::from_secs(7));
        let Verdict::Deferred(fault) = verdict(StatusCode::TOO_MANY_REQUESTS, pause, b"", false) else {
            panic!("deferred expected")
        };
        assert_eq!(fault.retry_after, pause);
    }
}
