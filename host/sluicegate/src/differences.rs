//! Prints the differences between the output of two versions of a script.

use std::io::{self, IsTerminal, Write};

use admin_api::answer::{Difference, MessageLine, ScriptChange};
use serde_json::Value;

use super::table::{GREEN, RED, RESET, printable};

/// Prints the change to standard output, in colour on a terminal.
pub fn print(change: &ScriptChange) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let colour = out.is_terminal();
    write(&mut out, change, colour)
}

/// Writes the change, the number of compared messages, and the first
/// differences: the message, then lines of `sluicegate map`, with `-` where only
/// the old script makes them and `+` where only the new one does.
fn write(out: &mut impl Write, change: &ScriptChange, colour: bool) -> io::Result<()> {
    writeln!(out, "{}", headline(change))?;
    let nothing_new = change.before.as_ref() == Some(&change.after);
    let Some(compared) = change.compared.filter(|_| !nothing_new) else { return Ok(()) };
    let told = change.differences.len();
    match (compared, change.differing) {
        (0, _) => writeln!(out, "not compared: the journal holds no message of this stream")?,
        (_, 0) => writeln!(out, "output is the same for {}", last(compared))?,
        (_, differing) if differing > told => {
            writeln!(out, "output differs for {differing} of {}; the first {told}:", last(compared))?;
        }
        (_, differing) => writeln!(out, "output differs for {differing} of {}:", last(compared))?,
    }
    for difference in &change.differences {
        writeln!(out)?;
        self::difference(out, difference, colour)?;
    }
    if let Some(refusal) = &change.refusal {
        // Failing cases are a page of lines.
        let refusal: Vec<String> = refusal.lines().map(printable).collect();
        writeln!(out, "\nThe new version would be rejected: {}", refusal.join("\n"))?;
    }
    Ok(())
}

fn last(compared: usize) -> String {
    match compared {
        1 => "the last message".to_owned(),
        _ => format!("the last {compared} messages"),
    }
}

fn headline(change: &ScriptChange) -> String {
    let ScriptChange { stream, before, after, taken, .. } = change;
    match before {
        Some(before) if *taken => format!("{stream}: {after} replaced {before}"),
        Some(before) if before == after => format!("{stream}: {after} is still the newest version"),
        Some(before) => format!("{stream}: {after} compared with {before}, which is running"),
        None => format!("{stream}: {after} is running"),
    }
}

fn difference(out: &mut impl Write, difference: &Difference, colour: bool) -> io::Result<()> {
    let Difference { message, old, new } = difference;
    writeln!(out, "{}", shown(message))?;
    let mut line = |sign: char, paint: Option<&str>, value: &Value| match paint.filter(|_| colour) {
        Some(paint) => writeln!(out, "{paint}{sign} {value}{RESET}"),
        None => writeln!(out, "{sign} {value}"),
    };
    for value in old {
        if new.contains(value) {
            line(' ', None, value)?;
        } else {
            line('-', Some(RED), value)?;
        }
    }
    new.iter().filter(|value| !old.contains(value)).try_for_each(|value| line('+', Some(GREEN), value))
}

fn shown(message: &MessageLine) -> String {
    match (&message.payload, &message.payload_base64) {
        (Some(text), _) => printable(text),
        (None, Some(base64)) => format!("base64 {base64}"),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn change() -> ScriptChange {
        let message = MessageLine {
            topic: "t".to_owned(),
            received_at: 0,
            payload: Some("{\"ident\":\"7\"}".to_owned()),
            payload_base64: None,
        };
        let same = json!({"target": "a", "headers": {}, "body": "1"});
        let (old, new) = (json!({"rejected": "no"}), json!({"filtered": true}));
        ScriptChange {
            stream: "fleet".to_owned(),
            before: Some("mine 0123".to_owned()),
            after: "mine 4567".to_owned(),
            taken: true,
            refusal: None,
            compared: Some(300),
            differing: 1,
            differences: vec![Difference { message, old: vec![same.clone(), old], new: vec![same, new] }],
        }
    }

    fn text(change: &ScriptChange) -> String {
        let mut out = Vec::new();
        write(&mut out, change, false).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_differing_lines_have_a_sign() {
        let expected = "\
fleet: mine 4567 replaced mine 0123
output differs for 1 of the last 300 messages:

{\"ident\":\"7\"}
  {\"target\":\"a\",\"headers\":{},\"body\":\"1\"}
- {\"rejected\":\"no\"}
+ {\"filtered\":true}
";
        assert_eq!(text(&change()), expected);
    }

    #[test]
    fn headline_tells_compared_from_replaced() {
        let compared = ScriptChange { taken: false, refusal: Some("it fails".to_owned()), ..change() };
        let said = text(&compared);
        assert!(said.starts_with("fleet: mine 4567 compared with mine 0123, which is running\n"), "{said}");
        assert!(said.ends_with("\nThe new version would be rejected: it fails\n"), "{said}");
        let same = ScriptChange { differing: 0, differences: Vec::new(), ..change() };
        assert!(text(&same).ends_with("output is the same for the last 300 messages\n"));
        let many = ScriptChange { differing: 40, ..change() };
        assert!(text(&many).contains("\noutput differs for 40 of the last 300 messages; the first 1:\n"));
        let uncompared = ScriptChange { compared: None, ..change() };
        assert_eq!(text(&uncompared), "fleet: mine 4567 replaced mine 0123\n");
        let idle = ScriptChange { compared: Some(0), differing: 0, differences: Vec::new(), ..change() };
        assert!(text(&idle).ends_with("the journal holds no message of this stream\n"));
    }
}
