//! The Redis calls of the lane: each one as a future, and its reply.
//!
//! Owns: the cache of recipients ([`ChunkCache`]). `redis_calls` decides what follows from a reply.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    rc::Rc,
    time::Instant,
};

use futures_util::future::{LocalBoxFuture, join_all};
use tracing::warn;

use super::{
    message::Message,
    plans::{SendPlan, SendPlans, WantedPlan},
    recipients::ChunkCache,
    screening::Screening,
};
use crate::{
    dispatch::line::state::LineState,
    domain::{
        CampaignId, ClaimedRow, PartId, PersonHash, Phone, Settled, SkipReason, State, Suppression, SuppressionReason,
        SuppressionScope, SuppressionSource, TokenKey,
    },
    redis::{
        Store, StoreError,
        campaigns::CampaignWorkState,
        parts::{Claim, ClaimRequest, DoubtsEnded, SettledPart, ToSend},
        places::{PlaceNews, Places},
    },
};

/// The reply to a call.
pub enum Reply {
    /// To [`Calls::refresh`].
    Refreshed(Result<Refresh, StoreError>),
    /// To [`Calls::claim`].
    Claimed(PartId, Result<ClaimReply, StoreError>),
    /// To [`Calls::end_doubts`].
    DoubtsEnded(PartId, Result<DoubtsEnded, StoreError>),
    /// To [`Calls::expire`]: the number of open recipients.
    Expired(PartId, Result<u64, StoreError>),
    /// To [`Calls::finish`].
    Finished(Vec<PartId>, Result<(), StoreError>),
    /// To [`Calls::ask_places`].
    Places(Result<Places, StoreError>),
}

/// The reply to a claim.
pub enum ClaimReply {
    /// The claim, and what is to be done with its rows.
    Prepared {
        /// The claim.
        claim: Claim,
        /// A message for each row that may be sent.
        messages: Vec<Message>,
        /// The rows that must not be sent, and why.
        skipped: Vec<(ClaimedRow, SkipReason)>,
        /// The rows for which the messaging limit has no place left.
        refused: Vec<ToSend>,
        /// The places that are left, if the business has a limit.
        places: Option<Places>,
    },
    /// Rows were claimed, and either their recipients could not be read, or no places could be taken for them.
    Unprepared(Vec<ToSend>, StoreError),
}

impl ClaimReply {
    /// A claim with nothing to send.
    fn unsent(claim: Claim) -> Self {
        let (messages, skipped, refused) = Default::default();
        Self::Prepared { claim, messages, skipped, refused, places: None }
    }
}

/// The work of a line, as Redis lists it.
pub struct Refresh {
    /// The parts that the line works on.
    pub parts: Vec<PartId>,
    /// The progress of each of their campaigns.
    pub progress: HashMap<CampaignId, CampaignWorkState>,
    /// The plans of the campaigns that the caller did not have, or that have changed.
    pub new: Vec<Rc<SendPlan>>,
}

/// Outcomes by part.
pub type OutcomesByPart = BTreeMap<PartId, Vec<(ClaimedRow, Settled)>>;

/// A settlement of outcomes.
pub struct Settlement {
    /// The outcomes.
    pub outcomes: OutcomesByPart,
    /// The number of open recipients of each part, if it succeeded.
    pub result: Result<Vec<SettledPart>, StoreError>,
}

/// The Redis calls of one line.
pub struct Calls {
    /// Redis.
    pub store: Store,
    /// The cache of recipients.
    pub recipients: Rc<ChunkCache>,
    /// The plans of the campaigns.
    pub plans: Rc<SendPlans>,
    /// Who must not get their messages.
    pub screening: Rc<Screening>,
}

impl Calls {
    /// Claims rows of a part, and builds their messages from `plan`, with whether its template is marketing. Without a
    /// plan there are no messages. With a `limit`, that of the line's business in people, takes a place for each message.
    pub fn claim(
        &self,
        part: PartId,
        request: ClaimRequest,
        plan: Option<(Rc<SendPlan>, bool)>,
        limit: Option<u32>,
        line: &LineState,
    ) -> LocalBoxFuture<'static, Reply> {
        let (store, recipients, screening) = (self.store.clone(), self.recipients.clone(), self.screening.clone());
        let (line, business) = (line.line.id.clone(), line.line.business.clone());
        Box::pin(async move {
            let prefetched = async {
                if request.limit > 0 {
                    recipients.prefetch(&store, part).await;
                }
            };
            let claim = match tokio::join!(store.claim(part, &request), prefetched).0 {
                Ok(claim) => claim,
                Err(error) => return Reply::Claimed(part, Err(error)),
            };
            let claimed_at = Instant::now();
            let (Claim::Rows { rows, .. }, Some((plan, is_marketing))) = (&claim, plan) else {
                return Reply::Claimed(part, Ok(ClaimReply::unsent(claim)));
            };
            if rows.is_empty() {
                return Reply::Claimed(part, Ok(ClaimReply::unsent(claim)));
            }
            let found = match recipients.locate(&store, part, rows.iter().map(|row| row.claimed.row)).await {
                Ok(found) => found,
                Err(error) => return Reply::Claimed(part, Ok(ClaimReply::Unprepared(rows.clone(), error))),
            };
            let message = |(&ToSend { claimed, attempt }, (chunk, index))| Message {
                part: part.number,
                claimed,
                attempt,
                plan: plan.clone(),
                chunk,
                index,
            };
            let mut messages: Vec<Message> = rows.iter().zip(found).map(message).collect();
            let skips = match screening.skips(&store, &business, &messages, is_marketing, claimed_at).await {
                Ok(skips) => skips,
                Err(error) => return Reply::Claimed(part, Ok(ClaimReply::Unprepared(rows.clone(), error))),
            };
            let skipped = skips.iter().map(|&(index, reason)| (messages[index].claimed, reason)).collect();
            skips.iter().rev().for_each(|&(index, _)| drop(messages.remove(index)));
            let (mut refused, mut left) = (Vec::new(), None);
            if let Some(limit) = limit {
                let people: Vec<_> = messages.iter().map(|message| (message.to().into(), message.row())).collect();
                let (places, may_be_sent) = match store.take_places(&business, limit, &line, &people, request.now).await
                {
                    Ok(taken) => taken,
                    Err(error) => return Reply::Claimed(part, Ok(ClaimReply::Unprepared(rows.clone(), error))),
                };
                left = Some(places);
                let mut may_be_sent = may_be_sent.into_iter();
                messages.retain(|message| {
                    let may = may_be_sent.next().unwrap_or(false);
                    if !may {
                        refused.push(ToSend { claimed: message.claimed, attempt: message.attempt });
                    }
                    may
                });
            }
            Reply::Claimed(part, Ok(ClaimReply::Prepared { claim, messages, skipped, refused, places: left }))
        })
    }

    /// Asks how many places of a business with this `limit`, in people, are left.
    pub fn ask_places(&self, limit: u32, line: &LineState) -> LocalBoxFuture<'static, Reply> {
        let (store, business, now) = (self.store.clone(), line.line.business.clone(), line.clock.now());
        Box::pin(async move { Reply::Places(store.places(&business, limit, now).await) })
    }

    /// Stores what became of messages that were not sent.
    pub fn note_places(&self, news: Vec<PlaceNews>, line: &LineState) -> LocalBoxFuture<'static, ()> {
        let (store, line, now) = (self.store.clone(), line.line.clone(), line.clock.now());
        Box::pin(async move {
            if let Err(error) = store.note_places(&line.business, &line.id, &news, now).await {
                warn!(business.id = %line.business, n = news.len(), %error, "people who got no message count towards the \
                    messaging limit for three days");
            }
        })
    }

    /// Suppresses marketing to a person who, as Meta says, has stopped it.
    pub fn stop_marketing(&self, to: Phone, key: &TokenKey, line: &LineState) -> LocalBoxFuture<'static, ()> {
        let (store, business, since) = (self.store.clone(), line.line.business.clone(), line.clock.now());
        let person = PersonHash::of(to.into(), key);
        let (scope, reason) = (SuppressionScope::Marketing, SuppressionReason::OptOut);
        let entry = Suppression { phone: Some(to), scope, reason, source: SuppressionSource::Meta, since };
        Box::pin(async move {
            if let Err(error) = store.suppress(&business, &[(person, entry)], true).await {
                warn!(business.id = %business, to = ?to, %error, "a person who stopped marketing could not be noted: the \
                    next campaign will try to send to them");
            }
        })
    }

    /// Settles outcomes of claims that were made under the lease of `line`.
    pub fn settle(&self, outcomes: OutcomesByPart, line: &LineState) -> LocalBoxFuture<'static, Settlement> {
        let (store, now, id_retention) = (self.store.clone(), line.clock.now(), line.settings.id_retention);
        let epoch = line.clearance.lease.epoch;
        Box::pin(async move {
            let result = store.settle(&outcomes, epoch, now, id_retention).await;
            Settlement { outcomes, result }
        })
    }

    /// Ends the doubts of a part whose deadline has passed. Rows with fewer than `attempts_max` attempts are sent
    /// again.
    pub fn end_doubts(&self, part: PartId, attempts_max: u8, line: &LineState) -> LocalBoxFuture<'static, Reply> {
        let (store, now) = (self.store.clone(), line.clock.now());
        Box::pin(async move { Reply::DoubtsEnded(part, store.end_doubts(part, now, attempts_max).await) })
    }

    /// Expires the unsent rows of a part whose campaign has passed its `expires_at`.
    pub fn expire(&self, part: PartId, line: &LineState) -> LocalBoxFuture<'static, Reply> {
        let (store, now) = (self.store.clone(), line.clock.now());
        Box::pin(async move { Reply::Expired(part, store.sweep(part, State::Expired, now).await) })
    }

    /// Removes parts without open recipients from the work of the line.
    pub fn finish(&self, parts: Vec<PartId>, line: &LineState) -> LocalBoxFuture<'static, Reply> {
        let (store, line) = (self.store.clone(), line.line.id.clone());
        Box::pin(async move {
            let finished = store.work_done(&line, &parts).await;
            Reply::Finished(parts, finished)
        })
    }

    /// Completes campaigns without open recipients. If that fails, housekeeping completes them.
    pub fn complete(&self, campaigns: Vec<CampaignId>, line: &LineState) -> LocalBoxFuture<'static, ()> {
        let (store, now) = (self.store.clone(), line.clock.now());
        Box::pin(async move {
            let complete = async |id: CampaignId| {
                if let Err(error) = store.complete_if_done(id, now).await {
                    warn!(campaign.id = %id, %error, "the campaign could not be completed: housekeeping retries");
                }
            };
            join_all(campaigns.into_iter().map(complete)).await;
        })
    }

    /// Reads the work of the line, and the plans of its campaigns that are not in `known` or have changed since. `known`
    /// has the number of changes of each plan.
    pub fn refresh(&self, known: HashMap<CampaignId, u64>, line: &LineState) -> LocalBoxFuture<'static, Reply> {
        let (store, plans) = (self.store.clone(), self.plans.clone());
        let (line, features) = (line.line.id.clone(), line.settings.features);
        Box::pin(async move {
            let refresh = async {
                let parts = store.work(&line).await?;
                let campaigns: HashSet<CampaignId> = parts.iter().map(|part| part.campaign).collect();
                let ids: Vec<CampaignId> = campaigns.into_iter().collect();
                let read = store.campaign_progress(&ids).await?;
                let progress: HashMap<CampaignId, CampaignWorkState> = ids.into_iter().zip(read).collect();
                let is_known = |(id, progress): &(&CampaignId, &CampaignWorkState)| {
                    known.get(id).is_some_and(|changes| *changes >= progress.changes)
                };
                let unknown = progress.iter().filter(|campaign| !is_known(campaign));
                let wanted = unknown.map(|(&id, progress)| WantedPlan { id, changes: progress.changes });
                let new = plans.get(&store, &wanted.collect::<Vec<_>>(), features).await?;
                Ok(Refresh { parts, progress, new })
            };
            Reply::Refreshed(refresh.await)
        })
    }
}
