//! Parses the rows of an upload as its bytes arrive, at constant memory.
//!
//! A row that can't be parsed is rejected with its number, and parsing continues with the next row. Only a CSV with a
//! bad header row is rejected as a whole.
//!
//! Owns: the bytes of at most one unfinished row.
//! Never: validates a row against a template (`Form::fit` does), or waits for anything.

mod csv;
mod ndjson;

use std::fmt;

use crate::domain::{
    Form, RawRecipient, RawSuppression, Reject, contact_row::RawContact, reject::quoted, template::Column,
};

pub use self::csv::{CsvColumn, HeaderField};

/// The longest row, in bytes without its line break. Meta accepts about a thousand characters of text in a message,
/// so a longer row is a mistake, such as a missing closing quote.
pub const ROW_BYTES_MAX: usize = 64 * 1024;
/// Maximum number of columns of a CSV.
pub const COLUMNS_MAX: usize = 256;

/// The longest name of a column, in bytes. Every row carries a copy of the name.
pub const COLUMN_NAME_BYTES_MAX: usize = 128;

/// How many column names an error message lists.
const NAMES_SHOWN_MAX: usize = 20;

/// The UTF-8 byte order mark, with which some programs begin a file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A type of row that can be uploaded: a recipient, a suppression or a contact.
pub trait UploadRow: Sized {
    /// Parses a line of NDJSON.
    fn from_json(line: &[u8]) -> Result<Self, Reject>;

    /// Builds a row of a CSV from its cells, in the order of the columns.
    fn from_cells<'a>(cells: impl Iterator<Item = (&'a CsvColumn, &'a str)>) -> Self;
}

/// One row of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<T = RawRecipient> {
    /// The number of the row, from 1. Blank lines and the header row of a CSV are not rows.
    pub number: u64,
    /// The line of the file at which the row begins, from 1. Blank lines and the header row count as lines. `None` if
    /// the row does not come from a file, or the file uses bare carriage returns as line breaks.
    pub line: Option<u64>,
    /// The recipient or the suppression, or why the row can't be parsed.
    pub content: Result<T, Reject>,
}

/// The columns that a CSV may have: those of the template or of a suppression, and those to ignore.
#[derive(Clone, Debug)]
pub struct Columns {
    /// The name of the column with the phone numbers.
    phone: &'static str,
    /// The owner of the columns, as error messages name it: `the template`.
    owner: &'static str,
    known: Vec<Column>,
    ignored: Vec<String>,
    /// The columns that have another name in the file: that name, and their own.
    renamed: Vec<(String, String)>,
}

impl Columns {
    /// The columns of a template. A column in `ignored` is skipped.
    pub fn of(form: &Form, ignored: &[String]) -> Self {
        Self::new(form.columns(), ignored)
    }

    /// Like [`Columns::of`], from the template's columns.
    pub fn new(known: Vec<Column>, ignored: &[String]) -> Self {
        Self {
            phone: "to",
            owner: "the template",
            known,
            ignored: ignored.iter().map(|name| folded(name)).collect(),
            renamed: Vec::new(),
        }
    }

    /// The columns of a list of suppressions. A column in `ignored` is skipped.
    pub fn of_suppressions(ignored: &[String]) -> Self {
        let column = |name: &str| Column { name: name.to_owned(), is_required: name == "phone" };
        let known = RawSuppression::COLUMNS.map(column).to_vec();
        Self { phone: "phone", owner: "a list of suppressions", ..Self::new(known, ignored) }
    }

    /// The columns of a list of contacts with these properties. A column in `ignored` is skipped, and one in `renamed`
    /// has the first name in the file.
    pub fn of_contacts<'a>(
        properties: impl Iterator<Item = &'a str>,
        ignored: &[String],
        renamed: &[(String, String)],
    ) -> Self {
        let column = |name: &str| Column { name: name.to_owned(), is_required: name == "phone" };
        let known = RawContact::COLUMNS.into_iter().chain(properties).map(column).collect();
        let renamed = renamed.iter().map(|(name, column)| (folded(name), column.clone())).collect();
        Self { phone: "phone", owner: "a list of contacts", renamed, ..Self::new(known, ignored) }
    }

    /// Finds the column for a header cell `name`. An exact match takes precedence over one that differs only in case.
    fn find(&self, name: &str) -> Option<&str> {
        let renamed = self.renamed.iter().find(|(other, _)| *other == folded(name));
        let name = renamed.map_or(name, |(_, column)| column);
        let names = || self.known.iter().map(|column| column.name.as_str());
        names().find(|known| *known == name).or_else(|| names().find(|known| folded(known) == folded(name)))
    }

    fn is_ignored(&self, name: &str) -> bool {
        self.ignored.contains(&folded(name))
    }

    fn is_required(&self, name: &str) -> bool {
        self.known.iter().any(|column| column.is_required && column.name == name)
    }

    /// The required columns that are not in `given`.
    fn missing(&self, given: &[&str]) -> Vec<String> {
        let needed = self.known.iter().filter(|column| column.is_required).map(|column| column.name.as_str());
        needed.filter(|name| !given.contains(name)).map(str::to_owned).collect()
    }

    fn names(&self) -> Names {
        Names(self.known.iter().map(|column| column.name.clone()).collect())
    }
}

/// Folds case and trims blanks, for comparing names.
fn folded(name: &str) -> String {
    name.trim().to_lowercase()
}

/// Column names. `Display` lists at most `NAMES_SHOWN_MAX` of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names(Vec<String>);

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> =
            self.0.iter().take(NAMES_SHOWN_MAX).map(|name| format!("`{}`", quoted(name))).collect();
        f.write_str(&shown.join(", "))?;
        let more = self.0.len() - shown.len();
        if more > 0 { write!(f, " and {more} more") } else { Ok(()) }
    }
}

/// Why an upload is rejected as a whole. Each text says what is wrong with the file and how to fix it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UploadError {
    /// The file has only blank lines.
    #[error("the csv is empty: its first row must name the columns")]
    NoHeader,
    /// The header row does not end within [`ROW_BYTES_MAX`].
    #[error(
        "the header row of the csv is longer than {ROW_BYTES_MAX} bytes: is a closing quote missing in it, or is the file \
         not a csv?"
    )]
    HeaderTooLong,
    /// A quote in the header row is not closed by the end of the file.
    #[error("a quote that opens in the header row of the csv is never closed: is a closing quote missing?")]
    UnclosedHeader,
    /// The file has more than [`COLUMNS_MAX`] columns. Contains those that it may have.
    #[error("the csv has more than {COLUMNS_MAX} columns, and needs only {0}: export it with fewer columns")]
    TooManyColumns(Names),
    /// The header row is not UTF-8.
    #[error("the header row of the csv is not UTF-8: save the file as \"CSV UTF-8\" (in Excel: File, Save As)")]
    NotUtf8,
    /// The file is an Excel workbook.
    #[error(
        "the file is an Excel workbook and not a csv: open it and save it as \"CSV UTF-8\" (in Excel: File, Save As)"
    )]
    Workbook,
    /// The file has no column with phone numbers.
    #[error(
        "the first row of the csv names no column `{wanted}` for the phone numbers, but {given}: rename the column with the \
         numbers to `{wanted}`, or put a row with the names of the columns on top"
    )]
    NoPhone {
        /// The name that the column has to have.
        wanted: &'static str,
        /// The columns of the file.
        given: Names,
    },
    /// Two columns have the same name.
    #[error("the csv has the column `{0}` twice: rename one of the two, or delete it")]
    DuplicateColumn(String),
    /// A column has no name, and a later column has one. Contains the position of the unnamed column, from 1.
    #[error("column {0} of the csv has no name in the first row: name it, or delete the column")]
    UnnamedColumn(usize),
    /// The name of a column is longer than [`COLUMN_NAME_BYTES_MAX`]. Contains the column's position, from 1.
    #[error(
        "the name of column {0} of the csv is longer than {COLUMN_NAME_BYTES_MAX} bytes: is the first row the one with the \
         names of the columns?"
    )]
    NameTooLong(usize),
    /// The file has columns that it may not have.
    #[error(
        "the csv has {unknown}, which {owner} does not use; it uses {known}: rename or delete {}, or leave {} out with \
         ?ignore={} (on the command line --ignore {})", it(.unknown), it(.unknown), list(.unknown), argument(.unknown)
    )]
    UnknownColumns {
        /// The unknown columns.
        unknown: Names,
        /// The owner of the known columns, such as `the template`.
        owner: &'static str,
        /// The columns that the file may have.
        known: Names,
    },
    /// Required columns are missing.
    #[error(
        "the csv has no column {missing}, which {owner} needs in every row; its columns are {given}: add it, or rename the \
         column that has its values"
    )]
    MissingColumns {
        /// The missing columns.
        missing: Names,
        /// The owner of the columns, such as `the template`.
        owner: &'static str,
        /// The columns of the file.
        given: Names,
    },
}

fn it(names: &Names) -> &'static str {
    if names.0.len() == 1 { "it" } else { "them" }
}

/// The names as the value of `?ignore=`.
fn list(names: &Names) -> String {
    let names: Vec<String> = names.0.iter().take(NAMES_SHOWN_MAX).map(|name| quoted(name)).collect();
    names.join(",")
}

/// The names as one argument of a command line, in quotes if one has a blank.
fn argument(names: &Names) -> String {
    let text = list(names);
    if text.contains(' ') { format!("\"{text}\"") } else { text }
}

/// Parses rows from the chunks of an upload. The boundaries of chunks do not matter.
#[derive(Debug)]
pub struct RowReader(Format);

#[derive(Debug)]
enum Format {
    Ndjson(ndjson::NdjsonReader),
    Csv(Box<csv::CsvReader>),
}

impl RowReader {
    /// A reader of one JSON object per line. [`UploadRow`] defines its form.
    pub fn ndjson() -> Self {
        Self(Format::Ndjson(ndjson::NdjsonReader::default()))
    }

    /// A reader of CSV: a header row, then one row per recipient or suppression. The encoding is UTF-8, with or without
    /// a byte order mark.
    ///
    /// The columns of recipients are:
    ///
    /// - `to`: the phone number.
    /// - `1`, `first_name`: a parameter of the body, by its name.
    /// - `header`: the text of the header, or the `https://` link or id of its image, video or document.
    /// - `header.filename`, `header.latitude`, `header.longitude`, `header.name`, `header.address`.
    /// - `button.0`: the payload of a button, by its position in the template.
    /// - `zone`: the name of the recipient's time zone, unless the template has a parameter of this name.
    ///
    /// Case and surrounding blanks of a name are ignored. An empty cell of a `header`, `button` or `zone` column counts
    /// as missing, and a row of empty cells counts as a blank line. A parameter that is itself named `to` or `header`
    /// can be given only in NDJSON.
    ///
    /// The separator is the one that a first line `sep=;` names, else the most frequent of `,`, `;` and tab in the
    /// header row outside quotes.
    pub fn csv(columns: Columns) -> Self {
        Self(Format::Csv(Box::new(csv::CsvReader::new(columns))))
    }

    /// Parses `chunk`, and appends each row that ends in it to `rows`.
    ///
    /// Errors: [`UploadError`]. The upload is rejected, and the reader must not be used again.
    pub fn push<T: UploadRow>(&mut self, chunk: &[u8], rows: &mut Vec<Row<T>>) -> Result<(), UploadError> {
        match &mut self.0 {
            Format::Ndjson(reader) => {
                reader.push(chunk, rows);
                Ok(())
            }
            Format::Csv(reader) => reader.push(chunk, rows),
        }
    }

    /// Ends the upload. Appends the last row if no line break ended it.
    ///
    /// Errors: [`UploadError`], such as for a CSV without a header row.
    pub fn finish<T: UploadRow>(&mut self, rows: &mut Vec<Row<T>>) -> Result<(), UploadError> {
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
