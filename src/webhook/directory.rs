//! Which parts worked on a line lately, and so may know a message id of it.
//!
//! Read from Redis at most every few seconds, and once more when an id is in none of them, for its campaign may be new.
//!
//! If the process dies: nothing is lost, all of it is read again.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use crate::{
    domain::{CampaignId, LineId, PartId, UnixMs, Wamid},
    store::{Result, Store, campaigns::CampaignRecord, parts::ClaimedRow},
};

/// How long the list is good, unless an id is not found.
const GOOD_FOR: Duration = Duration::from_secs(5);
/// How long it is good even then: ids that nobody knows do not make it be read all the time.
const GOOD_FOR_MIN: Duration = Duration::from_millis(250);
/// Campaigns that ended are remembered up to this many, those that ended last.
const ENDED_MAX: usize = 500;
/// Parts of a line that are asked at most, 16 million messages: for an id that nobody knows half a second of Redis, in pieces
/// of a few ms.
const PARTS_MAX: usize = 256;
/// Parts that are asked in one round trip: most ids are found in the first ones.
const PARTS_AT_ONCE: usize = 8;
/// Ids that one part is asked for in one call: a few ms of Redis.
const IDS_AT_ONCE: usize = 16;

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
        for (&id, record) in read.iter().zip(self.store.campaigns(&read).await?) {
            match record {
                Some(record) if record.started_at.is_some() => drop(self.campaigns.insert(id, Known::of(record))),
                Some(_) | None => drop(self.campaigns.remove(&id)),
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
        for (part, line) in campaigns.into_iter().flat_map(|(_, known)| known.parts.iter().rev()) {
            let parts = self.parts.entry(line.clone()).or_default();
            if parts.len() < PARTS_MAX {
                parts.push(*part);
            }
        }
    }
}

impl Known {
    fn of(record: CampaignRecord) -> Self {
        Self { ended_at: record.ended_at, parts: record.parts }
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
                let wamids: Vec<Wamid> = open.iter().map(|&at| self.wamids[at].clone()).collect();
                for (&at, place) in open.iter().zip(store.find_ids(parts, &wamids).await?) {
                    self.found[at] = place;
                }
            }
        }
        Ok(())
    }
}
