//! Uploads: how recipients get into a campaign, once each, through any cut.
//!
//! For each batch of rows: (1) room is reserved, (2) the chunks are written into it, which counts nowhere yet, (3) the
//! campaign admits the numbers it does not have, records how far the upload came, and puts into its outbox which rows are
//! to become recipients: this is the commit point; (4) the parts make those rows pending, and the outbox entry goes.
//!
//! If the process dies before (3) nothing has happened. After (3) the next upload or the launch drains the outbox. A
//! caller that repeats an upload with its id continues where it was cut.
//! If Redis dies: it may come back without its last second, and so without the room that it gave. An upload therefore
//! ends with the incarnation of Redis that it began in: it never writes into room that another one was given since.
//! In a cluster campaign and parts are on different servers, and each can forget for itself. So what a step counts on is made
//! safe before it: the chunks before (3), what was admitted before (4), the rows before their entry goes.

use std::{collections::HashMap, iter, time::Duration};

use deadpool_redis::redis::{Pipeline, Value, cmd};

use super::{
    Call, Result, Store, StoreError,
    chunk::{self, CHUNK_ROWS_MAX},
    lines::ms,
    phone_index::{self, Split},
    script,
};
use crate::domain::{CampaignId, CampaignState, LineId, PartId, recipient::Recipient};

/// Rejections that are kept and reported for one upload.
pub const REJECTIONS_MAX: usize = 1_000;

/// Splits of the index in one round trip: some milliseconds of Redis.
const SPLITS_MAX: usize = 128;

/// How far an upload came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadProgress {
    /// Rows taken, in the order of the upload.
    pub taken: u64,
    /// A digest of those rows, to notice another content under the same id.
    pub digest: String,
    /// It was taken whole.
    pub done: bool,
    /// Recipients accepted.
    pub accepted: u64,
    /// Rows rejected.
    pub rejected: u64,
}

/// Rows of an upload that are committed together.
#[derive(Debug, Default)]
pub struct Batch {
    /// Valid rows with their numbers in the upload, rising.
    pub recipients: Vec<(u32, Recipient)>,
    /// The line of the file on which each of them begins, 0 where that is not known; empty where it is of none.
    pub lines: Vec<u32>,
    /// The others with their numbers, rising, as JSON for the caller.
    pub rejections: Vec<(u32, String)>,
    /// Rows of the upload after this batch.
    pub taken: u64,
    /// Digest of the rows after this batch.
    pub digest: String,
    /// It is the last one.
    pub done: bool,
}

/// A batch that is ready for Redis: what takes the processor's time is done, so that it can be done elsewhere and before.
pub struct Packed {
    /// For each recipient its row in the upload, and its number as a field of the index.
    numbers: Vec<(u32, [u8; 7])>,
    /// For each recipient its line in the file, u32, and the end of its number, u16: what is said of it if it is a duplicate.
    told: Vec<u8>,
    /// Each with its recipients.
    chunks: Vec<(usize, Vec<u8>)>,
    rejections: Vec<(u32, String)>,
    taken: u64,
    digest: String,
    done: bool,
}

impl Batch {
    /// Packs it for a campaign on so many lines.
    pub fn pack(self, lines: usize) -> Packed {
        // Small batches are spread over the lines too, but not so thin that chunks stop compressing.
        let rows = (self.recipients.len().div_ceil(lines)).clamp(16, CHUNK_ROWS_MAX);
        let chunks = self.recipients.chunks(rows).map(|rows| {
            let chunk = chunk::encode(rows.iter().map(|(_, recipient)| recipient));
            (rows.len(), chunk)
        });
        let lines = self.lines.iter().copied().chain(iter::repeat(0));
        let mut told = Vec::with_capacity(self.recipients.len() * 6);
        for ((_, recipient), line) in self.recipients.iter().zip(lines) {
            told.extend(line.to_le_bytes());
            told.extend(((recipient.to.digits() % 10_000) as u16).to_le_bytes());
        }
        Packed {
            told,
            chunks: chunks.collect(),
            numbers: self.recipients.iter().map(|(row, recipient)| (*row, phone_index::field(recipient.to))).collect(),
            rejections: self.rejections,
            taken: self.taken,
            digest: self.digest,
            done: self.done,
        }
    }
}

impl Packed {
    /// How many recipients it has.
    pub fn recipients(&self) -> u64 {
        self.numbers.len() as u64
    }
}

/// What came of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// It is committed, and its recipients count.
    Done {
        /// Recipients that this batch added.
        accepted: u64,
    },
    /// The campaign takes no recipients in this state.
    Closed(CampaignState),
    /// The campaign was deleted.
    Gone,
    /// Another connection carries the same upload.
    Overtaken,
    /// The campaign has as many parts as it may have.
    Full,
}

/// Where a chunk lies.
#[derive(Clone, Copy, Debug)]
struct Place {
    part: PartId,
    start: u16,
    rows: usize,
}

/// The place at an index that a script counted from 1.
fn nth<'a>(places: &'a [Place], index: &Value) -> Option<&'a Place> {
    let &Value::Int(index) = index else { return None };
    places.get(usize::try_from(index - 1).ok()?)
}

/// What came of a wish for room.
enum Room {
    /// The chunks are written there.
    Given(Vec<Place>),
    /// The campaign has as many parts as it may have.
    Full,
    /// The campaign was deleted.
    Gone,
}

/// An upload into one campaign.
pub struct Upload {
    /// In one incarnation of Redis.
    store: Store,
    campaign: CampaignId,
    id: String,
    /// Lines with the share of rows that each is to get.
    lines: Vec<(LineId, f64)>,
    /// Rows given to each line of the campaign.
    given: Vec<u64>,
    /// The JSON of a duplicate's rejection, with `%d` for its row, `%s` for the field `line`, and `%d` for the last four digits.
    duplicate: String,
    kept: Duration,
    buckets: u32,
    numbers: u64,
    /// How far it came.
    pub progress: UploadProgress,
}

/// What `begin_upload.lua` gives.
type Begun = (String, u32, u64, u64, String, u8, u64, u64, Vec<u64>);

impl Store {
    /// Opens an upload, or continues one that was cut. `lines` with their weights, at least one; `duplicate` is what is
    /// said of a number that the campaign has, as JSON with `%d` for the row, `%s` for the field `line` and its comma, and `%d`
    /// for the last four digits of the number; `kept` is how long the record of the upload stays. Stores nothing.
    ///
    /// Gives the upload and the state of the campaign, which takes recipients as a draft or scheduled; `None` without such
    /// a campaign.
    pub async fn begin_upload(
        &self,
        campaign: CampaignId,
        id: &str,
        lines: Vec<(LineId, f64)>,
        duplicate: String,
        kept: Duration,
    ) -> Result<Option<(Upload, CampaignState)>> {
        let store = self.in_this_incarnation().keeping_a_connection();
        let key = self.keys.campaign(campaign);
        let keys = [
            key.clone(),
            self.keys.upload(campaign, id),
            self.keys.rejections(campaign, id),
            self.keys.uploads(campaign),
        ];
        let call = Call::new(&script::BEGIN_UPLOAD, &keys).arg(ms(kept));
        let call = lines.iter().fold(call, |call, (line, _)| call.arg(line.as_str()));
        let Some(begun) = store.call::<Option<Begun>>(call).await? else { return Ok(None) };
        let (state, buckets, numbers, taken, digest, done, accepted, rejected, given) = begun;
        let state =
            state.parse().map_err(|_| StoreError::Corrupt { key, reason: format!("{state} is not a state") })?;
        let progress = UploadProgress { taken, digest, done: done == 1, accepted, rejected };
        store.drain_outbox(campaign).await?;
        let id = id.to_owned();
        Ok(Some((Upload { store, campaign, id, lines, given, duplicate, kept, buckets, numbers, progress }, state)))
    }

    /// The first rejections of an upload, JSON.
    pub async fn rejections(&self, campaign: CampaignId, upload: &str) -> Result<Vec<String>> {
        let key = self.keys.rejections(campaign, upload);
        self.query("LRANGE rejections", cmd("LRANGE").arg(key).arg(0).arg(-1)).await
    }

    /// Makes recipients of the rows that a campaign admitted.
    pub async fn drain_outbox(&self, campaign: CampaignId) -> Result<()> {
        // In one incarnation, so that an entry never goes after its rows were forgotten.
        let store = self.in_this_incarnation();
        let key = self.keys.outbox(campaign);
        let entries: Vec<(String, Vec<u8>)> = store.query("HGETALL outbox", cmd("HGETALL").arg(&key)).await?;
        if entries.is_empty() {
            return Ok(());
        }
        // The rows are promised before they can be sent: if the promise were forgotten, they could be admitted twice.
        store.wait_durable_if_spread(std::slice::from_ref(&key)).await?;
        let (mut calls, mut parts) = (Vec::with_capacity(entries.len()), Vec::with_capacity(entries.len()));
        for (place, mask) in &entries {
            let (part, start) = place
                .split_once(':')
                .and_then(|(part, start)| Some((part.parse().ok()?, start.parse::<u16>().ok()?)))
                .ok_or_else(|| StoreError::Corrupt { key: key.clone(), reason: format!("{place} is not a place") })?;
            let part = PartId { campaign, number: part };
            calls.push(self.activation(part, start, mask));
            parts.push(part);
        }
        for result in store.call_all::<u64>(&calls).await? {
            result?;
        }
        let metas: Vec<String> = parts.iter().map(|&part| self.keys.part(part)).collect();
        store.wait_durable_if_spread(&metas).await?;
        let mut done = Pipeline::new();
        let places: Vec<&str> = entries.iter().map(|(place, _)| place.as_str()).collect();
        done.hdel(&key, places).exists(self.keys.campaign(campaign));
        match store.query_all::<u64>("HDEL outbox", &done).await?.as_slice() {
            [_, 0] => store.drop_parts(parts).await,
            _ => Ok(()),
        }
    }

    fn activation(&self, part: PartId, start: u16, mask: &[u8]) -> Call {
        Call::new(&script::ACTIVATE, &[self.keys.part(part), self.keys.states(part)]).arg(start).arg(mask)
    }
}

impl Upload {
    /// The lines that it is for.
    pub fn lines(&self) -> usize {
        self.lines.len()
    }

    /// How many numbers the campaign had, when this upload was last told.
    pub fn numbers(&self) -> u64 {
        self.numbers
    }

    /// Commits a batch.
    ///
    /// Errors: after `OutcomeUnknown` the batch may be committed; a repeated upload with the same id finds out.
    pub async fn admit(&mut self, batch: Packed) -> Result<Admitted> {
        let places = match self.place(&batch.chunks).await? {
            Room::Given(places) => places,
            Room::Full => return Ok(Admitted::Full),
            Room::Gone => return Ok(Admitted::Gone),
        };
        loop {
            self.grow(batch.recipients()).await?;
            let answer: Vec<Value> = self.store.call(self.admission(&batch, &places)).await?;
            match answer.as_slice() {
                [
                    Value::BulkString(kind),
                    Value::Int(accepted),
                    Value::Int(rejected),
                    Value::Int(numbers),
                    Value::Array(unused),
                ] if kind == b"ok" => {
                    let accepted = accepted.unsigned_abs();
                    self.numbers = numbers.unsigned_abs();
                    self.progress = UploadProgress {
                        taken: batch.taken,
                        digest: batch.digest,
                        done: batch.done,
                        accepted: self.progress.accepted + accepted,
                        rejected: rejected.unsigned_abs(),
                    };
                    self.store.drain_outbox(self.campaign).await?;
                    // An upload that only repeats another one leaves nothing behind.
                    self.drop_chunks(unused.iter().filter_map(|index| nth(&places, index))).await?;
                    return Ok(Admitted::Done { accepted });
                }
                [Value::BulkString(kind), Value::Int(buckets), Value::Int(numbers)] if kind == b"grow" => {
                    self.buckets = u32::try_from(*buckets).unwrap_or(1);
                    self.numbers = numbers.unsigned_abs();
                }
                [Value::BulkString(kind), Value::BulkString(state)] if kind == b"state" => {
                    // A campaign that is being deleted has been looked through for chunks, perhaps, before these were written.
                    self.drop_chunks(&places).await?;
                    return Ok(String::from_utf8_lossy(state).parse().map_or(Admitted::Gone, Admitted::Closed));
                }
                [Value::BulkString(kind)] if kind == b"moved" => return Ok(Admitted::Overtaken),
                _ => return Err(StoreError::Refused { operation: "admit", message: "unexpected answer".into() }),
            }
        }
    }

    /// Reserves room for chunks and writes them there.
    async fn place(&mut self, chunks: &[(usize, Vec<u8>)]) -> Result<Room> {
        if chunks.is_empty() {
            return Ok(Room::Given(Vec::new()));
        }
        let mut reserve = Call::new(&script::RESERVE, &[self.store.keys.campaign(self.campaign)]);
        for (rows, _) in chunks {
            let line = self.next_line(*rows);
            reserve = reserve.arg(self.lines[line].0.as_str()).arg(rows);
        }
        let Some(given) = self.store.call::<Option<Vec<u16>>>(reserve).await? else { return Ok(Room::Gone) };
        if given.is_empty() {
            return Ok(Room::Full);
        }
        let mut writes = Pipeline::new();
        let mut places = Vec::with_capacity(chunks.len());
        for ((rows, chunk), &[number, start]) in chunks.iter().zip(given.as_chunks::<2>().0) {
            let part = PartId { campaign: self.campaign, number };
            writes.hset(self.store.keys.chunks(part), start, chunk);
            places.push(Place { part, start, rows: *rows });
        }
        self.store.query_all::<u64>("HSET chunks", &writes).await?;
        let parts: Vec<String> = places.iter().map(|place| self.store.keys.part(place.part)).collect();
        self.store.wait_durable_if_spread(&parts).await?;
        Ok(Room::Given(places))
    }

    /// Drops chunks in which nobody became a recipient.
    async fn drop_chunks(&self, places: impl IntoIterator<Item = &Place>) -> Result<()> {
        let mut drops = Pipeline::new();
        for place in places {
            drops.hdel(self.store.keys.chunks(place.part), place.start);
        }
        self.store.query_all::<u64>("HDEL chunks", &drops).await.map(drop)
    }

    /// The line that is furthest behind its share of the campaign.
    fn next_line(&mut self, rows: usize) -> usize {
        let behind = |line: &usize| (self.given[*line] + rows as u64) as f64 / self.lines[*line].1;
        let line = (0..self.lines.len()).min_by(|a, b| behind(a).total_cmp(&behind(b))).unwrap_or(0);
        self.given[line] += rows as u64;
        line
    }

    /// Splits buckets of the index ahead of what is to come.
    async fn grow(&mut self, coming: u64) -> Result<()> {
        let room = |buckets: u32| u64::from(buckets) * phone_index::ENTRIES_MEAN_MAX;
        while self.numbers + coming > room(self.buckets) {
            let (mut buckets, mut calls) = (self.buckets, Vec::new());
            while self.numbers + coming > room(buckets) && calls.len() < SPLITS_MAX {
                let Split { from, to, by } = Split::next(buckets);
                let mut keys = vec![self.store.keys.campaign(self.campaign)];
                keys.extend([from].into_iter().chain(to).map(|bucket| self.store.keys.numbers(self.campaign, bucket)));
                calls.push(Call::new(&script::SPLIT, &keys).arg(buckets).arg(by));
                buckets += Split::ADDS;
            }
            for result in self.store.call_all::<Option<u32>>(&calls).await? {
                // Without a campaign there is no index to grow: the admission finds that too.
                let Some(buckets) = result? else { return Ok(()) };
                self.buckets = buckets;
            }
        }
        Ok(())
    }

    fn admission(&self, batch: &Packed, places: &[Place]) -> Call {
        let keys = &self.store.keys;
        let mut all = vec![
            keys.campaign(self.campaign),
            keys.upload(self.campaign, &self.id),
            keys.rejections(self.campaign, &self.id),
            keys.outbox(self.campaign),
            keys.uploads(self.campaign),
        ];
        let n_fixed = all.len();
        let mut known = HashMap::new();
        let mut packed = Vec::with_capacity(batch.numbers.len() * 24);
        let rows = places.iter().flat_map(|place| {
            let first = u32::from(place.part.number) << 16 | u32::from(place.start);
            first..first + place.rows as u32
        });
        for ((row, field), place) in batch.numbers.iter().zip(rows) {
            let bucket = phone_index::bucket(*field, self.buckets);
            let position = *known.entry(bucket).or_insert_with(|| {
                all.push(keys.numbers(self.campaign, bucket));
                (all.len() - n_fixed - 1) as u16
            });
            packed.extend(position.to_le_bytes());
            packed.extend(field);
            packed.extend(row.to_le_bytes());
            // As text: a script would make it of a number at the cost of a tenth of the whole.
            let place = place.to_string();
            packed.push(place.len() as u8);
            packed.extend(place.as_bytes());
        }
        let mut chunks = Vec::with_capacity(places.len() * 8);
        for place in places {
            chunks.extend(u32::from(place.part.number).to_le_bytes());
            chunks.extend(place.start.to_le_bytes());
            chunks.extend(((place.rows - 1) as u16).to_le_bytes());
        }
        let call = Call::new(&script::ADMIT, &all)
            .arg(self.buckets)
            .arg(phone_index::ENTRIES_MEAN_MAX)
            .arg(self.progress.taken)
            .arg(batch.taken)
            .arg(&batch.digest)
            .arg(u8::from(batch.done))
            .arg(&self.duplicate)
            .arg(REJECTIONS_MAX)
            .arg(ms(self.kept))
            .arg(chunks)
            .arg(packed)
            .arg(&self.id)
            .arg(&batch.told);
        batch.rejections.iter().fold(call, |call, (row, rejection)| call.arg(*row).arg(rejection))
    }
}
