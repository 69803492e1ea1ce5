//! Which parts may have ids of messages of a line that are not in the line's index yet: those of campaigns that run, and of
//! those that ended just now.
//!
//! Read from Redis at most every few seconds, and once more when an id is in none of them, for its campaign may be new.
//!
//! If the process dies: nothing is lost, all of it is read again.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use crate::{
    domain::{CampaignId, LineId, PartId, UnixMs},
    store::{Result, Store, campaigns::CampaignRecord},
};

/// How long the list is good, unless an id is not found.
const GOOD_FOR: Duration = Duration::from_secs(5);
/// How long it is good even then: ids that nobody knows do not make it be read all the time.
const GOOD_FOR_MIN: Duration = Duration::from_millis(250);

/// The list of all lines.
pub struct Directory {
    store: Store,
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
    pub fn new(store: Store) -> Self {
        Self { store, campaigns: HashMap::new(), parts: HashMap::new(), read_at: None }
    }

    /// The parts of `line`, those most likely to have sent lately first.
    pub fn parts(&self, line: &LineId) -> &[PartId] {
        self.parts.get(line).map_or(&[], Vec::as_slice)
    }

    /// Reads the list again if it is some seconds old.
    pub async fn refresh(&mut self) -> Result<()> {
        self.read_if_older(GOOD_FOR).await.map(drop)
    }

    /// Reads the list again for an id that is in none of its parts, unless that was done just now. Gives whether it did.
    pub async fn look_again(&mut self) -> Result<bool> {
        self.read_if_older(GOOD_FOR_MIN).await
    }

    async fn read_if_older(&mut self, good_for: Duration) -> Result<bool> {
        if self.read_at.is_some_and(|at| at.elapsed() < good_for) {
            return Ok(false);
        }
        let asked_at = Instant::now();
        let active = self.store.active_campaigns(self.store.time().await?).await?;
        let active: Vec<CampaignId> = active.into_iter().map(|(id, _)| id).collect();
        let ended: Vec<CampaignId> =
            self.store.unindexed().await?.into_iter().map(|unindexed| unindexed.campaign).collect();
        // What ended stays as it is; it is read once.
        let unread = ended.iter().filter(|id| self.campaigns.get(id).is_none_or(|known| known.ended_at.is_none()));
        let read: HashSet<CampaignId> = active.iter().chain(unread).copied().collect();
        let read: Vec<CampaignId> = read.into_iter().collect();
        for (&id, record) in read.iter().zip(self.store.campaigns(&read).await?) {
            match record {
                Some(CampaignRecord { started_at: Some(_), ended_at, parts, .. }) => {
                    self.campaigns.insert(id, Known { ended_at, parts });
                }
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
            self.parts.entry(line.clone()).or_default().push(*part);
        }
    }
}
