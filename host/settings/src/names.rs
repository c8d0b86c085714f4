//! Names of streams and of rate limit groups.

/// Whether a stream or a rate limit group may have this name.
pub fn is_stream_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
}
