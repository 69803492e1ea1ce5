//! Newline-delimited JSON: a line a recipient.

use super::{BYTE_ORDER_MARK, ROW_BYTES_MAX, Row};
use crate::domain::{RawRecipient, Reject};

#[derive(Debug, Default)]
pub(super) struct NdjsonReader {
    /// The bytes of the unfinished line, at most [`ROW_BYTES_MAX`].
    partial: Vec<u8>,
    /// The unfinished line is too long: its bytes are dropped up to its end.
    overlong: bool,
    /// The first line is behind us: a byte order mark would be an error.
    begun: bool,
    /// Rows so far.
    number: u64,
    /// Lines so far.
    lines: u64,
}

impl NdjsonReader {
    pub(super) fn push(&mut self, mut chunk: &[u8], rows: &mut Vec<Row>) {
        while let Some(end) = memchr::memchr(b'\n', chunk) {
            let line = &chunk[..end];
            chunk = &chunk[end + 1..];
            if self.partial.is_empty() && !self.overlong {
                // The usual case: the whole line is in the chunk and is parsed where it lies.
                self.line(line, rows);
            } else {
                self.keep(line);
                self.finish(rows);
            }
        }
        self.keep(chunk);
    }

    /// Ends the unfinished line.
    pub(super) fn finish(&mut self, rows: &mut Vec<Row>) {
        let mut line = std::mem::take(&mut self.partial);
        if std::mem::take(&mut self.overlong) {
            self.lines += 1;
            self.overlong_row(rows);
        } else {
            self.line(&line, rows);
        }
        line.clear();
        self.partial = line;
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.overlong || self.partial.len() + bytes.len() > ROW_BYTES_MAX {
            self.overlong = true;
            self.partial.clear();
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }

    fn line(&mut self, line: &[u8], rows: &mut Vec<Row>) {
        self.lines += 1;
        if line.len() > ROW_BYTES_MAX {
            return self.overlong_row(rows);
        }
        let line = if self.begun { line } else { line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line) };
        self.begun = true;
        if !line.trim_ascii().is_empty() {
            self.row(RawRecipient::from_json(line), rows);
        }
    }

    fn overlong_row(&mut self, rows: &mut Vec<Row>) {
        self.begun = true;
        self.row(Err(Reject::LineTooLong { limit: ROW_BYTES_MAX }), rows);
    }

    fn row(&mut self, recipient: Result<RawRecipient, Reject>, rows: &mut Vec<Row>) {
        self.number += 1;
        rows.push(Row { number: self.number, line: Some(self.lines), recipient });
    }

    /// The memory that the reader keeps, in bytes.
    #[cfg(test)]
    pub(super) fn buffer_capacity(&self) -> usize {
        self.partial.capacity()
    }
}
