//! Generates recipients and suppressed people for load tests: any number, all different. A recipient has three short
//! realistic values.

use std::{convert::Infallible, fmt::Write as _, ops::Range};

use bytes::Bytes;
use futures_util::{Stream, stream};

/// Rows generated at once: some 90 kB.
const CHUNK_ROWS: u64 = 1_000;

/// The lowest phone number. Its last ten digits vary.
const NUMBER_MIN: u64 = 5_490_000_000_000;

/// How far below the number of a recipient the number of a suppressed person is, so that no recipient has it.
const SUPPRESSED_BELOW: u64 = 20_000_000_000;

/// The rows of an upload.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// The number of rows.
    pub n: u64,
    /// One in this many rows repeats the phone number of an earlier row. 0: none does.
    pub duplicate_every: u64,
    /// The number of people before those of these rows, who are left out.
    pub skipped: u64,
    /// Another seed has other numbers and values, or the same in another order.
    pub seed: u64,
}

impl Rows {
    /// `n` rows, all different.
    pub fn unique(n: u64) -> Self {
        Self { n, duplicate_every: 0, skipped: 0, seed: 1 }
    }

    /// The number of duplicate rows.
    pub fn duplicates(self) -> u64 {
        self.n.checked_div(self.duplicate_every).unwrap_or(0)
    }

    /// The rows as NDJSON, generated while they are sent, so that they are never all in memory.
    pub fn ndjson(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
        let chunks = (0..self.n.div_ceil(CHUNK_ROWS)).map(move |chunk| {
            let rows = chunk * CHUNK_ROWS..self.n.min((chunk + 1) * CHUNK_ROWS);
            Ok(Bytes::from(self.chunk(rows)))
        });
        stream::iter(chunks)
    }

    /// The rows as CSV, with a value in each of these columns beside `to`.
    pub fn csv(self, columns: &[String]) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
        let header = columns.iter().fold("to".to_owned(), |header, column| header + "," + column) + "\n";
        let values = columns.len();
        let chunks = (0..self.n.div_ceil(CHUNK_ROWS)).map(move |chunk| {
            let mut text = String::with_capacity(CHUNK_ROWS as usize * 32);
            for row in chunk * CHUNK_ROWS..self.n.min((chunk + 1) * CHUNK_ROWS) {
                let _ = write!(text, "+{}", number(self.seed, self.skipped + row));
                (0..values).for_each(|_| text.push_str(",A-10"));
                text.push('\n');
            }
            Ok(Bytes::from(text))
        });
        stream::iter(std::iter::once(Ok(Bytes::from(header))).chain(chunks))
    }

    fn chunk(self, rows: Range<u64>) -> String {
        const NAMES: [&str; 8] = ["María", "José", "Lucía", "Juan", "Sofía", "Martín", "Camila", "Diego"];
        let mut text = String::with_capacity(CHUNK_ROWS as usize * 96);
        for row in rows {
            // Mix the values, so that adjacent rows differ as in a real list.
            let mixed = row.wrapping_add(self.seed << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
            let _ = writeln!(
                text,
                r#"{{"to":"+{}","params":{{"1":"{}","2":"A-{}","3":"{} de mayo"}}}}"#,
                number(self.seed, self.skipped + self.original_of(row)),
                NAMES[(mixed % 8) as usize],
                mixed % 1_000_000,
                mixed % 31 + 1
            );
        }
        text
    }

    /// The first row with the phone number of `row`. It differs from `row` for the last row of each group of
    /// `duplicate_every`.
    fn original_of(self, row: u64) -> u64 {
        match self.duplicate_every {
            0 => row,
            every if row % every != every - 1 => row,
            // The first row of the group halfway to `row`. The first row of a group is never a duplicate itself.
            every => row / 2 / every * every,
        }
    }
}

/// The people of an import of suppressions as NDJSON: `n` different numbers, none of which is that of a recipient.
pub fn suppressed(n: u64) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    let chunks = (0..n.div_ceil(CHUNK_ROWS)).map(move |chunk| {
        let mut text = String::with_capacity(CHUNK_ROWS as usize * 32);
        for row in chunk * CHUNK_ROWS..n.min((chunk + 1) * CHUNK_ROWS) {
            let _ = writeln!(text, r#"{{"phone":"+{}"}}"#, number(0, row) - SUPPRESSED_BELOW);
        }
        Ok(Bytes::from(text))
    });
    stream::iter(chunks)
}

/// The phone number of a row. The ten digits vary widely between adjacent rows, and no two rows of a seed have the same
/// number.
fn number(seed: u64, row: u64) -> u64 {
    let mixed = u128::from(row) * 7_654_321_087 + u128::from(seed) * 1_234_567_891;
    NUMBER_MIN + (mixed % 10_000_000_000) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use futures_util::StreamExt as _;

    use super::*;
    use pregon::domain::Phone;

    async fn lines(rows: Rows) -> Vec<serde_json::Value> {
        let chunks: Vec<_> = rows.ndjson().map(|chunk| chunk.expect("no error")).collect().await;
        let text = String::from_utf8(chunks.concat()).expect("UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    #[tokio::test]
    async fn phone_numbers_are_valid_and_repeat_only_as_requested() {
        for (n, duplicate_every, seed) in [(2_500, 0, 1), (2_500, 50, u64::MAX), (100, 2, 7), (1, 0, 0)] {
            let rows = Rows { duplicate_every, seed, ..Rows::unique(n) };
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

    #[tokio::test]
    async fn a_seed_gives_the_same_recipients_again() {
        let of = |seed| lines(Rows { seed, ..Rows::unique(100) });
        assert_eq!(of(7).await, of(7).await);
        assert_ne!(of(7).await, of(8).await);
    }
}
