//! The parts of a line whose message ids may not be indexed yet: those of campaigns that run or ended recently.
//!
//! Cached for a few seconds, and read again when an id is in none of the parts, because its campaign may be new.
//!
//! If the process dies: nothing is lost; the list is a cache.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use crate::{
    domain::{CampaignId, LineId, PartId, UnixMs},
    redis::{Result, Store, campaigns::CampaignRecord},
};

/// Age at which the list is read again.
const MAX_AGE: Duration = Duration::from_secs(5);
/// Age at which the list is read again after an id was not found. Limits the reads that unknown ids cause.
const MIN_AGE: Duration = Duration::from_millis(250);

/// The parts of all lines.
pub struct Directory {
    store: Store,
    campaigns: HashMap<CampaignId, CampaignParts>,
    parts: HashMap<LineId, Vec<PartId>>,
    read_at: Option<Instant>,
}

struct CampaignParts {
    /// `None` while the campaign runs.
    ended_at: Option<UnixMs>,
    parts: Vec<(PartId, LineId)>,
}

impl Directory {
    /// An empty list, to be read by the first [`Directory::refresh`].
    pub fn new(store: Store) -> Self {
        Self { store, campaigns: HashMap::new(), parts: HashMap::new(), read_at: None }
    }

    /// The parts of `line`, those most likely to have sent recently first.
    pub fn parts(&self, line: &LineId) -> &[PartId] {
        self.parts.get(line).map_or(&[], Vec::as_slice)
    }

    /// Reads the list if it is a few seconds old.
    pub async fn refresh(&mut self) -> Result<()> {
        self.read_if_older(MAX_AGE).await.map(drop)
    }

    /// Reads the list after an id was not found, unless it was just read. Returns whether it was read.
    pub async fn refresh_after_miss(&mut self) -> Result<bool> {
        self.read_if_older(MIN_AGE).await
    }

    async fn read_if_older(&mut self, max_age: Duration) -> Result<bool> {
        if self.read_at.is_some_and(|at| at.elapsed() < max_age) {
            return Ok(false);
        }
        let refresh_started = Instant::now();
        let active = self.store.active_campaigns(self.store.time().await?).await?;
        let active: Vec<CampaignId> = active.into_iter().map(|(id, _)| id).collect();
        let ended: Vec<CampaignId> =
            self.store.unindexed().await?.into_iter().map(|unindexed| unindexed.campaign).collect();
        // The parts of an ended campaign never change, so they are read once.
        let unread = ended.iter().filter(|id| self.campaigns.get(id).is_none_or(|known| known.ended_at.is_none()));
        let read: HashSet<CampaignId> = active.iter().chain(unread).copied().collect();
        let read: Vec<CampaignId> = read.into_iter().collect();
        for (&id, record) in read.iter().zip(self.store.campaigns(&read).await?) {
            match record {
                Some(CampaignRecord { started_at: Some(_), ended_at, parts, .. }) => {
                    self.campaigns.insert(id, CampaignParts { ended_at, parts });
                }
                Some(_) | None => drop(self.campaigns.remove(&id)),
            }
        }
        let listed: HashSet<CampaignId> = active.into_iter().chain(ended).collect();
        self.campaigns.retain(|id, _| listed.contains(id));
        self.sort();
        self.read_at = Some(refresh_started);
        Ok(true)
    }

    /// Sorts the parts of each line: running campaigns first, then the most recently ended. Within a campaign the
    /// last part comes first, because parts are sent in order, and reading a part that has not started costs nothing.
    fn sort(&mut self) {
        let mut campaigns: Vec<(&CampaignId, &CampaignParts)> = self.campaigns.iter().collect();
        campaigns.sort_by_key(|(id, known)| {
            std::cmp::Reverse((known.ended_at.map_or(u64::MAX, |ended_at| ended_at.0), **id))
        });
        self.parts.clear();
        for (part, line) in campaigns.into_iter().flat_map(|(_, known)| known.parts.iter().rev()) {
            self.parts.entry(line.clone()).or_default().push(*part);
        }
    }
}
