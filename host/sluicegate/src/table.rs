//! Tables for people.

use std::io::{self, IsTerminal, Write};

/// Bold, on a terminal.
const BOLD: &str = "\x1b[1m";
/// The usual colour and weight again.
pub const RESET: &str = "\x1b[0m";
/// Green.
pub const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
/// Red.
pub const RED: &str = "\x1b[31m";
/// Columns of a terminal that does not tell its width.
const USUAL_WIDTH: usize = 80;

/// Two spaces lie between columns.
const GAP: &str = "  ";

/// Rows under a head. The last column may be cut at the edge of a terminal.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

/// The title of a column, and the side on which its cells align.
#[derive(Clone, Copy, Debug)]
pub enum Column {
    /// Words.
    Left(&'static str),
    /// Numbers.
    Right(&'static str),
}

/// One cell.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    look: Look,
}

/// How a cell looks on a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Look {
    /// As usual.
    #[default]
    Plain,
    /// All is well.
    Good,
    /// Deserves attention.
    Warn,
    /// An operator must act.
    Bad,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: impl Into<Vec<Column>>) -> Self {
        Self { columns: columns.into(), rows: Vec::new() }
    }

    /// Adds a row; missing cells stay empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Prints the table to standard output; on a terminal in colour and not
    /// wider than it.
    pub fn print(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if out.is_terminal() {
            let width = terminal_size::terminal_size().map_or(USUAL_WIDTH, |(width, _)| usize::from(width.0));
            self.write(&mut out, Some(width))
        } else {
            self.write(&mut out, None)
        }
    }

    /// Writes the table: plain and whole, or for a terminal of that width.
    pub fn write(&self, out: &mut dyn Write, terminal: Option<usize>) -> io::Result<()> {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                let title = self.columns.get(column).map_or(0, |c| c.title().len());
                cells.map(|cell| cell.text.chars().count()).max().unwrap_or(0).max(title)
            })
            .collect();
        let head: Vec<Cell> = self.columns.iter().map(|column| column.title().into()).collect();
        for (number, row) in std::iter::once(&head).chain(&self.rows).enumerate() {
            self.write_row(out, row, &widths, terminal, number == 0)?;
        }
        Ok(())
    }

    fn write_row(
        &self,
        out: &mut dyn Write,
        row: &[Cell],
        widths: &[usize],
        terminal: Option<usize>,
        head: bool,
    ) -> io::Result<()> {
        let mut used = 0;
        // Spaces are written only when something comes after them.
        let mut spaces = 0;
        for ((cell, column), width) in row.iter().zip(&self.columns).zip(widths) {
            let room = terminal.map_or(usize::MAX, |terminal| terminal.saturating_sub(used));
            let text = cut(&cell.text, room);
            let length = text.chars().count();
            let rest = width.saturating_sub(length);
            let (before, after) = match column {
                Column::Left(_) => (0, rest),
                Column::Right(_) => (rest, 0),
            };
            if !text.is_empty() {
                write!(out, "{:1$}", "", spaces + before)?;
                spaces = 0;
                let style = if head { Some(BOLD) } else { cell.look.style() };
                match style.filter(|_| terminal.is_some()) {
                    Some(style) => write!(out, "{style}{text}{RESET}")?,
                    None => write!(out, "{text}")?,
                }
            } else {
                spaces += before;
            }
            spaces += after + GAP.len();
            used += length.max(*width) + GAP.len();
        }
        writeln!(out)
    }
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::Left(title) | Self::Right(title) => title,
        }
    }
}

impl Look {
    fn style(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some(GREEN),
            Self::Warn => Some(YELLOW),
            Self::Bad => Some(RED),
        }
    }
}

impl Cell {
    /// The same cell with this look.
    pub fn look(mut self, look: Look) -> Self {
        self.look = look;
        self
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: printable(text.as_ref()), look: Look::Plain }
    }
}

/// The text in one line, with control characters escaped as Rust writes them:
/// a reply of a destination must not control the operator's terminal.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            shown.extend(c.escape_debug());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// The text, cut to `max` characters; an ellipsis marks the cut.
fn cut(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let mut kept: String = text.chars().take(max.saturating_sub(1)).collect();
    if max > 0 {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn shown(terminal: Option<usize>) -> String {
        let mut table = Table::new([Column::Left("NAME"), Column::Right("N"), Column::Left("REASON")]);
        table.row(["a".into(), "1".into(), "".into()]);
        table.row(["long-name".into(), "1000".into(), Cell::from("why\x1b[2J\nso").look(Look::Bad)]);
        table.row(["x".into()]);
        let mut out = Vec::new();
        table.write(&mut out, terminal).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn column_is_as_wide_as_its_widest_cell() {
        let expected = "NAME          N  REASON\na             1\nlong-name  1000  why\\u{1b}[2J\\nso\nx\n";
        assert_eq!(shown(None), expected);
    }

    #[test]
    fn terminal_gets_colours_and_no_wrapped_line() {
        let shown = shown(Some(24));
        assert!(shown.contains("\x1b[31mwhy\\u{…\x1b[0m\n"), "{shown:?}");
        assert!(shown.starts_with("\x1b[1mNAME\x1b[0m"), "{shown:?}");
    }

    #[test]
    fn cut_counts_characters() {
        assert_eq!(["äöü", "äöüx"].map(|text| cut(text, 3)), ["äöü", "äö…"]);
        assert_eq!(cut("a", 0), "");
    }
}
