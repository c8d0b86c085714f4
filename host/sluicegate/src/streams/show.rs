//! The output of `sluicegate streams`.

use std::io::{self, Write};

use admin_api::answer::{JournalLine, Rewound, StreamLine, Versions};
use admin_api::moment;
use settings_reader::units::show_size_roughly;

use crate::table::{Cell, Column, Look, Table, printable};

/// Digits of a version, as logs show them.
const SHOWN_DIGITS: usize = 12;

/// The table of the streams.
pub(super) fn streams(streams: &[StreamLine]) -> io::Result<()> {
    table(streams).print()
}

fn table(streams: &[StreamLine]) -> Table {
    let mut table = Table::new([
        Column::Left("STREAM"),
        Column::Left("STATE"),
        Column::Right("LAG"),
        Column::Right("QUEUED"),
        Column::Right("READ"),
        Column::Right("DELIVERED"),
        Column::Right("DEAD"),
        Column::Left("REASON"),
    ]);
    for stream in streams {
        let dead = if stream.dead_lettered > 0 { Look::Warn } else { Look::Plain };
        table.row([
            (&stream.name).into(),
            state(stream),
            lag(stream),
            stream.queued.to_string().into(),
            stream.read.to_string().into(),
            stream.delivered.to_string().into(),
            Cell::from(stream.dead_lettered.to_string()).look(dead),
            stream.reason.as_deref().unwrap_or_default().into(),
        ]);
    }
    table
}

fn state(stream: &StreamLine) -> Cell {
    // A stream whose script is still loading is paused all the same.
    let word = if stream.paused && stream.state != "blocked" { "paused" } else { stream.state.as_str() };
    let look = match word {
        "running" => Look::Good,
        "blocked" => Look::Bad,
        "retrying" | "paused" => Look::Warn,
        _ => Look::Plain,
    };
    Cell::from(word).look(look)
}

fn lag(stream: &StreamLine) -> Cell {
    if stream.queued == 0 { "-".into() } else { moment::show_age(stream.lag).into() }
}

/// The notes below the table.
pub(super) fn notes(out: &mut impl Write, streams: &[StreamLine], journal: &JournalLine) -> io::Result<()> {
    if streams.is_empty() {
        writeln!(out, "no stream files")?;
    }
    let size = (show_size_roughly(journal.bytes), show_size_roughly(journal.max_bytes));
    write!(out, "\njournal: {} unsettled, {} of {}", messages(journal.messages), size.0, size.1)?;
    match journal.alarm {
        Some(percent) => writeln!(out, " (above {percent} %)")?,
        None => writeln!(out)?,
    }
    if let Some(reason) = &journal.broken {
        writeln!(out, "the journal cannot be written: {reason}")?;
    }
    if journal.full {
        let holder = journal.holder.as_deref().unwrap_or("no stream");
        writeln!(
            out,
            "the journal is full and reading from the bus is paused; the largest backlog is that of {holder}"
        )?;
    }
    for stream in streams.iter().filter(|stream| !stream.counters_balance) {
        writeln!(out, "the counters of {} do not balance: please report it", stream.name)?;
    }
    for stream in streams {
        if let Some(note) = &stream.note {
            writeln!(out, "note: {}: {}", stream.name, printable(note))?;
        }
    }
    for stream in streams {
        if let Some(refused) = &stream.refused {
            let first = refused.lines().next().unwrap_or_default();
            writeln!(out, "rejected: {}: the newest script: {}", stream.name, printable(first))?;
        }
    }
    for detached in &journal.detached {
        let (name, since) = (&detached.name, moment::show(detached.since));
        writeln!(
            out,
            "detached: {name} has no file since {since}; `sluicegate streams forget {name}` deletes its messages"
        )?;
    }
    Ok(())
}

/// The versions of a stream's script, the one that runs first.
pub(super) fn versions(answer: &Versions) -> io::Result<()> {
    if answer.versions.is_empty() {
        return crate::print::print_line(&format!("{} has not run a script yet", answer.stream));
    }
    version_table(answer).print()
}

fn version_table(answer: &Versions) -> Table {
    let columns = ["VERSION", "SCRIPT", "ACCEPTED", "FROM"];
    let mut table = Table::new(columns.map(Column::Left));
    for line in answer.versions.iter().rev() {
        table.row([
            line.version.get(..SHOWN_DIGITS).unwrap_or(&line.version).into(),
            (&line.name).into(),
            moment::show(line.accepted_at).into(),
            (&line.source).into(),
        ]);
    }
    table
}

/// The result or the preview of a rewind.
pub(super) fn rewound(answer: &Rewound, keep_state: bool) -> String {
    let Rewound { stream, destination, from, until, .. } = answer;
    let verb = match (answer.dry_run, answer.messages) {
        (true, _) => "would be sent",
        (false, 1) => "is sent",
        (false, _) => "are sent",
    };
    let mut text = format!(
        "{stream}: {} ({}) {verb} again to {destination}",
        messages(answer.messages),
        show_size_roughly(answer.bytes),
    );
    text.push_str(&match (answer.oldest, answer.newest) {
        (Some(oldest), Some(newest)) => {
            format!("\n  received  {} to {}", moment::show(oldest), moment::show(newest))
        }
        _ => format!("\n  nothing was received from {} to {}", moment::show(*from), moment::show(*until)),
    });
    text.push_str(&match answer.kept_since {
        Some(since) if since > *from => format!(
            "\n  kept      since {}: what is older may be gone (asked for {})",
            moment::show(since),
            moment::show(*from)
        ),
        Some(since) => format!("\n  kept      everything since {}", moment::show(since)),
        None => "\n  kept      nothing that has ended".to_owned(),
    });
    let state = if keep_state { "stays as it is" } else { "is cleared (--keep-state keeps it)" };
    text.push_str(&format!("\n  state     of the script {state}"));
    if answer.dry_run {
        text.push_str("\nNothing was changed. Repeat the command with --yes to change it.");
    }
    text
}

fn messages(count: u64) -> String {
    match count {
        1 => "1 message".to_owned(),
        n => format!("{n} messages"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use admin_api::answer::{DetachedStream, VersionLine};
    use gateway::operate::convert;
    use journal::Counters;

    use super::*;

    fn lines() -> Vec<StreamLine> {
        let now = 1_700_000_000_000;
        let counters = Counters { read: 12, delivered: 12, ..Counters::default() };
        let mut well = convert::stream_line("well", &counters, now);
        well.state = "running".to_owned();
        let counters = Counters {
            read: 1_000,
            delivered: 900,
            dead_lettered: 1,
            queued: 99,
            oldest: Some(now - 754_000),
            ..Counters::default()
        };
        let mut stuck = convert::stream_line("fleet-to-http", &counters, now);
        stuck.state = "blocked".to_owned();
        stuck.reason = Some("401 Unauthorized:\nno such key".to_owned());
        let mut paused = convert::stream_line("paused", &Counters::default(), now);
        (paused.paused, paused.state) = (true, "running".to_owned());
        vec![well, stuck, paused]
    }

    #[test]
    fn table_shows_state_and_notes() {
        let mut out = Vec::new();
        table(&lines()).write(&mut out, None).unwrap();
        let expected = "\
STREAM         STATE       LAG  QUEUED  READ  DELIVERED  DEAD  REASON
well           running       -       0    12         12     0
fleet-to-http  blocked  12 min      99  1000        900     1  401 Unauthorized:\\nno such key
paused         paused        -       0     0          0     0
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn notes_name_what_is_wrong() {
        let mut streams = lines();
        let mut journal = JournalLine {
            messages: 99,
            bytes: 3 << 20,
            max_bytes: 10 << 30,
            dead_letter_bytes: 0,
            max_dead_letter_bytes: 256 << 20,
            alarm: None,
            full: false,
            holder: None,
            broken: None,
            detached: Vec::new(),
        };
        let text_of = |streams: &[StreamLine], journal: &JournalLine| {
            let mut out = Vec::new();
            notes(&mut out, streams, journal).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text_of(&streams, &journal), "\njournal: 99 messages unsettled, 3.0 MiB of 10.0 GiB\n");
        streams[0].counters_balance = false;
        (journal.alarm, journal.full, journal.holder) = (Some(100), true, Some("fleet-to-http".to_owned()));
        journal.broken = Some("No space left on device".to_owned());
        streams[1].note =
            Some("streams/fleet-to-http.toml differs from the running configuration".to_owned());
        streams[2].refused = Some("it traps\nat once".to_owned());
        journal.detached = vec![DetachedStream { name: "old".to_owned(), since: 0 }];
        let text = text_of(&streams, &journal);
        for words in [
            "above 100 %",
            "cannot be written: No space left on device",
            "the largest backlog is that of fleet-to-http",
            "the counters of well do not balance",
            "rejected: paused: the newest script: it traps\n",
            "note: fleet-to-http: streams/fleet-to-http.toml differs from the running configuration\n",
            "old has no file since 1970-01-01T00:00:00.000Z; `sluicegate streams forget old`",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }

    #[test]
    fn current_version_is_listed_first() {
        let line = |digit: &str, at| VersionLine {
            version: digit.repeat(64),
            name: "mine".to_owned(),
            source: "mine.wasm".to_owned(),
            accepted_at: at,
        };
        let versions =
            Versions { stream: "s".to_owned(), versions: vec![line("a", 0), line("b", 1_700_000_000_000)] };
        let mut out = Vec::new();
        version_table(&versions).write(&mut out, None).unwrap();
        let expected = "\
VERSION       SCRIPT  ACCEPTED                  FROM
bbbbbbbbbbbb  mine    2023-11-14T22:13:20.000Z  mine.wasm
aaaaaaaaaaaa  mine    1970-01-01T00:00:00.000Z  mine.wasm
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn rewind_preview_asks_for_yes() {
        let mut answer = Rewound {
            stream: "s".to_owned(),
            destination: "http https://x/ingest".to_owned(),
            dry_run: true,
            from: 1_700_000_000_000,
            until: 1_700_000_060_000,
            messages: 2,
            bytes: 1_300,
            oldest: Some(1_700_000_001_000),
            newest: Some(1_700_000_002_000),
            kept_since: Some(1_699_999_000_000),
        };
        let expected = "\
s: 2 messages (1.3 KiB) would be sent again to http https://x/ingest
  received  2023-11-14T22:13:21.000Z to 2023-11-14T22:13:22.000Z
  kept      everything since 2023-11-14T21:56:40.000Z
  state     of the script is cleared (--keep-state keeps it)
Nothing was changed. Repeat the command with --yes to change it.";
        assert_eq!(rewound(&answer, false), expected);
        (answer.dry_run, answer.messages) = (false, 1);
        answer.kept_since = Some(1_700_000_030_000);
        let text = rewound(&answer, true);
        assert!(text.starts_with("s: 1 message (1.3 KiB) is sent again to"), "{text}");
        assert!(text.contains("what is older may be gone") && text.ends_with("stays as it is"), "{text}");
        (answer.oldest, answer.newest, answer.kept_since) = (None, None, None);
        let text = rewound(&answer, true);
        assert!(text.contains("nothing was received from 2023-11-14T22:13:20.000Z"), "{text}");
    }
}
