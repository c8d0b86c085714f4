//! Lines and JSON on standard output.

use std::io::{self, Write};

use serde::Serialize;

/// Prints one line to standard output.
pub fn print_line(line: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{line}")
}

/// Prints JSON to standard output, indented.
pub fn print_json(value: &impl Serialize) -> io::Result<()> {
    print_line(&serde_json::to_string_pretty(value)?)
}
