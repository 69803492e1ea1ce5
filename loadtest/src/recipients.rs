//! The recipients of load tests: as many as wanted, all different, each with three short values that look like life.

use std::{convert::Infallible, fmt::Write as _, ops::Range};

use bytes::Bytes;
use futures_util::{Stream, stream};

/// Rows that are made at once: some 90 kB.
const PIECE_ROWS: u64 = 1_000;

/// Numbers begin here; there are ten digits behind it.
const NUMBERS: u64 = 5_490_000_000_000;

/// The rows of an upload.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// How many.
    pub n: u64,
    /// One in so many brings the number of an earlier one; 0: none does.
    pub duplicate_every: u64,
}

impl Rows {
    /// So many different ones.
    pub fn unique(n: u64) -> Self {
        Self { n, duplicate_every: 0 }
    }

    /// How many of them are duplicates.
    pub fn duplicates(self) -> u64 {
        self.n.checked_div(self.duplicate_every).unwrap_or(0)
    }

    /// As NDJSON, made while it is sent: nobody holds it whole.
    pub fn ndjson(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
        let pieces = (0..self.n.div_ceil(PIECE_ROWS)).map(move |piece| {
            let rows = piece * PIECE_ROWS..self.n.min((piece + 1) * PIECE_ROWS);
            Ok(Bytes::from(self.piece(rows)))
        });
        stream::iter(pieces)
    }

    fn piece(self, rows: Range<u64>) -> String {
        const NAMES: [&str; 8] = ["María", "José", "Lucía", "Juan", "Sofía", "Martín", "Camila", "Diego"];
        let mut text = String::with_capacity(PIECE_ROWS as usize * 96);
        for row in rows {
            // Nothing alike follows each other, as in a list of people.
            let mixed = row.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
            let _ = writeln!(
                text,
                r#"{{"to":"+{}","params":{{"1":"{}","2":"A-{}","3":"{} de mayo"}}}}"#,
                number(self.first_with_number_of(row)),
                NAMES[(mixed % 8) as usize],
                mixed % 1_000_000,
                mixed % 31 + 1
            );
        }
        text
    }

    /// The row that first had the number that `row` has: another one for the last of each `duplicate_every`.
    fn first_with_number_of(self, row: u64) -> u64 {
        match self.duplicate_every {
            0 => row,
            every if row % every != every - 1 => row,
            // In the middle of what there is, and the first of its group, which is never a duplicate itself.
            every => row / 2 / every * every,
        }
    }
}

/// The number of a row: all ten digits change from one to the next, and no two rows have the same.
fn number(row: u64) -> u64 {
    NUMBERS + (u128::from(row) * 7_654_321_087 % 10_000_000_000) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use futures_util::StreamExt as _;

    use super::*;
    use pregon::domain::Phone;

    async fn lines(rows: Rows) -> Vec<serde_json::Value> {
        let pieces: Vec<_> = rows.ndjson().map(|piece| piece.expect("no error")).collect().await;
        let text = String::from_utf8(pieces.concat()).expect("UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    #[tokio::test]
    async fn numbers_are_numbers_and_those_repeat_that_shall() {
        for (n, duplicate_every) in [(2_500, 0), (2_500, 50), (100, 2), (1, 0)] {
            let rows = Rows { n, duplicate_every };
            let numbers = lines(rows).await.into_iter().map(|line| line["to"].as_str().expect("text").to_owned());
            let mut seen = HashSet::new();
            let duplicates = numbers.filter(|number| {
                assert!(number.parse::<Phone>().is_ok(), "{number}");
                !seen.insert(number.clone())
            });
            assert_eq!(duplicates.count() as u64, rows.duplicates(), "{rows:?}");
            assert_eq!(seen.len() as u64, n - rows.duplicates());
        }
    }
}
