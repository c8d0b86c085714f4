//! When certificates expire.

use std::fmt;
use std::path::Path;

use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::Decode;

use super::tls::{self, TlsError};

const DAY: u64 = 86_400;
const HOUR: u64 = 3_600;

/// How long before it expires somebody should know.
pub const SOON: u64 = 30 * DAY;

/// The certificate of a file that is the first to expire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// Whose it is, `CN=gateway,O=ACME`.
    pub subject: String,
    /// When it expires, Unix seconds.
    pub at: u64,
}

impl Expiry {
    /// Reads a PEM file; none where no certificate in it can be understood
    /// (that may be one that TLS can use all the same). Blocks.
    pub fn read(path: &Path) -> Result<Option<Self>, TlsError> {
        let certificates = tls::read_certificates(path)?;
        let expiries = certificates.iter().filter_map(|der| {
            // More is accepted here than RFC 5280 allows: authorities of a
            // house's own are seldom by the book.
            let certificate = CertificateInner::<Raw>::from_der(der).ok()?;
            let inner = certificate.tbs_certificate();
            let at = inner.validity().not_after.to_unix_duration().as_secs();
            Some(Self { subject: inner.subject().to_string(), at })
        });
        Ok(expiries.min_by_key(|expiry| expiry.at))
    }

    /// Seconds until then; negative after that.
    pub fn seconds_left(&self, now: u64) -> i64 {
        let at = i64::try_from(self.at).unwrap_or(i64::MAX);
        at.saturating_sub(i64::try_from(now).unwrap_or(i64::MAX))
    }

    /// For a person: whose certificate in which file expires, and when.
    /// `now` in Unix seconds.
    pub fn told(&self, path: &Path, now: u64) -> impl fmt::Display {
        let when = match self.seconds_left(now) {
            left if left <= 0 => format!("expired {} ago", time(left.unsigned_abs())),
            left => format!("expires in {}", time(left.unsigned_abs())),
        };
        format!("the certificate of `{}` in {} {when}", self.subject.escape_debug(), path.display())
    }
}

fn time(seconds: u64) -> String {
    match (seconds / DAY, seconds / HOUR) {
        (0, 0) => "less than an hour".to_owned(),
        (0, 1) => "1 hour".to_owned(),
        (0 | 1, hours) => format!("{hours} hours"),
        (days, _) => format!("{days} days"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;

    /// A certificate that is good until the end of a year.
    fn pem(name: &str, year: i32) -> String {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_after = date_time_ymd(year, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn of_several_certificates_the_first_to_expire_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let text = pem("late", 2090) + &pem("early", 2030) + &pem("never", 4000);
        std::fs::write(&path, text).unwrap();
        let expiry = Expiry::read(&path).unwrap().unwrap();
        assert_eq!((expiry.at, expiry.subject.contains("early")), (1_893_456_000, true), "{expiry:?}");
        assert!(Expiry::read(&folder.path().join("none")).is_err());
    }

    #[test]
    fn the_time_that_is_left_is_told_in_words() {
        let expiry = Expiry { subject: "CN=gateway".to_owned(), at: 100 * DAY };
        for (now, words) in [
            (70 * DAY, "expires in 30 days"),
            (98 * DAY, "expires in 2 days"),
            (98 * DAY + 1, "expires in 47 hours"),
            (99 * DAY + 23 * HOUR, "expires in 1 hour"),
            (100 * DAY - 1, "expires in less than an hour"),
            (100 * DAY, "expired less than an hour ago"),
            (103 * DAY, "expired 3 days ago"),
        ] {
            let told = expiry.told(Path::new("/etc/gateway.pem"), now).to_string();
            assert_eq!(told, format!("the certificate of `CN=gateway` in /etc/gateway.pem {words}"));
        }
    }
}
