//! Indexing: moves the message ids of parts that send no more into the index of their line, where finding one is cheap.
//!
//! One worker at a time does it, as a duty of its own: the ids of a large campaign take longer than housekeeping may rest.
//!
//! If the process dies: another worker takes the duty up and moves the rest. Ids are copied before they are dropped.

use std::{
    collections::{BTreeMap, HashSet},
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    domain::{CampaignId, CampaignState, LineId, PartId},
    redis::{
        Result, Store,
        campaigns::CampaignRecord,
        clock::Clock,
        message_ids::{IdList, RowRef},
        parts::Fingerprint,
    },
};

/// How often parts that have ended are looked for.
const EVERY: Duration = Duration::from_secs(10);
/// Parts that are asked in one round trip.
const PARTS_AT_ONCE: usize = 256;
/// Ids that are added to the index of a line at once, unless one part has more: the more, the fewer times a bucket is rewritten.
const IDS_AT_ONCE: usize = 65_536;

/// What indexing needs.
pub struct Indexing {
    /// The name under which it holds the duty.
    pub name: String,
    /// Redis.
    pub store: Store,
    /// Redis' time.
    pub clock: Arc<Clock>,
    /// How long the duty belongs to one worker without renewal.
    pub lease: Duration,
    /// How long message ids are found again.
    pub ids_kept: Duration,
}

impl Indexing {
    /// Indexes until `stop`, whenever this worker has the duty.
    pub async fn run(self, stop: CancellationToken) -> std::result::Result<(), Infallible> {
        let work = async || {
            while !stop.is_cancelled() {
                if let Some(Err(error)) = stop.run_until_cancelled(self.index()).await {
                    warn!(%error, "message ids could not be indexed; they are next time");
                }
                stop.run_until_cancelled(sleep(EVERY)).await;
            }
        };
        self.store.on_duty("indexing", &self.name, self.lease, &stop, work).await;
        Ok(())
    }

    /// Moves the ids of every part that sends no more, and keeps those of all others from expiring.
    ///
    /// Errors: those of the store; what was moved until then stays moved.
    pub async fn index(&self) -> Result<()> {
        // Read before the lists are: a campaign that is named again meanwhile is done again.
        let unindexed = self.store.unindexed().await?;
        let mut campaigns: Vec<CampaignId> = unindexed.iter().map(|named| named.campaign).collect();
        let active = self.store.active_campaigns(self.clock.now()).await?;
        campaigns.extend(active.into_iter().map(|(campaign, _)| campaign));
        let mut seen = HashSet::new();
        campaigns.retain(|campaign| seen.insert(*campaign));
        let mut ended: BTreeMap<LineId, Vec<PartId>> = BTreeMap::new();
        for record in self.store.campaigns(&campaigns).await?.into_iter().flatten() {
            for (part, line) in self.ended_parts(&record).await? {
                ended.entry(line).or_default().push(part);
            }
        }
        for (line, parts) in ended {
            for parts in parts.chunks(PARTS_AT_ONCE) {
                self.index_parts(&line, parts).await?;
            }
        }
        for named in &unindexed {
            self.store.indexed(named).await?;
        }
        Ok(())
    }

    /// The parts of a campaign that send no more. Those that still send keep their ids for another lifetime.
    async fn ended_parts(&self, record: &CampaignRecord) -> Result<Vec<(PartId, LineId)>> {
        match record.state {
            CampaignState::Draft | CampaignState::Scheduled => Ok(Vec::new()),
            CampaignState::Completed | CampaignState::Cancelled => Ok(record.parts.clone()),
            CampaignState::Running | CampaignState::Paused => {
                let parts: Vec<PartId> = record.parts.iter().map(|(part, _)| *part).collect();
                let open = self.store.open_counts(&parts).await?;
                let (open, ended): (Vec<_>, Vec<_>) =
                    record.parts.iter().cloned().zip(open).partition(|(_, counts)| counts.iter().any(|(_, n)| *n > 0));
                let open: Vec<PartId> = open.into_iter().map(|((part, _), _)| part).collect();
                self.store.prolong_ids(&open, self.ids_kept).await?;
                Ok(ended.into_iter().map(|(part, _)| part).collect())
            }
        }
    }

    async fn index_parts(&self, line: &LineId, parts: &[PartId]) -> Result<()> {
        let (mut lists, mut ids) = (Vec::new(), Vec::new());
        for list in self.store.id_lists(parts).await? {
            self.read(&list, &mut ids).await?;
            lists.push(list);
            if ids.len() >= IDS_AT_ONCE {
                self.move_ids(line, &mut lists, &mut ids).await?;
            }
        }
        self.move_ids(line, &mut lists, &mut ids).await
    }

    /// Redis rests after each piece for as long as that took.
    async fn read(&self, list: &IdList, ids: &mut Vec<(Fingerprint, RowRef)>) -> Result<()> {
        let mut from = Some(list.entries - 1);
        while from.is_some() {
            let begun = Instant::now();
            for piece in self.store.read_ids(&[(list.part, from)]).await? {
                ids.extend(piece.ids().map(|(print, claimed)| (print, (list.part, claimed))));
                from = piece.next;
            }
            sleep(begun.elapsed()).await;
        }
        Ok(())
    }

    async fn move_ids(
        &self,
        line: &LineId,
        lists: &mut Vec<IdList>,
        ids: &mut Vec<(Fingerprint, RowRef)>,
    ) -> Result<()> {
        if !ids.is_empty() {
            // In one life of Redis, so that no list loses what Redis forgot of the index.
            let store = self.store.in_this_incarnation();
            store.index_ids(line, ids, self.clock.now(), self.ids_kept).await?;
            for list in lists.drain(..) {
                store.drop_ids(&list).await?;
            }
            ids.clear();
        }
        Ok(())
    }
}
