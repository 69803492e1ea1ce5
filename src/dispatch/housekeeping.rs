//! Housekeeping: periodic work that belongs to no line. One worker at a time has this duty. All of the work is
//! idempotent.
//!
//! Starts scheduled campaigns, finishes what a crash left half done, completes campaigns, deletes recipients when their
//! retention ends, finishes erasures of people, reads the templates from Meta, probes holds without an end, and
//! maintains lines that no process lists ([`super::unlisted`]).
//!
//! If the process dies: another worker takes the duty over when its lease has expired.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{template_reads::TemplateReads, unlisted::UnlistedLines};
use crate::{
    domain::{
        BusinessId, Campaign, CampaignId, CampaignState, Hold, HoldScope, Late, LineId, Lines, Live, PartId, Secret,
        State, UnixMs, WabaId, campaign::PauseReason,
    },
    graph::{LineInfo, SendHealth, client::GraphClient},
    redis::{
        Store, StoreError,
        campaigns::{CampaignRecord, StateChange},
        clock::Clock,
        durability::risks::Risk,
        inbound::InboundLimits,
        places::LimitedPlaces,
    },
    stats,
    telemetry::metrics::{self, HousekeepingMetrics, InstallationGauges, RecountResult},
    templates,
};

/// The shortest pause after a cycle over all campaigns, unless a campaign starts earlier.
const PAUSE_MIN: Duration = Duration::from_millis(500);

/// The pause after a cycle, as a multiple of the cycle's duration. With thousands of campaigns a cycle is long, and the
/// pause leaves Redis to other work.
const PAUSE_FACTOR: u32 = 100;

/// The longest pause after a cycle.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Campaigns in one batch.
const CAMPAIGNS_AT_ONCE: usize = 256;

/// The states whose recipients are counted: the open ones, and the one that says that nobody knows.
const COUNTED: [State; 5] = [State::Pending, State::Retrying, State::InFlight, State::InDoubt, State::Unknown];

/// Longest time that a launch may take, from the listing of its campaign to the change of its state.
const LAUNCH_MAX: Duration = Duration::from_secs(3600);

/// How often the inbound streams are trimmed. New messages of a line trim its stream too.
const TRIM_INBOUND_EVERY: Duration = Duration::from_secs(600);

/// How often the marketing messages that no frequency cap counts any more are dropped.
const DROP_MARKETING_EVERY: Duration = Duration::from_hours(24);

/// How often a hold without an end is probed.
const PROBE_EVERY: Duration = Duration::from_secs(60);

/// How long the health status that Meta returns for a WABA may be out of date after Meta refused a message.
const HEALTH_LAG_MAX: Duration = Duration::from_secs(300);

/// The duty of housekeeping.
pub struct Housekeeping {
    /// The name of the worker.
    pub name: String,
    /// Redis.
    pub store: Store,
    /// The clock of Redis.
    pub clock: Arc<Clock>,
    /// Every configured line.
    pub lines: Live<Lines>,
    /// Every configured business.
    pub businesses: Live<Arc<[BusinessId]>>,
    /// The client for Meta.
    pub graph: GraphClient,
    /// How long the duty belongs to one worker without renewal.
    pub lease: Duration,
    /// How often all templates are read.
    pub templates_every: Duration,
    /// How long after its `start_at` a campaign may still start. After that, its start counts as missed.
    pub late_after: Duration,
    /// How long recipients are stored after the end of their campaign.
    pub retention: Duration,
    /// How much of the inbound streams is kept.
    pub inbound: InboundLimits,
    /// How long a message may stay in doubt.
    pub doubt_deadline: Duration,
    /// Maximum number of attempts for a message in doubt, if its campaign wants such messages sent again.
    pub attempts_max: u8,
    /// Where the templates that it reads are published.
    pub metrics: HousekeepingMetrics,
}

impl Housekeeping {
    /// Runs until `stop`, whenever this worker has the duty.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        self.store.on_duty("housekeeping", &self.name, self.lease, &stop, |_| self.run_duty(&stop)).await;
        Ok(())
    }

    async fn run_duty(&self, stop: &CancellationToken) {
        let _cleared = self.metrics.clear_at_end();
        let mut probed_at = self.clock.now();
        let mut trimmed_at: Option<Instant> = None;
        let mut dropped_at: Option<Instant> = None;
        let mut synced_at: Option<Instant> = None;
        let mut lines = self.lines.get();
        let mut template_reads = TemplateReads::default();
        let mut unlisted = self.unlisted();
        while !stop.is_cancelled() {
            let before = mem::replace(&mut lines, self.lines.get());
            if synced_at.is_none_or(|at| at.elapsed() >= self.templates_every) {
                synced_at = Some(Instant::now());
                self.sync_templates(&lines, lines.wabas()).await;
            } else if !lines.is_same(&before) {
                // Those of new WABAs, and those that the old token could perhaps not read.
                let (mut changed, before) = (lines.wabas(), before.wabas());
                changed.retain(|waba, token| before.get(waba) != Some(token));
                if !changed.is_empty() {
                    self.sync_templates(&lines, changed).await;
                }
            }
            if let Err(error) = self.read_changed_templates(&mut template_reads).await {
                error.report("changed templates could not be read");
            }
            let began = Instant::now();
            let next_start = self.maintain_campaigns().await.unwrap_or_else(|error| {
                error.report("housekeeping of campaigns failed");
                None
            });
            if let Err(error) = unlisted.maintain().await {
                error.report("housekeeping of unlisted lines failed");
            }
            let pause = (began.elapsed() * PAUSE_FACTOR).clamp(PAUSE_MIN, PAUSE_MAX);
            let now = self.clock.now();
            if now.since(probed_at) >= PROBE_EVERY {
                probed_at = now;
                if let Err(error) = self.probe_holds().await {
                    error.report("holds could not be probed");
                }
            }
            if trimmed_at.is_none_or(|at| at.elapsed() >= TRIM_INBOUND_EVERY) {
                trimmed_at = Some(Instant::now());
                if let Err(error) = self.trim_inbound().await {
                    error.report("inbound streams could not be trimmed");
                }
            }
            if dropped_at.is_none_or(|at| at.elapsed() >= DROP_MARKETING_EVERY) {
                dropped_at = Some(Instant::now());
                if let Err(error) = self.drop_old_marketing().await {
                    error.report("old marketing messages could not be dropped");
                }
            }
            let pause = next_start.map_or(pause, |at| pause.min(at.since(self.clock.now())));
            stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
    }

    async fn trim_inbound(&self) -> Result<(), StoreError> {
        let lines: Vec<LineId> = self.store.known_lines().await?.into_keys().collect();
        if self.store.feed().is_none() {
            self.store.end_feed(&lines).await?;
        }
        self.store.trim_inbound(&lines, self.inbound).await
    }

    async fn drop_old_marketing(&self) -> Result<(), StoreError> {
        let lines = self.lines.get();
        let capped = lines.iter().filter_map(|line| Some((&line.business, line.frequency_cap?)));
        for (business, cap) in capped.collect::<BTreeMap<_, _>>() {
            self.store.drop_old_marketing(business, cap, self.clock.now()).await?;
        }
        Ok(())
    }

    /// Reads the templates of the WABAs for which Meta announced a change, as soon as `reads` allows it.
    ///
    /// The notes of changes are removed before the read, so a change that is announced during the read is noted for
    /// the next one. After a crash the notes are lost, but the next worker with this duty starts by reading all
    /// templates.
    async fn read_changed_templates(&self, reads: &mut TemplateReads) -> Result<(), StoreError> {
        let changed = self.store.take_changed_templates().await?;
        let lines = self.lines.get();
        let mut wabas = lines.wabas();
        changed
            .into_iter()
            .filter(|waba| wabas.contains_key(waba))
            .for_each(|waba| reads.changed(waba, Instant::now()));
        let due = reads.take_due(Instant::now());
        wabas.retain(|waba, _| due.contains(*waba));
        for (waba, result) in self.sync_templates(&lines, wabas).await {
            if result.is_err() {
                reads.failed(waba, Instant::now());
            }
        }
        Ok(())
    }

    async fn sync_templates(
        &self,
        lines: &Lines,
        wabas: BTreeMap<&WabaId, &Secret>,
    ) -> Vec<(WabaId, Result<usize, String>)> {
        templates::sync_all(&self.store, &self.graph, lines, wabas, self.clock.now()).await
    }

    fn unlisted(&self) -> UnlistedLines {
        let (store, clock) = (self.store.clone(), self.clock.clone());
        let metrics = self.metrics.clone();
        UnlistedLines::new(self.name.clone(), store, clock, self.lease, self.doubt_deadline, self.attempts_max, metrics)
    }

    /// Maintains every active campaign. Returns when the next one starts, if that is within a minute.
    async fn maintain_campaigns(&self) -> Result<Option<UnixMs>, StoreError> {
        let mut survey = Survey::default();
        for campaigns in self.store.active_campaigns(self.clock.now()).await?.chunks(CAMPAIGNS_AT_ONCE) {
            self.maintain_batch(campaigns, &mut survey).await?;
        }
        self.publish(&survey).await?;
        let before = self.clock.now().before(self.retention);
        for (id, listed) in self.store.ended_campaigns(before).await? {
            if self.store.forget_ended(id, before).await? {
                info!(campaign.id = %id, "recipients deleted: their retention has ended");
            }
            self.store.unlist_ended(id, listed).await?;
        }
        self.store.finish_forgetting(&self.lines.get(), &self.businesses.get(), self.clock.now()).await?;
        Ok(survey.next_start)
    }

    /// Maintains a batch of campaigns, each listed with the time from which it needs maintenance.
    async fn maintain_batch(&self, listed: &[(CampaignId, UnixMs)], survey: &mut Survey) -> Result<(), StoreError> {
        let ids: Vec<CampaignId> = listed.iter().map(|(id, _)| *id).collect();
        let records = self.store.campaigns(&ids).await?;
        for (id, _) in ids.iter().zip(&records).filter(|(_, record)| record.is_none()) {
            self.finish_deletion(*id).await;
        }
        let parts: Vec<PartId> = records.iter().flatten().flat_map(launched_parts).map(|(part, _)| *part).collect();
        let mut counts = self.store.counts_of(&parts, &COUNTED).await?.into_iter();
        let mut open_parts = Vec::new();
        for (&(_, since), record) in listed.iter().zip(&records) {
            let Some(record) = record else { continue };
            let (mut open, mut to_send) = (0, 0);
            for (part, counts) in launched_parts(record).iter().zip(counts.by_ref()) {
                let open_here: u64 = counts.iter().filter(|(state, _)| state.is_open()).map(|(_, n)| n).sum();
                if open_here > 0 {
                    open_parts.push(part.clone());
                }
                open += open_here;
                let waits = |state: &State| matches!(state, State::Pending | State::Retrying);
                to_send += counts.iter().filter(|(state, _)| waits(state)).map(|(_, n)| n).sum::<u64>();
                if record.state == CampaignState::Running {
                    counts.iter().for_each(|(state, n)| *survey.queue.entry(*state).or_default() += n);
                }
            }
            // An error of one campaign does not stop the others.
            match self.maintain_campaign(record, since, open, to_send, survey).await {
                Err(error) if error.is_transient() => error.report("housekeeping of a campaign failed"),
                Err(error) => warn!(campaign.id = %record.campaign.id, %error, "housekeeping of the campaign failed"),
                Ok(()) => {}
            }
            if record.state == CampaignState::Running {
                survey.oldest = record.started_at.into_iter().chain(survey.oldest).min();
                if to_send > 0 {
                    survey.waiting.push(self.scopes_of(&record.campaign));
                }
            }
        }
        let waiting = listed
            .iter()
            .zip(&records)
            .filter_map(|(&(id, since), record)| Some((id, since, self.postpone_until(since, record.as_ref())?)));
        self.store.postpone_campaigns(&waiting.collect::<Vec<_>>()).await?;
        self.requeue_missing_parts(&open_parts).await
    }

    /// What stops a campaign without stopping its lines.
    fn scopes_of(&self, campaign: &Campaign) -> Vec<HoldScope> {
        let lines = self.lines.get();
        let Some(line) = lines.first_of(&campaign.lines) else { return Vec::new() };
        HoldScope::of_campaign(&line.waba, &campaign.template)
    }

    /// Finishes the deletion of a campaign, if the process that began it has died.
    async fn finish_deletion(&self, id: CampaignId) {
        match self.store.finish_deletion(id).await {
            Ok(true) => info!(campaign.id = %id, "the deletion of the campaign was interrupted, and is finished"),
            Ok(false) => {}
            Err(error) => warn!(campaign.id = %id, %error, "the deletion of the campaign could not be finished"),
        }
    }

    /// Adds open parts that are missing from the work of their lines. A process that reopens a row lists its part
    /// afterwards, and may die or lose Redis in between.
    async fn requeue_missing_parts(&self, open_parts: &[(PartId, LineId)]) -> Result<(), StoreError> {
        let mut unlisted = self.store.parts_not_listed(open_parts).await?;
        // Parts that were finished and removed from the work since their rows were counted are left out.
        let mut counts = self.store.open_counts(&unlisted).await?.into_iter();
        unlisted.retain(|_| counts.next().is_some_and(|counts| counts.iter().any(|(_, n)| *n > 0)));
        if let Some(first) = unlisted.first() {
            warn!(part = %first, n = unlisted.len(), "open parts were missing from the work of their lines: listed \
                again");
        }
        self.store.requeue(&unlisted).await
    }

    /// Publishes the metrics: open recipients of running campaigns by state, the age of the oldest running campaign,
    /// the holds, how much of the messaging limits is used, the jobs, and how full and how safe Redis is.
    async fn publish(&self, survey: &Survey) -> Result<(), StoreError> {
        let now = self.clock.now();
        let mut read =
            InstallationGauges { oldest_age: survey.oldest.map(|oldest| now.since(oldest)), ..Default::default() };
        let count = |state| survey.queue.get(&state).copied().unwrap_or(0);
        read.set_queue(count);
        read.unknown = count(State::Unknown);
        let holds = self.store.holds(now).await?;
        read.set_holds(holds.iter());
        let is_held = |scopes: &&Vec<HoldScope>| scopes.iter().any(|scope| holds.contains_key(scope));
        read.campaigns_held = survey.waiting.iter().filter(is_held).count();
        let known = self.store.messaging_limits().await?;
        let limited = self.store.limited_businesses(&known, now).await?.into_iter();
        read.messaging_limits =
            limited.map(|(business, LimitedPlaces { limit, places })| (business, limit, places.used)).collect();
        (read.jobs_waiting, read.dead_letters) = self.store.job_counts().await?;
        let (memory, risks) = self.store.memory_and_risks().await?;
        read.redis_memory = memory.map(|memory| (memory.used, memory.max));
        read.redis_risks = Risk::NAMES.map(|name| (name, risks.iter().any(|risk| risk.name() == name))).into();
        self.metrics.publish(read);
        Ok(())
    }

    /// Maintains a campaign, listed with the time `since`, with `open` open recipients, of which `to_send` wait to be
    /// sent.
    async fn maintain_campaign(
        &self,
        record: &CampaignRecord,
        since: UnixMs,
        open: u64,
        to_send: u64,
        survey: &mut Survey,
    ) -> Result<(), StoreError> {
        let (id, now) = (record.campaign.id, self.clock.now());
        let has_ended = matches!(record.state, CampaignState::Completed | CampaignState::Cancelled);
        if record.is_reopening() && self.store.in_grace_period(self.lease) {
            return Ok(());
        }
        // An ended campaign sends nothing more, so rows that were reopened as it ended are swept.
        if record.applied < record.version || has_ended && to_send > 0 {
            self.store.follow(id, now).await?;
        }
        match record.state {
            CampaignState::Draft => Ok(()),
            CampaignState::Scheduled => match record.campaign.start_at {
                Some(start_at) if start_at > now => {
                    survey.next_start = survey.next_start.into_iter().chain([start_at]).min();
                    Ok(())
                }
                _ => self.start(record, now).await,
            },
            CampaignState::Running | CampaignState::Paused => {
                let expired = record.campaign.expires_at.is_some_and(|at| at <= now);
                if expired {
                    // Owners expire rows when they claim. A line that is held or has no owner does not claim.
                    for (part, _) in &record.parts {
                        self.store.sweep(*part, State::Expired, now).await?;
                    }
                }
                if expired || open == 0 {
                    self.store.complete_if_done(id, now).await?;
                }
                Ok(())
            }
            CampaignState::Completed | CampaignState::Cancelled => {
                if record.applied == record.version && open == 0 {
                    self.check_counters(record).await?;
                    self.store.retire_campaign(id, record.ended_at.unwrap_or(now), since).await?;
                }
                Ok(())
            }
        }
    }

    /// Compares the counters of a campaign that has ended with a recount. A crash before it is retired repeats that.
    async fn check_counters(&self, record: &CampaignRecord) -> Result<(), StoreError> {
        for (part, _) in launched_parts(record) {
            let result = match stats::counters_agree(&self.store, *part).await? {
                Some(true) => RecountResult::Equal,
                Some(false) => {
                    error!(part = %part, "the counters of the part differ from its states: its statistics are wrong");
                    RecountResult::Different
                }
                None => RecountResult::Changed,
            };
            metrics::recount(result, 1);
        }
        Ok(())
    }

    /// When a campaign, listed with the time `since`, next needs maintenance. `None`: now. `Some(None)`: never.
    fn postpone_until(&self, since: UnixMs, record: Option<&CampaignRecord>) -> Option<Option<UnixMs>> {
        match record {
            Some(record) if record.state == CampaignState::Scheduled => {
                record.campaign.start_at.filter(|start_at| *start_at > since).map(Some)
            }
            // A draft is listed when its launch begins; an older version listed all drafts. It stays listed for as
            // long as a launch may take.
            Some(CampaignRecord { state: CampaignState::Draft, .. }) | None => {
                (self.clock.now().since(since) >= LAUNCH_MAX).then_some(None)
            }
            Some(_) => None,
        }
    }

    /// Starts a campaign. If its start was missed, follows the campaign's setting for that case. If its template was
    /// edited and no longer fits the recipients, pauses the campaign with that reason instead.
    async fn start(&self, record: &CampaignRecord, now: UnixMs) -> Result<(), StoreError> {
        let campaign = &record.campaign;
        let (id, from) = (campaign.id, [CampaignState::Scheduled]);
        let missed = campaign.start_at.filter(|start_at| now.since(*start_at) >= self.late_after);
        let is_expired = campaign.expires_at.is_some_and(|at| at <= now);
        match (missed, campaign.late) {
            (Some(start_at), Late::Hold) => {
                let details = format!("its start at {start_at} was missed, because no worker ran then");
                return self.pause_scheduled(id, details, now).await;
            }
            (Some(_), Late::Expire) if !is_expired => return self.expire_late(record, now).await,
            _ => {}
        }
        let lines = self.lines.get();
        let waba = lines.first_of(&campaign.lines).map(|line| &line.waba);
        if let Err(problem) = templates::check_still_fits(&self.store, waba, campaign).await? {
            return self.pause_scheduled(id, problem.to_string(), now).await;
        }
        if self.store.change_campaign(id, &from, CampaignState::Running, now, None).await? == StateChange::Done {
            info!(campaign.id = %id, "scheduled campaign started");
        }
        Ok(())
    }

    /// Pauses a campaign that cannot start, with the reason.
    async fn pause_scheduled(&self, id: CampaignId, details: String, now: UnixMs) -> Result<(), StoreError> {
        let reason = PauseReason { code: None, details };
        let from = [CampaignState::Scheduled];
        let change = self.store.change_campaign(id, &from, CampaignState::Paused, now, Some(&reason)).await?;
        if change == StateChange::Done {
            warn!(campaign.id = %id, reason = reason.details, "scheduled campaign paused");
        }
        Ok(())
    }

    /// Sets the expiry of a campaign whose start was missed to now. The next cycle starts the campaign and expires its
    /// recipients.
    async fn expire_late(&self, record: &CampaignRecord, now: UnixMs) -> Result<(), StoreError> {
        let expired = Campaign { expires_at: Some(now), ..record.campaign.clone() };
        if self.store.amend_campaign(record, &expired, now).await? {
            warn!(campaign.id = %record.campaign.id, "scheduled campaign expires: its start was missed");
        }
        Ok(())
    }

    /// Asks Meta whether lines, WABAs and tokens that are held without an end can send again, and lifts the holds of
    /// those that can.
    async fn probe_holds(&self) -> Result<(), StoreError> {
        let (lines, now) = (self.lines.get(), self.clock.now());
        for (scope, hold) in self.store.holds(now).await?.into_iter().filter(|(_, hold)| hold.until.is_none()) {
            let line = match &scope {
                HoldScope::Token(waba) | HoldScope::Waba(waba) => lines.of_waba(waba).next(),
                HoldScope::Line(id) => lines.by_id(id),
                // Meta returns no health status for the other scopes.
                _ => None,
            };
            let Some(line) = line else { continue };
            match self.graph.line(&line.id, &line.token).await {
                Ok(info) if is_blocked(&scope, &hold, &info, now) => {}
                Ok(_) => {
                    info!(scope = %scope, "hold lifted: Meta answers again");
                    self.store.unhold(&scope).await?;
                }
                Err(error) => warn!(scope = %scope, %error, "the hold stays: the probe failed"),
            }
        }
        Ok(())
    }
}

/// Whether the answer to a probe shows that the held scope still cannot send. Any answer shows that a token works.
fn is_blocked(scope: &HoldScope, hold: &Hold, info: &LineInfo, now: UnixMs) -> bool {
    match scope {
        HoldScope::Token(_) => false,
        // Meta's health status may not yet include the problem for which Meta refused a message.
        HoldScope::Waba(_) => now.since(hold.since) < HEALTH_LAG_MAX || info.health != SendHealth::Sends,
        _ => info.health == SendHealth::Blocked,
    }
}

/// What one cycle over all campaigns has counted.
#[derive(Default)]
struct Survey {
    /// Recipients of running campaigns by state, of those in [`COUNTED`].
    queue: HashMap<State, u64>,
    /// What would stop each running campaign that has recipients to send to, without stopping its lines.
    waiting: Vec<Vec<HoldScope>>,
    /// When the oldest running campaign started.
    oldest: Option<UnixMs>,
    /// When the next scheduled campaign starts.
    next_start: Option<UnixMs>,
}

/// The parts of a campaign that has started. Only then can messages of it have been sent.
fn launched_parts(record: &CampaignRecord) -> &[(PartId, LineId)] {
    if record.started_at.is_some() { &record.parts } else { &[] }
}
