//! Read-only queries for the API: pages of recipients, and the work of lines.
//!
//! A page reads the chunks of its rows and at most the history of their parts, so it costs about the same in a campaign
//! of ten million recipients as in one of a thousand.

use std::collections::{BTreeMap, HashMap};

use deadpool_redis::redis::{Pipeline, cmd};

use super::{
    Result, Store, StoreError,
    chunk::Chunk,
    history::{StateTimes, changes, note},
};
use crate::domain::{FailureReason, LineId, PartId, Phone, RowReason, UnixMs};

/// Entries of a part's history that are read in one command. Each entry is a batch of changes.
const HISTORY_ENTRIES: isize = 256;

/// The data of a row besides its state and its recipient.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowDetails {
    /// Why it is in its state, if that needs a reason.
    pub reason: Option<RowReason>,
    /// Attempts that counted before the last claim.
    pub tries: u8,
    /// The Unix second at which the row entered each state, by the code of the state; 0 for never.
    pub times: StateTimes,
}

/// The schedule of a part: rows that wait for a retry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// The number of rows.
    pub rows: u64,
    /// When the first of these rows is due.
    pub next_due: Option<UnixMs>,
    /// When the last of them is due.
    pub last_due: Option<UnixMs>,
}

impl Store {
    /// At most `len` state bytes of a part from row `from` on; fewer at the end of the part.
    pub async fn states_from(&self, part: PartId, from: u16, len: usize) -> Result<Vec<u8>> {
        if len == 0 {
            return Ok(Vec::new());
        }
        let (from, key) = (usize::from(from), self.keys.states(part));
        self.query("GETRANGE states", cmd("GETRANGE").arg(key).arg(from).arg(from + len - 1)).await
    }

    /// The recipients of the chunks that begin at `starts`, in one round trip.
    pub async fn chunks(&self, part: PartId, starts: &[u16]) -> Result<Vec<Chunk>> {
        let key = self.keys.chunks(part);
        let mut pipeline = Pipeline::new();
        for &start in starts {
            pipeline.hget(&key, start);
        }
        let chunks: Vec<Vec<u8>> = self.query_all("HGET chunk", &pipeline).await?;
        let corrupt =
            |start, error| StoreError::Corrupt { key: key.clone(), reason: format!("chunk {start}: {error}") };
        let decode =
            |(start, bytes): (&u16, Vec<u8>)| Chunk::decode(&bytes).map_err(|error| corrupt(*start, error.to_string()));
        starts.iter().zip(chunks).map(decode).collect()
    }

    /// The first rows of the chunks that contain a row whose state byte `is_wanted`, in order. `bytes`: the state bytes
    /// of the part. A chunk without a recipient may be deleted at any time.
    pub async fn chunks_with(&self, part: PartId, bytes: &[u8], is_wanted: impl Fn(u8) -> bool) -> Result<Vec<u16>> {
        let starts = self.chunk_starts(part).await?;
        let ends = starts.iter().skip(1).map(|end| usize::from(*end)).chain([bytes.len()]);
        let has_wanted = |(start, end): &(&u16, usize)| {
            bytes.get(usize::from(**start)..*end).is_some_and(|bytes| bytes.iter().any(|byte| is_wanted(*byte)))
        };
        Ok(starts.iter().zip(ends).filter(has_wanted).map(|(start, _)| *start).collect())
    }

    /// The phone numbers of `rows` of a part, in the order of `rows`; `None` for erased recipients.
    ///
    /// Errors: `Corrupt` if a row is in no chunk.
    pub async fn numbers(&self, part: PartId, rows: &[u16]) -> Result<Vec<Option<Phone>>> {
        let starts = self.chunk_starts(part).await?;
        let nowhere = |row: u16| StoreError::Corrupt {
            key: self.keys.chunks(part),
            reason: format!("row {row} of the part is in no chunk"),
        };
        let mut wanted: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        for (position, &row) in rows.iter().enumerate() {
            let behind = starts.partition_point(|&start| start <= row);
            let start = *starts[..behind].last().ok_or_else(|| nowhere(row))?;
            wanted.entry(start).or_default().push(position);
        }
        let wanted_starts: Vec<u16> = wanted.keys().copied().collect();
        let mut found: Vec<Option<Option<Phone>>> = vec![None; rows.len()];
        for ((start, positions), chunk) in wanted.into_iter().zip(self.chunks(part, &wanted_starts).await?) {
            for position in positions {
                found[position] = chunk.numbers().get(usize::from(rows[position] - start)).copied();
            }
        }
        rows.iter().zip(found).map(|(&row, number)| number.ok_or_else(|| nowhere(row))).collect()
    }

    /// The phone number of a row of a part; `None` if its recipient is not stored any more.
    pub async fn number(&self, part: PartId, row: u16) -> Result<Option<Phone>> {
        let starts = self.chunk_starts(part).await?;
        let behind = starts.partition_point(|&start| start <= row);
        let Some(&start) = starts[..behind].last() else { return Ok(None) };
        let key = self.keys.chunks(part);
        // The retention of the recipients may have ended meanwhile.
        let stored: Option<Vec<u8>> = self.query("HGET chunk", cmd("HGET").arg(&key).arg(start)).await?;
        let Some(stored) = stored else { return Ok(None) };
        let corrupt = |error| StoreError::Corrupt { key, reason: format!("chunk {start}: {error}") };
        let chunk = Chunk::decode(&stored).map_err(corrupt)?;
        Ok(chunk.numbers().get(usize::from(row - start)).copied().flatten())
    }

    /// The details of `rows` of a part, in the order of `rows`.
    ///
    /// Reads the part's whole history, up to a few megabytes, page by page.
    pub async fn row_details(&self, part: PartId, rows: &[u16]) -> Result<Vec<RowDetails>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let reasons = self.reasons(part, rows).await?;
        let skips = self.skips(part).await?;
        let skip = |row: u16| skips.get(usize::from(row)).copied().flatten().map(RowReason::Skip);
        let tries: Vec<Option<u8>> =
            self.query("HMGET tries", cmd("HMGET").arg(self.keys.tries(part)).arg(rows)).await?;
        let columns = rows.iter().zip(reasons).zip(tries);
        let details = |((&row, failure), tries): ((&u16, Option<FailureReason>), Option<u8>)| RowDetails {
            reason: failure.map(RowReason::Failure).or_else(|| skip(row)),
            tries: tries.unwrap_or(0),
            times: StateTimes::default(),
        };
        let mut details: Vec<RowDetails> = columns.map(details).collect();
        let positions: HashMap<u16, usize> = rows.iter().enumerate().map(|(position, &row)| (row, position)).collect();
        let (key, mut from) = (self.keys.history(part), 0);
        loop {
            let range = cmd("LRANGE").arg(&key).arg(from).arg(from + HISTORY_ENTRIES - 1).clone();
            let entries: Vec<Vec<u8>> = self.query("LRANGE history", &range).await?;
            if entries.is_empty() {
                return Ok(details);
            }
            for change in entries.iter().flat_map(|entry| changes(entry)) {
                if let Some(&position) = positions.get(&change.row) {
                    note(&mut details[position].times, change);
                }
            }
            from += HISTORY_ENTRIES;
        }
    }

    /// The parts with work on each of `lines`, in one round trip.
    pub async fn work_of(&self, lines: &[LineId]) -> Result<Vec<Vec<PartId>>> {
        let mut pipeline = Pipeline::new();
        for line in lines {
            pipeline.smembers(self.keys.work(line));
        }
        let sets: Vec<Vec<String>> = self.query_all("SMEMBERS work", &pipeline).await?;
        let read = |key: &str, text: &String| {
            let reason = || format!("{text} is not a part");
            text.parse().map_err(|_| StoreError::Corrupt { key: key.to_owned(), reason: reason() })
        };
        let parts = lines.iter().zip(sets).map(|(line, set)| {
            let key = self.keys.work(line);
            set.iter().map(|text| read(&key, text)).collect()
        });
        parts.collect()
    }

    /// The schedules of `parts`, in concurrent round trips.
    pub async fn schedules(&self, parts: &[PartId]) -> Result<Vec<Schedule>> {
        let [mut counts, mut firsts, mut lasts] = std::array::from_fn(|_| Pipeline::with_capacity(parts.len()));
        for &part in parts {
            let key = self.keys.retry(part);
            counts.zcard(&key);
            firsts.zrange_withscores(&key, 0, 0);
            lasts.zrange_withscores(key, -1, -1);
        }
        type Rows = Vec<(u16, f64)>;
        let (counts, firsts, lasts): (Vec<u64>, Vec<Rows>, Vec<Rows>) = tokio::try_join!(
            self.query_all("ZCARD retry", &counts),
            self.query_all("ZRANGE retry", &firsts),
            self.query_all("ZRANGE retry", &lasts)
        )?;
        let due = |rows: &Rows| rows.first().map(|&(_, due)| UnixMs(due as u64));
        let schedule =
            |((rows, first), last): ((u64, Rows), Rows)| Schedule { rows, next_due: due(&first), last_due: due(&last) };
        Ok(counts.into_iter().zip(firsts).zip(lasts).map(schedule).collect())
    }
}
