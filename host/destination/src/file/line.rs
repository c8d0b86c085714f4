//! The line that a delivery becomes.

use serde::Serialize;

use super::Format;
use crate::Delivery;

/// One line of `format = "json"`.
#[derive(Serialize)]
struct Json<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    /// Pairs of name and value: a name may come twice.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    headers: &'a [(String, String)],
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    positions: Option<&'a str>,
}

/// The line with its end.
pub fn of(format: Format, delivery: &Delivery) -> serde_json::Result<Vec<u8>> {
    let mut line = match format {
        Format::Lines => delivery.body.to_vec(),
        Format::Json => {
            let text = std::str::from_utf8(&delivery.body).ok();
            serde_json::to_vec(&Json {
                target: delivery.target.as_deref(),
                headers: &delivery.headers,
                body: text,
                body_base64: text.is_none().then(|| base64(&delivery.body)),
                key: delivery.identity.as_ref().map(|identity| identity.key.as_str()),
                positions: delivery.identity.as_ref().map(|identity| identity.positions.as_str()),
            })?
        }
    };
    line.push(b'\n');
    Ok(line)
}

/// RFC 4648, with padding.
pub fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            if place <= chunk.len() {
                let letter = (bits >> (18 - 6 * place)) & 63;
                text.push(char::from(LETTERS[letter as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}
