//! The demo's screen: a live table with the story under it, or plain lines
//! where the output is not a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crossterm::style::{Attribute, Color, SetAttribute, SetForegroundColor};
use crossterm::terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{cursor, execute, queue};

use super::row::Row;
use super::story::{Told, Tone};

/// Columns of the output that is not a terminal: it fits a page of text.
const PLAIN_COLUMNS: usize = 80;
/// Columns of them for the time of a story line.
const PLAIN_INDENT: usize = 7;
/// Time between two tables where the output is not a terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Everything that is shown at one moment.
pub struct View<'a> {
    /// Since the fleet started.
    pub elapsed: Duration,
    /// When it ends; none: on Ctrl-C.
    pub total: Option<Duration>,
    /// Number of vehicles.
    pub vehicles: usize,
    /// Messages published by now.
    pub published: u64,
    /// One line a stream.
    pub rows: &'a [Row],
    /// A note under the table.
    pub notice: Option<&'a str>,
    /// Events, oldest first.
    pub story: &'a [Told],
}

/// A piece of a line in one look.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    text: String,
    look: Look,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Plain,
    Bold,
    Title,
    Dim,
    Good,
    Warn,
    Bad,
}

type Line = Vec<Span>;

/// Where the demo shows itself.
pub enum Screen {
    /// A terminal that is redrawn; left as it was found.
    Live,
    /// Lines, one after the other.
    Plain {
        /// Story lines that are printed already.
        told: usize,
        /// When the last table was printed.
        table_at: Option<Duration>,
        /// The last line is empty.
        gap: bool,
    },
}

impl Screen {
    /// Live on a terminal, else plain.
    pub fn open() -> io::Result<Self> {
        let mut out = io::stdout();
        if !out.is_terminal() {
            return Ok(Self::Plain { told: 0, table_at: None, gap: false });
        }
        execute!(out, EnterAlternateScreen, cursor::Hide)?;
        Ok(Self::Live)
    }

    /// Shows the moment.
    pub fn show(&mut self, view: &View<'_>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match self {
            Self::Live => {
                // Asked each time: it follows every resize.
                let (columns, rows) = crossterm::terminal::size().unwrap_or((80, 24));
                let lines = layout(view, usize::from(columns), usize::from(rows));
                // Each line is overwritten and its rest cleared: nothing flickers.
                for (number, line) in lines.iter().enumerate() {
                    queue!(out, cursor::MoveTo(0, u16::try_from(number).unwrap_or(u16::MAX)))?;
                    for span in line {
                        write_span(&mut out, span)?;
                    }
                    queue!(out, Clear(ClearType::UntilNewLine))?;
                }
                let below = u16::try_from(lines.len()).unwrap_or(u16::MAX);
                if below < rows {
                    queue!(out, cursor::MoveTo(0, below), Clear(ClearType::FromCursorDown))?;
                }
                out.flush()
            }
            Self::Plain { told, table_at, gap } => {
                for Told { at, tone, text } in view.story.iter().skip(*told) {
                    if *tone == Tone::Title && !*gap {
                        writeln!(out)?;
                    }
                    for (number, part) in wrap(text, PLAIN_COLUMNS - PLAIN_INDENT).into_iter().enumerate() {
                        let time = if number == 0 { clock(*at) } else { String::new() };
                        writeln!(out, "{time:PLAIN_INDENT$}{part}")?;
                    }
                    *gap = false;
                }
                *told = view.story.len();
                let due = table_at.is_none_or(|last| view.elapsed >= last + PLAIN_INTERVAL);
                // The last one is printed by `close`.
                let last = view.total.is_some_and(|total| view.elapsed >= total);
                if due && !last && !view.rows.is_empty() {
                    *table_at = Some(view.elapsed);
                    if !*gap {
                        writeln!(out)?;
                    }
                    for line in std::iter::once(title(view)).chain(table(view.rows, PLAIN_COLUMNS)) {
                        writeln!(out, "{}", text_of(&line).trim_end())?;
                    }
                    writeln!(out)?;
                    *gap = true;
                }
                out.flush()
            }
        }
    }

    /// Gives the terminal back and prints table and story where they stay.
    pub fn close(self, view: &View<'_>) -> io::Result<()> {
        let live = matches!(self, Self::Live);
        drop(self);
        let columns = match live {
            true => crossterm::terminal::size().map_or(PLAIN_COLUMNS, |(columns, _)| usize::from(columns)),
            false => PLAIN_COLUMNS,
        };
        let mut out = io::stdout().lock();
        writeln!(out)?;
        for line in std::iter::once(title(view)).chain(table(view.rows, columns)) {
            writeln!(out, "{}", text_of(&line).trim_end())?;
        }
        if live {
            // In plain mode the story is already printed.
            writeln!(out)?;
            for line in story_lines(view.story, columns, true) {
                writeln!(out, "{}", text_of(&line).trim_end())?;
            }
        }
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Self::Live = self {
            // An error means that the terminal is gone.
            let _ = execute!(io::stdout(), cursor::Show, LeaveAlternateScreen);
        }
    }
}

/// Minutes and seconds.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{:02}:{:02}", seconds / 60, seconds % 60)
}

/// The whole screen: at most `rows` lines of at most `columns` characters.
fn layout(view: &View<'_>, columns: usize, rows: usize) -> Vec<Line> {
    let mut lines = vec![title(view), Vec::new()];
    lines.extend(table(view.rows, columns));
    lines.extend(view.notice.map(|notice| vec![span(format!(" {notice}"), Look::Bad)]));
    for row in view.rows {
        let Some(reason) = &row.reason else { continue };
        let text = format!("{}: {reason}", row.stream);
        for part in wrap(&text, columns.saturating_sub(2).max(10)) {
            lines.push(vec![span(format!(" {part}"), Look::Warn)]);
        }
    }
    lines.push(Vec::new());

    let room = rows.saturating_sub(lines.len() + 2);
    let mut story = story_lines(view.story, columns, true);
    if story.len() > room {
        story = story_lines(view.story, columns, false);
    }
    let skipped = story.len().saturating_sub(room);
    lines.extend(story.into_iter().skip(skipped));
    if lines.len() + 2 <= rows {
        lines.push(Vec::new());
        let end = match view.total {
            Some(_) => "Press Ctrl-C to stop early and print the summary.",
            None => "Press Ctrl-C to stop and print the summary.",
        };
        lines.push(vec![span(format!(" {end}"), Look::Dim)]);
    }
    lines.truncate(rows);
    lines.into_iter().map(|line| cut(line, columns)).collect()
}

/// With `gaps` there is an empty line before each title.
fn story_lines(story: &[Told], columns: usize, gaps: bool) -> Vec<Line> {
    let mut lines = Vec::new();
    for Told { at, tone, text } in story {
        if gaps && *tone == Tone::Title {
            lines.push(Vec::new());
        }
        let (mark, look) = match tone {
            Tone::Title => (' ', Look::Title),
            Tone::Plain => (' ', Look::Plain),
            Tone::Good => ('+', Look::Good),
            Tone::Bad => ('!', Look::Warn),
        };
        let indent = if *tone == Tone::Title { "" } else { "  " };
        for (number, part) in wrap(text, columns.saturating_sub(11).max(10)).into_iter().enumerate() {
            let (time, mark) = if number == 0 { (clock(*at), mark) } else { (String::new(), ' ') };
            let margin = format!(" {time:5} ");
            let lead = if indent.is_empty() { " ".to_owned() } else { format!("{indent}{mark} ") };
            lines.push(vec![span(margin, Look::Dim), span(lead, look), span(part, text_look(look))]);
        }
    }
    lines
}

/// Only the mark is coloured; the text is plain, except in titles.
fn text_look(look: Look) -> Look {
    if look == Look::Title { look } else { Look::Plain }
}

fn title(view: &View<'_>) -> Line {
    let time = match view.total {
        Some(total) => format!("{} of {}", clock(view.elapsed.min(total)), clock(total)),
        None => clock(view.elapsed),
    };
    let rest = format!("  {time}   {} vehicles   {} messages published", view.vehicles, view.published);
    vec![span(" Sluicegate demo", Look::Bold), span(rest, Look::Plain)]
}

/// One column: title, whether text (left) or number (right), how soon it goes
/// when the terminal is narrow (0: never), and the cell of a row.
struct Column {
    title: &'static str,
    left: bool,
    expendable: u8,
    cell: fn(&Row) -> (String, Look),
}

const fn column(title: &'static str, expendable: u8, cell: fn(&Row) -> (String, Look)) -> Column {
    Column { title, left: false, expendable, cell }
}

fn plain(number: u64) -> (String, Look) {
    (number.to_string(), if number == 0 { Look::Dim } else { Look::Plain })
}

fn alarming(number: u64) -> (String, Look) {
    (number.to_string(), if number == 0 { Look::Good } else { Look::Bad })
}

fn state_look(state: &str) -> Look {
    match state {
        "running" => Look::Good,
        "blocked" | "killed" => Look::Bad,
        _ => Look::Warn,
    }
}

const COLUMNS: [Column; 12] = [
    Column { left: true, ..column("stream", 0, |row| (row.stream.clone(), Look::Bold)) },
    Column { left: true, ..column("script", 7, |row| (row.script.clone(), Look::Dim)) },
    Column { left: true, ..column("state", 1, |row| (row.state.clone(), state_look(&row.state))) },
    column("read", 6, |row| plain(row.read)),
    column("delivered", 2, |row| plain(row.delivered)),
    column("filtered", 8, |row| plain(row.filtered)),
    column("dead", 3, |row| plain(row.dead)),
    column("queued", 0, |row| plain(row.queued)),
    column("lag", 5, |row| match row.lag {
        lag if lag < 0.05 => ("-".to_owned(), Look::Dim),
        lag if lag < 3.0 => (format!("{lag:.1}s"), Look::Plain),
        lag => (format!("{lag:.1}s"), Look::Warn),
    }),
    column("missing", 0, |row| alarming(row.missing)),
    column("wrong", 0, |row| alarming(row.wrong)),
    column("dup", 4, |row| plain(row.repeats)),
];

/// Header and one line a stream. Columns go, the most expendable first, until
/// the rest fits.
fn table(rows: &[Row], columns: usize) -> Vec<Line> {
    let width = |column: &Column| {
        let cells = rows.iter().map(|row| (column.cell)(row).0.chars().count());
        cells.max().unwrap_or(0).max(column.title.len())
    };
    let mut shown: Vec<(&Column, usize)> = COLUMNS.iter().map(|column| (column, width(column))).collect();
    let total = |shown: &[(&Column, usize)]| shown.iter().map(|(_, width)| width + 2).sum::<usize>();
    while total(&shown) > columns {
        let most = shown.iter().map(|(column, _)| column.expendable).max().unwrap_or(0);
        if most == 0 {
            break;
        }
        shown.retain(|(column, _)| column.expendable != most);
    }

    let pad = |text: &str, width: usize, left: bool| {
        if left { format!(" {text:<width$} ") } else { format!(" {text:>width$} ") }
    };
    let header = shown
        .iter()
        .map(|(column, width)| span(pad(&column.title.to_uppercase(), *width, column.left), Look::Dim))
        .collect();
    let line = |row: &Row| {
        let cell = |(column, width): &(&Column, usize)| {
            let (text, look) = (column.cell)(row);
            span(pad(&text, *width, column.left), look)
        };
        shown.iter().map(cell).collect()
    };
    std::iter::once(header).chain(rows.iter().map(line)).collect()
}

fn span(text: impl Into<String>, look: Look) -> Span {
    Span { text: text.into(), look }
}

fn text_of(line: &[Span]) -> String {
    line.iter().map(|span| span.text.as_str()).collect()
}

/// The line without what is beyond the last column.
fn cut(line: Line, columns: usize) -> Line {
    let mut left = columns;
    let shorten = |span: Span| {
        let text: String = span.text.chars().take(left).collect();
        left -= text.chars().count();
        Span { text, look: span.look }
    };
    line.into_iter().map(shorten).collect()
}

/// Breaks at spaces; a word longer than a line stays whole and is cut later.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

fn write_span(out: &mut impl Write, span: &Span) -> io::Result<()> {
    match span.look {
        Look::Plain => {}
        Look::Bold => queue!(out, SetAttribute(Attribute::Bold))?,
        Look::Title => queue!(out, SetForegroundColor(Color::Cyan), SetAttribute(Attribute::Bold))?,
        Look::Dim => queue!(out, SetAttribute(Attribute::Dim))?,
        Look::Good => queue!(out, SetForegroundColor(Color::Green))?,
        Look::Warn => queue!(out, SetForegroundColor(Color::Yellow))?,
        Look::Bad => queue!(out, SetForegroundColor(Color::Red), SetAttribute(Attribute::Bold))?,
    }
    write!(out, "{}", span.text)?;
    if span.look != Look::Plain {
        queue!(out, SetAttribute(Attribute::Reset), SetForegroundColor(Color::Reset))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let row = |stream: &str, script: &str| Row {
            stream: stream.to_owned(),
            script: format!("{script} 0123456789ab"),
            state: "running".to_owned(),
            read: 1500,
            delivered: 1490,
            dead: 2,
            queued: 8,
            lag: 0.31,
            ..Row::default()
        };
        vec![row("fleet-to-aws", "aws-shadow"), row("fleet-to-wialon", "wialon-retranslator")]
    }

    fn view<'a>(rows: &'a [Row], story: &'a [Told]) -> View<'a> {
        let total = Some(Duration::from_secs(60));
        View {
            elapsed: Duration::from_secs(23),
            total,
            vehicles: 25,
            published: 575,
            rows,
            notice: None,
            story,
        }
    }

    fn texts(lines: &[Line]) -> Vec<String> {
        lines.iter().map(|line| text_of(line)).collect()
    }

    #[test]
    fn wide_table_aligns_all_columns() {
        let lines = texts(&table(&rows(), 140));
        for title in ["STREAM", "SCRIPT", "READ", "FILTERED", "LAG", "MISSING", "WRONG"] {
            assert!(lines[0].contains(title), "{}", lines[0]);
        }
        assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{lines:#?}");
        assert_eq!(lines[0].find("READ").map(|at| at + 4), lines[1].find("1500").map(|at| at + 4));
    }

    #[test]
    fn narrow_terminal_keeps_missing_and_wrong() {
        for columns in [60, 80, 100, 120] {
            let lines = layout(&view(&rows(), &[]), columns, 24);
            let lines = texts(&lines);
            assert!(lines.iter().all(|line| line.chars().count() <= columns), "{lines:#?}");
            assert!(lines[2].contains("MISSING") && lines[2].contains("WRONG"), "{columns}: {}", lines[2]);
        }
        for columns in [1, 5, 20] {
            for rows_high in [0, 1, 3] {
                let lines = layout(&view(&rows(), &[]), columns, rows_high);
                assert!(
                    lines.len() <= rows_high && texts(&lines).iter().all(|l| l.chars().count() <= columns)
                );
            }
        }
    }

    #[test]
    fn newest_story_lines_stay_visible() {
        let story: Vec<_> = (0..40)
            .map(|n| Told {
                at: Duration::from_secs(n),
                tone: Tone::Plain,
                text: format!("event {n} with a few words more"),
            })
            .collect();
        let lines = texts(&layout(&view(&rows(), &story), 40, 16));
        assert_eq!(lines.len(), 16);
        assert!(lines.iter().any(|line| line.contains("event 39")), "{lines:#?}");
        assert!(!lines.iter().any(|line| line.contains("event 1 ")));
    }

    #[test]
    fn long_story_lines_break_at_spaces() {
        assert_eq!(wrap("one two three", 8), ["one two", "three"]);
        assert_eq!(wrap("incomprehensible", 5), ["incomprehensible"]);
    }
}
