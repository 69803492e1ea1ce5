//! Counts the messages that wait on the lines of this worker, for the metrics.
//!
//! If the process dies: nothing is lost; the next owners of the lines read it again.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    domain::{CampaignId, LineId, PartId, State, UnixMs},
    redis::{Store, StoreError, clock::Clock},
    telemetry::metrics::{LineBacklog, OwnedLines},
};

/// The shortest and the longest pause between two reads.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(20));

/// The pause as a multiple of the duration of the last read, so that reads of many parts leave Redis to other work.
const PAUSE_FACTOR: u32 = 50;

/// The reader of the backlogs.
pub(super) struct Backlogs {
    /// Redis.
    pub(super) store: Store,
    /// The clock of Redis.
    pub(super) clock: Arc<Clock>,
    /// The lines of this worker.
    pub(super) lines: OwnedLines,
}

impl Backlogs {
    /// Runs until it is aborted.
    pub(super) async fn run(self) {
        let (shortest, longest) = PAUSE;
        let mut pause = shortest;
        loop {
            tokio::time::sleep(pause).await;
            let began = Instant::now();
            // An error is ignored: an outage of Redis is logged for the whole worker, and the metrics show the last
            // backlogs for a while.
            if let Ok(backlogs) = self.read(began).await {
                self.lines.set_backlogs(&backlogs);
            }
            pause = (began.elapsed() * PAUSE_FACTOR).clamp(shortest, longest);
        }
    }

    async fn read(&self, now: Instant) -> Result<HashMap<LineId, LineBacklog>, StoreError> {
        let lines = self.lines.ids();
        let work = self.store.work_of(&lines).await?;
        let parts: Vec<PartId> = work.iter().flatten().copied().collect();
        let waiting: HashMap<PartId, u64> = parts.iter().copied().zip(self.waiting(&parts).await?).collect();
        let started = self.started(&parts).await?;
        let clock = self.clock.now();
        let backlog = |parts: &Vec<PartId>| {
            let running = parts.iter().filter_map(|part| Some((waiting[part], *started.get(&part.campaign)?)));
            let with_work = running.filter(|(waiting, _)| *waiting > 0);
            let (mut waiting, mut oldest) = (0, None);
            for (n, at) in with_work {
                waiting += n;
                oldest = oldest.into_iter().chain([at]).min();
            }
            let oldest = oldest.and_then(|at: UnixMs| now.checked_sub(clock.since(at)));
            LineBacklog { waiting, oldest, read_at: now }
        };
        Ok(lines.into_iter().zip(work.iter().map(backlog)).collect())
    }

    /// The number of recipients of each part that wait to be sent.
    async fn waiting(&self, parts: &[PartId]) -> Result<Vec<u64>, StoreError> {
        let waits = |(state, _): &&(State, u64)| matches!(state, State::Pending | State::Retrying);
        let counts = self.store.open_counts(parts).await?;
        Ok(counts.iter().map(|counts| counts.iter().filter(waits).map(|(_, n)| n).sum()).collect())
    }

    /// When the running campaigns among those of the parts started.
    async fn started(&self, parts: &[PartId]) -> Result<HashMap<CampaignId, UnixMs>, StoreError> {
        let ids: HashSet<CampaignId> = parts.iter().map(|part| part.campaign).collect();
        let ids: Vec<CampaignId> = ids.into_iter().collect();
        let started = self.store.running_since(&ids).await?;
        Ok(ids.into_iter().zip(started).filter_map(|(id, at)| Some((id, at?))).collect())
    }
}
