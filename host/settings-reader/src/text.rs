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
    let (distance, word) =
        words.iter().map(|word| (distance(&text, &word.replace('-', "_")), *word)).min_by_key(|(d, _)| *d)?;
    (distance <= (text.chars().count().max(word.len()) / 3).max(1)).then_some(word)
}

/// Number of letters to insert, remove, replace or swap with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (above[j] + usize::from(x != y)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

/// Whether a value under this name may be a secret.
pub fn sounds_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    ["pass", "header", "token", "secret", "auth", "cookie", "credential", "apikey", "api_key", "api-key"]
        .iter()
        .any(|word| name.contains(word))
}
