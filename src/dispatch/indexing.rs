//! Indexing: moves the message ids of parts that send no more into the index of their line, where a lookup is cheap.
//!
//! One worker at a time has the duty. It is separate from housekeeping, because moving the ids of a large campaign
//! takes longer than housekeeping may pause.
//!
//! If the process dies: another worker takes the duty over and moves the rest. Ids are copied before they are dropped.

use std::{
    collections::{BTreeMap, HashSet},
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{CampaignId, CampaignState, Fingerprint, LineId, PartId},
    redis::{
        Result, Store,
        campaigns::CampaignRecord,
        clock::Clock,
        message_ids::{IdList, RowRef},
    },
};

/// Pause between two passes.
const EVERY: Duration = Duration::from_secs(10);
/// Parts that are read in one round trip.
const PARTS_AT_ONCE: usize = 256;
/// Ids that are added to the index of a line at once; more if a single part has more. Larger batches rewrite a bucket
/// less often.
const IDS_AT_ONCE: usize = 65_536;

/// The duty of indexing.
pub struct Indexing {
    /// The name of the worker.
    pub name: String,
    /// Redis.
    pub store: Store,
    /// The clock of Redis.
    pub clock: Arc<Clock>,
    /// How long the duty belongs to one worker without renewal.
    pub lease: Duration,
    /// How long message ids can be looked up.
    pub id_retention: Duration,
}

impl Indexing {
    /// Runs until `stop`, whenever this worker has the duty.
    pub async fn run(self, stop: CancellationToken) -> std::result::Result<(), Infallible> {
        let work = async |_| {
            while !stop.is_cancelled() {
                if let Some(Err(error)) = stop.run_until_cancelled(self.index()).await {
                    error.report("message ids could not be indexed: the next pass retries");
                }
                stop.run_until_cancelled(sleep(EVERY)).await;
            }
        };
        self.store.on_duty("indexing", &self.name, self.lease, &stop, work).await;
        Ok(())
    }

    /// Moves the ids of every part that sends no more, and prolongs the lifetime of all others.
    ///
    /// Errors: those of the store. Ids that were moved before an error stay moved.
    pub async fn index(&self) -> Result<()> {
        // Read before the lists, so that a campaign that gets more ids meanwhile is indexed again.
        let unindexed = self.store.unindexed().await?;
        let mut campaigns: Vec<CampaignId> = unindexed.iter().map(|entry| entry.campaign).collect();
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
        for entry in &unindexed {
            self.store.mark_indexed(entry).await?;
        }
        Ok(())
    }

    /// The parts of a campaign that send no more. Prolongs the lifetime of the ids of its other parts.
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
                self.store.extend_ids(&open, self.id_retention).await?;
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

    /// Reads a list in pieces, and pauses after each for as long as it took, so that Redis serves others meanwhile.
    async fn read(&self, list: &IdList, ids: &mut Vec<(Fingerprint, RowRef)>) -> Result<()> {
        let mut from = Some(list.entries - 1);
        while from.is_some() {
            let started = Instant::now();
            for piece in self.store.read_ids(&[(list.part, from)]).await? {
                ids.extend(piece.ids().map(|(print, claimed)| (print, (list.part, claimed))));
                from = piece.next;
            }
            sleep(started.elapsed()).await;
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
            // Indexes and drops within one incarnation of Redis: if Redis restarts and loses part of the index, no list
            // is dropped.
            let store = self.store.in_this_incarnation();
            store.index_ids(line, ids, self.clock.now(), self.id_retention).await?;
            for list in lists.drain(..) {
                store.drop_ids(&list).await?;
            }
            ids.clear();
        }
        Ok(())
    }
}
