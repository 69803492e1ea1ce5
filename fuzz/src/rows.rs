//! Properties of the parsers of uploads.

use pregon::{
    domain::{RawRecipient, RawSuppression, SuppressionDefaults, SuppressionReason, UnixMs, template::Column},
    intake::rows::{COLUMNS_MAX, Columns, ROW_BYTES_MAX, Row, RowReader, UploadError, UploadRow},
};
use siphasher::sip::SipHasher24;

use super::{sendable::sendable, within_memory};

/// The longest text of a reject, in bytes.
const REASON_BYTES_MAX: usize = 512;

/// NDJSON is never refused as a whole, and has at most one row per line.
pub fn ndjson(input: &[u8]) {
    let rows = rows(input, RowReader::ndjson, recipient).expect("NDJSON is not refused as a whole");
    let lines = input.split(|byte| *byte == b'\n');
    assert!(rows.len() <= lines.filter(|line| !line.trim_ascii().is_empty()).count(), "more rows than lines");
}

/// CSV: the properties of `rows`.
pub fn csv(input: &[u8]) {
    // The result may be an error, for example without a valid header row.
    let _ = rows(input, || RowReader::csv(columns(input)), recipient);
}

/// A list of suppressions in either format: the properties of `rows`.
pub fn suppressions(input: &[u8]) {
    let _ = rows(input, RowReader::ndjson, suppression);
    let _ = rows(input, || RowReader::csv(Columns::of_suppressions(&[])), suppression);
}

fn recipient(raw: &RawRecipient, input: &[u8]) {
    assert!(raw.params.len() + raw.buttons.len() <= COLUMNS_MAX.max(input.len()));
    sendable(raw);
}

/// An entry has the number of its row, and is not from the future.
fn suppression(raw: &RawSuppression, _: &[u8]) {
    let now = UnixMs(1_795_300_000_000);
    let (business, reason) = ("1001".into(), SuppressionReason::OptOut);
    match raw.fit(&SuppressionDefaults { business, scope: None, reason, now }) {
        Ok((phone, entry)) => {
            assert_eq!(entry.phone, Some(phone));
            assert!(entry.since <= UnixMs(now.0 + 24 * 3_600_000), "{}", entry.since);
        }
        Err(reject) => assert!(reject.to_string().len() <= REASON_BYTES_MAX, "{reject}"),
    }
}

/// Columns named after the fields of the first lines of the input, so that one of those lines can be a header row.
fn columns(input: &[u8]) -> Columns {
    let lines = String::from_utf8_lossy(&input[..input.len().min(ROW_BYTES_MAX)]).into_owned();
    let names = lines.lines().take(3).flat_map(|line| line.split([',', ';', '\t']));
    let names = names.map(|name| name.trim_matches(['"', '\u{feff}', ' ', '\r'])).filter(|name| !name.is_empty());
    let column = |name: &str| Column { name: name.to_owned(), is_required: false };
    Columns::new(["to"].into_iter().chain(names).take(COLUMNS_MAX).map(column).collect(), &[])
}

/// The rows do not depend on chunk boundaries, are numbered without gaps, and pass `check` if they were read.
fn rows<R: UploadRow + PartialEq>(
    input: &[u8],
    reader: impl Fn() -> RowReader,
    check: impl Fn(&R, &[u8]),
) -> Result<Vec<Row<R>>, UploadError> {
    let whole = within_memory(256, 4 * ROW_BYTES_MAX, input, |input| read(reader(), [input]));
    assert!(read(reader(), input.chunks(1)) == whole, "chunks of one byte");
    let mut drawn = SipHasher24::new().hash(input);
    let mut rest = input;
    let drawn_pieces = std::iter::from_fn(|| {
        drawn = drawn.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (piece, left) = rest.split_at_checked((drawn >> 58) as usize).unwrap_or((rest, &[]));
        rest = left;
        (!piece.is_empty() || !rest.is_empty()).then_some(piece)
    });
    assert!(read(reader(), drawn_pieces) == whole, "random chunks");
    for (row, number) in whole.iter().flatten().zip(1..) {
        assert_eq!(row.number, number);
        match &row.content {
            Ok(raw) => check(raw, input),
            Err(reject) => assert!(reject.to_string().len() <= REASON_BYTES_MAX, "{reject}"),
        }
    }
    whole
}

fn read<'a, R: UploadRow>(
    mut reader: RowReader,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<Row<R>>, UploadError> {
    let mut rows = Vec::new();
    for piece in pieces {
        reader.push(piece, &mut rows)?;
    }
    reader.finish(&mut rows)?;
    Ok(rows)
}
