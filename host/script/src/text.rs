//! Texts of scripts and of the compiler, fit for one line of a log.

use message::text;

/// Maximum bytes of one text of a script: a log line, an error, a reason.
const TEXT: usize = 1_024;

/// Escapes control characters and cuts the text after [`TEXT`] bytes, so that
/// it cannot break a log line.
pub fn one_line(words: &str) -> String {
    text::one_line(words, TEXT)
}

/// All causes, outermost first, on one line.
pub(super) fn chain(error: &wasmtime::Error) -> String {
    one_line(&format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_scripts_stay_on_one_line() {
        assert_eq!(one_line("a\nb\u{1b}[31mc"), "a\\nb\\u{1b}[31mc");
        let long = one_line(&"ü".repeat(2_000));
        assert_eq!(long.chars().count(), TEXT / 2 + 1);
        assert!(long.ends_with("ü…"));
    }
}
