//! The words of a `where` expression.

use std::fmt;

use super::Number;

/// One word and where it begins (characters from 1).
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) at: usize,
    pub(super) word: Word,
}

#[derive(Debug, Clone)]
pub(super) enum Word {
    /// `position.speed`, `in`, `has`, `true`: what it is depends on its place.
    Name(String),
    Text(String),
    Number(Number),
    /// An operator or bracket.
    Sign(&'static str),
    End,
}

/// Longer signs first.
const SIGNS: [&str; 14] = ["&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "(", ")", "[", "]", ","];

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "`{name}`"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(Number::Integer(number)) => write!(f, "`{number}`"),
            Self::Number(Number::Double(number)) => write!(f, "`{number}`"),
            Self::Sign(sign) => write!(f, "`{sign}`"),
            Self::End => f.write_str("the end"),
        }
    }
}

/// Splits an expression into words, with [`Word::End`] last.
pub(super) fn words(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    loop {
        let at = text.chars().count() - rest.chars().count() + 1;
        let Some(first) = rest.chars().next() else {
            tokens.push(Token { at, word: Word::End });
            return Ok(tokens);
        };
        let (word, after) = match first {
            '"' | '\'' => {
                quoted(rest, first).ok_or_else(|| format!("at {at}: the text has no closing {first}"))?
            }
            '0'..='9' | '-' => number(rest).ok_or_else(|| format!("at {at}: not a number"))?,
            'a'..='z' | 'A'..='Z' | '_' => name(rest),
            _ => sign(rest).ok_or_else(|| {
                let hint = match first {
                    '=' => "; equality is `==`",
                    '&' | '|' => "; write it twice",
                    '$' => "; a field is written without it",
                    _ => "; other names are written msg[\"the name\"]",
                };
                format!("at {at}: `{first}` means nothing here{hint}")
            })?,
        };
        tokens.push(Token { at, word });
        rest = after.trim_start();
    }
}

fn sign(rest: &str) -> Option<(Word, &str)> {
    SIGNS.iter().find_map(|sign| rest.strip_prefix(sign).map(|after| (Word::Sign(sign), after)))
}

/// Letters, digits, `_` and `.`.
fn name(rest: &str) -> (Word, &str) {
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.')).unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    (Word::Name(name.to_owned()), after)
}

fn number(rest: &str) -> Option<(Word, &str)> {
    let mut before = ' ';
    let end = rest
        .find(|c: char| {
            let sign = matches!(c, '+' | '-') && matches!(before, ' ' | 'e' | 'E');
            before = c;
            !(c.is_ascii_alphanumeric() || c == '.' || sign)
        })
        .unwrap_or(rest.len());
    let (number, after) = rest.split_at(end);
    // Rust would also read "inf" and "1." as numbers.
    serde_json::from_str::<&serde_json::value::RawValue>(number).ok()?;
    Some((Word::Number(Number::parse(number)?), after))
}

/// A backslash takes the next character as it is.
fn quoted(rest: &str, quote: char) -> Option<(Word, &str)> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => text.push(chars.next()?.1),
            _ if c == quote => return Some((Word::Text(text), rest.get(at + 1..)?)),
            _ => text.push(c),
        }
    }
    None
}
