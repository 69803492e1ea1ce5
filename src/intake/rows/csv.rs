//! CSV: a header row with the names of the columns, then one row per recipient or suppression. Quoting follows RFC
//! 4180.

use std::str;

use csv_core::ReadRecordResult;

use super::{
    BYTE_ORDER_MARK, COLUMN_NAME_BYTES_MAX, COLUMNS_MAX, Columns, Names, ROW_BYTES_MAX, Row, UploadError, UploadRow,
};
use crate::domain::{
    RawRecipient, RawSuppression, Reject,
    contact_row::RawContact,
    recipient::{HeaderFields, RawHeader},
};

/// The columns for the fields of a header: a document's file name, and a location.
const HEADER_FIELDS: [(&str, HeaderField); 5] = [
    ("header.filename", |fields| &mut fields.filename),
    ("header.latitude", |fields| &mut fields.latitude),
    ("header.longitude", |fields| &mut fields.longitude),
    ("header.name", |fields| &mut fields.name),
    ("header.address", |fields| &mut fields.address),
];

/// A field of a header.
pub type HeaderField = fn(&mut HeaderFields) -> &mut Option<String>;

/// The first bytes of an Excel workbook, which is a zip archive.
const WORKBOOK: &[u8] = b"PK\x03\x04";

/// Reads the header line first, then the table below it.
#[derive(Debug)]
pub(super) struct CsvReader {
    columns: Columns,
    head: HeaderLine,
    /// `None` until the header line is complete.
    table: Option<Table>,
}

impl CsvReader {
    pub(super) fn new(columns: Columns) -> Self {
        Self { columns, head: HeaderLine::default(), table: None }
    }

    pub(super) fn push<T: UploadRow>(&mut self, chunk: &[u8], rows: &mut Vec<Row<T>>) -> Result<(), UploadError> {
        let (table, rest) = match &mut self.table {
            Some(table) => (table, chunk),
            None => match self.head.push(chunk)? {
                Some(rest) => (self.table.insert(Table::open(&self.columns, &self.head, rows)?), rest),
                None => return Ok(()),
            },
        };
        table.push(rest, rows);
        Ok(())
    }

    pub(super) fn finish<T: UploadRow>(&mut self, rows: &mut Vec<Row<T>>) -> Result<(), UploadError> {
        match &mut self.table {
            Some(table) => table,
            None => self.table.insert(Table::open(&self.columns, &self.head, rows)?),
        }
        .finish(rows);
        Ok(())
    }
}

/// Collects the header line. The whole line is needed to detect the separator.
#[derive(Debug, Default)]
struct HeaderLine {
    bytes: Vec<u8>,
    quoted: bool,
    /// How often each of [`SEPARATORS`] occurs in the line outside quotes.
    counts: [usize; SEPARATORS.len()],
    /// The separator from a line such as `sep=;` before the header line.
    declared: Option<u8>,
    /// The number of lines before the header line.
    lines_before: u64,
}

/// The separators that are detected. In a tie the first one wins.
const SEPARATORS: [u8; 3] = *b",;\t";

impl HeaderLine {
    /// Consumes bytes up to the end of the header line, and returns the bytes after it, or `None` if the line is
    /// incomplete.
    fn push<'a>(&mut self, chunk: &'a [u8]) -> Result<Option<&'a [u8]>, UploadError> {
        for (at, &byte) in chunk.iter().enumerate() {
            if self.bytes.len() == ROW_BYTES_MAX {
                return Err(UploadError::HeaderTooLong);
            }
            let line = self.bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&self.bytes);
            match byte {
                b'\n' | b'\r' if line.is_empty() => {
                    self.lines_before += u64::from(byte == b'\n');
                    continue;
                }
                // A quote opens only at the start of a cell, or as the second of a doubled quote.
                b'"' => self.quoted = !self.quoted && matches!(line.last(), None | Some(b',' | b';' | b'\t' | b'"')),
                _ if self.quoted => {}
                _ => {
                    if let Some(at) = SEPARATORS.iter().position(|&separator| separator == byte) {
                        self.counts[at] += 1;
                    }
                }
            }
            self.bytes.push(byte);
            if matches!(byte, b'\n' | b'\r') && !self.quoted {
                match separator_line(&self.bytes) {
                    // The header line is the next one.
                    Some(separator) if self.declared.is_none() => {
                        let lines_before = self.lines_before + u64::from(byte == b'\n');
                        *self = Self { declared: Some(separator), lines_before, ..Self::default() };
                    }
                    _ => return Ok(Some(&chunk[at + 1..])),
                }
            }
        }
        Ok(None)
    }

    fn separator(&self) -> u8 {
        let most = self.counts.iter().max();
        let most = self.counts.iter().position(|count| Some(count) == most).map_or(b',', |at| SEPARATORS[at]);
        self.declared.unwrap_or(most)
    }
}

/// The separator in a line such as `sep=;`, a convention of Excel.
fn separator_line(line: &[u8]) -> Option<u8> {
    let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
    let line = line.strip_suffix(b"\n").or_else(|| line.strip_suffix(b"\r")).unwrap_or(line);
    let line = line.strip_prefix(b"\"").and_then(|line| line.strip_suffix(b"\"")).unwrap_or(line);
    match line {
        [s, e, p, b'=', separator] if [s, e, p].map(u8::to_ascii_lowercase) == *b"sep" && separator.is_ascii() => {
            Some(*separator)
        }
        _ => None,
    }
}

#[derive(Debug)]
struct Table {
    columns: Vec<CsvColumn>,
    records: Records,
    /// The number of rows so far.
    number: u64,
}

/// The meaning of a column.
#[derive(Debug)]
pub enum CsvColumn {
    /// The phone number.
    Phone,
    /// A parameter of the template, or a field of a suppression.
    Named(String),
    /// The header: a text, or the link or id of its media.
    Header,
    /// A field of the header.
    HeaderField(HeaderField),
    /// The value of a button, by its index.
    Button(String),
    /// The name of the recipient's time zone.
    Zone,
    /// A column that the caller ignores.
    Ignored,
}

impl Table {
    /// Parses the header row. With a stray quote, the bytes of the header line can contain more than the header row:
    /// the rest is parsed as rows.
    fn open<T: UploadRow>(wanted: &Columns, head: &HeaderLine, rows: &mut Vec<Row<T>>) -> Result<Self, UploadError> {
        let mut line = head.bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&head.bytes);
        if line.is_empty() {
            return Err(UploadError::NoHeader);
        }
        if line.starts_with(WORKBOOK) {
            return Err(UploadError::Workbook);
        }
        let mut records = Records::new(head.separator(), head.lines_before);
        if !records.read(&mut line) && records.end() == End::InQuotes {
            return Err(UploadError::UnclosedHeader);
        }
        let columns = columns(wanted, &records)?;
        records.clear();
        let mut table = Self { columns, records, number: 0 };
        table.push(line, rows);
        Ok(table)
    }

    fn push<T: UploadRow>(&mut self, mut chunk: &[u8], rows: &mut Vec<Row<T>>) {
        while self.records.read(&mut chunk) {
            self.row(rows);
        }
    }

    fn finish<T: UploadRow>(&mut self, rows: &mut Vec<Row<T>>) {
        match self.records.end() {
            End::Nothing => {}
            End::Record => self.row(rows),
            End::InQuotes => {
                self.number += 1;
                let line = self.records.line();
                rows.push(Row { number: self.number, line, content: Err(Reject::UnclosedQuote) });
            }
        }
    }

    fn row<T: UploadRow>(&mut self, rows: &mut Vec<Row<T>>) {
        // Spreadsheets write an empty line as a row of empty cells.
        if self.records.is_blank() {
            return self.records.clear();
        }
        self.number += 1;
        rows.push(Row { number: self.number, line: self.records.line(), content: self.content() });
        self.records.clear();
    }

    fn content<T: UploadRow>(&self) -> Result<T, Reject> {
        if self.records.overlong {
            return Err(Reject::LineTooLong { limit: ROW_BYTES_MAX });
        }
        let (n_cells, n_columns) = (self.records.n_cells, self.columns.len());
        if n_cells != n_columns && !(n_cells > n_columns && self.records.are_blank_from(n_columns)) {
            let why = format!(
                "it has a different number of cells ({n_cells}) than the header row ({n_columns}); is a separator or a quote \
                 missing, or one too many?"
            );
            return Err(Reject::Malformed(why));
        }
        let cells = self.records.cells().ok_or_else(|| Reject::Malformed(NOT_UTF8.to_owned()))?;
        Ok(T::from_cells(self.columns.iter().zip(cells)))
    }
}

impl UploadRow for RawRecipient {
    fn from_json(line: &[u8]) -> Result<Self, Reject> {
        Self::from_json(line)
    }

    fn from_cells<'a>(cells: impl Iterator<Item = (&'a CsvColumn, &'a str)>) -> Self {
        let mut raw = Self::default();
        let mut header = None;
        let mut fields = HeaderFields::default();
        for (column, cell) in cells {
            match column {
                CsvColumn::Phone => raw.to = cell.to_owned(),
                CsvColumn::Ignored => {}
                CsvColumn::Named(name) => raw.params.push((name.clone(), cell.to_owned())),
                // An empty cell means that this row has no header, no button payload or no time zone.
                _ if cell.is_empty() => {}
                CsvColumn::Header => header = Some(cell.to_owned()),
                CsvColumn::HeaderField(field) => *field(&mut fields) = Some(cell.to_owned()),
                CsvColumn::Button(index) => raw.buttons.push((index.clone(), cell.to_owned())),
                CsvColumn::Zone => raw.zone = Some(cell.to_owned()),
            }
        }
        raw.header = if fields == HeaderFields::default() {
            header.map(RawHeader::Text)
        } else {
            let HeaderFields { link, id, .. } = header.map(HeaderFields::medium).unwrap_or_default();
            Some(RawHeader::Fields(Box::new(HeaderFields { link, id, ..fields })))
        };
        raw
    }
}

impl UploadRow for RawSuppression {
    fn from_json(line: &[u8]) -> Result<Self, Reject> {
        Self::from_json(line)
    }

    fn from_cells<'a>(cells: impl Iterator<Item = (&'a CsvColumn, &'a str)>) -> Self {
        let mut raw = Self::default();
        for (column, cell) in cells {
            match column {
                CsvColumn::Phone => raw.phone = cell.to_owned(),
                CsvColumn::Named(name) => raw.set(name, cell),
                // A list of suppressions has no other columns.
                CsvColumn::Header
                | CsvColumn::HeaderField(_)
                | CsvColumn::Button(_)
                | CsvColumn::Zone
                | CsvColumn::Ignored => {}
            }
        }
        raw
    }
}

impl UploadRow for RawContact {
    fn from_json(line: &[u8]) -> Result<Self, Reject> {
        Self::from_json(line)
    }

    fn from_cells<'a>(cells: impl Iterator<Item = (&'a CsvColumn, &'a str)>) -> Self {
        let mut raw = Self::default();
        for (column, cell) in cells {
            match column {
                CsvColumn::Phone => raw.phone = cell.to_owned(),
                CsvColumn::Named(name) => raw.set(name, cell),
                // Properties can have these keys.
                CsvColumn::Header => raw.set("header", cell),
                CsvColumn::Zone => raw.set("zone", cell),
                // A key of a property has no dot.
                CsvColumn::HeaderField(_) | CsvColumn::Button(_) | CsvColumn::Ignored => {}
            }
        }
        raw
    }
}

/// The reason to reject a row that is not UTF-8.
const NOT_UTF8: &str = "it is not UTF-8; save the file as \"CSV UTF-8\" (in Excel: File, Save As)";

/// Maps each cell of the header row to its column.
///
/// Errors: the columns are not those that the file may have, or a name is invalid.
fn columns(wanted: &Columns, head: &Records) -> Result<Vec<CsvColumn>, UploadError> {
    if head.n_cells > COLUMNS_MAX {
        return Err(UploadError::TooManyColumns(wanted.names()));
    }
    let mut names: Vec<&str> = head.cells().ok_or(UploadError::NotUtf8)?.map(str::trim).collect();
    // A NUL suggests UTF-16 without a byte order mark.
    if names.iter().any(|name| name.contains('\0')) {
        return Err(UploadError::NotUtf8);
    }
    // Unnamed columns at the end are dropped. Spreadsheets export columns that were emptied.
    let n_named = names.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1);
    names.truncate(n_named);
    let mut columns = Vec::with_capacity(names.len());
    let (mut found, mut unknown) = (Vec::new(), Vec::new());
    for (at, &name) in names.iter().enumerate() {
        if name.is_empty() {
            return Err(UploadError::UnnamedColumn(at + 1));
        }
        if name.len() > COLUMN_NAME_BYTES_MAX {
            return Err(UploadError::NameTooLong(at + 1));
        }
        if wanted.is_ignored(name) {
            columns.push(CsvColumn::Ignored);
            continue;
        }
        let Some(column_name) = wanted.find(name) else {
            unknown.push(name.to_owned());
            continue;
        };
        if found.contains(&column_name) {
            return Err(UploadError::DuplicateColumn(column_name.to_owned()));
        }
        found.push(column_name);
        columns.push(column(wanted, column_name));
    }
    let given = || Names(names.iter().map(|&name| name.to_owned()).collect());
    if !found.contains(&wanted.phone) {
        return Err(UploadError::NoPhone { wanted: wanted.phone, given: given() });
    }
    if !unknown.is_empty() {
        return Err(UploadError::UnknownColumns {
            unknown: Names(unknown),
            owner: wanted.owner,
            known: wanted.names(),
        });
    }
    let missing = wanted.missing(&found);
    if !missing.is_empty() {
        return Err(UploadError::MissingColumns { missing: Names(missing), owner: wanted.owner, given: given() });
    }
    Ok(columns)
}

/// The column with this name.
fn column(wanted: &Columns, name: &str) -> CsvColumn {
    if name == wanted.phone {
        CsvColumn::Phone
    } else if name == "header" {
        CsvColumn::Header
    } else if let Some((_, field)) = HEADER_FIELDS.iter().find(|(known, _)| *known == name) {
        CsvColumn::HeaderField(*field)
    } else if name == "zone" && !wanted.is_required(name) {
        // A parameter of this name is required.
        CsvColumn::Zone
    } else if let Some(index) = name.strip_prefix("button.") {
        CsvColumn::Button(index.to_owned())
    } else {
        CsvColumn::Named(name.to_owned())
    }
}

/// Where in the table the file ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// After the line break of the last record.
    Nothing,
    /// After a record without a line break.
    Record,
    /// Within a quoted cell.
    InQuotes,
}

/// `csv-core` with its buffers. Assembles the cells of one record from the chunks.
#[derive(Debug)]
struct Records {
    parser: csv_core::Reader,
    /// The text of the cells, without quotes and separators. Grows to [`ROW_BYTES_MAX`].
    text: Vec<u8>,
    text_len: usize,
    /// The end of each cell in `text`.
    ends: Vec<usize>,
    /// The number of cells so far, including those beyond [`COLUMNS_MAX`].
    n_cells: usize,
    /// Whether the record is too long. If so, its text is dropped up to its end.
    overlong: bool,
    /// The number of line breaks in the dropped text of the record.
    dropped_breaks: u64,
    /// The number of lines before the header line.
    lines_before: u64,
    /// The line after the previous record, counted from the header line.
    next_line: u64,
    /// Whether the parser has not counted the record's last line yet. The parser counts line feeds, and the record
    /// ended before one: at a carriage return or at the end of the file.
    end_uncounted: bool,
}

impl Records {
    fn new(separator: u8, lines_before: u64) -> Self {
        Self {
            parser: csv_core::ReaderBuilder::new().delimiter(separator).build(),
            text: vec![0; 1024],
            text_len: 0,
            ends: vec![0; COLUMNS_MAX + 1],
            n_cells: 0,
            overlong: false,
            dropped_breaks: 0,
            lines_before,
            next_line: 1,
            end_uncounted: false,
        }
    }

    /// The line of the file at which the current record begins, or `None` if lines can't be counted.
    fn line(&self) -> Option<u64> {
        let after = self.line_after();
        // The usual case: a record of one line, without blank lines before it.
        if after == self.next_line + 1 {
            return Some(self.lines_before + self.next_line);
        }
        let breaks = memchr::memchr_iter(b'\n', &self.text[..self.text_len]).count() as u64 + self.dropped_breaks;
        // If line breaks are bare carriage returns, the parser's line count does not advance.
        (after > self.next_line).then(|| self.lines_before + after - 1 - breaks)
    }

    /// The line after the current record, counted from the header line.
    fn line_after(&self) -> u64 {
        self.parser.line() + u64::from(self.end_uncounted)
    }

    /// Parses `input` and advances it. Returns true at the end of a record, or false if `input` is used up.
    fn read(&mut self, input: &mut &[u8]) -> bool {
        // The parser would treat empty input as the end of the file.
        while !input.is_empty() {
            if self.step(input) {
                return true;
            }
        }
        false
    }

    /// Ends the file, and returns where the end falls. To find out, passes a line break to the parser: it ends an open
    /// record, is skipped after a complete one, and becomes text within quotes.
    fn end(&mut self) -> End {
        let text_len = self.text_len;
        if self.read(&mut &b"\n"[..]) {
            End::Record
        } else if self.text_len == text_len {
            End::Nothing
        } else {
            self.end_uncounted = true;
            End::InQuotes
        }
    }

    fn step(&mut self, input: &mut &[u8]) -> bool {
        // Cells beyond COLUMNS_MAX overwrite the last slot, so that they are only counted.
        let (ends_from, text_from) = (self.n_cells.min(COLUMNS_MAX), self.text_len);
        let (result, n_read, n_text, n_ends) =
            self.parser.read_record(input, &mut self.text[text_from..], &mut self.ends[ends_from..]);
        let last = input[..n_read].last().copied();
        *input = &input[n_read..];
        self.text_len += n_text;
        self.n_cells += n_ends;
        match result {
            ReadRecordResult::Record => {
                self.end_uncounted = last == Some(b'\r');
                return true;
            }
            ReadRecordResult::OutputFull if self.text.len() < ROW_BYTES_MAX => {
                self.text.resize((2 * self.text.len()).min(ROW_BYTES_MAX), 0);
            }
            ReadRecordResult::OutputFull => {
                self.overlong = true;
                self.dropped_breaks += memchr::memchr_iter(b'\n', &self.text[..self.text_len]).count() as u64;
                self.text_len = 0;
            }
            ReadRecordResult::InputEmpty | ReadRecordResult::OutputEndsFull | ReadRecordResult::End => {}
        }
        false
    }

    /// Whether the record has only blanks.
    fn is_blank(&self) -> bool {
        !self.overlong && self.text[..self.text_len].trim_ascii_start().is_empty()
    }

    /// Whether all cells from index `at` on are blank.
    fn are_blank_from(&self, at: usize) -> bool {
        let from = if at == 0 { 0 } else { self.ends[at - 1] };
        self.n_cells <= COLUMNS_MAX && self.text[from..self.text_len].trim_ascii().is_empty()
    }

    /// The cells of the record, or `None` if one is not UTF-8. The record must have at most [`COLUMNS_MAX`] cells.
    fn cells(&self) -> Option<impl Iterator<Item = &str>> {
        // The text as a whole can be valid UTF-8 although a cell ends within a character.
        let text = str::from_utf8(&self.text[..self.text_len]).ok()?;
        let ends = &self.ends[..self.n_cells];
        if !ends.iter().all(|&end| text.is_char_boundary(end)) {
            return None;
        }
        let starts = std::iter::once(0).chain(ends.iter().copied());
        Some(starts.zip(ends).map(|(start, &end)| &text[start..end]))
    }

    fn clear(&mut self) {
        self.next_line = self.line_after();
        (self.text_len, self.n_cells, self.overlong, self.dropped_breaks) = (0, 0, false, 0);
    }
}
