//! Housekeeping: what belongs to no line. One worker at a time does it, and everything in it may be done twice.
//!
//! Starts campaigns whose time has come, finishes what a crash left half done, completes campaigns, drops personal data
//! at its end, reads the templates from Meta, and tries what is held back without an end.
//!
//! If the process dies: another worker takes the duty when its lease ends.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    domain::{CampaignId, CampaignState, HoldScope, Line, UnixMs},
    graph::client::GraphClient,
    store::{
        Store, StoreError,
        campaigns::{CampaignRecord, Change},
        clock::Clock,
    },
    templates,
};

/// How often campaigns are looked through: the precision of `start_at`.
const EVERY: Duration = Duration::from_millis(500);

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
        while !stop.is_cancelled() {
            if synced.is_none_or(|at| at.elapsed() >= self.templates_every) {
                synced = Some(Instant::now());
                templates::sync_all(&self.store, &self.graph, &self.lines, self.clock.now()).await;
            }
            if let Err(error) = self.campaigns().await {
                warn!(%error, "campaigns could not be looked after");
            }
            if probed.elapsed() >= PROBE_EVERY {
                probed = Instant::now();
                if let Err(error) = self.probe().await {
                    warn!(%error, "what is held back could not be tried");
                }
            }
            stop.run_until_cancelled(tokio::time::sleep(EVERY)).await;
        }
    }

    async fn campaigns(&self) -> Result<(), StoreError> {
        let ids = self.store.active_campaigns().await?;
        for record in self.store.campaigns(&ids).await?.into_iter().flatten() {
            self.campaign(&record).await?;
        }
        for id in self.store.ended_campaigns(self.clock.now(), self.retention).await? {
            self.store.forget_recipients(id).await?;
            info!(campaign.id = %id, "recipients forgotten: their retention has ended");
        }
        Ok(())
    }

    async fn campaign(&self, record: &CampaignRecord) -> Result<(), StoreError> {
        let (id, now) = (record.campaign.id, self.clock.now());
        if record.applied < record.version {
            self.store.follow(id, now).await?;
        }
        match record.state {
            CampaignState::Draft => self.store.drain_outbox(id).await,
            CampaignState::Scheduled if record.campaign.start_at.is_none_or(|at| at <= now) => {
                self.start(id, now).await
            }
            CampaignState::Scheduled => Ok(()),
            CampaignState::Running | CampaignState::Paused => {
                if self.store.complete_if_done(id, now).await? {
                    info!(campaign.id = %id, "campaign completed");
                }
                Ok(())
            }
            CampaignState::Completed | CampaignState::Cancelled => {
                if record.applied == record.version && self.store.open_recipients(record).await? == 0 {
                    self.store.retire_campaign(id, record.ended_at.unwrap_or(now)).await?;
                }
                Ok(())
            }
        }
    }

    async fn start(&self, id: CampaignId, now: UnixMs) -> Result<(), StoreError> {
        let from = [CampaignState::Scheduled];
        if self.store.change_campaign(id, &from, CampaignState::Running, now, None).await? == Change::Done {
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
