//! The Redis calls of the lane: each one as a future, and its reply.
//!
//! Owns: the cache of recipients ([`ChunkCache`]). `redis_calls` decides what follows from a reply.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    rc::Rc,
    time::{Duration, Instant},
};

use futures_util::future::{LocalBoxFuture, join_all};
use tracing::warn;

use super::{
    message::Message,
    plans::{SendPlan, SendPlans, WantedPlan},
    recipients::ChunkCache,
    screening::{Bar, Claimed, Screening},
};
use crate::{
    dispatch::line::state::LineState,
    domain::{
        BusinessId, CampaignId, ClaimedRow, Due, Line, OnWithheld, PartId, PersonHash, Phone, Settled, SkipReason,
        State, Suppression, SuppressionReason, SuppressionScope, SuppressionSource, TokenKey, UnixMs,
    },
    redis::{
        Store, StoreError,
        campaigns::CampaignWorkState,
        marketing::{FrequencyCaps, MarketingMessage},
        message_ids::RowRef,
        parts::{Claim, ClaimRequest, DoubtsEnded, SettledPart, ToSend},
        places::{PlaceNews, Places},
    },
};

/// The reply to a call.
pub enum Reply {
    /// The reply to [`Calls::refresh`].
    Refreshed(Result<Refresh, StoreError>),
    /// The reply to [`Calls::claim`].
    Claimed(PartId, Result<ClaimReply, StoreError>),
    /// The reply to [`Calls::end_doubts`].
    DoubtsEnded(PartId, Result<DoubtsEnded, StoreError>),
    /// The reply to [`Calls::expire`]: the number of open recipients.
    Expired(PartId, Result<u64, StoreError>),
    /// The reply to [`Calls::finish`].
    Finished(Vec<PartId>, Result<(), StoreError>),
    /// The reply to [`Calls::ask_places`].
    Places(Result<Places, StoreError>),
}

/// The reply to a claim.
pub enum ClaimReply {
    /// The claim, and what is to be done with its rows.
    Prepared(Claim, Prepared),
    /// Rows were claimed, but their messages could not be prepared: none of them may be sent.
    Unprepared {
        /// The rows.
        rows: Vec<ToSend>,
        /// The messages that may have been counted towards frequency caps.
        counted: Vec<(RowRef, MarketingMessage)>,
        /// What failed.
        error: StoreError,
    },
}

/// What is to be done with the rows of a claim.
#[derive(Default)]
pub struct Prepared {
    /// A message for each row that may be sent.
    pub messages: Vec<Message>,
    /// The rows that must not be sent now because of their recipient: suppressed, withheld or over a cap. Each with
    /// what to store for it.
    pub barred: Vec<(ClaimedRow, Settled)>,
    /// The rows for which the messaging limit has no place left.
    pub refused: Vec<ToSend>,
    /// The places that are left, if the business has a limit.
    pub places: Option<Places>,
    /// The messages that were counted towards frequency caps. If the preparation failed, they may have been counted.
    pub counted: Vec<(RowRef, MarketingMessage)>,
}

impl Prepared {
    /// Moves the messages that must not be sent now to `barred`. `on_withheld` is the setting of their campaign.
    async fn screen(
        &mut self,
        screening: &Screening,
        store: &Store,
        claimed: Claimed<'_>,
        on_withheld: OnWithheld,
    ) -> Result<(), StoreError> {
        let barred = screening.barred(store, &self.messages, claimed).await?;
        let settled = |bar| match (bar, on_withheld) {
            (Bar::Skip(reason), _) => Settled::Skipped { reason },
            (Bar::Until(_), OnWithheld::Fail) => Settled::Skipped { reason: SkipReason::Withheld },
            (Bar::Until(at), OnWithheld::Retry) => Settled::Back { at: Due::At(at) },
        };
        self.barred.extend(barred.iter().map(|&(index, bar)| (self.messages[index].claimed, settled(bar))));
        barred.iter().rev().for_each(|&(index, _)| drop(self.messages.remove(index)));
        Ok(())
    }

    /// Counts each message towards `caps`, and moves those whose recipient has reached a cap to `barred`.
    async fn count(
        &mut self,
        screening: &Screening,
        store: &Store,
        business: &BusinessId,
        caps: FrequencyCaps,
        now: UnixMs,
    ) -> Result<(), StoreError> {
        if self.messages.is_empty() {
            return Ok(());
        }
        let rows = || self.messages.iter().map(Message::row);
        let people = screening.people(&self.messages);
        let messages: Vec<MarketingMessage> =
            people.zip(rows()).map(|(person, row)| MarketingMessage::new(person, row)).collect();
        self.counted = rows().zip(messages.iter().copied()).collect();
        let mut may_be_sent = store.count_marketing(business, caps, &messages, now).await?.into_iter();
        let over = self.messages.extract_if(.., |_| !may_be_sent.next().unwrap_or(false));
        let over = over.map(|message| (message.claimed, Settled::Skipped { reason: SkipReason::FrequencyCap }));
        self.barred.extend(over);
        let mut left = self.messages.iter().map(Message::row).peekable();
        self.counted.retain(|(row, _)| left.next_if_eq(row).is_some());
        Ok(())
    }

    /// Takes a place for each message, and moves those for which no place is left to `refused`.
    async fn take_places(&mut self, store: &Store, line: &Line, limit: u32, now: UnixMs) -> Result<(), StoreError> {
        let people: Vec<_> = self.messages.iter().map(|message| (message.to.into(), message.row())).collect();
        let (places, may_be_sent) = store.take_places(&line.business, limit, &line.id, &people, now).await?;
        self.places = Some(places);
        let mut may_be_sent = may_be_sent.into_iter();
        let refused = self.messages.extract_if(.., |_| !may_be_sent.next().unwrap_or(false));
        self.refused = refused.map(|message| ToSend { claimed: message.claimed, attempt: message.attempt }).collect();
        Ok(())
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

/// What attempts revealed about people. It is stored before their outcomes are settled.
#[derive(Default)]
pub struct OfPeople {
    /// The messages whose places are given back.
    pub unsent: Vec<MarketingMessage>,
    /// The people from whom Meta withheld marketing, and when each may get marketing again.
    pub withheld: Vec<(PersonHash, UnixMs)>,
}

/// A settlement of outcomes.
pub struct Settlement {
    /// The outcomes.
    pub outcomes: OutcomesByPart,
    /// The outcomes that may not be stored yet.
    pub of_people: OfPeople,
    /// The number of open recipients of each part, if it succeeded.
    pub result: Result<Vec<SettledPart>, StoreError>,
}

impl OfPeople {
    async fn store(&self, store: &Store, business: &BusinessId, now: UnixMs) -> Result<(), StoreError> {
        if !self.unsent.is_empty() {
            store.uncount_marketing(business, &self.unsent).await?;
        }
        if !self.withheld.is_empty() {
            store.withhold(business, &self.withheld, now).await?;
        }
        Ok(())
    }
}

/// The store in this incarnation of Redis.
///
/// Errors: transient in the grace period of an incarnation, because other processes may not have replayed yet what they
/// know about people.
fn after_replays(store: &Store, lease: Duration) -> Result<Store, StoreError> {
    let store = store.in_this_incarnation();
    if store.in_grace_period(lease) {
        return Err(StoreError::NotApplied("other processes may not have replayed what they know".to_owned()));
    }
    Ok(store)
}

/// The Redis calls of one line.
pub struct Calls {
    /// Redis.
    pub store: Store,
    /// The cache of recipients.
    pub recipients: Rc<ChunkCache>,
    /// The plans of the campaigns.
    pub plans: Rc<SendPlans>,
    /// Finds the recipients who must not get a message.
    pub screening: Rc<Screening>,
}

impl Calls {
    /// Claims rows of a part, and builds their messages from `plan`, which comes with whether its template is
    /// marketing. Without a plan there are no messages. Counts the messages towards `caps`. If the line's business has
    /// a `limit`, in people, takes a place for each message that is left.
    pub fn claim(
        &self,
        part: PartId,
        request: ClaimRequest,
        plan: Option<(Rc<SendPlan>, bool)>,
        caps: Option<FrequencyCaps>,
        limit: Option<u32>,
        line: &LineState,
    ) -> LocalBoxFuture<'static, Reply> {
        let (store, recipients, screening) = (self.store.clone(), self.recipients.clone(), self.screening.clone());
        let (line, lease, traces) = (line.line.clone(), line.settings.lease, line.settings.traces.clone());
        Box::pin(async move {
            let asked_at = Instant::now();
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
            let (Claim::Rows { rows, erased, .. }, Some((plan, is_marketing))) = (&claim, plan) else {
                return Reply::Claimed(part, Ok(ClaimReply::Prepared(claim, Prepared::default())));
            };
            let (mut prepared, on_withheld) = (Prepared::default(), plan.campaign.on_withheld);
            let prepare = async {
                let found = recipients.locate(&store, part, *erased, rows.iter().map(|row| row.claimed.row)).await?;
                for (&ToSend { claimed, attempt }, (chunk, index)) in rows.iter().zip(found) {
                    let Some(to) = chunk.numbers()[usize::from(index)] else {
                        prepared.barred.push((claimed, Settled::Skipped { reason: SkipReason::Forgotten }));
                        continue;
                    };
                    let trace = traces
                        .of_recipient(part, claimed.row)
                        .map(|trace| Box::new(trace.claimed(claimed.send, attempt, line.id.clone(), asked_at)));
                    let (part, plan) = (part.number, plan.clone());
                    prepared.messages.push(Message { part, claimed, attempt, plan, chunk, index, to, trace });
                }
                if rows.is_empty() {
                    return Ok(());
                }
                let store = if is_marketing { after_replays(&store, lease)? } else { store.clone() };
                let claimed = Claimed { business: &line.business, is_marketing, at: claimed_at, now: request.now };
                prepared.screen(&screening, &store, claimed, on_withheld).await?;
                if let Some(caps) = caps {
                    prepared.count(&screening, &store, &line.business, caps, request.now).await?;
                }
                if let Some(limit) = limit {
                    prepared.take_places(&store, &line, limit, request.now).await?;
                }
                Ok(())
            };
            let reply = match prepare.await {
                Ok(()) => ClaimReply::Prepared(claim, prepared),
                Err(error) => ClaimReply::Unprepared { rows: rows.clone(), counted: prepared.counted, error },
            };
            Reply::Claimed(part, Ok(reply))
        })
    }

    /// Reads how many places of a business with this `limit`, in people, are left.
    pub fn ask_places(&self, limit: u32, line: &LineState) -> LocalBoxFuture<'static, Reply> {
        let (store, business, now) = (self.store.clone(), line.line.business.clone(), line.clock.now());
        Box::pin(async move { Reply::Places(store.places(&business, limit, now).await) })
    }

    /// Stores the fate of messages that were not sent.
    pub fn note_places(&self, news: Vec<PlaceNews>, line: &LineState) -> LocalBoxFuture<'static, ()> {
        let (store, line, now) = (self.store.clone(), line.line.clone(), line.clock.now());
        Box::pin(async move {
            if let Err(error) = store.note_places(&line.business, &line.id, &news, now).await {
                warn!(business.id = %line.business, n = news.len(), %error, "people who got no message count towards the \
                    messaging limit for three days");
            }
        })
    }

    /// Suppresses marketing to a person who stopped it, as reported by Meta.
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

    /// Settles outcomes of claims that were made under the lease of `line`. First stores what they reveal about people,
    /// because the rows may be claimed again right after the settlement.
    pub fn settle(
        &self,
        outcomes: OutcomesByPart,
        of_people: OfPeople,
        line: &LineState,
    ) -> LocalBoxFuture<'static, Settlement> {
        let (store, now, id_retention) = (self.store.clone(), line.clock.now(), line.settings.id_retention);
        let (epoch, business) = (line.clearance.lease.epoch, line.line.business.clone());
        Box::pin(async move {
            if let Err(error) = of_people.store(&store, &business, now).await {
                return Settlement { outcomes, of_people, result: Err(error) };
            }
            let result = store.settle(&outcomes, epoch, now, id_retention).await;
            Settlement { outcomes, of_people: OfPeople::default(), result }
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

    /// Reads the work of the line, and the plans of its campaigns that are not in `known` or have changed since.
    /// `known` has the number of changes of each plan.
    pub fn refresh(&self, known: HashMap<CampaignId, u64>, line: &LineState) -> LocalBoxFuture<'static, Reply> {
        let (store, plans) = (self.store.clone(), self.plans.clone());
        let (line, settings) = (line.line.id.clone(), line.settings.clone());
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
                let new = plans.get(&store, &wanted.collect::<Vec<_>>(), &settings).await?;
                Ok(Refresh { parts, progress, new })
            };
            Reply::Refreshed(refresh.await)
        })
    }
}
