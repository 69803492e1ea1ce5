//! Reads from Redis what statistics are made of.
//!
//! The counters of a campaign are read each time, so that they are exact. How much other campaigns have on the lines is
//! read once a second for all who ask: it serves an estimate, and costs as much as there is work in the installation.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    StateCounts, Statistics, counts,
    eta::{self, LineShare},
    line::{self, LineNow, LineWork},
    waiting::waiting_for,
};
use crate::{
    domain::{CampaignId, CampaignState, Hold, HoldScope, LineId, PartId, State, UnixMs, WabaId},
    redis::{Result, Store, campaigns::CampaignRecord, pages::Schedule, parts::PartCounts},
};

/// How old the answer about other campaigns may be.
const LOADS_AGE_MAX: Duration = Duration::from_secs(1);

/// What one running campaign has on a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineLoad {
    /// The campaign.
    pub campaign: CampaignId,
    /// Recipients pending, retrying, in flight or in doubt.
    pub open: u64,
    /// What is left to send, and its priority.
    pub share: LineShare,
}

/// What running campaigns have on each line.
pub type Loads = HashMap<LineId, Vec<LineLoad>>;

/// Loads and when they were read.
type Remembered = (UnixMs, Arc<Loads>);

/// Reads statistics and lines. Cheap to clone; clones share what they remember.
#[derive(Clone)]
pub struct StatisticsReader {
    store: Store,
    /// Our lines and their WABAs.
    lines: Arc<HashMap<LineId, WabaId>>,
    loads: Arc<Mutex<Option<Remembered>>>,
}

impl StatisticsReader {
    /// A reader of an installation with these lines.
    pub fn new(store: Store, lines: HashMap<LineId, WabaId>) -> Self {
        Self { store, lines: lines.into(), loads: Arc::default() }
    }

    /// The statistics of a campaign at `now`.
    pub async fn statistics(&self, record: &CampaignRecord, now: UnixMs) -> Result<Statistics> {
        let parts: Vec<PartId> = record.parts.iter().map(|&(part, _)| part).collect();
        let counts = self.store.part_counts(&parts).await?;
        let tally = StateCounts::of(&counts);
        let (recipients, replied) = counts::totals(&counts);
        let statistics = Statistics {
            recipients,
            by_state: (&tally).into(),
            funnel: counts::Funnel::of(&tally, recipients, replied),
            failures: counts::failures(&counts),
            rate_per_second: counts::rate_per_second(&counts, record.started_at, now),
            eta: None,
            waiting_for: waiting_for(record, None, &HashMap::new(), &[], now),
        };
        if record.state != CampaignState::Running || tally.to_send() == 0 {
            return Ok(statistics);
        }
        let holds = self.store.holds(now).await?;
        let work = self.work(record, &counts, &holds, now).await?;
        let waba = record.campaign.lines.iter().find_map(|line| self.lines.get(line));
        let waiting_for = waiting_for(record, waba, &holds, &work, now);
        let whole_waits = waiting_for.iter().any(|waiting| waiting.line.is_none());
        let eta = if whole_waits { None } else { end(&work, record.campaign.priority, now) };
        Ok(Statistics { eta, waiting_for, ..statistics })
    }

    /// What a running campaign still has to send on each line, given the counters of its parts.
    async fn work(
        &self,
        record: &CampaignRecord,
        counts: &[PartCounts],
        holds: &HashMap<HoldScope, Hold>,
        now: UnixMs,
    ) -> Result<Vec<LineWork>> {
        let left: Vec<(PartId, &LineId, StateCounts)> = record
            .parts
            .iter()
            .zip(counts)
            .map(|((part, line), counts)| (*part, line, StateCounts::of(std::slice::from_ref(counts))))
            .filter(|(_, _, tally)| tally.to_send() > 0)
            .collect();
        let parts: Vec<PartId> = left.iter().map(|&(part, ..)| part).collect();
        let lines: Vec<LineId> =
            left.iter().map(|&(_, line, _)| line).cloned().collect::<BTreeSet<_>>().into_iter().collect();
        let (schedules, lines_now, loads) =
            tokio::try_join!(self.store.schedules(&parts), self.lines_now(&lines, holds, now), self.loads(now))?;
        let others = |line: &LineId| {
            let loads = loads.get(line).into_iter().flatten();
            loads.filter(|load| load.campaign != record.campaign.id).map(|load| load.share).collect()
        };
        let mut work: BTreeMap<&LineId, LineWork> = BTreeMap::new();
        for (line, now) in lines.iter().zip(lines_now) {
            let (line_id, others, schedule) = (line.clone(), others(line), Schedule::default());
            work.insert(line, LineWork { line: line_id, pending: 0, retrying: 0, schedule, now, others });
        }
        for ((_, line, tally), schedule) in left.iter().zip(schedules) {
            let Some(work) = work.get_mut(line) else { continue };
            work.pending += tally.get(State::Pending);
            work.retrying += tally.get(State::Retrying);
            work.schedule.rows += schedule.rows;
            work.schedule.next_due = work.schedule.next_due.into_iter().chain(schedule.next_due).min();
        }
        Ok(work.into_values().collect())
    }

    /// How `lines` stand, in their order, given what is held.
    pub async fn lines_now(
        &self,
        lines: &[LineId],
        holds: &HashMap<HoldScope, Hold>,
        now: UnixMs,
    ) -> Result<Vec<LineNow>> {
        let (controls, owners, reports) =
            tokio::try_join!(self.store.controls(lines), self.store.owners(lines), self.store.reports(lines))?;
        let unlisted = match owners.iter().all(Option::is_some) {
            true => vec![false; lines.len()],
            false => self.store.unlisted(lines, now).await?,
        };
        let known = controls.into_iter().zip(owners).zip(reports).zip(unlisted);
        let line_now = |(line, (((control, owner), report), unlisted))| {
            let holds = self.lines.get(line).map_or(Vec::new(), |waba| line::holds_on(line, waba, holds));
            LineNow { control, owner, unlisted, report, holds }
        };
        Ok(lines.iter().zip(known).map(line_now).collect())
    }

    /// What running campaigns have on our lines, at most a second old.
    pub async fn loads(&self, now: UnixMs) -> Result<Arc<Loads>> {
        if let Some((at, loads)) = self.remembered().as_ref()
            && now.since(*at) < LOADS_AGE_MAX
        {
            return Ok(loads.clone());
        }
        let loads = Arc::new(self.read_loads().await?);
        *self.remembered() = Some((now, loads.clone()));
        Ok(loads)
    }

    async fn read_loads(&self) -> Result<Loads> {
        let lines: Vec<LineId> = self.lines.keys().cloned().collect();
        let work = self.store.work_of(&lines).await?;
        let work: Vec<(&LineId, PartId)> =
            lines.iter().zip(&work).flat_map(|(line, parts)| parts.iter().map(move |&part| (line, part))).collect();
        let parts: Vec<PartId> = work.iter().map(|&(_, part)| part).collect();
        let campaigns: Vec<CampaignId> =
            parts.iter().map(|part| part.campaign).collect::<BTreeSet<_>>().into_iter().collect();
        let (records, counts) = tokio::try_join!(self.store.campaigns(&campaigns), self.store.part_counts(&parts))?;
        let running = records.iter().flatten().filter(|record| record.state == CampaignState::Running);
        let priorities: HashMap<CampaignId, u8> =
            running.map(|record| (record.campaign.id, record.campaign.priority)).collect();
        let mut loads: HashMap<LineId, BTreeMap<CampaignId, LineLoad>> = HashMap::new();
        for ((line, part), counts) in work.into_iter().zip(&counts) {
            let Some(&weight) = priorities.get(&part.campaign) else { continue };
            let load = loads.entry(line.clone()).or_default().entry(part.campaign);
            let load =
                load.or_insert(LineLoad { campaign: part.campaign, open: 0, share: LineShare { work: 0, weight } });
            let tally = StateCounts::of(std::slice::from_ref(counts));
            load.open += tally.open();
            load.share.work += tally.to_send();
        }
        Ok(loads.into_iter().map(|(line, loads)| (line, loads.into_values().collect())).collect())
    }

    /// Nothing panics under this lock.
    fn remembered(&self) -> MutexGuard<'_, Option<Remembered>> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When the last of `work` is sent; `None` while any line with work stands still.
fn end(work: &[LineWork], weight: u8, now: UnixMs) -> Option<UnixMs> {
    let seconds = |work: &LineWork| {
        let ours = LineShare { work: work.to_send(), weight };
        Some(eta::seconds(ours, &work.others, work.now.rate()?))
    };
    let seconds: Vec<f64> = work.iter().map(seconds).collect::<Option<_>>()?;
    eta::end(seconds, now)
}
