//! Uploads: adds recipients to a campaign, each exactly once, across interruptions.
//!
//! Each batch of rows takes four steps:
//!
//! 1. Reserve rows in parts of the campaign.
//! 2. Write the chunks of recipients to these rows, which have no state yet.
//! 3. Commit, in one script: the campaign admits the phone numbers that it does not have, records the progress of the
//!    upload, and lists the admitted rows in its outbox.
//! 4. Drain the outbox: the parts make these rows pending, then the outbox entries are removed.
//!
//! If the process dies before step 3, the batch has no effect. After it, the next upload or the launch drains the
//! outbox. A caller that repeats an upload with the same id continues where it stopped.
//!
//! If Redis dies: it may restart without its last second, and so without the latest reservations. An upload therefore
//! fails when the incarnation of Redis changes (a restart or failover), and never writes into rows that another upload
//! has reserved since. In a cluster a campaign and its parts are on different servers, each of which can lose data on
//! its own. What a step relies on is therefore made durable first: the chunks before step 3, the admission before
//! step 4, the pending rows before their outbox entries are removed.

use std::{
    collections::{HashMap, HashSet},
    iter, mem,
    sync::Arc,
    time::Duration,
};

use deadpool_redis::redis::{Pipeline, Value, cmd};

use super::{
    Call, Result, Store, StoreError,
    chunk::{self, CHUNK_ROWS_MAX},
    lines::ms,
    phone_index::{self, IndexedBy, Split},
    script,
};
use crate::domain::{CampaignId, CampaignState, LineId, PartId, recipient::Recipient};

/// Maximum number of rejections that are stored and reported for one upload.
pub const REJECTIONS_MAX: usize = 1_000;

/// Maximum number of uploads of a campaign whose rejected rows are counted.
const UPLOADS_COUNTED_MAX: usize = 1_000;

/// Maximum number of uploads of a campaign whose rejections are read at once: some 40 MB.
const UPLOADS_LISTED_MAX: usize = 100;

/// Maximum number of index splits in one round trip: a few milliseconds of Redis.
const SPLITS_MAX: usize = 128;

/// When a campaign has this many parts, a group of recipients gets no parts on further lines. A campaign has at most
/// 65,536 parts, and hundreds of groups on hundreds of lines would need more.
const PARTS_SPREAD_MAX: u32 = 32_768;

/// The progress of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadProgress {
    /// The number of rows that were processed, from the start of the upload.
    pub taken: u64,
    /// A digest of these rows. It reveals an upload of other content under the same id.
    pub digest: String,
    /// Whether the upload is complete.
    pub done: bool,
    /// Recipients accepted.
    pub accepted: u64,
    /// Rows rejected.
    pub rejected: u64,
}

/// The rows that the uploads of a campaign rejected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RejectedRows {
    /// The number of rows.
    pub count: u64,
    /// The number of uploads.
    pub uploads: usize,
    /// The first rejections of each upload, as JSON.
    pub rejections: Vec<String>,
    /// Whether these are all rejections of all uploads.
    pub is_complete: bool,
}

/// Rows of an upload that are committed together.
#[derive(Debug, Default)]
pub struct Batch {
    /// Valid rows, each with its number in the upload, in ascending order.
    pub recipients: Vec<(u32, Recipient)>,
    /// The line of the file on which each of `recipients` begins, 0 if unknown. Empty if all are unknown.
    pub lines: Vec<u32>,
    /// The group of each of `recipients`. Empty if the campaign does not group them.
    pub groups: Vec<Option<Arc<str>>>,
    /// Rejected rows, each with its number in the upload, in ascending order, as JSON for the caller.
    pub rejections: Vec<(u32, String)>,
    /// The number of rows from the start of the upload to the end of this batch.
    pub taken: u64,
    /// Digest of these rows.
    pub digest: String,
    /// Whether this batch is the last one.
    pub done: bool,
}

/// How the batches of an upload are packed.
#[derive(Clone, Copy, Debug)]
pub struct Packing {
    /// The number of lines of the campaign.
    pub lines: usize,
    /// Whether its phone index has an entry for each number or for each person.
    pub indexed_by: IndexedBy,
}

/// A batch that is encoded for Redis. Encoding is CPU-bound, so callers can do it ahead of time on another thread.
pub struct Packed {
    /// For each recipient its row in the upload, and its phone number as a field of the phone index.
    numbers: Vec<(u32, [u8; 7])>,
    /// For each recipient the data of its rejection as a duplicate: u32 line of the file, u16 last four digits.
    duplicate_data: Vec<u8>,
    chunks: Vec<PackedChunk>,
    rejections: Vec<(u32, String)>,
    taken: u64,
    digest: String,
    done: bool,
}

/// A chunk of a batch.
struct PackedChunk {
    /// The number of recipients.
    rows: usize,
    data: Vec<u8>,
    /// The group of all its recipients, if they have one.
    group: Option<Arc<str>>,
}

impl Batch {
    /// Packs the batch for the campaign of an upload.
    pub fn pack(mut self, Packing { lines, indexed_by }: Packing) -> Packed {
        self.sort_by_group();
        // Small batches are spread over the lines too, but in chunks that are large enough to compress.
        let rows = (self.recipients.len().div_ceil(lines)).clamp(16, CHUNK_ROWS_MAX);
        let mut chunks = Vec::new();
        let mut rest = self.recipients.as_slice();
        for (group, n) in self.group_sizes() {
            let (recipients, others) = rest.split_at(n);
            rest = others;
            chunks.extend(recipients.chunks(rows).map(|rows| {
                let data = chunk::encode(rows.iter().map(|(_, recipient)| recipient));
                PackedChunk { rows: rows.len(), data, group: group.clone() }
            }));
        }
        let lines = self.lines.iter().copied().chain(iter::repeat(0));
        let mut duplicate_data = Vec::with_capacity(self.recipients.len() * 6);
        for ((_, recipient), line) in self.recipients.iter().zip(lines) {
            duplicate_data.extend(line.to_le_bytes());
            duplicate_data.extend(((recipient.to.digits() % 10_000) as u16).to_le_bytes());
        }
        Packed {
            duplicate_data,
            chunks,
            numbers: self.recipients.iter().map(|(row, recipient)| (*row, indexed_by.field(recipient.to))).collect(),
            rejections: self.rejections,
            taken: self.taken,
            digest: self.digest,
            done: self.done,
        }
    }

    /// Sorts the recipients by their groups, and otherwise keeps their order.
    fn sort_by_group(&mut self) {
        if self.groups.is_empty() {
            return;
        }
        self.lines.resize(self.recipients.len(), 0);
        let groups = mem::take(&mut self.groups).into_iter();
        let mut rows: Vec<_> = groups.zip(mem::take(&mut self.recipients)).zip(mem::take(&mut self.lines)).collect();
        rows.sort_by(|((one, _), _), ((other, _), _)| one.cmp(other));
        for ((group, recipient), line) in rows {
            self.groups.push(group);
            self.recipients.push(recipient);
            self.lines.push(line);
        }
    }

    /// The groups of the sorted recipients, each with its number of recipients.
    fn group_sizes(&self) -> Vec<(Option<Arc<str>>, usize)> {
        if self.groups.is_empty() {
            return vec![(None, self.recipients.len())];
        }
        self.groups.chunk_by(|a, b| a == b).map(|same| (same[0].clone(), same.len())).collect()
    }
}

impl Packed {
    /// The number of recipients.
    pub fn recipients(&self) -> u64 {
        self.numbers.len() as u64
    }
}

/// The result of admitting a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// The batch is committed.
    Done {
        /// Recipients that this batch added.
        accepted: u64,
    },
    /// The campaign accepts no recipients in this state.
    Closed(CampaignState),
    /// The campaign was deleted.
    Gone,
    /// Another connection has continued the same upload.
    Overtaken,
    /// The send window was switched to the recipients' time zones after these recipients were prepared, so they have no
    /// groups.
    Regrouped,
    /// The campaign has the maximum number of parts.
    Full,
}

/// Rows of a part that a batch added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmittedRows {
    /// The part.
    pub part: PartId,
    /// The first row.
    pub start: u16,
    /// A byte for each row from `start` on: 1 if it was added, 0 if its phone number was there before.
    mask: Vec<u8>,
}

impl AdmittedRows {
    /// The rows that were added.
    pub fn rows(&self) -> impl Iterator<Item = u16> {
        let is_added = |(row, added): (u16, &u8)| (*added == 1).then_some(row);
        (self.start..=u16::MAX).zip(&self.mask).filter_map(is_added)
    }
}

/// The location of a chunk.
#[derive(Clone, Copy, Debug)]
struct ChunkLocation {
    part: PartId,
    start: u16,
    rows: usize,
}

/// The location with `index`, which the script counts from 1.
fn nth<'a>(locations: &'a [ChunkLocation], index: &Value) -> Option<&'a ChunkLocation> {
    let &Value::Int(index) = index else { return None };
    locations.get(usize::try_from(index - 1).ok()?)
}

/// The result of writing chunks.
enum Written {
    /// The chunks are written at these locations.
    At(Vec<ChunkLocation>),
    /// The campaign has the maximum number of parts.
    Full,
    /// The campaign was deleted.
    Gone,
}

/// An upload into one campaign.
pub struct Upload {
    /// Fails when the incarnation of Redis changes.
    store: Store,
    campaign: CampaignId,
    id: String,
    /// Lines with their weights, which set the share of rows of each.
    lines: Vec<(LineId, f64)>,
    /// Rows that each line of the campaign has so far.
    line_rows: Vec<u64>,
    /// The rejection of a duplicate, see [`Store::begin_upload`].
    duplicate: String,
    record_lifetime: Duration,
    buckets: u32,
    indexed_by: IndexedBy,
    numbers: u64,
    /// The [`CampaignRecord::grouping`](super::campaigns::CampaignRecord::grouping) for which the recipients are
    /// grouped; 0 if the campaign's was never changed.
    pub grouping: u64,
    /// Its progress.
    pub progress: UploadProgress,
    /// What the last batch added.
    pub admitted: Vec<AdmittedRows>,
}

/// The result of `begin_upload.lua`.
type UploadRecord = (String, u32, u64, u64, String, u8, u64, u64, Vec<u64>, String);

impl Store {
    /// Opens an upload, or continues an interrupted one. Drains the outbox of the campaign, and stores nothing else.
    ///
    /// * `lines`: at least one line, each with its weight.
    /// * `duplicate`: the rejection of a phone number that the campaign already has, as JSON with `%d` for the row,
    ///   `%s` for the field `line` and its comma, and `%d` for the last four digits of the number, in this order.
    /// * `record_lifetime`: how long the record of the upload is stored.
    ///
    /// Returns the upload and the state of the campaign, which accepts recipients only as a draft or scheduled. `None`
    /// if there is no such campaign.
    pub async fn begin_upload(
        &self,
        campaign: CampaignId,
        id: &str,
        lines: Vec<(LineId, f64)>,
        duplicate: String,
        record_lifetime: Duration,
    ) -> Result<Option<(Upload, CampaignState)>> {
        let store = self.in_this_incarnation().with_pinned_connection();
        let key = self.keys.campaign(campaign);
        let keys = [
            key.clone(),
            self.keys.upload(campaign, id),
            self.keys.rejections(campaign, id),
            self.keys.uploads(campaign),
        ];
        let call = Call::new(&script::BEGIN_UPLOAD, &keys).arg(ms(record_lifetime));
        let call = lines.iter().fold(call, |call, (line, _)| call.arg(line.as_str()));
        let Some(record) = store.call::<Option<UploadRecord>>(call).await? else { return Ok(None) };
        let (state, buckets, numbers, taken, digest, done, accepted, rejected, line_rows, index) = record;
        let state =
            state.parse().map_err(|_| StoreError::Corrupt { key, reason: format!("{state} is not a state") })?;
        let progress = UploadProgress { taken, digest, done: done == 1, accepted, rejected };
        store.drain_outbox(campaign).await?;
        let id = id.to_owned();
        Ok(Some((
            Upload {
                store,
                campaign,
                id,
                lines,
                line_rows,
                duplicate,
                record_lifetime,
                buckets,
                indexed_by: IndexedBy::read(Some(&index)),
                numbers,
                grouping: 0,
                progress,
                admitted: Vec::new(),
            },
            state,
        )))
    }

    /// The rows that the uploads of a campaign rejected, as far as their records are kept. Counts at most a thousand
    /// uploads, and reads the rejections of at most a hundred.
    pub async fn rejected_rows(&self, campaign: CampaignId) -> Result<RejectedRows> {
        let (uploads, mut is_complete) = self.upload_ids(campaign).await?;
        let mut pipeline = Pipeline::new();
        for id in &uploads {
            pipeline.hget(self.keys.upload(campaign, id), "rejected");
        }
        let counts: Vec<Option<u64>> = self.query_all("HGET rejected", &pipeline).await?;
        is_complete &= counts.iter().all(Option::is_some);
        let count = counts.iter().flatten().sum();
        let rejecting = uploads.iter().zip(&counts).filter(|(_, count)| count.is_some_and(|count| count > 0));
        let mut rejections = Vec::new();
        for (id, _) in rejecting.take(UPLOADS_LISTED_MAX) {
            rejections.extend(self.rejections(campaign, id).await?);
        }
        is_complete &= rejections.len() as u64 == count;
        Ok(RejectedRows { count, uploads: uploads.len(), rejections, is_complete })
    }

    /// Ids of uploads of a campaign, and whether these are all of them.
    async fn upload_ids(&self, campaign: CampaignId) -> Result<(Vec<String>, bool)> {
        let key = self.keys.uploads(campaign);
        let (mut ids, mut cursor): (HashSet<String>, u64) = (HashSet::new(), 0);
        loop {
            let mut scan = cmd("SSCAN");
            scan.arg(&key).arg(cursor).arg("COUNT").arg(UPLOADS_COUNTED_MAX);
            let (next, found): (u64, Vec<String>) = self.query("SSCAN uploads", &scan).await?;
            ids.extend(found);
            if next == 0 || ids.len() >= UPLOADS_COUNTED_MAX {
                let is_all = next == 0 && ids.len() <= UPLOADS_COUNTED_MAX;
                return Ok((ids.into_iter().take(UPLOADS_COUNTED_MAX).collect(), is_all));
            }
            cursor = next;
        }
    }

    /// The first rejections of an upload, at most [`REJECTIONS_MAX`], each as JSON.
    pub async fn rejections(&self, campaign: CampaignId, upload: &str) -> Result<Vec<String>> {
        let key = self.keys.rejections(campaign, upload);
        self.query("LRANGE rejections", cmd("LRANGE").arg(key).arg(0).arg(-1)).await
    }

    /// Turns the rows that a campaign admitted into recipients. Returns them.
    pub async fn drain_outbox(&self, campaign: CampaignId) -> Result<Vec<AdmittedRows>> {
        // Fails if the incarnation changes, so that no entry is removed after Redis lost the pending state of its rows.
        let store = self.in_this_incarnation();
        let key = self.keys.outbox(campaign);
        let entries: Vec<(String, Vec<u8>)> = store.query("HGETALL outbox", cmd("HGETALL").arg(&key)).await?;
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        // The admission must be durable before its rows can be sent: if Redis lost it, the same phone numbers could be
        // admitted again.
        store.wait_durable_if_spread(std::slice::from_ref(&key)).await?;
        let (mut calls, mut admitted) = (Vec::with_capacity(entries.len()), Vec::with_capacity(entries.len()));
        let mut locations = Vec::with_capacity(entries.len());
        for (location, mask) in entries {
            let (part, start) = location
                .split_once(':')
                .and_then(|(part, start)| Some((part.parse().ok()?, start.parse::<u16>().ok()?)))
                .ok_or_else(|| StoreError::Corrupt {
                    key: key.clone(),
                    reason: format!("{location} is not part:row"),
                })?;
            let part = PartId { campaign, number: part };
            calls.push(self.activation(part, start, &mask));
            admitted.push(AdmittedRows { part, start, mask });
            locations.push(location);
        }
        for result in store.call_all::<u64>(&calls).await? {
            result?;
        }
        let metas: Vec<String> = admitted.iter().map(|rows| self.keys.part(rows.part)).collect();
        store.wait_durable_if_spread(&metas).await?;
        let mut done = Pipeline::new();
        done.hdel(&key, locations).exists(self.keys.campaign(campaign));
        match store.query_all::<u64>("HDEL outbox", &done).await?.as_slice() {
            [_, 0] => store.drop_parts(admitted.into_iter().map(|rows| rows.part)).await.map(|()| Vec::new()),
            _ => Ok(admitted),
        }
    }

    fn activation(&self, part: PartId, start: u16, mask: &[u8]) -> Call {
        Call::new(&script::ACTIVATE, &[self.keys.part(part), self.keys.states(part)]).arg(start).arg(mask)
    }
}

impl Upload {
    /// How its batches are packed.
    pub fn packing(&self) -> Packing {
        Packing { lines: self.lines.len(), indexed_by: self.indexed_by }
    }

    /// The number of phone numbers of the campaign, as of the last response of Redis.
    pub fn numbers(&self) -> u64 {
        self.numbers
    }

    /// Commits a batch.
    ///
    /// Errors: after `OutcomeUnknown` the batch may be committed. Repeating the upload with the same id finds out.
    pub async fn admit(&mut self, batch: Packed) -> Result<Admitted> {
        let locations = match self.write_chunks(&batch.chunks).await? {
            Written::At(locations) => locations,
            Written::Full => return Ok(Admitted::Full),
            Written::Gone => return Ok(Admitted::Gone),
        };
        loop {
            self.grow(batch.recipients()).await?;
            let answer: Vec<Value> = self.store.call(self.admission(&batch, &locations)).await?;
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
                    let admitted = self.store.drain_outbox(self.campaign).await?;
                    // Others are of uploads that were interrupted, or run at the same time.
                    let is_own = |rows: &AdmittedRows| {
                        locations.iter().any(|location| (location.part, location.start) == (rows.part, rows.start))
                    };
                    self.admitted = admitted.into_iter().filter(is_own).collect();
                    // Chunks without an admitted row, such as those of an upload that repeats another one.
                    self.drop_chunks(unused.iter().filter_map(|index| nth(&locations, index))).await?;
                    return Ok(Admitted::Done { accepted });
                }
                [Value::BulkString(kind), Value::Int(buckets), Value::Int(numbers)] if kind == b"grow" => {
                    self.buckets = u32::try_from(*buckets).unwrap_or(1);
                    self.numbers = numbers.unsigned_abs();
                }
                [Value::BulkString(kind), Value::BulkString(state)] if kind == b"state" => {
                    // A concurrent deletion of the campaign may have missed these chunks.
                    self.drop_chunks(&locations).await?;
                    return Ok(String::from_utf8_lossy(state).parse().map_or(Admitted::Gone, Admitted::Closed));
                }
                [Value::BulkString(kind)] if kind == b"moved" => return Ok(Admitted::Overtaken),
                [Value::BulkString(kind)] if kind == b"regrouped" => {
                    self.drop_chunks(&locations).await?;
                    return Ok(Admitted::Regrouped);
                }
                _ => return Err(StoreError::Refused { operation: "admit", message: "unexpected answer".into() }),
            }
        }
    }

    /// Reserves rows for chunks, and writes the chunks.
    async fn write_chunks(&mut self, chunks: &[PackedChunk]) -> Result<Written> {
        if chunks.is_empty() {
            return Ok(Written::At(Vec::new()));
        }
        let mut reserve = Call::new(&script::RESERVE, &[self.store.keys.campaign(self.campaign)]).arg(PARTS_SPREAD_MAX);
        for PackedChunk { rows, group, .. } in chunks {
            let line = self.next_line(*rows);
            reserve = reserve.arg(self.lines[line].0.as_str()).arg(rows).arg(group.as_deref().unwrap_or_default());
        }
        let Some(reserved) = self.store.call::<Option<Vec<u16>>>(reserve).await? else { return Ok(Written::Gone) };
        if reserved.is_empty() {
            return Ok(Written::Full);
        }
        let mut writes = Pipeline::new();
        let mut locations = Vec::with_capacity(chunks.len());
        for (PackedChunk { rows, data, .. }, &[number, start]) in chunks.iter().zip(reserved.as_chunks::<2>().0) {
            let part = PartId { campaign: self.campaign, number };
            writes.hset(self.store.keys.chunks(part), start, data);
            locations.push(ChunkLocation { part, start, rows: *rows });
        }
        self.store.query_all::<u64>("HSET chunks", &writes).await?;
        let parts: Vec<String> = locations.iter().map(|location| self.store.keys.part(location.part)).collect();
        self.store.wait_durable_if_spread(&parts).await?;
        Ok(Written::At(locations))
    }

    /// Deletes chunks without a recipient.
    async fn drop_chunks(&self, locations: impl IntoIterator<Item = &ChunkLocation>) -> Result<()> {
        let mut drops = Pipeline::new();
        for location in locations {
            drops.hdel(self.store.keys.chunks(location.part), location.start);
        }
        self.store.query_all::<u64>("HDEL chunks", &drops).await.map(drop)
    }

    /// Assigns `rows` to the line that is furthest behind its share of the campaign.
    fn next_line(&mut self, rows: usize) -> usize {
        let behind = |line: &usize| (self.line_rows[*line] + rows as u64) as f64 / self.lines[*line].1;
        let line = (0..self.lines.len()).min_by(|a, b| behind(a).total_cmp(&behind(b))).unwrap_or(0);
        self.line_rows[line] += rows as u64;
        line
    }

    /// Splits buckets of the index until it has the capacity for `incoming` more phone numbers.
    async fn grow(&mut self, incoming: u64) -> Result<()> {
        let capacity = |buckets: u32| u64::from(buckets) * phone_index::ENTRIES_MEAN_MAX;
        while self.numbers + incoming > capacity(self.buckets) {
            let (mut buckets, mut calls) = (self.buckets, Vec::new());
            while self.numbers + incoming > capacity(buckets) && calls.len() < SPLITS_MAX {
                let Split { from, to, divisor } = Split::next(buckets);
                let mut keys = vec![self.store.keys.campaign(self.campaign)];
                keys.extend(
                    [from].into_iter().chain(to).map(|bucket| self.store.keys.phone_bucket(self.campaign, bucket)),
                );
                calls.push(Call::new(&script::SPLIT, &keys).arg(buckets).arg(divisor));
                buckets += Split::ADDS;
            }
            for result in self.store.call_all::<Option<u32>>(&calls).await? {
                // The campaign was deleted, which the admission reports.
                let Some(buckets) = result? else { return Ok(()) };
                self.buckets = buckets;
            }
        }
        Ok(())
    }

    fn admission(&self, batch: &Packed, locations: &[ChunkLocation]) -> Call {
        let keys = &self.store.keys;
        let mut all = vec![
            keys.campaign(self.campaign),
            keys.upload(self.campaign, &self.id),
            keys.rejections(self.campaign, &self.id),
            keys.outbox(self.campaign),
            keys.uploads(self.campaign),
        ];
        let n_fixed = all.len();
        let mut positions = HashMap::new();
        let mut packed = Vec::with_capacity(batch.numbers.len() * 24);
        let rows = locations.iter().flat_map(|location| {
            let first = u32::from(location.part.number) << 16 | u32::from(location.start);
            first..first + location.rows as u32
        });
        for ((row, field), location) in batch.numbers.iter().zip(rows) {
            let bucket = phone_index::bucket(*field, self.buckets);
            let position = *positions.entry(bucket).or_insert_with(|| {
                all.push(keys.phone_bucket(self.campaign, bucket));
                (all.len() - n_fixed - 1) as u16
            });
            packed.extend(position.to_le_bytes());
            packed.extend(field);
            packed.extend(row.to_le_bytes());
            // The location is sent as text, because converting it in Lua would cost a tenth of the whole script.
            let location = location.to_string();
            packed.push(location.len() as u8);
            packed.extend(location.as_bytes());
        }
        let mut chunks = Vec::with_capacity(locations.len() * 8);
        for location in locations {
            chunks.extend(u32::from(location.part.number).to_le_bytes());
            chunks.extend(location.start.to_le_bytes());
            chunks.extend(((location.rows - 1) as u16).to_le_bytes());
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
            .arg(ms(self.record_lifetime))
            .arg(chunks)
            .arg(packed)
            .arg(&self.id)
            .arg(&batch.duplicate_data)
            .arg(self.grouping);
        batch.rejections.iter().fold(call, |call, (row, rejection)| call.arg(*row).arg(rejection))
    }
}
