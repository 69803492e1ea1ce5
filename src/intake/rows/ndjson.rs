//! Newline-delimited JSON: one recipient or suppression per line.

use super::{BYTE_ORDER_MARK, ROW_BYTES_MAX, Row, UploadRow};
use crate::domain::Reject;

#[derive(Debug, Default)]
pub(super) struct NdjsonReader {
    /// The bytes of the unfinished line, at most [`ROW_BYTES_MAX`].
    partial: Vec<u8>,
    /// Whether the unfinished line is too long. If so, its bytes are dropped up to its end.
    overlong: bool,
    /// Whether the first line was read. A byte order mark is valid only at the start of that line.
    past_first_line: bool,
    /// The number of rows so far.
    number: u64,
    /// The number of lines so far.
    lines: u64,
}

impl NdjsonReader {
    pub(super) fn push<T: UploadRow>(&mut self, mut chunk: &[u8], rows: &mut Vec<Row<T>>) {
        while let Some(end) = memchr::memchr(b'\n', chunk) {
            let line = &chunk[..end];
            chunk = &chunk[end + 1..];
            if self.partial.is_empty() && !self.overlong {
                // The usual case: the chunk has the whole line, which is parsed without a copy.
                self.line(line, rows);
            } else {
                self.buffer(line);
                self.finish(rows);
            }
        }
        self.buffer(chunk);
    }

    /// Completes the unfinished line.
    pub(super) fn finish<T: UploadRow>(&mut self, rows: &mut Vec<Row<T>>) {
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

    /// Appends bytes to the unfinished line.
    fn buffer(&mut self, bytes: &[u8]) {
        if self.overlong || self.partial.len() + bytes.len() > ROW_BYTES_MAX {
            self.overlong = true;
            self.partial.clear();
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }

    fn line<T: UploadRow>(&mut self, line: &[u8], rows: &mut Vec<Row<T>>) {
        self.lines += 1;
        if line.len() > ROW_BYTES_MAX {
            return self.overlong_row(rows);
        }
        let line = if self.past_first_line { line } else { line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line) };
        self.past_first_line = true;
        if !line.trim_ascii().is_empty() {
            self.row(T::from_json(line), rows);
        }
    }

    fn overlong_row<T: UploadRow>(&mut self, rows: &mut Vec<Row<T>>) {
        self.past_first_line = true;
        self.row(Err(Reject::LineTooLong { limit: ROW_BYTES_MAX }), rows);
    }

    fn row<T: UploadRow>(&mut self, content: Result<T, Reject>, rows: &mut Vec<Row<T>>) {
        self.number += 1;
        rows.push(Row { number: self.number, line: Some(self.lines), content });
    }

    /// The size of the reader's buffer, in bytes.
    #[cfg(test)]
    pub(super) fn buffer_capacity(&self) -> usize {
        self.partial.capacity()
    }
}
