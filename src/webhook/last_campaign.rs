//! Finds the campaign that a message from a person probably answers, if the message refers to none: the last campaign
//! that sent to the person's number on the same line within 72 hours.
//!
//! If the process dies: nothing is lost; the list of campaigns is a cache.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    domain::{CampaignId, ClaimedRow, LineId, Phone, State, UnixMs},
    redis::{Result, Store, campaigns::CampaignRecord, message_ids::RowRef, parts::PhoneQuery, phone_index::IndexedBy},
};

/// How long after the start of a campaign a message counts as an answer to it.
const ANSWERED_WITHIN: Duration = Duration::from_secs(72 * 3_600);
/// Maximum number of campaigns of a line that are searched for a number, the newest first.
const CAMPAIGNS_MAX: usize = 50;
/// The number of newest campaigns that are considered besides the active ones.
const NEWEST: usize = 500;
/// Age at which the list of campaigns is read again.
const MAX_AGE: Duration = Duration::from_secs(5);

/// A message whose campaign is unknown.
#[derive(Clone, Debug)]
pub struct Unattributed {
    /// The line that received it.
    pub line: LineId,
    /// The number that sent it.
    pub sender: Phone,
    /// When it was sent.
    pub at: UnixMs,
}

/// The campaigns that started recently.
pub struct LastCampaigns {
    store: Store,
    cached: Mutex<Option<(Instant, Arc<[Started]>)>>,
}

/// A campaign that has started.
struct Started {
    id: CampaignId,
    at: UnixMs,
    lines: Vec<LineId>,
    /// Buckets of its phone index.
    buckets: u32,
    indexed_by: IndexedBy,
}

impl LastCampaigns {
    /// An empty cache.
    pub fn new(store: Store) -> Self {
        Self { store, cached: Mutex::default() }
    }

    /// For each message, in order, the recipient of the last campaign that sent to its sender before it.
    pub async fn find(&self, messages: &[Unattributed], now: UnixMs) -> Result<Vec<Option<RowRef>>> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let started = self.started(now).await?;
        let (mut queries, mut of_message) = (Vec::new(), Vec::new());
        for (index, message) in messages.iter().enumerate() {
            let campaigns = started.iter().filter(|campaign| campaign.may_be_answered_by(message));
            for campaign in campaigns.take(CAMPAIGNS_MAX) {
                let &Started { id, buckets, indexed_by, .. } = campaign;
                queries.push(PhoneQuery { campaign: id, buckets, indexed_by, phone: message.sender });
                of_message.push(index);
            }
        }
        let rows = self.store.find_phones(&queries).await?;
        let found: Vec<_> = of_message.into_iter().zip(rows).filter_map(|(index, row)| Some((index, row?))).collect();
        let rows: Vec<_> = found.iter().map(|(_, row)| *row).collect();
        let mut results = vec![None; messages.len()];
        for ((index, (part, row)), state) in found.into_iter().zip(self.store.states_of(&rows).await?) {
            if results[index].is_none() && state.is_some_and(was_sent) {
                // 0: the last send of the row.
                results[index] = Some((part, ClaimedRow { row, send: 0 }));
            }
        }
        Ok(results)
    }

    /// The campaigns that started recently, the newest first.
    async fn started(&self, now: UnixMs) -> Result<Arc<[Started]>> {
        if let Some((read_at, started)) = &*self.cached.lock().unwrap_or_else(PoisonError::into_inner)
            && read_at.elapsed() < MAX_AGE
        {
            return Ok(started.clone());
        }
        let read_at = Instant::now();
        let active = self.store.active_campaigns(now).await?.into_iter().map(|(id, _)| id);
        let newest = self.store.newest_campaigns(None, NEWEST).await?;
        let ids: Vec<CampaignId> = active.chain(newest).collect::<HashSet<_>>().into_iter().collect();
        let records = self.store.campaigns(&ids).await?.into_iter().flatten();
        let mut started: Vec<Started> = records.filter_map(|record| Started::of(record, now)).collect();
        started.sort_by_key(|campaign| std::cmp::Reverse((campaign.at, campaign.id)));
        let started: Arc<[Started]> = started.into();
        *self.cached.lock().unwrap_or_else(PoisonError::into_inner) = Some((read_at, started.clone()));
        Ok(started)
    }
}

impl Started {
    fn of(record: CampaignRecord, now: UnixMs) -> Option<Self> {
        let at = record.started_at.filter(|at| now.since(*at) <= ANSWERED_WITHIN)?;
        let CampaignRecord { campaign, buckets, indexed_by, .. } = record;
        Some(Self { id: campaign.id, at, lines: campaign.lines, buckets, indexed_by })
    }

    fn may_be_answered_by(&self, message: &Unattributed) -> bool {
        // Meta's times are in seconds.
        self.at.seconds() <= message.at.seconds()
            && message.at.since(self.at) <= ANSWERED_WITHIN
            && self.lines.contains(&message.line)
    }
}

/// Whether a recipient in this state has a message, or may have one.
fn was_sent(state: State) -> bool {
    match state {
        State::InFlight | State::InDoubt | State::Unknown => true,
        State::Accepted | State::Sent | State::Delivered | State::Read => true,
        State::Pending | State::Retrying | State::Failed | State::Refused => false,
        State::Skipped | State::Expired | State::Cancelled => false,
    }
}
