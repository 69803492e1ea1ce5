//! Chunks: up to 256 recipients of a part, stored by column and compressed.
//!
//! Layout before compression: u16 number of recipients, u8 number of values of each, all phone numbers (u64), then the
//! values column by column, each after its length (u16). Columns compress better than rows, because the values of a
//! column are similar. An erased recipient has [`Phone::REMOVED_DIGITS`] as the number, and empty values.

use std::cell::RefCell;

use zstd::{
    bulk::{Compressor, Decompressor},
    zstd_safe::get_frame_content_size,
};

use crate::domain::{Phone, recipient::Recipient};

/// Maximum number of recipients in one chunk: the size of one claim, and what one script call can unpack.
pub const CHUNK_ROWS_MAX: usize = 256;

/// The best tradeoff between speed and size for chunks with short texts such as names and order numbers.
const ZSTD_LEVEL: i32 = 3;

/// Limit on the decompressed bytes of a chunk: more than any batch of an upload has.
const PLAIN_BYTES_MAX: usize = 64 << 20;

thread_local! {
    /// The compressor and the decompressor are reused, because creating either costs as much as processing a chunk.
    static ZSTD: RefCell<(Compressor<'static>, Decompressor<'static>)> = RefCell::new((
        Compressor::new(ZSTD_LEVEL).expect("making one has no error but lack of memory"),
        Decompressor::new().expect("making one has no error but lack of memory"),
    ));
}

/// The bytes are not a chunk.
#[derive(Debug, thiserror::Error)]
#[error("not a chunk of recipients")]
pub struct BadChunk;

/// Encodes `recipients`: at most [`CHUNK_ROWS_MAX`], all with the same number of values of at most 65,535 bytes each.
///
/// Panics if there are more recipients, or more than 255 values.
pub fn encode<'a>(recipients: impl Iterator<Item = &'a Recipient>) -> Vec<u8> {
    let rows: Vec<&Recipient> = recipients.collect();
    let columns = rows.first().map_or(0, |recipient| recipient.values.len());
    encode_columns(columns, rows.iter().map(|row| row.to.digits()), |row, column| &rows[row].values[column])
}

/// Encodes recipients with these numbers, and `columns` values each.
fn encode_columns<'a>(
    columns: usize,
    digits: impl ExactSizeIterator<Item = u64>,
    value: impl Fn(usize, usize) -> &'a str,
) -> Vec<u8> {
    let rows = digits.len();
    assert!(rows <= CHUNK_ROWS_MAX && columns < 256, "{rows} rows, {columns} values");
    let mut plain = Vec::with_capacity(rows * 32);
    plain.extend((rows as u16).to_le_bytes());
    plain.push(columns as u8);
    plain.extend(digits.flat_map(u64::to_le_bytes));
    for column in 0..columns {
        for row in 0..rows {
            let value = value(row, column).as_bytes();
            let length =
                u16::try_from(value.len()).expect("values are limited to less than 64 KiB by the template's form");
            plain.extend(length.to_le_bytes());
            plain.extend(value);
        }
    }
    ZSTD.with_borrow_mut(|(zstd, _)| zstd.compress(&plain))
        .expect("compressing into memory has no error but lack of memory")
}

/// The recipients of a chunk, by column as they are stored. A [`Recipient`] for each would use three times the
/// memory, and an allocation for each value.
pub struct Chunk {
    /// `None` for an erased recipient.
    numbers: Vec<Option<Phone>>,
    /// The values, column by column.
    text: String,
    /// The end of each value in `text`.
    ends: Vec<u32>,
}

impl Chunk {
    /// Decodes a chunk from [`encode`].
    pub fn decode(chunk: &[u8]) -> Result<Self, BadChunk> {
        let size = get_frame_content_size(chunk).ok().flatten().and_then(|size| usize::try_from(size).ok());
        let size = size.filter(|size| *size <= PLAIN_BYTES_MAX).ok_or(BadChunk)?;
        let plain = ZSTD.with_borrow_mut(|(_, zstd)| zstd.decompress(chunk, size)).map_err(|_| BadChunk)?;
        let mut rest = plain.as_slice();
        let rows = usize::from(u16::from_le_bytes(take(&mut rest)?));
        let [columns] = take(&mut rest)?;
        let values = rows * usize::from(columns);
        let mut numbers = Vec::with_capacity(rows);
        for _ in 0..rows {
            numbers.push(match u64::from_le_bytes(take(&mut rest)?) {
                Phone::REMOVED_DIGITS => None,
                digits => Some(Phone::from_digits(digits).ok_or(BadChunk)?),
            });
        }
        let mut text = String::with_capacity(rest.len().saturating_sub(2 * values));
        let mut ends = Vec::with_capacity(values.min(rest.len() / 2));
        for _ in 0..values {
            let length = usize::from(u16::from_le_bytes(take(&mut rest)?));
            let (value, after) = rest.split_at_checked(length).ok_or(BadChunk)?;
            rest = after;
            text.push_str(std::str::from_utf8(value).map_err(|_| BadChunk)?);
            ends.push(text.len() as u32);
        }
        Ok(Self { numbers, text, ends })
    }

    /// The number of recipients.
    pub fn rows(&self) -> usize {
        self.numbers.len()
    }

    /// The phone numbers of all recipients, in row order; `None` for erased recipients.
    pub fn numbers(&self) -> &[Option<Phone>] {
        &self.numbers
    }

    /// The values of the recipient in `row`, counted from 0 in this chunk.
    ///
    /// Panics if there is no such row.
    pub fn values(&self, row: usize) -> impl ExactSizeIterator<Item = &str> {
        let rows = self.rows();
        assert!(row < rows, "row {row} of {rows}");
        (0..self.columns()).map(move |column| self.value(row, column))
    }

    /// The number of values of each recipient.
    fn columns(&self) -> usize {
        self.ends.len().checked_div(self.rows()).unwrap_or(0)
    }

    fn value(&self, row: usize, column: usize) -> &str {
        let value = column * self.rows() + row;
        let start = value.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start as usize..self.ends[value] as usize]
    }

    /// The chunk without the numbers and values of the recipients in `rows`, encoded. The other recipients keep their
    /// rows.
    pub fn encode_without(&self, rows: &[usize]) -> Vec<u8> {
        let digits = |(row, number): (usize, &Option<Phone>)| {
            number.filter(|_| !rows.contains(&row)).map_or(Phone::REMOVED_DIGITS, Phone::digits)
        };
        let value = |row, column| if rows.contains(&row) { "" } else { self.value(row, column) };
        encode_columns(self.columns(), self.numbers.iter().enumerate().map(digits), value)
    }

    /// The recipient in `row`, counted from 0 in this chunk; `None` if there is no such row, or the recipient was
    /// erased.
    pub fn recipient(&self, row: usize) -> Option<Recipient> {
        let to = (*self.numbers.get(row)?)?;
        Some(Recipient { to, values: self.values(row).map(str::to_owned).collect() })
    }

    /// All recipients except erased ones, in row order.
    pub fn recipients(&self) -> impl Iterator<Item = Recipient> {
        (0..self.rows()).filter_map(|row| self.recipient(row))
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], BadChunk> {
    let (bytes, after) = rest.split_first_chunk::<N>().ok_or(BadChunk)?;
    *rest = after;
    Ok(*bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_chunk_decodes_to_the_encoded_recipients(numbers in prop::collection::vec(1_000_001u64..999_999_999_999_999, 1..=CHUNK_ROWS_MAX), values in 0usize..4, text in ".{0,20}") {
            let recipients: Vec<Recipient> = numbers.iter().map(|&digits| Recipient {
                to: Phone::from_digits(digits).expect("in range"),
                values: (0..values).map(|value| format!("{text}{value}{}", digits % 97)).collect(),
            }).collect();
            let chunk = Chunk::decode(&encode(recipients.iter())).expect("a chunk");
            prop_assert_eq!(chunk.recipients().collect::<Vec<_>>(), recipients);
        }

        #[test]
        fn a_chunk_without_some_recipients_keeps_the_others(n in 1usize..20, without in prop::collection::vec(0usize..20, 0..5)) {
            let recipient = |row: usize| Recipient {
                to: Phone::from_digits(5_491_155_550_000 + row as u64).expect("in range"),
                values: vec![format!("name {row}"), format!("order {row}")],
            };
            let recipients: Vec<Recipient> = (0..n).map(recipient).collect();
            let chunk = Chunk::decode(&encode(recipients.iter())).expect("a chunk");
            let chunk = Chunk::decode(&chunk.encode_without(&without)).expect("a chunk");
            prop_assert_eq!(chunk.rows(), n);
            for (row, recipient) in recipients.into_iter().enumerate() {
                let is_removed = without.contains(&row);
                prop_assert_eq!(chunk.recipient(row), (!is_removed).then_some(recipient));
                prop_assert!(!is_removed || chunk.values(row).all(str::is_empty));
            }
            prop_assert_eq!(chunk.encode_without(&[]), chunk.encode_without(&without), "they are not removed twice");
        }

        #[test]
        fn bytes_that_are_not_a_chunk_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Chunk::decode(&bytes);
            let maria = Recipient { to: Phone::from_digits(5_491_155_550_001).expect("in range"), values: vec!["María".into()] };
            let cut = encode(std::iter::once(&maria));
            prop_assert!(Chunk::decode(&cut[..cut.len() - 1]).is_err());
        }
    }
}
