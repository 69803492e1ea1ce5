//! Message ids in Redis: finds the recipient of a message by its id, for webhooks that do not return the token that
//! was sent with the message. Here an id is its fingerprint; the whole ids are in [`super::wamids`].
//!
//! A part appends the ids of its messages to a list. When its campaign has ended, the ids move into the index of its
//! line. The index has segments, each a hash of `BUCKETS` buckets selected by fingerprint, so that a lookup reads one
//! bucket of each segment. A segment takes ids until it is full or an eighth of their lifetime old, and expires as a
//! whole.
//!
//! If the process dies while ids move: ids are copied before they are dropped from the list, so some may be in both,
//! which changes no result.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use deadpool_redis::redis::{Pipeline, cmd};

use super::{Call, Result, Store, lines::ms, script};
use crate::domain::{CampaignId, ClaimedRow, Fingerprint, LineId, PartId, UnixMs};

/// Bytes of an id in the list of its part: row, send, fingerprint.
const LIST_RECORD_BYTES: usize = 11;
/// Bytes of an id in a bucket: 6 bytes of its fingerprint, index of the part in the segment, row, send.
const INDEX_RECORD_BYTES: usize = 11;
/// Buckets of a segment.
const BUCKETS: u16 = 1_024;
/// Maximum number of ids in a segment: buckets of 3 KiB on average.
const SEGMENT_IDS: usize = 262_144;
/// Maximum number of parts in a segment: the index of a part fits 16 bits.
const SEGMENT_PARTS: usize = 65_536;
/// A segment takes ids for the lifetime of an id divided by this number, so no id is stored for longer than 9/8 of its
/// lifetime.
const SEGMENTS_PER_LIFETIME: u32 = 8;
/// The layout of a segment. Readers skip segments of other layouts, so that a later version can store ids in another
/// way.
const LAYOUT: u8 = 1;
/// Buckets that one script call appends to, so that the call copies less than 64 KiB.
const BUCKETS_PER_CALL: usize = 16;
/// Commands in one round trip.
const COMMANDS_AT_ONCE: usize = 32;

/// The location of a message: its part, and its row and send in the part.
pub type RowRef = (PartId, ClaimedRow);

/// One page of a part's list of message ids, of at most 64 KiB.
#[derive(Debug)]
pub struct IdPage {
    records: Vec<u8>,
    /// The index of the entry to continue from, towards older ones; `None` at the end of the list.
    pub next: Option<u32>,
}

impl IdPage {
    /// The ids in this page.
    pub fn ids(&self) -> impl Iterator<Item = (Fingerprint, ClaimedRow)> {
        self.records.as_chunks::<LIST_RECORD_BYTES>().0.iter().map(|[low, high, send, print @ ..]| {
            (Fingerprint(*print), ClaimedRow { row: u16::from_le_bytes([*low, *high]), send: *send })
        })
    }

    /// The bytes that were read.
    pub fn bytes(&self) -> usize {
        self.records.len()
    }
}

/// A snapshot of the length of a part's list of message ids. New entries are appended at its end.
#[derive(Debug)]
pub struct IdList {
    /// The part.
    pub part: PartId,
    /// The number of entries, at least one.
    pub entries: u32,
    newest: Vec<u8>,
}

/// A segment of a line's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    opened: UnixMs,
    ids: u64,
}

/// A campaign whose ids may still be in the lists of its parts.
#[derive(Clone, Debug)]
pub struct Unindexed {
    /// The campaign.
    pub campaign: CampaignId,
    /// The number of times that it was marked.
    marks: f64,
}

impl Store {
    /// Reads one page of the list of each part, from the given entry, or from the newest one, towards older entries. In
    /// one round trip.
    pub async fn read_ids(&self, from: &[(PartId, Option<u32>)]) -> Result<Vec<IdPage>> {
        let call = |(part, newest): &(PartId, Option<u32>)| {
            Call::new(&script::FIND, &[self.keys.ids(*part)]).arg(newest.map_or(-1, i64::from))
        };
        let answers = self.call_all::<(i64, Vec<u8>)>(&from.iter().map(call).collect::<Vec<_>>()).await?;
        let page = |answer: Result<(i64, Vec<u8>)>| {
            answer.map(|(next, records)| IdPage { records, next: u32::try_from(next).ok() })
        };
        answers.into_iter().map(page).collect()
    }

    /// The lists of `parts` that are not empty.
    pub async fn id_lists(&self, parts: &[PartId]) -> Result<Vec<IdList>> {
        let mut pipeline = Pipeline::with_capacity(parts.len());
        for &part in parts {
            pipeline.llen(self.keys.ids(part));
        }
        let lengths: Vec<u32> = self.query_all("LLEN ids", &pipeline).await?;
        let filled = || parts.iter().copied().zip(&lengths).filter(|(_, entries)| **entries > 0);
        let mut pipeline = Pipeline::new();
        for (part, entries) in filled() {
            pipeline.cmd("LINDEX").arg(self.keys.ids(part)).arg(entries - 1);
        }
        let newest: Vec<Vec<u8>> = self.query_all("LINDEX ids", &pipeline).await?;
        Ok(filled().zip(newest).map(|((part, &entries), newest)| IdList { part, entries, newest }).collect())
    }

    /// Extends the lifetime of the lists of `parts`, which still send, to `id_retention` from now.
    pub async fn extend_ids(&self, parts: &[PartId], id_retention: Duration) -> Result<()> {
        let mut pipeline = Pipeline::with_capacity(parts.len());
        for &part in parts {
            pipeline.cmd("PEXPIRE").arg(self.keys.ids(part)).arg(ms(id_retention));
        }
        self.query_all::<u8>("PEXPIRE ids", &pipeline).await.map(drop)
    }

    /// Adds ids to the index of `line`, where they can be looked up for at least `id_retention`.
    pub async fn index_ids(
        &self,
        line: &LineId,
        ids: &[(Fingerprint, RowRef)],
        now: UnixMs,
        id_retention: Duration,
    ) -> Result<()> {
        let mut parts: Vec<PartId> = ids.iter().map(|(_, (part, _))| *part).collect();
        parts.sort_unstable();
        parts.dedup();
        let window = id_retention / SEGMENTS_PER_LIFETIME;
        let call = Call::new(&script::SEGMENT, &[self.keys.segments(line)])
            .arg(now.0)
            .arg(ms(window))
            .arg(ms(id_retention))
            .arg(LAYOUT)
            .arg(SEGMENT_IDS)
            .arg(SEGMENT_PARTS)
            .arg(ids.len())
            .arg(parts.len());
        let (opened, first): (u64, usize) = self.call(call).await?;
        let segment = self.keys.segment(line, opened);

        let mut names = Pipeline::new();
        for (at, part) in parts.iter().enumerate() {
            names.hset(&segment, part_field(first + at), part.to_string());
        }
        self.query_all::<u8>("HSET segment", &names).await?;
        let mut buckets: BTreeMap<u16, Vec<u8>> = BTreeMap::new();
        for (print, (part, claimed)) in ids {
            let at = first + parts.binary_search(part).unwrap_or_default();
            let bucket = buckets.entry(bucket(*print)).or_default();
            bucket.extend(&print.0[2..]);
            bucket.extend(u16::try_from(at).unwrap_or(u16::MAX).to_le_bytes());
            bucket.extend(claimed.row.to_le_bytes());
            bucket.push(claimed.send);
        }
        let expires = UnixMs(opened).after(window + id_retention);
        for buckets in buckets.into_iter().collect::<Vec<_>>().chunks(BUCKETS_PER_CALL) {
            let call = Call::new(&script::APPEND, std::slice::from_ref(&segment)).arg(expires.0);
            let call = buckets.iter().fold(call, |call, (bucket, records)| call.arg(*bucket).arg(records.as_slice()));
            self.call::<u8>(call).await?;
        }
        // Durable before the ids are dropped from the lists.
        self.wait_durable_if_spread(&[segment, self.keys.segments(line)]).await
    }

    /// Drops the entries of a list that `list` counted.
    pub async fn drop_ids(&self, list: &IdList) -> Result<()> {
        let call = Call::new(&script::DROP_IDS, &[self.keys.ids(list.part)]);
        self.call::<u8>(call.arg(list.entries).arg(list.newest.as_slice())).await.map(drop)
    }

    /// The segments of a line's index.
    pub async fn segments(&self, line: &LineId) -> Result<Vec<Segment>> {
        let all: HashMap<u64, String> =
            self.query("HGETALL segments", cmd("HGETALL").arg(self.keys.segments(line))).await?;
        let segment = |(opened, text): (u64, String)| {
            let (layout, rest) = text.split_once(':')?;
            let (ids, _parts) = rest.split_once(':')?;
            (layout.parse() == Ok(LAYOUT)).then_some(Segment { opened: UnixMs(opened), ids: ids.parse().ok()? })
        };
        Ok(all.into_iter().filter_map(segment).collect())
    }

    /// Looks up ids in `segments` of a line: reads one bucket of each segment for each id. Returns the locations and
    /// the number of bytes read.
    pub async fn find_in_segments(
        &self,
        line: &LineId,
        segments: &[Segment],
        prints: &[Fingerprint],
    ) -> Result<(Vec<Option<RowRef>>, usize)> {
        let keys: Vec<String> = segments.iter().map(|segment| self.keys.segment(line, segment.opened.0)).collect();
        let asked: Vec<(usize, &String)> =
            (0..prints.len()).flat_map(|print| keys.iter().map(move |key| (print, key))).collect();
        let (mut matches, mut bytes) = (BTreeMap::new(), 0);
        for asked in asked.chunks(COMMANDS_AT_ONCE) {
            let mut pipeline = Pipeline::with_capacity(asked.len());
            for (print, key) in asked {
                pipeline.hget(*key, bucket(prints[*print]));
            }
            let buckets: Vec<Vec<u8>> = self.query_all("HGET bucket", &pipeline).await?;
            for ((print, key), records) in asked.iter().zip(buckets) {
                bytes += records.len();
                let is_match = |record: &&[u8; INDEX_RECORD_BYTES]| record[..6] == prints[*print].0[2..];
                if let Some(&record) = records.as_chunks::<INDEX_RECORD_BYTES>().0.iter().find(is_match) {
                    matches.insert(*print, (*key, record));
                }
            }
        }
        let mut names = Pipeline::new();
        for (key, [_, _, _, _, _, _, low, high, ..]) in matches.values() {
            names.hget(*key, part_field(u16::from_le_bytes([*low, *high]).into()));
        }
        let names: Vec<Option<String>> = self.query_all("HGET segment", &names).await?;
        let mut locations = vec![None; prints.len()];
        for ((print, (_, record)), part) in matches.into_iter().zip(names) {
            let [.., low, high, send] = record;
            let claimed = ClaimedRow { row: u16::from_le_bytes([low, high]), send };
            locations[print] = part.and_then(|part| part.parse().ok()).map(|part| (part, claimed));
        }
        Ok((locations, bytes))
    }

    /// The ended campaigns whose ids may still be in the lists of their parts.
    pub async fn unindexed(&self) -> Result<Vec<Unindexed>> {
        let range = cmd("ZRANGE").arg(self.keys.unindexed()).arg(0).arg(-1).arg("WITHSCORES").clone();
        let marked: Vec<(String, f64)> = self.query("ZRANGE unindexed", &range).await?;
        let read = |(id, marks): (String, f64)| Some(Unindexed { campaign: id.parse().ok()?, marks });
        Ok(marked.into_iter().filter_map(read).collect())
    }

    /// Marks ended campaigns that have ids in the lists of their parts.
    pub(super) async fn mark_unindexed(&self, campaigns: impl IntoIterator<Item = CampaignId>) -> Result<()> {
        let campaigns: BTreeSet<CampaignId> = campaigns.into_iter().collect();
        let mut pipeline = Pipeline::new();
        for campaign in campaigns {
            pipeline.zincr(self.keys.unindexed(), campaign.to_string(), 1);
        }
        self.query_all::<f64>("ZINCRBY unindexed", &pipeline).await.map(drop)
    }

    /// Unmarks a campaign after its ids were indexed, unless it was marked again meanwhile.
    pub async fn mark_indexed(&self, unindexed: &Unindexed) -> Result<()> {
        let call = Call::new(&script::INDEXED, &[self.keys.unindexed()]);
        self.call::<u8>(call.arg(unindexed.campaign.to_string()).arg(unindexed.marks)).await.map(drop)
    }
}

fn bucket(print: Fingerprint) -> u16 {
    u16::from_be_bytes([print.0[0], print.0[1]]) >> (16 - BUCKETS.ilog2())
}

fn part_field(index: usize) -> String {
    format!("p{index}")
}
