//! Small things that several readers share: places in a file, lists of words,
//! reasons of failed file operations, names that sound like secrets.

use std::ops::Range;

/// Bytes of the file.
pub type Span = Range<usize>;

/// The plain reason of a failed file operation, without the number.
pub fn io_reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::IsADirectory => "it is a folder".to_owned(),
        std::io::ErrorKind::InvalidData => "it is not UTF-8 text".to_owned(),
        _ => error.to_string(),
    }
}

/// `` `a`, `b`, `c` ``
pub fn listed(words: &[&str]) -> String {
    words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ")
}

/// The word that was probably meant.
pub fn nearest<'w>(text: &str, words: &[&'w str]) -> Option<&'w str> {
    let text = text.to_lowercase().replace('-', "_");
    let distance = |word: &str| strsim::osa_distance(&text, &word.replace('-', "_"));
    let (distance, word) = words.iter().map(|word| (distance(word), *word)).min_by_key(|(d, _)| *d)?;
    (distance <= (text.chars().count().max(word.len()) / 3).max(1)).then_some(word)
}

/// Whether a value under this name may be a secret.
pub fn sounds_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    ["pass", "header", "token", "secret", "auth", "cookie", "credential", "apikey", "api_key", "api-key"]
        .iter()
        .any(|word| name.contains(word))
}
