//! What a runner asks of Redis: each call as a future, and what it brings back.
//!
//! Holds nothing but what is read again and again ([`ChunkCache`]). What follows from an answer is the runner's.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use futures_util::future::{LocalBoxFuture, join_all};
use tracing::warn;

use super::{message::Message, plans::SendPlan, recipients::ChunkCache, shard::Shard};
use crate::{
    domain::{CampaignId, CampaignState, LineId, PartId, State, UnixMs},
    redis::{
        Store, StoreError,
        clock::Clock,
        parts::{Claim, ClaimWish, ClaimedRow, Settled, ToSend},
    },
};

/// What a call brought back.
pub enum Done {
    /// The work of the line was read.
    Refreshed(Result<Refresh, StoreError>),
    /// Rows of a part were claimed, or it was looked at.
    Claimed(PartId, Result<Claimed, StoreError>),
    /// Doubts of a part were ended: when the next one ends, and how many recipients are open.
    Doubts(PartId, Result<(Option<UnixMs>, u64), StoreError>),
    /// What was not sent of a part was expired: how many recipients are open.
    Expired(PartId, Result<u64, StoreError>),
    /// Parts were taken off the work.
    Finished(Vec<PartId>, Result<(), StoreError>),
}

/// A claim, and the messages of its rows.
pub enum Claimed {
    /// What was claimed, and its messages.
    Claim(Claim, Vec<Message>),
    /// Rows were claimed, and who they are could not be read.
    Unreadable(Vec<ToSend>, StoreError),
}

/// The work of a line.
pub struct Refresh {
    /// The parts with work on it.
    pub parts: Vec<PartId>,
    /// Whether their campaigns run.
    pub running: HashMap<CampaignId, bool>,
    /// The campaigns among them that were not known.
    pub new: Vec<Rc<SendPlan>>,
}

/// Outcomes by part.
pub type OutcomesByPart = BTreeMap<PartId, Vec<(ClaimedRow, Settled)>>;

/// Outcomes that were to be settled, and the open recipients of their parts if they were.
pub type Settlement = (OutcomesByPart, Result<Vec<(PartId, u64)>, StoreError>);

/// Asks Redis on behalf of one line.
pub struct Calls {
    /// Redis.
    pub store: Store,
    /// Redis' time.
    pub clock: Arc<Clock>,
    /// The line.
    pub line: LineId,
    /// How long message ids are found again.
    pub ids_kept: Duration,
    /// The recipients that were read last.
    pub recipients: Rc<ChunkCache>,
    /// Knows the campaigns of all its lines.
    pub shard: Rc<Shard>,
}

impl Calls {
    /// Claims rows of a part, for messages by `plan`; without one it only looks.
    pub fn claim(&self, part: PartId, wish: ClaimWish, plan: Option<Rc<SendPlan>>) -> LocalBoxFuture<'static, Done> {
        let (store, recipients) = (self.store.clone(), self.recipients.clone());
        Box::pin(async move {
            let prepared = async {
                if wish.limit > 0 {
                    recipients.prepare(&store, part).await;
                }
            };
            let claim = match tokio::join!(store.claim(part, &wish), prepared).0 {
                Ok(claim) => claim,
                Err(error) => return Done::Claimed(part, Err(error)),
            };
            let (Claim::Rows { rows, .. }, Some(plan)) = (&claim, plan) else {
                return Done::Claimed(part, Ok(Claimed::Claim(claim, Vec::new())));
            };
            let who = match recipients.of(&store, part, rows.iter().map(|row| row.claimed.row)).await {
                Ok(who) => who,
                Err(error) => return Done::Claimed(part, Ok(Claimed::Unreadable(rows.clone(), error))),
            };
            let message = |(&ToSend { claimed, attempt }, (chunk, place))| Message {
                part: part.number,
                claimed,
                attempt,
                plan: plan.clone(),
                chunk,
                place,
            };
            let messages = rows.iter().zip(who).map(message).collect();
            Done::Claimed(part, Ok(Claimed::Claim(claim, messages)))
        })
    }

    /// Settles outcomes of claims that were made under `epoch`.
    pub fn settle(&self, outcomes: OutcomesByPart, epoch: u64) -> LocalBoxFuture<'static, Settlement> {
        let (store, now, kept) = (self.store.clone(), self.clock.now(), self.ids_kept);
        Box::pin(async move {
            let result = store.settle(&outcomes, epoch, now, kept).await;
            (outcomes, result)
        })
    }

    /// Ends the doubts of a part whose deadline has passed; sends again what had fewer than `attempts_max` attempts.
    pub fn end_doubts(&self, part: PartId, attempts_max: u8) -> LocalBoxFuture<'static, Done> {
        let (store, now) = (self.store.clone(), self.clock.now());
        Box::pin(async move { Done::Doubts(part, store.end_doubts(part, now, attempts_max).await) })
    }

    /// Ends what was not sent of a part whose time is over.
    pub fn expire(&self, part: PartId) -> LocalBoxFuture<'static, Done> {
        let (store, now) = (self.store.clone(), self.clock.now());
        Box::pin(async move { Done::Expired(part, store.sweep(part, State::Expired, now).await) })
    }

    /// Takes parts in which nothing is open off the work.
    pub fn finish(&self, parts: Vec<PartId>) -> LocalBoxFuture<'static, Done> {
        let (store, line) = (self.store.clone(), self.line.clone());
        Box::pin(async move {
            let finished = store.work_done(&line, &parts).await;
            Done::Finished(parts, finished)
        })
    }

    /// Completes campaigns in which nothing is open. Where that fails, the housekeeping does it.
    pub fn complete(&self, campaigns: Vec<CampaignId>) -> LocalBoxFuture<'static, ()> {
        let (store, now) = (self.store.clone(), self.clock.now());
        Box::pin(async move {
            let complete = async |id: CampaignId| {
                if let Err(error) = store.complete_if_done(id, now).await {
                    warn!(campaign.id = %id, %error, "whether the campaign is done could not be seen");
                }
            };
            join_all(campaigns.into_iter().map(complete)).await;
        })
    }

    /// Reads the work of the line, and the campaigns in it that are not `known`.
    pub fn refresh(&self, known: HashSet<CampaignId>) -> LocalBoxFuture<'static, Done> {
        let (store, line, thread) = (self.store.clone(), self.line.clone(), self.shard.clone());
        Box::pin(async move {
            let refresh = async {
                let parts = store.work(&line).await?;
                let campaigns: HashSet<CampaignId> = parts.iter().map(|part| part.campaign).collect();
                let ids: Vec<CampaignId> = campaigns.into_iter().collect();
                let states = store.campaign_states(&ids).await?;
                let running = ids.iter().zip(states).map(|(&id, state)| (id, state == Some(CampaignState::Running)));
                let running = running.collect();
                let unknown: Vec<CampaignId> = ids.into_iter().filter(|id| !known.contains(id)).collect();
                let new = thread.plans.of(&store, &unknown).await?;
                Ok(Refresh { parts, running, new })
            };
            Done::Refreshed(refresh.await)
        })
    }
}
