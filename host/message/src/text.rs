//! Texts that a script or a far side had a hand in: how much of them is kept,
//! and how they are shown.

/// Bytes of what a far side said that are kept.
pub const SAID: usize = 300;

/// At most so many bytes of the text, and `…` if there were more.
pub fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(most)])
}

/// The same without control characters: neither a log line nor a terminal must
/// obey it.
pub fn one_line(text: &str, most: usize) -> String {
    let mut line = String::with_capacity(text.len().min(most));
    for c in text.chars() {
        if line.len() + c.len_utf8() > most {
            line.push('…');
            break;
        }
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("ää", 4), "ää");
        assert_eq!(cut("ää", 3), "ä…");
        assert_eq!(one_line("ää", 3), "ä…");
    }

    #[test]
    fn control_characters_do_nothing() {
        assert_eq!(one_line("a\nb\u{1b}[31mc", 99), "a\\nb\\u{1b}[31mc");
    }
}
