//! Rows of an upload, read as its bytes arrive: any size at constant memory.
//!
//! Owns: the bytes of at most one unfinished row. A row that cannot be read is refused with its number, and the upload
//! goes on; only a CSV whose header row makes no sense is refused as a whole.
//! Never: checks a row against a template (that is `Form::fit`), or waits for anything.

mod csv;
mod ndjson;

use crate::domain::{RawRecipient, Reject};

/// The longest row, in bytes without its line break. Meta takes about a thousand characters of text in a message, so
/// what is longer is a mistake, such as a missing closing quote.
pub const ROW_BYTES_MAX: usize = 64 * 1024;
/// The most columns of a CSV.
pub const COLUMNS_MAX: usize = 256;

/// The longest name of a column, in bytes. Every row repeats it.
pub const COLUMN_NAME_BYTES_MAX: usize = 128;

/// Some programs begin a UTF-8 file with it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One row of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its number, from 1. Blank lines and the header row of a CSV are not rows.
    pub number: u64,
    /// What it says, or why it cannot be read.
    pub recipient: Result<RawRecipient, Reject>,
}

/// An upload that is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UploadError {
    /// Nothing but blank lines.
    #[error("the csv has no header row")]
    NoHeader,
    /// No line break within [`ROW_BYTES_MAX`].
    #[error("the header row of the csv is longer than {ROW_BYTES_MAX} bytes")]
    HeaderTooLong,
    /// A quote in it is not closed by the end of the file.
    #[error("a quote that opens in the header row of the csv is never closed: is a closing quote missing?")]
    UnclosedHeader,
    /// More than [`COLUMNS_MAX`].
    #[error("the csv has more than {COLUMNS_MAX} columns")]
    TooManyColumns,
    /// The header row is in another encoding.
    #[error("the header row of the csv is not UTF-8: save the file as \"CSV UTF-8\"")]
    NotUtf8,
    /// The numbers are nowhere.
    #[error("the csv has no column `to`; its columns are: {columns}")]
    NoTo {
        /// The columns that there are.
        columns: String,
    },
    /// Two columns with one name.
    #[error("the csv has the column `{0}` twice")]
    DuplicateColumn(String),
    /// A column without a name.
    #[error("column {0} of the csv has no name")]
    UnnamedColumn(usize),
    /// Longer than [`COLUMN_NAME_BYTES_MAX`]. Holds the column's place, from 1.
    #[error("the name of column {0} of the csv is longer than {COLUMN_NAME_BYTES_MAX} bytes")]
    NameTooLong(usize),
    /// A `header.…` or `button.…` column that means nothing.
    #[error(
        "the csv has the unknown column `{0}`: a header has link, id, filename, latitude, longitude, name and address, \
         and buttons are counted from 0, as in `button.0`"
    )]
    UnknownColumn(String),
}

/// Reads rows out of the chunks of an upload, however they are cut.
#[derive(Debug)]
pub struct RowReader(Format);

#[derive(Debug)]
enum Format {
    Ndjson(ndjson::Reader),
    Csv(Box<csv::Reader>),
}

impl RowReader {
    /// One JSON object a line, as `RawRecipient` describes it.
    pub fn ndjson() -> Self {
        Self(Format::Ndjson(ndjson::Reader::default()))
    }

    /// A header row, then one row a recipient.
    ///
    /// Columns: `to`; one for each parameter of the body by its name (`1`, `first_name`); `header` (the text, or for a
    /// medium its `https://` link or its id), `header.filename`, `header.latitude`, `header.longitude`, `header.name`,
    /// `header.address`; `button.0` and so on by the button's place in the template. An empty cell of a `header` or
    /// `button` column is as good as none. Cells are separated by `,` or `;`, whichever stands more often in the header
    /// row outside of quotes. UTF-8, with or without a byte order mark. A parameter that is itself named `to` or
    /// `header` can be given only in NDJSON.
    pub fn csv() -> Self {
        Self(Format::Csv(Box::default()))
    }

    /// Appends the rows that end in `chunk` to `rows`.
    ///
    /// Errors: [`UploadError`]; the upload is refused, and the reader is of no more use.
    pub fn push(&mut self, chunk: &[u8], rows: &mut Vec<Row>) -> Result<(), UploadError> {
        match &mut self.0 {
            Format::Ndjson(reader) => {
                reader.push(chunk, rows);
                Ok(())
            }
            Format::Csv(reader) => reader.push(chunk, rows),
        }
    }

    /// Appends the last row if the upload does not end in a line break.
    ///
    /// Errors: [`UploadError`]; a CSV without a header row is refused here.
    pub fn finish(&mut self, rows: &mut Vec<Row>) -> Result<(), UploadError> {
        match &mut self.0 {
            Format::Ndjson(reader) => {
                reader.finish(rows);
                Ok(())
            }
            Format::Csv(reader) => reader.finish(rows),
        }
    }
}

#[cfg(test)]
mod tests;
