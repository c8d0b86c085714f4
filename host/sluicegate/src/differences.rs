//! What another version of a script changes, for people.

use std::io::{self, IsTerminal, Write};

use admin_api::answer::{Difference, MessageLine, ScriptChange};
use crossterm::style::{Color, ResetColor, SetForegroundColor};
use serde_json::Value;

use super::table::printable;

/// Prints the change to standard output, in colour on a terminal.
pub fn print(change: &ScriptChange) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let colour = out.is_terminal();
    write(&mut out, change, colour)
}

/// What has happened, what was compared, and the first differences: the
/// message, then lines of `sluicegate map` with `-` where only the old script
/// makes them, `+` where only the new one does.
fn write(out: &mut impl Write, change: &ScriptChange, colour: bool) -> io::Result<()> {
    writeln!(out, "{}", headline(change))?;
    let nothing_new = change.before.as_ref() == Some(&change.after);
    let Some(compared) = change.compared.filter(|_| !nothing_new) else { return Ok(()) };
    let told = change.differences.len();
    match (compared, change.differing) {
        (0, _) => writeln!(out, "the journal has no message to compare them on")?,
        (_, 0) => writeln!(out, "all of the {compared} latest messages come out the same")?,
        (_, differing) if differing > told => {
            writeln!(
                out,
                "{differing} of the {compared} latest messages come out otherwise; the first {told}:"
            )?;
        }
        (_, differing) => writeln!(out, "{differing} of the {compared} latest messages come out otherwise:")?,
    }
    for difference in &change.differences {
        writeln!(out)?;
        self::difference(out, difference, colour)?;
    }
    if let Some(refusal) = &change.refusal {
        // Failing cases are a page of lines.
        let refusal: Vec<String> = refusal.lines().map(printable).collect();
        writeln!(out, "\nIt would be refused: {}", refusal.join("\n"))?;
    }
    Ok(())
}

fn headline(change: &ScriptChange) -> String {
    let ScriptChange { stream, before, after, taken, .. } = change;
    match before {
        Some(before) if *taken => format!("{stream}: {after} runs, instead of {before}"),
        Some(before) if before == after => format!("{stream}: {after} runs, and nothing else is there"),
        Some(before) => format!("{stream}: {after} compared with {before}, which runs"),
        None => format!("{stream}: {after} runs"),
    }
}

fn difference(out: &mut impl Write, difference: &Difference, colour: bool) -> io::Result<()> {
    let Difference { message, old, new } = difference;
    writeln!(out, "{}", shown(message))?;
    let mut line = |sign: char, paint: Option<Color>, value: &Value| match paint.filter(|_| colour) {
        Some(paint) => writeln!(out, "{}{sign} {value}{ResetColor}", SetForegroundColor(paint)),
        None => writeln!(out, "{sign} {value}"),
    };
    for value in old {
        if new.contains(value) {
            line(' ', None, value)?;
        } else {
            line('-', Some(Color::Red), value)?;
        }
    }
    new.iter().filter(|value| !old.contains(value)).try_for_each(|value| line('+', Some(Color::Green), value))
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
    fn only_what_differs_has_a_sign() {
        let expected = "\
fleet: mine 4567 runs, instead of mine 0123
1 of the 300 latest messages come out otherwise:

{\"ident\":\"7\"}
  {\"target\":\"a\",\"headers\":{},\"body\":\"1\"}
- {\"rejected\":\"no\"}
+ {\"filtered\":true}
";
        assert_eq!(text(&change()), expected);
    }

    #[test]
    fn what_was_only_compared_is_not_said_to_run() {
        let compared = ScriptChange { taken: false, refusal: Some("it fails".to_owned()), ..change() };
        let said = text(&compared);
        assert!(said.starts_with("fleet: mine 4567 compared with mine 0123, which runs\n"), "{said}");
        assert!(said.ends_with("\nIt would be refused: it fails\n"), "{said}");
        let same = ScriptChange { differing: 0, differences: Vec::new(), ..change() };
        assert!(text(&same).ends_with("all of the 300 latest messages come out the same\n"));
        let many = ScriptChange { differing: 40, ..change() };
        assert!(text(&many).contains("\n40 of the 300 latest messages come out otherwise; the first 1:\n"));
        let unproven = ScriptChange { compared: None, ..change() };
        assert_eq!(text(&unproven), "fleet: mine 4567 runs, instead of mine 0123\n");
        let idle = ScriptChange { compared: Some(0), differing: 0, differences: Vec::new(), ..change() };
        assert!(text(&idle).ends_with("the journal has no message to compare them on\n"));
    }
}
