//! A cache of the campaign data in events. Each campaign is read when first needed, and again after some seconds.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{
    domain::{BusinessId, CampaignId, LineId, Lines, Live, PartId, UnixMs},
    redis::{Result, Store, campaigns::CampaignRecord},
};

/// How long a cached campaign counts as fresh. Only the end of a campaign and the end of its retention change it.
const FRESH: Duration = Duration::from_secs(10);

/// Maximum number of campaigns in the cache. A campaign on a thousand lines takes some 30 kB.
const CAMPAIGNS_MAX: usize = 1_000;

/// The data of a campaign that events contain.
#[derive(Debug)]
pub(super) struct CampaignInfo {
    pub(super) external_id: Option<String>,
    /// The line of each part, by number.
    pub(super) lines: Vec<LineId>,
    ended_at: Option<UnixMs>,
    forgotten: bool,
    read_at: Instant,
}

impl From<CampaignRecord> for CampaignInfo {
    fn from(record: CampaignRecord) -> Self {
        Self {
            external_id: record.campaign.external_id,
            lines: record.parts.into_iter().map(|(_, line)| line).collect(),
            ended_at: record.ended_at,
            forgotten: record.forgotten,
            read_at: Instant::now(),
        }
    }
}

/// The cache.
pub(super) struct Campaigns {
    configured: Live<Lines>,
    /// The configured lines, as they were at the last read.
    listed: Lines,
    /// How long recipients are stored after the end of their campaign.
    retention: Duration,
    /// How long events are kept.
    feed_retention: Duration,
    known: HashMap<CampaignId, CampaignInfo>,
}

impl Campaigns {
    pub(super) fn new(configured: Live<Lines>, retention: Duration, feed_retention: Duration) -> Self {
        Self { listed: configured.get(), configured, retention, feed_retention, known: HashMap::new() }
    }

    /// Reads the campaigns of `parts` that are not in the cache, or no longer fresh.
    pub(super) async fn read(&mut self, store: &Store, parts: impl IntoIterator<Item = PartId>) -> Result<()> {
        self.listed = self.configured.get();
        let is_known = |part: &PartId| {
            let info = self.known.get(&part.campaign);
            info.is_some_and(|info| info.lines.len() > part.number.into() && info.read_at.elapsed() < FRESH)
        };
        let unknown = parts.into_iter().filter(|part| !is_known(part));
        let mut missing: Vec<CampaignId> = unknown.map(|part| part.campaign).collect();
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        if self.known.len() + missing.len() > CAMPAIGNS_MAX {
            self.known.clear();
        }
        for (id, record) in missing.iter().zip(store.campaigns(&missing).await?) {
            if let Some(record) = record {
                self.known.insert(*id, record.into());
            }
        }
        Ok(())
    }

    /// A campaign that was read; `None` if there is no such campaign.
    pub(super) fn get(&self, id: CampaignId) -> Option<&CampaignInfo> {
        self.known.get(&id)
    }

    /// Whether events of the campaign may name phone numbers and message ids at `now`: only if the events are removed
    /// before the recipients are deleted.
    pub(super) fn may_name_people(&self, info: &CampaignInfo, now: UnixMs) -> bool {
        let deleted_at = info.ended_at.map(|ended_at| ended_at.after(self.retention));
        !info.forgotten && deleted_at.is_none_or(|deleted_at| now.after(self.feed_retention) < deleted_at)
    }

    /// Empties the cache.
    pub(super) fn clear(&mut self) {
        self.known.clear();
    }

    /// The portfolio of a line, if the line is configured.
    pub(super) fn business(&self, line: &LineId) -> Option<&BusinessId> {
        self.listed.business(line)
    }
}
