//! Rows of an upload.

use pregon::{
    domain::template::Column,
    intake::rows::{COLUMNS_MAX, Columns, ROW_BYTES_MAX, Row, RowReader, UploadError},
};
use siphasher::sip::SipHasher24;

use super::{sendable::sendable, takes_at_most};

/// The longest reason that a row is refused for, in bytes.
const REASON_BYTES_MAX: usize = 512;

/// Rows in NDJSON.
pub fn ndjson(input: &[u8]) {
    let rows = rows(input, RowReader::ndjson).expect("NDJSON is not refused as a whole");
    let lines = input.split(|byte| *byte == b'\n');
    assert!(rows.len() <= lines.filter(|line| !line.trim_ascii().is_empty()).count(), "more rows than lines");
}

/// Rows in CSV.
pub fn csv(input: &[u8]) {
    // An error names the columns that there are; a row names each of its parameters.
    let _ = rows(input, || RowReader::csv(columns(input)));
}

/// Columns for which the first lines of the input can be a header row.
fn columns(input: &[u8]) -> Columns {
    let lines = String::from_utf8_lossy(&input[..input.len().min(ROW_BYTES_MAX)]).into_owned();
    let names = lines.lines().take(3).flat_map(|line| line.split([',', ';', '\t']));
    let names = names.map(|name| name.trim_matches(['"', '\u{feff}', ' ', '\r'])).filter(|name| !name.is_empty());
    let column = |name: &str| Column { name: name.to_owned(), is_needed: false };
    Columns::new(["to"].into_iter().chain(names).take(COLUMNS_MAX).map(column).collect(), &[])
}

/// The rows are the same however the upload is cut; they are numbered without a gap; those that are taken can be sent.
fn rows(input: &[u8], reader: impl Fn() -> RowReader) -> Result<Vec<Row>, UploadError> {
    let whole = takes_at_most(256, 4 * ROW_BYTES_MAX, input, |input| read(reader(), [input]));
    assert!(read(reader(), input.chunks(1)) == whole, "cut at every byte");
    let mut drawn = SipHasher24::new().hash(input);
    let mut rest = input;
    let drawn_pieces = std::iter::from_fn(|| {
        drawn = drawn.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (piece, left) = rest.split_at_checked((drawn >> 58) as usize).unwrap_or((rest, &[]));
        rest = left;
        (!piece.is_empty() || !rest.is_empty()).then_some(piece)
    });
    assert!(read(reader(), drawn_pieces) == whole, "cut at random");
    for (row, number) in whole.iter().flatten().zip(1..) {
        assert_eq!(row.number, number);
        match &row.recipient {
            Ok(raw) => {
                assert!(raw.params.len() + raw.buttons.len() <= COLUMNS_MAX.max(input.len()));
                sendable(raw);
            }
            Err(reject) => assert!(reject.to_string().len() <= REASON_BYTES_MAX, "{reject}"),
        }
    }
    whole
}

fn read<'a>(mut reader: RowReader, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Row>, UploadError> {
    let mut rows = Vec::new();
    for piece in pieces {
        reader.push(piece, &mut rows)?;
    }
    reader.finish(&mut rows)?;
    Ok(rows)
}
