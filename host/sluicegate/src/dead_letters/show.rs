//! The output of `sluicegate dead-letters`.

use std::io::{self, Write};

use admin_api::answer::{Letter, Letters};
use admin_api::moment;
use message::unix_millis;

use crate::print::print_line;
use crate::table::{Column, Table, printable};

/// A line each.
pub(super) fn list(letters: &Letters) -> io::Result<()> {
    if letters.dead_letters.is_empty() {
        return print_line("no dead letters");
    }
    table(letters).print()?;
    if letters.more {
        print_line("\nMore dead letters exist: add a filter, or raise --limit.")?;
    }
    Ok(())
}

fn table(letters: &Letters) -> Table {
    let titles = [
        Column::Right("ID"),
        Column::Left("STREAM"),
        Column::Left("GIVEN UP"),
        Column::Left("TOPIC"),
        Column::Left("REASON"),
    ];
    let mut table = Table::new(titles);
    for letter in &letters.dead_letters {
        table.row([
            letter.id.to_string().into(),
            (&letter.stream).into(),
            moment::show(letter.at).into(),
            (&letter.topic).into(),
            why(letter).into(),
        ]);
    }
    table
}

fn why(letter: &Letter) -> String {
    match &letter.reply {
        Some(reply) => format!("{}: {reply}", letter.reason),
        None => letter.reason.clone(),
    }
}

/// All of one; after an empty line where it is not the first.
pub(super) fn letter(out: &mut impl Write, letter: &Letter, further: bool) -> io::Result<()> {
    if further {
        writeln!(out)?;
    }
    let ago = unix_millis().saturating_sub(letter.at) as f64 / 1000.0;
    writeln!(out, "dead letter {} of {}", letter.id, printable(&letter.stream))?;
    writeln!(out, "  given up  {} ({} ago)", moment::show(letter.at), moment::show_age(ago))?;
    writeln!(out, "  reason    {}", printable(&letter.reason))?;
    if let Some(reply) = &letter.reply {
        writeln!(out, "  reply     {}", printable(reply))?;
    }
    writeln!(out, "  script    {}", printable(&letter.script))?;
    writeln!(out, "  message   {} of {}", letter.position, moment::show(letter.received_at))?;
    writeln!(out, "  topic     {}", printable(&letter.topic))?;
    content(out, "payload", letter.payload.as_deref(), letter.payload_base64.as_deref())?;
    let Some(delivery) = &letter.delivery else {
        return writeln!(out, "  delivery  none was kept");
    };
    let target = delivery.target.as_deref().unwrap_or("(the stream's own)");
    writeln!(out, "  delivery  to {}", printable(target))?;
    for (name, value) in &delivery.headers {
        writeln!(out, "  header    {}: {}", printable(name), printable(value))?;
    }
    content(out, "body", delivery.body.as_deref(), delivery.body_base64.as_deref())
}

/// Bytes under their name: text as it is, or base64 that says so.
fn content(out: &mut impl Write, name: &str, text: Option<&str>, base64: Option<&str>) -> io::Result<()> {
    match (text, base64) {
        (None, Some(base64)) => writeln!(out, "  {name:<8}  base64:{base64}"),
        (text, _) => {
            // Further lines of a text lie under the first one.
            let text = text.unwrap_or_default().replace('\n', "\n            ");
            writeln!(out, "  {name:<8}  {text}")
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use admin_api::answer::LetterDelivery;

    use super::*;

    fn example() -> Letter {
        Letter {
            id: 17,
            stream: "web".to_owned(),
            at: 1_700_000_000_000,
            reason: "refused by the destination".to_owned(),
            reply: Some("400 Bad Request: \x1b[2Jno".to_owned()),
            script: "http-json c6bf2f75fc4e".to_owned(),
            position: "49/3".to_owned(),
            topic: "fleet/7".to_owned(),
            received_at: 1_699_999_999_000,
            payload: Some("{\n}".to_owned()),
            payload_base64: None,
            delivery: Some(LetterDelivery {
                target: None,
                headers: vec![("x-a".to_owned(), "b".to_owned())],
                body: None,
                body_base64: Some("/w==".to_owned()),
            }),
        }
    }

    #[test]
    fn list_has_one_line_per_dead_letter() {
        let mut out = Vec::new();
        table(&Letters { dead_letters: vec![example()], more: false }).write(&mut out, None).unwrap();
        let expected = "\
ID  STREAM  GIVEN UP                  TOPIC    REASON
17  web     2023-11-14T22:13:20.000Z  fleet/7  refused by the destination: 400 Bad Request: \\u{1b}[2Jno
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn dead_letter_is_shown_in_full() {
        let mut out = Vec::new();
        letter(&mut out, &example(), true).unwrap();
        let text = String::from_utf8(out).unwrap();
        let (head, rest) = text.split_once(" ago)\n").unwrap();
        assert!(
            head.starts_with("\ndead letter 17 of web\n  given up  2023-11-14T22:13:20.000Z ("),
            "{head}"
        );
        let expected = "  reason    refused by the destination
  reply     400 Bad Request: \\u{1b}[2Jno
  script    http-json c6bf2f75fc4e
  message   49/3 of 2023-11-14T22:13:19.000Z
  topic     fleet/7
  payload   {
            }
  delivery  to (the stream's own)
  header    x-a: b
  body      base64:/w==
";
        assert_eq!(rest, expected);
        let mut out = Vec::new();
        letter(&mut out, &Letter { delivery: None, reply: None, ..example() }, false).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.ends_with("  delivery  none was kept\n") && !text.contains("reply"), "{text}");
    }
}
