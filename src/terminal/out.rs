//! Writes to standard output. Unlike `println!`, returns an error if the reader has closed the pipe, and does not
//! panic.

use std::io::{self, Write as _};

use serde::Serialize;

/// Writes `text` and a line break.
pub fn line(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

/// Writes `value` as JSON on one line.
pub fn json(value: &impl Serialize) -> io::Result<()> {
    line(&serde_json::to_string(value)?)
}
