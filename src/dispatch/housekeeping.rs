//! Housekeeping: what belongs to no line. One worker at a time does it, and everything in it may be done twice.
//!
//! Starts campaigns whose time has come, finishes what a crash left half done, completes campaigns, drops personal data
//! at its end, reads the templates from Meta, tries what is held back without an end, and looks after lines that no process
//! lists ([`super::unlisted`]).
//!
//! If the process dies: another worker takes the duty when its lease ends.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::unlisted::Unlisted;
use crate::{
    domain::{
        Campaign, CampaignId, CampaignState, HoldScope, Line, LineId, PartId, State, UnixMs, campaign::PauseReason,
    },
    graph::client::GraphClient,
    redis::{
        Store, StoreError,
        campaigns::{CampaignRecord, StateChange},
        clock::Clock,
    },
    telemetry::metrics::QueueMetrics,
    templates,
};

/// How often campaigns are looked through.
const EVERY: Duration = Duration::from_millis(500);

/// But thousands of campaigns keep nobody else from Redis: what took long is done again after so many times as long, ...
const REST: u32 = 100;

/// ... or after this.
const REST_MAX: Duration = Duration::from_secs(10);

/// Campaigns that are looked after in one go.
const CAMPAIGNS_AT_ONCE: usize = 256;

/// A launch takes less, from the listing of its campaign to its change of state.
const LAUNCH_MAX: Duration = Duration::from_secs(3600);

/// How often templates are read again at most because Meta said that some changed. Meta allows an app 200 calls an hour about
/// a WABA.
const CHANGED_TEMPLATES_EVERY: Duration = Duration::from_secs(60);

/// How often a hold that has no end is tried.
const PROBE_EVERY: Duration = Duration::from_secs(60);

/// What housekeeping needs.
pub struct Housekeeping {
    /// The name under which it holds the duty.
    pub name: String,
    /// Redis.
    pub store: Store,
    /// Redis' time.
    pub clock: Arc<Clock>,
    /// Every configured line.
    pub lines: Vec<Line>,
    /// How Meta is reached.
    pub graph: GraphClient,
    /// How long the duty belongs to one worker without renewal.
    pub lease: Duration,
    /// How often templates are read.
    pub templates_every: Duration,
    /// How long recipients are kept after the end of their campaign.
    pub retention: Duration,
    /// How long a message may stay in doubt.
    pub doubt_deadline: Duration,
    /// Attempts at most, where a campaign wants doubtful messages sent again.
    pub attempts_max: u8,
}

impl Housekeeping {
    /// Keeps house until `stop`, whenever this worker has the duty.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        self.store.on_duty("housekeeping", &self.name, self.lease, &stop, || self.keep_house(&stop)).await;
        Ok(())
    }

    async fn keep_house(&self, stop: &CancellationToken) {
        let mut probed = Instant::now();
        let mut synced: Option<Instant> = None;
        let mut refreshed: Option<Instant> = None;
        let mut unlisted = self.unlisted();
        while !stop.is_cancelled() {
            if synced.is_none_or(|at| at.elapsed() >= self.templates_every) {
                synced = Some(Instant::now());
                templates::sync_all(&self.store, &self.graph, &self.lines, self.clock.now()).await;
            }
            if refreshed.is_none_or(|at| at.elapsed() >= CHANGED_TEMPLATES_EVERY) {
                match self.refresh_templates().await {
                    Ok(true) => refreshed = Some(Instant::now()),
                    Ok(false) => {}
                    Err(error) => warn!(%error, "changed templates could not be looked for"),
                }
            }
            let began = Instant::now();
            let next_start = self.campaigns().await.unwrap_or_else(|error| {
                warn!(%error, "campaigns could not be looked after");
                None
            });
            if let Err(error) = unlisted.tend().await {
                warn!(%error, "lines that no process lists could not be looked after");
            }
            let rest = (began.elapsed() * REST).clamp(EVERY, REST_MAX);
            if probed.elapsed() >= PROBE_EVERY {
                probed = Instant::now();
                if let Err(error) = self.probe().await {
                    warn!(%error, "what is held back could not be tried");
                }
            }
            let rest = next_start.map_or(rest, |at| rest.min(at.since(self.clock.now())));
            stop.run_until_cancelled(tokio::time::sleep(rest)).await;
        }
    }

    /// Reads the templates of the WABAs that Meta says have changed ones. Gives whether there were any.
    ///
    /// The notes are taken first: one that comes during the reading is for the next. What a crash forgets is read by the next
    /// worker that keeps house, which begins with all templates.
    async fn refresh_templates(&self) -> Result<bool, StoreError> {
        let changed = self.store.take_changed_templates().await?;
        let lines: Vec<Line> = self.lines.iter().filter(|line| changed.contains(&line.waba)).cloned().collect();
        for (waba, result) in templates::sync_all(&self.store, &self.graph, &lines, self.clock.now()).await {
            if result.is_err() {
                self.store.note_changed_templates(&waba).await?;
            }
        }
        Ok(!lines.is_empty())
    }

    fn unlisted(&self) -> Unlisted {
        let (store, clock) = (self.store.clone(), self.clock.clone());
        Unlisted::new(self.name.clone(), store, clock, self.lease, self.doubt_deadline, self.attempts_max)
    }

    /// Looks after every campaign that needs it. Gives when the next one is to start, if that is within a minute.
    async fn campaigns(&self) -> Result<Option<UnixMs>, StoreError> {
        let mut seen = Seen::default();
        for campaigns in self.store.active_campaigns(self.clock.now()).await?.chunks(CAMPAIGNS_AT_ONCE) {
            self.some_campaigns(campaigns, &mut seen).await?;
        }
        self.show(&seen);
        for id in self.store.ended_campaigns(self.clock.now(), self.retention).await? {
            self.store.forget_recipients(id).await?;
            info!(campaign.id = %id, "recipients forgotten: their retention has ended");
        }
        Ok(seen.next_start)
    }

    /// Looks after some campaigns, each with the time since when it needs care.
    async fn some_campaigns(&self, listed: &[(CampaignId, UnixMs)], seen: &mut Seen) -> Result<(), StoreError> {
        let ids: Vec<CampaignId> = listed.iter().map(|(id, _)| *id).collect();
        let records = self.store.campaigns(&ids).await?;
        let parts: Vec<PartId> = records.iter().flatten().flat_map(launched_parts).map(|(part, _)| *part).collect();
        let mut counts = self.store.open_counts(&parts).await?.into_iter();
        let mut open_parts = Vec::new();
        for record in records.iter().flatten() {
            let (mut open, mut to_send) = (0, 0);
            for (part, counts) in launched_parts(record).iter().zip(counts.by_ref()) {
                let open_here: u64 = counts.iter().map(|(_, n)| n).sum();
                if open_here > 0 {
                    open_parts.push(part.clone());
                }
                open += open_here;
                let waits = |state: &State| matches!(state, State::Pending | State::Retrying);
                to_send += counts.iter().filter(|(state, _)| waits(state)).map(|(_, n)| n).sum::<u64>();
                if record.state == CampaignState::Running {
                    counts.iter().for_each(|(state, n)| *seen.queue.entry(*state).or_default() += n);
                }
            }
            // One that can not be looked after keeps no other from it.
            if let Err(error) = self.campaign(record, open, to_send, seen).await {
                warn!(campaign.id = %record.campaign.id, %error, "the campaign could not be looked after");
            }
            if record.state == CampaignState::Running {
                seen.oldest = record.started_at.into_iter().chain(seen.oldest).min();
            }
        }
        let waiting = listed
            .iter()
            .zip(&records)
            .filter_map(|(&(id, since), record)| Some((id, since, self.not_before(since, record.as_ref())?)));
        self.store.postpone_campaigns(&waiting.collect::<Vec<_>>()).await?;
        self.requeue_unlisted(&open_parts).await
    }

    /// Lists open parts that are missing from the work of their lines. A process reopens a row first and lists its part afterwards; it may
    /// die, or lose Redis, in between.
    async fn requeue_unlisted(&self, open_parts: &[(PartId, LineId)]) -> Result<(), StoreError> {
        let mut unlisted = self.store.parts_not_listed(open_parts).await?;
        // A part that was closed and taken off the work since its rows were counted needs nothing.
        let mut counts = self.store.open_counts(&unlisted).await?.into_iter();
        unlisted.retain(|_| counts.next().is_some_and(|counts| counts.iter().any(|(_, n)| *n > 0)));
        if let Some(first) = unlisted.first() {
            warn!(part = %first, n = unlisted.len(), "open parts were missing from the work of their lines: listed again");
        }
        self.store.requeue(&unlisted).await
    }

    /// Shows how much work is left in the campaigns that run, and for how long the oldest of them has.
    fn show(&self, seen: &Seen) {
        let metrics = QueueMetrics::new();
        metrics.set(|state| seen.queue.get(&state).copied().unwrap_or(0));
        let age = seen.oldest.map_or(0.0, |oldest| self.clock.now().since(oldest).as_secs_f64());
        metrics.oldest_age.set(age);
    }

    /// Looks after a campaign, of which `open` recipients are open and `to_send` of these wait to be sent.
    async fn campaign(
        &self,
        record: &CampaignRecord,
        open: u64,
        to_send: u64,
        seen: &mut Seen,
    ) -> Result<(), StoreError> {
        let (id, now) = (record.campaign.id, self.clock.now());
        let has_ended = matches!(record.state, CampaignState::Completed | CampaignState::Cancelled);
        // An ended campaign sends nothing more: rows that were reopened as it ended are swept.
        if record.applied < record.version || has_ended && to_send > 0 {
            self.store.follow(id, now).await?;
        }
        match record.state {
            CampaignState::Draft => Ok(()),
            CampaignState::Scheduled => match record.campaign.start_at {
                Some(start_at) if start_at > now => {
                    seen.next_start = seen.next_start.into_iter().chain([start_at]).min();
                    Ok(())
                }
                _ => self.start(&record.campaign, now).await,
            },
            CampaignState::Running | CampaignState::Paused => {
                let expired = record.campaign.expires_at.is_some_and(|at| at <= now);
                if expired {
                    // Owners do this when they claim; a line that is held back, or has no owner, claims nothing.
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
                    self.store.retire_campaign(id, record.ended_at.unwrap_or(now)).await?;
                }
                Ok(())
            }
        }
    }

    /// Until when a campaign that is listed as active since `since` needs no care, if that is so; `Some(None)`: for good.
    fn not_before(&self, since: UnixMs, record: Option<&CampaignRecord>) -> Option<Option<UnixMs>> {
        match record {
            Some(record) if record.state == CampaignState::Scheduled => {
                record.campaign.start_at.filter(|start_at| *start_at > since).map(Some)
            }
            // A draft is listed as it is launched, or was by an older version. It stays for as long as a launch may take that has come no further.
            Some(CampaignRecord { state: CampaignState::Draft, .. }) | None => {
                (self.clock.now().since(since) >= LAUNCH_MAX).then_some(None)
            }
            Some(_) => None,
        }
    }

    /// Starts a campaign; or pauses it, with the reason, where its template was edited so that the recipients do not fit it.
    async fn start(&self, campaign: &Campaign, now: UnixMs) -> Result<(), StoreError> {
        let (id, from) = (campaign.id, [CampaignState::Scheduled]);
        let waba = self.lines.iter().find(|line| campaign.lines.contains(&line.id)).map(|line| &line.waba);
        if let Err(problem) = templates::check_still_fits(&self.store, waba, campaign).await? {
            let reason = PauseReason { code: 0, details: problem.to_string() };
            let change = self.store.change_campaign(id, &from, CampaignState::Paused, now, Some(&reason)).await?;
            if change == StateChange::Done {
                warn!(campaign.id = %id, reason = reason.details, "campaign paused at its time to start");
            }
        } else if self.store.change_campaign(id, &from, CampaignState::Running, now, None).await? == StateChange::Done {
            info!(campaign.id = %id, "campaign started: its time has come");
        }
        Ok(())
    }

    /// Lines and tokens that are held back until someone ends it: asks Meta whether they work again.
    async fn probe(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        for (scope, _) in self.store.holds(now).await?.into_iter().filter(|(_, hold)| hold.until.is_none()) {
            let line = match &scope {
                HoldScope::Token(waba) => self.lines.iter().find(|line| line.waba == *waba),
                HoldScope::Line(id) => self.lines.iter().find(|line| line.id == *id),
                // Only Meta's list of templates, a webhook or a person ends these.
                HoldScope::Waba(_) | HoldScope::Template { .. } => None,
            };
            let Some(line) = line else { continue };
            match self.graph.line(&line.id, &line.token).await {
                Ok(_) => {
                    info!(scope = %scope, "meta answers for it again: no longer held back");
                    self.store.unhold(&scope).await?;
                }
                Err(error) => warn!(scope = %scope, %error, "still held back"),
            }
        }
        Ok(())
    }
}

/// What one look at all campaigns has seen.
#[derive(Default)]
struct Seen {
    /// Recipients of running campaigns by open state.
    queue: HashMap<State, u64>,
    /// When the first of the running campaigns started.
    oldest: Option<UnixMs>,
    /// When the next of the scheduled campaigns starts.
    next_start: Option<UnixMs>,
}

/// The parts of a campaign, if it ever started: some of it may have been sent.
fn launched_parts(record: &CampaignRecord) -> &[(PartId, LineId)] {
    if record.started_at.is_some() { &record.parts } else { &[] }
}
