//! CSV: a header row that names the columns, then a row a recipient. Quoting is that of RFC 4180.

use std::str;

use csv_core::ReadRecordResult;

use super::{BYTE_ORDER_MARK, COLUMN_NAME_BYTES_MAX, COLUMNS_MAX, ROW_BYTES_MAX, Row, UploadError};
use crate::domain::{
    RawRecipient, Reject,
    recipient::{HeaderFields, RawHeader},
};

/// The columns of a location, and the name of a document.
const HEADER_FIELDS: [(&str, HeaderField); 5] = [
    ("header.filename", |fields| &mut fields.filename),
    ("header.latitude", |fields| &mut fields.latitude),
    ("header.longitude", |fields| &mut fields.longitude),
    ("header.name", |fields| &mut fields.name),
    ("header.address", |fields| &mut fields.address),
];

type HeaderField = fn(&mut HeaderFields) -> &mut Option<String>;

/// First the header line, then the table.
#[derive(Debug, Default)]
pub(super) struct Reader {
    head: HeaderLine,
    table: Option<Table>,
}

impl Reader {
    pub(super) fn push(&mut self, chunk: &[u8], rows: &mut Vec<Row>) -> Result<(), UploadError> {
        let (table, rest) = match &mut self.table {
            Some(table) => (table, chunk),
            None => match self.head.push(chunk)? {
                Some(rest) => (self.table.insert(Table::open(&self.head, rows)?), rest),
                None => return Ok(()),
            },
        };
        table.push(rest, rows);
        Ok(())
    }

    pub(super) fn finish(&mut self, rows: &mut Vec<Row>) -> Result<(), UploadError> {
        match &mut self.table {
            Some(table) => table,
            None => self.table.insert(Table::open(&self.head, rows)?),
        }
        .finish(rows);
        Ok(())
    }
}

/// The header line as it comes in: it is needed whole, to see what separates the cells.
#[derive(Debug, Default)]
struct HeaderLine {
    bytes: Vec<u8>,
    quoted: bool,
    n_commas: usize,
    n_semicolons: usize,
}

impl HeaderLine {
    /// Takes bytes up to the end of the line, and gives back what follows it; `None` if the line goes on.
    fn push<'a>(&mut self, chunk: &'a [u8]) -> Result<Option<&'a [u8]>, UploadError> {
        for (at, &byte) in chunk.iter().enumerate() {
            if self.bytes.len() == ROW_BYTES_MAX {
                return Err(UploadError::HeaderTooLong);
            }
            let line = self.bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&self.bytes);
            match byte {
                b'\n' | b'\r' if line.is_empty() => continue,
                // A quote opens only at the start of a cell, or again after the first of a doubled one.
                b'"' => self.quoted = !self.quoted && matches!(line.last(), None | Some(b',' | b';' | b'"')),
                b',' if !self.quoted => self.n_commas += 1,
                b';' if !self.quoted => self.n_semicolons += 1,
                _ => {}
            }
            self.bytes.push(byte);
            if matches!(byte, b'\n' | b'\r') && !self.quoted {
                return Ok(Some(&chunk[at + 1..]));
            }
        }
        Ok(None)
    }

    fn separator(&self) -> u8 {
        if self.n_semicolons > self.n_commas { b';' } else { b',' }
    }
}

#[derive(Debug)]
struct Table {
    columns: Vec<Column>,
    records: Records,
    /// Rows so far.
    number: u64,
}

/// What the cells of a column are.
#[derive(Debug)]
enum Column {
    To,
    Parameter(String),
    Header,
    HeaderField(HeaderField),
    Button(String),
}

impl Table {
    /// The table under a header line. The line is longer than the row only if a quote is astray; then rows come of it.
    fn open(head: &HeaderLine, rows: &mut Vec<Row>) -> Result<Self, UploadError> {
        let mut line = head.bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&head.bytes);
        if line.is_empty() {
            return Err(UploadError::NoHeader);
        }
        let mut records = Records::new(head.separator());
        if !records.read(&mut line) && records.end() == End::InQuotes {
            return Err(UploadError::UnclosedHeader);
        }
        let columns = columns(&records)?;
        records.clear();
        let mut table = Self { columns, records, number: 0 };
        table.push(line, rows);
        Ok(table)
    }

    fn push(&mut self, mut chunk: &[u8], rows: &mut Vec<Row>) {
        while self.records.read(&mut chunk) {
            self.row(rows);
        }
    }

    fn finish(&mut self, rows: &mut Vec<Row>) {
        match self.records.end() {
            End::Nothing => {}
            End::Record => self.row(rows),
            End::InQuotes => {
                self.number += 1;
                rows.push(Row { number: self.number, recipient: Err(Reject::UnclosedQuote) });
            }
        }
    }

    fn row(&mut self, rows: &mut Vec<Row>) {
        self.number += 1;
        rows.push(Row { number: self.number, recipient: self.recipient() });
        self.records.clear();
    }

    fn recipient(&self) -> Result<RawRecipient, Reject> {
        if self.records.overlong {
            return Err(Reject::LineTooLong { limit: ROW_BYTES_MAX });
        }
        let (n_cells, n_columns) = (self.records.n_cells, self.columns.len());
        if n_cells != n_columns {
            let why = format!("it has another number of cells ({n_cells}) than the header row ({n_columns})");
            return Err(Reject::Malformed(why));
        }
        let mut raw = RawRecipient::default();
        let mut header = None;
        let mut fields = HeaderFields::default();
        let cells = self.records.cells().ok_or_else(|| Reject::Malformed("it is not UTF-8".to_owned()))?;
        for (column, cell) in self.columns.iter().zip(cells) {
            match column {
                Column::To => raw.to = cell.to_owned(),
                Column::Parameter(name) => raw.params.push((name.clone(), cell.to_owned())),
                // Not every row has a header or a payload of its own.
                _ if cell.is_empty() => {}
                Column::Header => header = Some(cell.to_owned()),
                Column::HeaderField(field) => *field(&mut fields) = Some(cell.to_owned()),
                Column::Button(index) => raw.buttons.push((index.clone(), cell.to_owned())),
            }
        }
        raw.header = if fields == HeaderFields::default() {
            header.map(RawHeader::Text)
        } else {
            let HeaderFields { link, id, .. } = header.map(HeaderFields::medium).unwrap_or_default();
            Some(RawHeader::Fields(Box::new(HeaderFields { link, id, ..fields })))
        };
        Ok(raw)
    }
}

/// What each column is for.
fn columns(head: &Records) -> Result<Vec<Column>, UploadError> {
    if head.n_cells > COLUMNS_MAX {
        return Err(UploadError::TooManyColumns);
    }
    let names: Vec<&str> = head.cells().ok_or(UploadError::NotUtf8)?.map(str::trim).collect();
    let mut columns = Vec::with_capacity(names.len());
    for (at, &name) in names.iter().enumerate() {
        if names[..at].contains(&name) {
            return Err(UploadError::DuplicateColumn(name.to_owned()));
        }
        let unknown = || UploadError::UnknownColumn(name.to_owned());
        columns.push(if name.is_empty() {
            return Err(UploadError::UnnamedColumn(at + 1));
        } else if name.len() > COLUMN_NAME_BYTES_MAX {
            return Err(UploadError::NameTooLong(at + 1));
        } else if name == "to" {
            Column::To
        } else if name == "header" {
            Column::Header
        } else if name.starts_with("header.") {
            let field = HEADER_FIELDS.iter().find(|(known, _)| *known == name);
            Column::HeaderField(field.ok_or_else(unknown)?.1)
        } else if let Some(index) = name.strip_prefix("button.") {
            Column::Button(index.parse::<u8>().map_err(|_| unknown())?.to_string())
        } else {
            Column::Parameter(name.to_owned())
        });
    }
    if !names.contains(&"to") {
        return Err(UploadError::NoTo { columns: names.join(", ") });
    }
    Ok(columns)
}

/// What a file ends with.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The line break of the record before.
    Nothing,
    /// A record.
    Record,
    /// A cell whose quote is still open.
    InQuotes,
}

/// `csv-core` with its buffers: the cells of one record, put together from the chunks it came in.
#[derive(Debug)]
struct Records {
    parser: csv_core::Reader,
    /// The cells' text without quotes and separators; grows to [`ROW_BYTES_MAX`].
    text: Vec<u8>,
    text_len: usize,
    /// Where each cell ends in `text`.
    ends: Vec<usize>,
    /// Cells so far, those beyond [`COLUMNS_MAX`] too.
    n_cells: usize,
    /// The record is too long: its text is dropped up to its end.
    overlong: bool,
}

impl Records {
    fn new(separator: u8) -> Self {
        Self {
            parser: csv_core::ReaderBuilder::new().delimiter(separator).build(),
            text: vec![0; 1024],
            text_len: 0,
            ends: vec![0; COLUMNS_MAX + 1],
            n_cells: 0,
            overlong: false,
        }
    }

    /// Reads on in `input` and takes off what is read. True at the end of a record, false if `input` is used up.
    fn read(&mut self, input: &mut &[u8]) -> bool {
        // Empty input means the end of the file to the parser.
        while !input.is_empty() {
            if self.step(input) {
                return true;
            }
        }
        false
    }

    /// The end of the file. A line break instead of it tells where the parser stands: inside of quotes it is text.
    fn end(&mut self) -> End {
        let text_len = self.text_len;
        if self.read(&mut &b"\n"[..]) {
            End::Record
        } else if self.text_len == text_len {
            End::Nothing
        } else {
            End::InQuotes
        }
    }

    fn step(&mut self, input: &mut &[u8]) -> bool {
        // Cells beyond the last that may be are counted in the last place.
        let (ends_from, text_from) = (self.n_cells.min(COLUMNS_MAX), self.text_len);
        let (result, n_read, n_text, n_ends) =
            self.parser.read_record(input, &mut self.text[text_from..], &mut self.ends[ends_from..]);
        *input = &input[n_read..];
        self.text_len += n_text;
        self.n_cells += n_ends;
        match result {
            ReadRecordResult::Record => return true,
            ReadRecordResult::OutputFull if self.text.len() < ROW_BYTES_MAX => {
                self.text.resize((2 * self.text.len()).min(ROW_BYTES_MAX), 0);
            }
            ReadRecordResult::OutputFull => {
                self.overlong = true;
                self.text_len = 0;
            }
            ReadRecordResult::InputEmpty | ReadRecordResult::OutputEndsFull | ReadRecordResult::End => {}
        }
        false
    }

    /// The cells of the record, which are at most [`COLUMNS_MAX`]; `None` if one is not UTF-8.
    fn cells(&self) -> Option<impl Iterator<Item = &str>> {
        // A cell may end inside of what is a character only together with the next cell.
        let text = str::from_utf8(&self.text[..self.text_len]).ok()?;
        let ends = &self.ends[..self.n_cells];
        if !ends.iter().all(|&end| text.is_char_boundary(end)) {
            return None;
        }
        let starts = std::iter::once(0).chain(ends.iter().copied());
        Some(starts.zip(ends).map(|(start, &end)| &text[start..end]))
    }

    fn clear(&mut self) {
        (self.text_len, self.n_cells, self.overlong) = (0, 0, false);
    }
}
