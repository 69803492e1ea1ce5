//! Which parts worked on a line lately, and so may know a message id of it.
//!
//! Read from Redis at most every few seconds, and once more when an id is in none of them, for its campaign may be new.
//!
//! If the process dies: nothing is lost, all of it is read again.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{
    domain::{CampaignId, LineId, PartId, UnixMs, Wamid},
    store::{
        Result, Store,
        campaigns::CampaignRecord,
        parts::{ClaimedRow, FoundIds, IdsPiece},
    },
};

/// How long the list is good, unless an id is not found.
const GOOD_FOR: Duration = Duration::from_secs(5);
/// How long it is good even then: ids that nobody knows do not make it be read all the time.
const GOOD_FOR_MIN: Duration = Duration::from_millis(250);
/// Campaigns that ended are remembered up to this many, those that ended last.
const ENDED_MAX: usize = 10_000;
/// Campaigns that are read in one round trip.
const READ_AT_ONCE: usize = 256;
/// Recipients of a line whose parts are asked at most, newest first. What a search costs goes with the recipients and not
/// with the parts, so many small campaigns are all asked.
const RECIPIENTS_MAX: u64 = 256 * 65_536;
/// A part counts as at least this many: asking costs a call, however few it has.
const PART_RECIPIENTS_MIN: u64 = 256;
/// Parts that are asked in one round trip: most ids are found in the first ones.
const PARTS_AT_ONCE: usize = 4;
/// Ids that one part is asked for in one call: each is searched for in the whole piece that the call examines.
const IDS_AT_ONCE: usize = 4;

/// The part, the row and the send of a message.
pub type Place = (PartId, ClaimedRow);

/// The list of all lines.
pub struct Directory {
    store: Store,
    ids_kept: Duration,
    campaigns: HashMap<CampaignId, Known>,
    parts: HashMap<LineId, Vec<PartId>>,
    read_at: Option<Instant>,
}

struct Known {
    /// `None` while it runs.
    ended_at: Option<UnixMs>,
    parts: Vec<(PartId, LineId)>,
    /// Recipients of a part, on average.
    each: u64,
}

impl Directory {
    /// An empty list, read when it is first used.
    pub fn new(store: Store, ids_kept: Duration) -> Self {
        Self { store, ids_kept, campaigns: HashMap::new(), parts: HashMap::new(), read_at: None }
    }

    /// Where the messages `wamids` of `line` are; `None` for those that no part knows.
    pub async fn find(&mut self, line: &LineId, wamids: &[Wamid], now: UnixMs) -> Result<Vec<Option<Place>>> {
        let mut search = Search { wamids, found: vec![None; wamids.len()], asked: HashSet::new() };
        self.refresh(GOOD_FOR, now).await?;
        search.ask(&self.store, self.parts_of(line)).await?;
        if search.is_open() && self.refresh(GOOD_FOR_MIN, now).await? {
            search.ask(&self.store, self.parts_of(line)).await?;
        }
        Ok(search.found)
    }

    fn parts_of(&self, line: &LineId) -> &[PartId] {
        self.parts.get(line).map_or(&[], Vec::as_slice)
    }

    /// Reads the list again if it is older than `good_for`. Gives whether it did.
    async fn refresh(&mut self, good_for: Duration, now: UnixMs) -> Result<bool> {
        if self.read_at.is_some_and(|at| at.elapsed() < good_for) {
            return Ok(false);
        }
        let asked_at = Instant::now();
        let active = self.store.active_campaigns().await?;
        let since = UnixMs(now.0.saturating_sub(self.ids_kept.as_millis() as u64));
        let ended = self.store.campaigns_ended_since(since, ENDED_MAX).await?;
        // What ended stays as it is; it is read once.
        let unread = ended.iter().filter(|id| self.campaigns.get(id).is_none_or(|known| known.ended_at.is_none()));
        let read: HashSet<CampaignId> = active.iter().chain(unread).copied().collect();
        let read: Vec<CampaignId> = read.into_iter().collect();
        for read in read.chunks(READ_AT_ONCE) {
            for (&id, record) in read.iter().zip(self.store.campaigns(read).await?) {
                match record {
                    Some(record) if record.started_at.is_some() => drop(self.campaigns.insert(id, Known::of(record))),
                    Some(_) | None => drop(self.campaigns.remove(&id)),
                }
            }
        }
        let listed: HashSet<CampaignId> = active.into_iter().chain(ended).collect();
        self.campaigns.retain(|id, _| listed.contains(id));
        self.sort();
        self.read_at = Some(asked_at);
        Ok(true)
    }

    /// Parts by line: of campaigns that run first, then of those that ended last; of each the last one first, for they are
    /// sent in their order, and one that has not begun costs nothing to ask.
    fn sort(&mut self) {
        let mut campaigns: Vec<(&CampaignId, &Known)> = self.campaigns.iter().collect();
        campaigns.sort_by_key(|(id, known)| {
            std::cmp::Reverse((known.ended_at.map_or(u64::MAX, |ended_at| ended_at.0), **id))
        });
        self.parts.clear();
        let mut recipients: HashMap<&LineId, u64> = HashMap::new();
        let parts = campaigns.into_iter().flat_map(|(_, known)| known.parts.iter().rev().map(|at| (known.each, at)));
        for (each, (part, line)) in parts {
            let asked = recipients.entry(line).or_default();
            if *asked < RECIPIENTS_MAX {
                *asked += each.max(PART_RECIPIENTS_MIN);
                self.parts.entry(line.clone()).or_default().push(*part);
            }
        }
    }
}

impl Known {
    fn of(record: CampaignRecord) -> Self {
        let each = record.numbers.div_ceil(record.parts.len().max(1) as u64);
        Self { ended_at: record.ended_at, parts: record.parts, each }
    }
}

struct Search<'a> {
    wamids: &'a [Wamid],
    found: Vec<Option<Place>>,
    asked: HashSet<PartId>,
}

impl Search<'_> {
    fn is_open(&self) -> bool {
        self.found.contains(&None)
    }

    /// Asks those of `parts` that were not asked yet, until every id is found.
    async fn ask(&mut self, store: &Store, parts: &[PartId]) -> Result<()> {
        let parts: Vec<PartId> = parts.iter().copied().filter(|part| self.asked.insert(*part)).collect();
        for parts in parts.chunks(PARTS_AT_ONCE) {
            let open: Vec<usize> = (0..self.wamids.len()).filter(|&at| self.found[at].is_none()).collect();
            for open in open.chunks(IDS_AT_ONCE) {
                self.ask_some(store, parts, open).await?;
            }
        }
        Ok(())
    }

    /// Asks `parts` for the ids at `open`, piece by piece. Redis rests after each round trip for as long as that took.
    async fn ask_some(&mut self, store: &Store, parts: &[PartId], open: &[usize]) -> Result<()> {
        let mut open = open.to_vec();
        let mut pieces: Vec<IdsPiece> = parts.iter().map(|&part| IdsPiece { part, newest: None }).collect();
        while !pieces.is_empty() && !open.is_empty() {
            let begun = Instant::now();
            let wamids: Vec<Wamid> = open.iter().map(|&at| self.wamids[at].clone()).collect();
            let FoundIds { places, rest, .. } = store.find_ids(&pieces, &wamids).await?;
            for (&at, place) in open.iter().zip(places) {
                self.found[at] = place;
            }
            open.retain(|&at| self.found[at].is_none());
            pieces = rest;
            if !pieces.is_empty() {
                sleep(begun.elapsed()).await;
            }
        }
        Ok(())
    }
}
