//! Reads from Redis what statistics are computed from.
//!
//! The counters of a campaign are read for every request, so that they are exact. The loads of other campaigns are
//! read at most once a second and shared by all requests: they are needed only for an estimate, and the cost of reading
//! them grows with the work of the whole installation.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    StateCounts, counts, eta,
    line::{self, GracePeriod, LineSnapshot, LineWork, Silence, Stops},
    share::LineShare,
    waiting::{waiting_for, would_wait_for},
};
use crate::{
    api_types::{Statistics, Waiting},
    domain::{CampaignId, CampaignState, HoldScope, LineId, Lines, Live, PartId, State, UnixMs, template::Category},
    redis::{
        Result, Store, campaigns::CampaignRecord, lines::LeaseHolder, memory::Memory, pages::Schedule,
        parts::PartCounts,
    },
    rules::{contact_hours::ContactHours, windows::Windows},
};

/// The maximum age of the cached loads.
const LOADS_AGE_MAX: Duration = Duration::from_secs(1);

/// A worker without a heartbeat for this long is silent. Live workers send one every 250 ms.
const SILENT_AFTER: Duration = Duration::from_millis(750);

/// The load of one running campaign on a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineLoad {
    /// The campaign.
    pub campaign: CampaignId,
    /// Recipients that are pending, retrying, in flight or in doubt.
    pub open: u64,
    /// The messages left to send, and the campaign's priority.
    pub share: LineShare,
    /// The scopes whose holds stop the campaign on all of its lines: [`HoldScope::of_campaign`].
    pub template: Arc<[HoldScope]>,
}

/// A forecast for a campaign that would be launched or resumed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// The number of recipients.
    pub recipients: u64,
    /// Recipients that are pending or retrying.
    pub left: u64,
    /// When the first message would leave; `None` if that is unknown, or nothing is left to send.
    pub starts_at: Option<UnixMs>,
    /// When the last message would have been sent; `None` if that is unknown, or nothing is left to send.
    pub ends_at: Option<UnixMs>,
    /// What would slow or delay sending.
    pub waiting_for: Vec<Waiting>,
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
    lines: Live<Lines>,
    contact_hours: Live<ContactHours>,
    /// The length of the grace period after a restart of Redis: `dispatch.lease`.
    grace_period: Duration,
    loads: Arc<Mutex<Option<CachedLoads>>>,
}

impl StatisticsReader {
    /// A reader for an installation with these lines.
    pub fn new(store: Store, lines: Live<Lines>) -> Self {
        let (contact_hours, grace_period, loads) = Default::default();
        Self { store, lines, contact_hours, grace_period, loads }
    }

    /// The same reader for an installation whose grace period after a restart of Redis has this length.
    pub fn with_grace_period(self, grace_period: Duration) -> Self {
        Self { grace_period, ..self }
    }

    /// The same reader for an installation with these contact hours.
    pub fn with_contact_hours(self, contact_hours: Live<ContactHours>) -> Self {
        Self { contact_hours, ..self }
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
            held: counts::held(&counts),
            funnel: counts::funnel(&tally, recipients, replied),
            failures: counts::failures(&counts),
            skips: counts::skips(&counts),
            rate_per_second: counts::rate_per_second(&counts, record.started_at, now),
            eta: None,
            chats: None,
            waiting_for: waiting_for(record, None, &Stops::default(), &[], now),
        };
        if record.state != CampaignState::Running || tally.to_send() == 0 {
            return Ok(statistics);
        }
        // Boxed, because the many concurrent reads make the future large, and the future of every caller would contain
        // it.
        let (eta, waiting_for) = Box::pin(self.outlook(record, &counts, now)).await?;
        Ok(Statistics { eta, waiting_for, ..statistics })
    }

    /// When a running campaign ends, and what it waits for. `counts` has the counters of its parts, in their order.
    async fn outlook(
        &self,
        record: &CampaignRecord,
        counts: &[PartCounts],
        now: UnixMs,
    ) -> Result<(Option<UnixMs>, Vec<Waiting>)> {
        let stops = self.stops(now).await?;
        let work = self.work(record, counts, &stops, now).await?;
        let lines = self.lines.get();
        let waiting_for = waiting_for(record, lines.first_of(&record.campaign.lines), &stops, &work, now);
        Ok((self.eta(record, &stops, &waiting_for, &work, now, now).await?, waiting_for))
    }

    /// A forecast for a campaign that has not ended, if it were launched or resumed at `now`. The campaign still waits
    /// for its start.
    pub async fn forecast(&self, record: &CampaignRecord, stops: &Stops, now: UnixMs) -> Result<Forecast> {
        let parts: Vec<PartId> = record.parts.iter().map(|&(part, _)| part).collect();
        let counts = self.store.part_counts(&parts).await?;
        let (recipients, left) = (counts::totals(&counts).0, StateCounts::of(&counts).to_send());
        if left == 0 {
            return Ok(Forecast { recipients, ..Forecast::default() });
        }
        let from = record.campaign.start_at.map_or(now, |start_at| start_at.max(now));
        let work = self.work(record, &counts, stops, now).await?;
        let lines = self.lines.get();
        let waiting_for = would_wait_for(record, lines.first_of(&record.campaign.lines), stops, &work, now);
        let ends_at = self.eta(record, stops, &waiting_for, &work, now, from).await?;
        let starts_at = eta::first_send(&waiting_for, &work, from);
        Ok(Forecast { recipients, left, starts_at, ends_at, waiting_for })
    }

    /// When the last message is sent, if the campaign sends from `from` on and conditions stay as at `now`; `None` if
    /// that is unknown.
    async fn eta(
        &self,
        record: &CampaignRecord,
        stops: &Stops,
        waiting_for: &[Waiting],
        work: &[LineWork],
        now: UnixMs,
        from: UnixMs,
    ) -> Result<Option<UnixMs>> {
        let weight = record.campaign.priority;
        let Some(from) = eta::starts_at(waiting_for, from) else { return Ok(None) };
        let Some(by_rate) = eta::end_by_rate(work, weight, line::ceiling(&record.campaign), from) else {
            return Ok(None);
        };
        let messages: f64 = work.iter().map(|work| work.ours(weight).with_those_before(&work.others)).sum();
        let lines = self.lines.get();
        let line = lines.first_of(&record.campaign.lines);
        let limited = line.and_then(|line| Some((&line.business, *stops.limited.get(&line.business)?)));
        let by_limit = match limited {
            Some((business, limited)) => {
                self.store.places_free_at(business, limited, messages.ceil() as u64, now, from).await?
            }
            None => Some(from),
        };
        Ok(by_limit.map(|by_limit| eta::whole_second(by_rate.max(by_limit))))
    }

    /// The messages that a running campaign has left to send on each line. `counts` has the counters of its parts, in
    /// their order.
    async fn work(
        &self,
        record: &CampaignRecord,
        counts: &[PartCounts],
        stops: &Stops,
        now: UnixMs,
    ) -> Result<Vec<LineWork>> {
        let unfinished: Vec<(PartId, &LineId, u64, StateCounts)> = record
            .parts
            .iter()
            .zip(counts)
            .map(|((part, line), counts)| (*part, line, counts.epoch, StateCounts::of(std::slice::from_ref(counts))))
            .filter(|(.., tally)| tally.to_send() > 0)
            .collect();
        let parts: Vec<PartId> = unfinished.iter().map(|&(part, ..)| part).collect();
        let lines: Vec<LineId> =
            unfinished.iter().map(|&(_, line, ..)| line).cloned().collect::<BTreeSet<_>>().into_iter().collect();
        let (schedules, line_snapshots, loads) =
            tokio::try_join!(self.store.schedules(&parts), self.line_snapshots(&lines, stops, now), self.loads(now))?;
        let others = |line: &LineId| {
            let loads = loads.get(line).into_iter().flatten();
            loads.filter(|load| load.campaign != record.campaign.id).map(|load| load.share).collect()
        };
        let mut work: BTreeMap<&LineId, LineWork> = BTreeMap::new();
        for (line, now) in lines.iter().zip(line_snapshots) {
            let nothing = LineWork {
                line: line.clone(),
                pending: 0,
                retrying: 0,
                schedule: Schedule::default(),
                sends_in_grace_period: false,
                now,
                others: others(line),
                windows: Vec::new(),
            };
            work.insert(line, nothing);
        }
        for ((part, line, epoch, tally), schedule) in unfinished.iter().zip(schedules) {
            let Some(work) = work.get_mut(line) else { continue };
            let windows = self.windows_of(record, *part);
            if !work.windows.contains(&windows) {
                work.windows.push(windows);
            }
            work.pending += tally.get(State::Pending);
            work.retrying += tally.get(State::Retrying);
            let is_begun = work.now.owner.as_ref().is_some_and(|owner| owner.epoch == *epoch);
            work.sends_in_grace_period |= is_begun && tally.to_send() > schedule.rows;
            work.schedule.rows += schedule.rows;
            work.schedule.next_due = work.schedule.next_due.into_iter().chain(schedule.next_due).min();
            work.schedule.last_due = work.schedule.last_due.max(schedule.last_due);
        }
        Ok(work.into_values().collect())
    }

    /// The holds, the pauses of everything and the messaging limits that stop lines at `now`.
    pub async fn stops(&self, now: UnixMs) -> Result<Stops> {
        let (holds, stored, known, memory) = tokio::try_join!(
            self.store.holds(now),
            self.store.pauses(),
            self.store.messaging_limits(),
            self.store.recent_memory()
        )?;
        let limited = self.store.limited_businesses(&known, now).await?;
        let lines = self.lines.get();
        let businesses = lines.iter().map(|line| &line.business);
        let limit_unknown = businesses.filter(|business| !known.contains_key(*business)).cloned().collect();
        let grace_period = self.store.grace_period(self.grace_period).map(|age| {
            let began = now.before(age);
            // In whole seconds, so that the times do not change with each reading.
            GracePeriod {
                since: UnixMs(began.seconds() * 1000),
                until: eta::whole_second(began.after(self.grace_period)),
            }
        });
        let full_redis = memory.filter(Memory::is_full);
        Ok(Stops { grace_period, full_redis, holds, pauses: stored.pauses, limit_unknown, limited })
    }

    /// Snapshots of `lines`, in the same order.
    pub async fn line_snapshots(&self, lines: &[LineId], stops: &Stops, now: UnixMs) -> Result<Vec<LineSnapshot>> {
        let (controls, owners, reports) =
            tokio::try_join!(self.store.controls(lines), self.store.owners(lines), self.store.reports(lines))?;
        let unlisted = match owners.iter().all(Option::is_some) {
            true => vec![false; lines.len()],
            false => self.store.unlisted(lines, now).await?,
        };
        let silences = self.silences(lines, &owners, now).await?;
        let listed = self.lines.get();
        let snapshot = |(n, id): (usize, &LineId)| {
            let (line, owner, report) = (listed.by_id(id), owners[n].clone(), reports[n].clone());
            LineSnapshot {
                control: controls[n].clone(),
                pauses: stops.pauses.on(line.map(|line| &line.business)),
                served_at: report.as_ref().map(|report| report.at),
                silence: silences[n],
                unlisted: unlisted[n],
                report: report.filter(|report| owner.as_ref().is_some_and(|owner| owner.worker == report.worker)),
                owner,
                holds: line.map_or(Vec::new(), |line| line::holds_on(line, &stops.holds)),
                limit_unknown: line.is_some_and(|line| stops.limit_unknown.contains(&line.business)),
            }
        };
        Ok(lines.iter().enumerate().map(snapshot).collect())
    }

    /// For each of `lines` the silence of its owner, if the owner is silent.
    async fn silences(
        &self,
        lines: &[LineId],
        owners: &[Option<LeaseHolder>],
        now: UnixMs,
    ) -> Result<Vec<Option<Silence>>> {
        let beats = self.store.beats().await?;
        let last_beat = |owner: &Option<LeaseHolder>| beats.get(&owner.as_ref()?.worker).copied();
        let silent_since = |owner| last_beat(owner).filter(|at| now.since(*at) > SILENT_AFTER);
        let since: Vec<Option<UnixMs>> = owners.iter().map(silent_since).collect();
        if since.iter().all(Option::is_none) {
            return Ok(vec![None; lines.len()]);
        }
        let ttls = self.store.lease_ttls(lines).await?;
        let silence = |(since, ttl): (Option<UnixMs>, Option<Duration>)| {
            Some(Silence { since: since?, until: now.after(ttl.unwrap_or_default()) })
        };
        Ok(since.into_iter().zip(ttls).map(silence).collect())
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

    /// The running campaigns with messages left on `lines` that each of `holds` stops, at most a second old.
    pub async fn stopped_by<T>(
        &self,
        holds: &HashMap<HoldScope, T>,
        lines: &Lines,
        now: UnixMs,
    ) -> Result<HashMap<HoldScope, HashSet<CampaignId>>> {
        let loads = self.loads(now).await?;
        let mut stopped: HashMap<HoldScope, HashSet<CampaignId>> = HashMap::new();
        for line in lines.iter() {
            let with_work = loads.get(&line.id).into_iter().flatten().filter(|load| load.share.work > 0);
            for load in with_work {
                let scopes = HoldScope::of_line(line).into_iter().chain(load.template.iter().cloned());
                for scope in scopes.filter(|scope| holds.contains_key(scope)) {
                    stopped.entry(scope).or_default().insert(load.campaign);
                }
            }
        }
        Ok(stopped)
    }

    async fn read_loads(&self) -> Result<Loads> {
        let configured = self.lines.get();
        let lines = configured.ids();
        let work = self.store.work_of(&lines).await?;
        let work: Vec<(&LineId, PartId)> =
            lines.iter().zip(&work).flat_map(|(line, parts)| parts.iter().map(move |&part| (line, part))).collect();
        let parts: Vec<PartId> = work.iter().map(|&(_, part)| part).collect();
        let campaigns: Vec<CampaignId> =
            parts.iter().map(|part| part.campaign).collect::<BTreeSet<_>>().into_iter().collect();
        let (records, counts) = tokio::try_join!(self.store.campaigns(&campaigns), self.store.part_counts(&parts))?;
        let running = records.iter().flatten().filter(|record| record.state == CampaignState::Running);
        let campaigns: HashMap<CampaignId, (u8, Arc<[HoldScope]>)> = running
            .map(|CampaignRecord { campaign, .. }| {
                let line = configured.first_of(&campaign.lines);
                let template = line.map_or(Vec::new(), |line| HoldScope::of_campaign(&line.waba, &campaign.template));
                (campaign.id, (campaign.priority, template.into()))
            })
            .collect();
        let mut loads: HashMap<LineId, BTreeMap<CampaignId, LineLoad>> = HashMap::new();
        for ((line, part), counts) in work.into_iter().zip(&counts) {
            let Some((weight, template)) = campaigns.get(&part.campaign) else { continue };
            let load = loads.entry(line.clone()).or_default().entry(part.campaign);
            let load = load.or_insert_with(|| LineLoad {
                campaign: part.campaign,
                open: 0,
                share: LineShare { work: 0, weight: *weight },
                template: template.clone(),
            });
            let tally = StateCounts::of(std::slice::from_ref(counts));
            load.open += tally.open();
            load.share.work += tally.to_send();
        }
        Ok(loads.into_iter().map(|(line, loads)| (line, loads.into_values().collect())).collect())
    }

    /// The windows of a part; `None`: its messages leave at all hours.
    fn windows_of(&self, record: &CampaignRecord, part: PartId) -> Option<Windows> {
        let CampaignRecord { campaign, zones, .. } = record;
        let hours = self.contact_hours.get();
        let hours = Some(&hours).filter(|_| campaign.template.category == Category::Marketing);
        let group = zones.get(&part.number).map(String::as_str);
        Windows::of_part(campaign.send_window.as_ref(), group, hours).ok().flatten()
    }

    /// The lock cannot be poisoned: nothing panics while it is held.
    fn cached_loads(&self) -> MutexGuard<'_, Option<CachedLoads>> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
