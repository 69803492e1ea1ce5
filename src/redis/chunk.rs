//! A chunk: up to some hundred recipients of a part, by columns and compressed.
//!
//! SlotMap before compression: u16 recipients, u8 values each, then all numbers (u64), then column by column the values,
//! each with its length (u16) before it. Columns compress better than rows: a column's values are alike.

use std::cell::RefCell;

use zstd::{
    bulk::{Compressor, Decompressor},
    zstd_safe::get_frame_content_size,
};

use crate::domain::{Phone, recipient::Recipient};

/// Recipients in one chunk at most: what one claim takes, and what one script call can unpack.
pub const CHUNK_ROWS_MAX: usize = 256;

/// The best trade of speed for size on chunks of names and order numbers.
const ZSTD_LEVEL: i32 = 3;

/// What a chunk may hold uncompressed, in bytes: more than the batches of an upload bring.
const PLAIN_BYTES_MAX: usize = 64 << 20;

thread_local! {
    /// To make either costs as much as the work on one chunk.
    static ZSTD: RefCell<(Compressor<'static>, Decompressor<'static>)> = RefCell::new((
        Compressor::new(ZSTD_LEVEL).expect("making one has no error but lack of memory"),
        Decompressor::new().expect("making one has no error but lack of memory"),
    ));
}

/// The bytes are not a chunk.
#[derive(Debug, thiserror::Error)]
#[error("not a chunk of recipients")]
pub struct BadChunk;

/// The chunk of `recipients`, at most [`CHUNK_ROWS_MAX`], all with the same number of values of at most 65,535 bytes.
pub fn encode<'a>(recipients: impl ExactSizeIterator<Item = &'a Recipient> + Clone) -> Vec<u8> {
    let rows = recipients.len();
    let columns = recipients.clone().next().map_or(0, |recipient| recipient.values.len());
    assert!(rows <= CHUNK_ROWS_MAX && columns < 256, "{rows} rows, {columns} values");
    let mut plain = Vec::with_capacity(rows * 32);
    plain.extend((rows as u16).to_le_bytes());
    plain.push(columns as u8);
    for recipient in recipients.clone() {
        plain.extend(recipient.to.digits().to_le_bytes());
    }
    for column in 0..columns {
        for recipient in recipients.clone() {
            let value = recipient.values[column].as_bytes();
            let length =
                u16::try_from(value.len()).expect("values are limited to less than 64 KiB by the template's form");
            plain.extend(length.to_le_bytes());
            plain.extend(value);
        }
    }
    ZSTD.with_borrow_mut(|(zstd, _)| zstd.compress(&plain))
        .expect("compressing into memory has no error but lack of memory")
}

/// The recipients of a chunk, by columns as they are stored: a [`Recipient`] for each would take three times the memory, and an
/// allocation for each value.
pub struct Chunk {
    numbers: Vec<Phone>,
    /// The values, column by column.
    text: String,
    /// Where each value ends in `text`.
    ends: Vec<u32>,
}

impl Chunk {
    /// The recipients that [`encode`] was given.
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
            numbers.push(Phone::from_digits(u64::from_le_bytes(take(&mut rest)?)).ok_or(BadChunk)?);
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

    /// How many recipients there are.
    pub fn rows(&self) -> usize {
        self.numbers.len()
    }

    /// The numbers of all, in their order.
    pub fn numbers(&self) -> &[Phone] {
        &self.numbers
    }

    /// The values of the recipient in `row`, counted from 0 in this chunk.
    ///
    /// Panics if there are fewer rows.
    pub fn values(&self, row: usize) -> impl ExactSizeIterator<Item = &str> {
        let rows = self.rows();
        assert!(row < rows, "row {row} of {rows}");
        (0..self.ends.len() / rows).map(move |column| {
            let value = column * rows + row;
            let start = value.checked_sub(1).map_or(0, |before| self.ends[before]);
            &self.text[start as usize..self.ends[value] as usize]
        })
    }

    /// The recipient in `row`, if there are so many.
    pub fn recipient(&self, row: usize) -> Option<Recipient> {
        let to = *self.numbers.get(row)?;
        Some(Recipient { to, values: self.values(row).map(str::to_owned).collect() })
    }

    /// Every recipient, in their order.
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
        fn a_chunk_comes_back_as_it_was(numbers in prop::collection::vec(1_000_000u64..999_999_999_999_999, 1..=CHUNK_ROWS_MAX), values in 0usize..4, text in ".{0,20}") {
            let recipients: Vec<Recipient> = numbers.iter().map(|&digits| Recipient {
                to: Phone::from_digits(digits).expect("in range"),
                values: (0..values).map(|value| format!("{text}{value}{}", digits % 97)).collect(),
            }).collect();
            let chunk = Chunk::decode(&encode(recipients.iter())).expect("a chunk");
            prop_assert_eq!(chunk.recipients().collect::<Vec<_>>(), recipients);
        }

        #[test]
        fn bytes_that_are_no_chunk_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Chunk::decode(&bytes);
            let maria = Recipient { to: Phone::from_digits(5_491_155_550_001).expect("in range"), values: vec!["María".into()] };
            let cut = encode(std::iter::once(&maria));
            prop_assert!(Chunk::decode(&cut[..cut.len() - 1]).is_err());
        }
    }
}
