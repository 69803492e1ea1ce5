//! Rows of an upload, read as its bytes arrive: any size at constant memory.
//!
//! Owns: the bytes of at most one unfinished row. A row that cannot be read is refused with its number, and the upload
//! goes on; only a CSV whose header row makes no sense is refused as a whole.
//! Never: checks a row against a template (that is `Form::fit`), or waits for anything.

mod csv;
mod ndjson;

use std::fmt;

use crate::domain::{Form, RawRecipient, Reject, reject::shown, template::Column};

/// The longest row, in bytes without its line break. Meta takes about a thousand characters of text in a message, so
/// what is longer is a mistake, such as a missing closing quote.
pub const ROW_BYTES_MAX: usize = 64 * 1024;
/// The most columns of a CSV.
pub const COLUMNS_MAX: usize = 256;

/// The longest name of a column, in bytes. Every row repeats it.
pub const COLUMN_NAME_BYTES_MAX: usize = 128;

/// The most names of columns that a text lists.
const NAMES_SHOWN_MAX: usize = 20;

/// Some programs begin a UTF-8 file with it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One row of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its number, from 1. Blank lines and the header row of a CSV are not rows.
    pub number: u64,
    /// The line of the file on which it begins, from 1; blank lines and the header row are lines too. `None` where that is not
    /// known: the row is in no file, or the file breaks its lines by carriage returns alone.
    pub line: Option<u64>,
    /// What it says, or why it cannot be read.
    pub recipient: Result<RawRecipient, Reject>,
}

/// The columns of a CSV: those that its template has, and those that are left out.
#[derive(Clone, Debug)]
pub struct Columns {
    known: Vec<Column>,
    ignored: Vec<String>,
}

impl Columns {
    /// The columns of a template. Those named in `ignored` are left out of the file, whatever is in them.
    pub fn of(form: &Form, ignored: &[String]) -> Self {
        Self::new(form.columns(), ignored)
    }

    /// Columns by name.
    pub fn new(known: Vec<Column>, ignored: &[String]) -> Self {
        Self { known, ignored: ignored.iter().map(|name| folded(name)).collect() }
    }

    /// The column that a header row calls `name`: that of the same name, else one that differs in case alone.
    fn find(&self, name: &str) -> Option<&str> {
        let names = || self.known.iter().map(|column| column.name.as_str());
        names().find(|known| *known == name).or_else(|| names().find(|known| folded(known) == folded(name)))
    }

    fn is_ignored(&self, name: &str) -> bool {
        self.ignored.contains(&folded(name))
    }

    /// The names of the columns that every row needs and `given` lacks.
    fn missing(&self, given: &[&str]) -> Vec<String> {
        let needed = self.known.iter().filter(|column| column.is_needed).map(|column| column.name.as_str());
        needed.filter(|name| !given.contains(name)).map(str::to_owned).collect()
    }

    fn names(&self) -> Names {
        Names(self.known.iter().map(|column| column.name.clone()).collect())
    }
}

/// A name without what a person does not see as a difference.
fn folded(name: &str) -> String {
    name.trim().to_lowercase()
}

/// Names of columns, shown as a list of bounded length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names(Vec<String>);

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: Vec<String> = self.0.iter().take(NAMES_SHOWN_MAX).map(|name| format!("`{}`", shown(name))).collect();
        f.write_str(&named.join(", "))?;
        let more = self.0.len() - named.len();
        if more > 0 { write!(f, " and {more} more") } else { Ok(()) }
    }
}

/// An upload that is refused as a whole. Each text says what is wrong with the file, and what helps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UploadError {
    /// Nothing but blank lines.
    #[error("the csv is empty: its first row must name the columns, such as to,1,2")]
    NoHeader,
    /// No line break within [`ROW_BYTES_MAX`].
    #[error(
        "the header row of the csv is longer than {ROW_BYTES_MAX} bytes: is a closing quote missing in it, or is the file \
         something else than a csv?"
    )]
    HeaderTooLong,
    /// A quote in it is not closed by the end of the file.
    #[error("a quote that opens in the header row of the csv is never closed: is a closing quote missing?")]
    UnclosedHeader,
    /// More than [`COLUMNS_MAX`].
    #[error("the csv has more than {COLUMNS_MAX} columns, and needs only {0}: export it with fewer columns")]
    TooManyColumns(Names),
    /// The header row is in another encoding.
    #[error("the header row of the csv is not UTF-8: save the file as \"CSV UTF-8\" (in Excel: File, Save As)")]
    NotUtf8,
    /// The file is that of a spreadsheet program.
    #[error(
        "the file is an Excel workbook and not a csv: open it and save it as \"CSV UTF-8\" (in Excel: File, Save As)"
    )]
    Workbook,
    /// The numbers are nowhere.
    #[error(
        "the first row of the csv names no column `to` for the phone numbers, but {0}: rename the column with the numbers to \
         `to`, or put a row with the names of the columns on top"
    )]
    NoTo(Names),
    /// Two columns with one name.
    #[error("the csv has the column `{0}` twice: rename one of the two, or delete it")]
    DuplicateColumn(String),
    /// A column without a name that others follow.
    #[error("column {0} of the csv has no name in the first row: name it, or delete the column")]
    UnnamedColumn(usize),
    /// Longer than [`COLUMN_NAME_BYTES_MAX`]. Holds the column's place, from 1.
    #[error(
        "the name of column {0} of the csv is longer than {COLUMN_NAME_BYTES_MAX} bytes: is the first row the one with the \
         names of the columns?"
    )]
    NameTooLong(usize),
    /// Columns that the template does not have.
    #[error(
        "the csv has {unknown}, which the template does not use; it uses {known}: rename or delete {}, or leave {} out with \
         ?ignore={} (on the command line --ignore {})", it(.unknown), it(.unknown), list(.unknown), argument(.unknown)
    )]
    UnknownColumns {
        /// Those columns.
        unknown: Names,
        /// The columns of the template.
        known: Names,
    },
    /// Columns that every row needs.
    #[error(
        "the csv has no column {missing}, which the template needs in every row; its columns are {given}: add it, or rename the \
         column that has its values"
    )]
    MissingColumns {
        /// Those columns.
        missing: Names,
        /// The columns that there are.
        given: Names,
    },
}

fn it(names: &Names) -> &'static str {
    if names.0.len() == 1 { "it" } else { "them" }
}

/// The names as `?ignore=` takes them.
fn list(names: &Names) -> String {
    let names: Vec<String> = names.0.iter().take(NAMES_SHOWN_MAX).map(|name| shown(name)).collect();
    names.join(",")
}

/// The names as one argument of a command line.
fn argument(names: &Names) -> String {
    let text = list(names);
    if text.contains(' ') { format!("\"{text}\"") } else { text }
}

/// Reads rows out of the chunks of an upload, however they are cut.
#[derive(Debug)]
pub struct RowReader(Format);

#[derive(Debug)]
enum Format {
    Ndjson(ndjson::NdjsonReader),
    Csv(Box<csv::CsvReader>),
}

impl RowReader {
    /// One JSON object a line, as `RawRecipient` describes it.
    pub fn ndjson() -> Self {
        Self(Format::Ndjson(ndjson::NdjsonReader::default()))
    }

    /// A header row, then one row a recipient.
    ///
    /// Columns: `to`; one for each parameter of the body by its name (`1`, `first_name`); `header` (the text, or for a
    /// medium its `https://` link or its id), `header.filename`, `header.latitude`, `header.longitude`, `header.name`,
    /// `header.address`; `button.0` and so on by the button's place in the template. Case and surrounding blanks of a name
    /// mean nothing. An empty cell of a `header` or `button` column is as good as none, and a row of empty cells is a blank
    /// line. Cells are separated by what a first line `sep=;` says, else by `,`, `;` or a tab, whichever stands most often
    /// in the header row outside of quotes. UTF-8, with or without a byte order mark. A parameter that is itself named `to`
    /// or `header` can be given only in NDJSON.
    pub fn csv(columns: Columns) -> Self {
        Self(Format::Csv(Box::new(csv::CsvReader::new(columns))))
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
