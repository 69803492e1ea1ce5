//! Reads from Redis what statistics are computed from.
//!
//! The counters of a campaign are read for every request, so that they are exact. The loads of other campaigns are
//! read at most once a second and shared by all requests: they are needed only for an estimate, and the cost of reading
//! them grows with the work of the whole installation.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    StateCounts, counts,
    eta::{self, LineShare},
    line::{self, LineSnapshot, LineWork, SpentLimit, Stops},
    waiting::waiting_for,
};
use crate::{
    api_types::{Statistics, WaitReason, Waiting},
    domain::{CampaignId, CampaignState, LineId, Lines, PartId, State, UnixMs},
    redis::{Result, Store, campaigns::CampaignRecord, pages::Schedule, parts::PartCounts},
};

/// The maximum age of the cached loads.
const LOADS_AGE_MAX: Duration = Duration::from_secs(1);

/// The load of one running campaign on a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineLoad {
    /// The campaign.
    pub campaign: CampaignId,
    /// Recipients that are pending, retrying, in flight or in doubt.
    pub open: u64,
    /// The messages left to send, and the campaign's priority.
    pub share: LineShare,
}

/// The loads of running campaigns, by line.
pub type Loads = HashMap<LineId, Vec<LineLoad>>;

/// The loads, and when they were read.
type CachedLoads = (UnixMs, Arc<Loads>);

/// Reads statistics and line snapshots. Cheap to clone; clones share the cached loads.
#[derive(Clone)]
pub struct StatisticsReader {
    store: Store,
    /// The configured lines.
    lines: Lines,
    loads: Arc<Mutex<Option<CachedLoads>>>,
}

impl StatisticsReader {
    /// A reader for an installation with these lines.
    pub fn new(store: Store, lines: Lines) -> Self {
        Self { store, lines, loads: Arc::default() }
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
            funnel: counts::funnel(&tally, recipients, replied),
            failures: counts::failures(&counts),
            rate_per_second: counts::rate_per_second(&counts, record.started_at, now),
            eta: None,
            waiting_for: waiting_for(record, None, &Stops::default(), &[], now),
        };
        if record.state != CampaignState::Running || tally.to_send() == 0 {
            return Ok(statistics);
        }
        let stops = self.stops(now).await?;
        let work = self.work(record, &counts, &stops, now).await?;
        let line = self.lines.first_of(&record.campaign.lines);
        let waiting_for = waiting_for(record, line, &stops, &work, now);
        let is_stopped = |waiting: &Waiting| waiting.line.is_none() || waiting.reason == WaitReason::NewerRelease;
        let eta = if waiting_for.iter().any(is_stopped) { None } else { end(&work, record.campaign.priority, now) };
        Ok(Statistics { eta, waiting_for, ..statistics })
    }

    /// What a running campaign has left to send on each line. `counts` has the counters of its parts, in their order.
    async fn work(
        &self,
        record: &CampaignRecord,
        counts: &[PartCounts],
        stops: &Stops,
        now: UnixMs,
    ) -> Result<Vec<LineWork>> {
        let unfinished: Vec<(PartId, &LineId, StateCounts)> = record
            .parts
            .iter()
            .zip(counts)
            .map(|((part, line), counts)| (*part, line, StateCounts::of(std::slice::from_ref(counts))))
            .filter(|(_, _, tally)| tally.to_send() > 0)
            .collect();
        let parts: Vec<PartId> = unfinished.iter().map(|&(part, ..)| part).collect();
        let lines: Vec<LineId> =
            unfinished.iter().map(|&(_, line, _)| line).cloned().collect::<BTreeSet<_>>().into_iter().collect();
        let (schedules, line_snapshots, loads) =
            tokio::try_join!(self.store.schedules(&parts), self.line_snapshots(&lines, stops, now), self.loads(now))?;
        let others = |line: &LineId| {
            let loads = loads.get(line).into_iter().flatten();
            loads.filter(|load| load.campaign != record.campaign.id).map(|load| load.share).collect()
        };
        let mut work: BTreeMap<&LineId, LineWork> = BTreeMap::new();
        for (line, now) in lines.iter().zip(line_snapshots) {
            let (line_id, others, schedule) = (line.clone(), others(line), Schedule::default());
            work.insert(line, LineWork { line: line_id, pending: 0, retrying: 0, schedule, now, others });
        }
        for ((_, line, tally), schedule) in unfinished.iter().zip(schedules) {
            let Some(work) = work.get_mut(line) else { continue };
            work.pending += tally.get(State::Pending);
            work.retrying += tally.get(State::Retrying);
            work.schedule.rows += schedule.rows;
            work.schedule.next_due = work.schedule.next_due.into_iter().chain(schedule.next_due).min();
        }
        Ok(work.into_values().collect())
    }

    /// The holds, the pauses of everything and the messaging limits that stop lines at `now`.
    pub async fn stops(&self, now: UnixMs) -> Result<Stops> {
        let (holds, stored, known, limited) = tokio::try_join!(
            self.store.holds(now),
            self.store.pauses(),
            self.store.messaging_limits(),
            self.store.limited_businesses(now)
        )?;
        let spent = limited.into_iter().filter(|(.., places)| places.left == 0);
        let spent = spent.map(|(business, limit, places)| (business, SpentLimit { limit, frees_at: places.frees_at }));
        let businesses = self.lines.iter().map(|line| &line.business);
        let limit_unknown = businesses.filter(|business| !known.contains_key(*business)).cloned().collect();
        Ok(Stops { holds, pauses: stored.pauses, limit_unknown, spent: spent.collect() })
    }

    /// Snapshots of `lines`, in the same order.
    pub async fn line_snapshots(&self, lines: &[LineId], stops: &Stops, now: UnixMs) -> Result<Vec<LineSnapshot>> {
        let (controls, owners, reports) =
            tokio::try_join!(self.store.controls(lines), self.store.owners(lines), self.store.reports(lines))?;
        let unlisted = match owners.iter().all(Option::is_some) {
            true => vec![false; lines.len()],
            false => self.store.unlisted(lines, now).await?,
        };
        let read = controls.into_iter().zip(owners).zip(reports).zip(unlisted);
        let snapshot = |(line, (((control, owner), report), unlisted))| {
            let line = self.lines.by_id(line);
            let holds = line.map_or(Vec::new(), |line| line::holds_on(line, &stops.holds));
            let pauses = stops.pauses.on(line.map(|line| &line.business));
            let limit_unknown = line.is_some_and(|line| stops.limit_unknown.contains(&line.business));
            LineSnapshot { control, pauses, owner, unlisted, report, holds, limit_unknown }
        };
        Ok(lines.iter().zip(read).map(snapshot).collect())
    }

    /// The loads of running campaigns on the configured lines, at most a second old.
    pub async fn loads(&self, now: UnixMs) -> Result<Arc<Loads>> {
        if let Some((at, loads)) = self.cached_loads().as_ref()
            && now.since(*at) < LOADS_AGE_MAX
        {
            return Ok(loads.clone());
        }
        let loads = Arc::new(self.read_loads().await?);
        *self.cached_loads() = Some((now, loads.clone()));
        Ok(loads)
    }

    async fn read_loads(&self) -> Result<Loads> {
        let lines = self.lines.ids();
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

    /// The lock cannot be poisoned: nothing panics while it is held.
    fn cached_loads(&self) -> MutexGuard<'_, Option<CachedLoads>> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When the last of `work` is sent; `None` if a line with work does not send.
fn end(work: &[LineWork], weight: u8, now: UnixMs) -> Option<UnixMs> {
    let seconds = |work: &LineWork| {
        let ours = LineShare { work: work.to_send(), weight };
        Some(eta::seconds(ours, &work.others, work.now.rate()?))
    };
    let seconds: Vec<f64> = work.iter().map(seconds).collect::<Option<_>>()?;
    eta::end(seconds, now)
}
