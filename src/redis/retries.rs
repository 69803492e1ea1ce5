//! Retries of completed campaigns: sends again to recipients that did not get the message.
//!
//! A retry is committed in the hash of the campaign, which is running from then on. Its parts follow in three steps
//! ([`Store::follow`]): their gates are held, the recipients reopen, and once that is durable the gates open. The first
//! two steps use the version just below that of the retry, so the version of a part's gate shows how far the part has
//! come. If the process dies in between, housekeeping continues, and no recipient reopens twice. The campaign cannot be
//! completed before all of them have reopened.

use deadpool_redis::redis::Pipeline;

use super::{
    Call, Result, Store, campaigns::CampaignRecord, parts::PartCounts, script, stored::number_of, untold::Untold,
};
use crate::domain::{
    CampaignId, CampaignState, FailureReason, PartId, State, UnixMs,
    campaign::{CampaignRetry, RetriedState},
};

/// Maximum number of recipients that one call of a script looks at: about a millisecond of Redis.
const LOOKED_AT_ONCE: usize = 1_000;

/// The result of a request to send again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetryChange {
    /// The campaign runs again.
    Done,
    /// The campaign is in this state, which is not completed.
    Not(CampaignState),
    /// The data of its recipients are deleted.
    Forgotten,
    /// There is no such campaign.
    Missing,
}

impl CampaignRetry {
    /// The states of the rows to reopen. The API shows `refused` as failed.
    fn rows(&self) -> impl Iterator<Item = State> {
        let states = |state: &RetriedState| match state {
            RetriedState::Failed => &[State::Failed, State::Refused][..],
            RetriedState::Unknown => &[State::Unknown],
        };
        self.states.iter().flat_map(states).copied()
    }

    /// Adds the states and the error codes of the rows to reopen to a call.
    fn add_to(&self, call: Call) -> Call {
        let states: Vec<u8> = self.rows().map(State::code).collect();
        let codes = self.codes.iter().map(|code| number_of(FailureReason::Meta(*code)));
        codes.fold(call.arg(states), Call::arg)
    }

    /// Whether a part with `counts` may have recipients to reopen.
    fn may_match(&self, counts: &PartCounts) -> bool {
        let failed_with = |code| counts.failures.contains_key(&FailureReason::Meta(code));
        self.rows().filter(|state| counts.by_state.get(state).is_some_and(|n| *n > 0)).any(|state| {
            // The codes of unknown recipients are not counted.
            self.codes.is_empty() || state == State::Unknown || self.codes.iter().copied().any(failed_with)
        })
    }
}

impl Store {
    /// Whether a campaign has recipients that `retry` would send to again.
    pub async fn has_retriable(&self, record: &CampaignRecord, retry: &CampaignRetry) -> Result<bool> {
        let parts: Vec<PartId> = record.parts.iter().map(|(part, _)| *part).collect();
        for (part, counts) in parts.iter().zip(self.part_counts(&parts).await?) {
            // The counters include erased recipients.
            if retry.may_match(&counts) && self.part_has_retriable(*part, retry).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn part_has_retriable(&self, part: PartId, retry: &CampaignRetry) -> Result<bool> {
        let keys = [self.keys.part(part), self.keys.states(part), self.keys.error_codes(part)];
        let mut first = 0;
        loop {
            let call = Call::new(&script::FIND_RETRIABLE, &keys).arg(first).arg(LOOKED_AT_ONCE);
            let (found, next): (u8, i64) = self.call(retry.add_to(call)).await?;
            if found == 1 || next < 0 {
                return Ok(found == 1);
            }
            first = next;
        }
    }

    /// Sets a completed campaign running again and reopens recipients of it. Returns when its parts follow.
    ///
    /// Errors: after `OutcomeUnknown` the campaign may run again without its parts; the housekeeping makes them follow.
    pub async fn retry_campaign(&self, id: CampaignId, retry: &CampaignRetry, now: UnixMs) -> Result<RetryChange> {
        let json = serde_json::to_string(retry).expect("a retry has only strings, numbers and lists");
        // Fails if the incarnation changes, so that no campaign runs again after Redis lost its entry in the list.
        let store = self.in_this_incarnation();
        store.list_active(id, now).await?;
        let call = Call::new(&script::RETRY, &[self.keys.campaign(id)]).arg(now.0).arg(json);
        let (answer, detail): (u8, String) = store.call(call).await?;
        match answer {
            0 => return Ok(detail.parse().map_or(RetryChange::Missing, RetryChange::Not)),
            2 => return Ok(RetryChange::Forgotten),
            _ => store.follow(id, now).await?,
        }
        Ok(RetryChange::Done)
    }

    /// How many recipients the newest retry of a campaign has reopened; 0 without a retry.
    pub async fn reopened(&self, record: &CampaignRecord) -> Result<u64> {
        let Some((_, version)) = &record.retry else { return Ok(0) };
        let mut pipeline = Pipeline::new();
        for (part, _) in &record.parts {
            pipeline.hget(self.keys.part(*part), "reopened");
        }
        let progress: Vec<Option<String>> = self.query_all("HGET reopened", &pipeline).await?;
        let held_at = held_version(*version).to_string();
        let of_retry = |progress: String| {
            let mut fields = progress.split(' ');
            (fields.next() == Some(&held_at)).then(|| fields.nth(1)?.parse::<u64>().ok()).flatten()
        };
        Ok(progress.into_iter().flatten().filter_map(of_retry).sum())
    }

    /// Reopens the recipients of `retry`, whose version is `version`, while the gates of their parts are held. Returns
    /// when that is durable. Otherwise a Redis that lost the reopening would treat the outcome of a later claim as news
    /// of a recipient that has ended.
    pub(super) async fn reopen(
        &self,
        record: &CampaignRecord,
        retry: &CampaignRetry,
        version: u64,
        now: UnixMs,
    ) -> Result<()> {
        self.set_gates(record, held_version(version), "held").await?;
        for &(part, _) in &record.parts {
            self.reopen_part(part, retry, held_version(version), now).await?;
        }
        self.make_durable().await
    }

    /// Reopens the recipients of a part whose gate is held with `version`.
    async fn reopen_part(&self, part: PartId, retry: &CampaignRetry, version: u64, now: UnixMs) -> Result<()> {
        while self.reopen_some(part, retry, version, now, LOOKED_AT_ONCE).await?.0 {}
        Ok(())
    }

    /// Checks up to `limit` recipients of a part and reopens those of `retry`. Returns whether there are more to check,
    /// and how many this retry has reopened in the part so far.
    pub async fn reopen_some(
        &self,
        part: PartId,
        retry: &CampaignRetry,
        version: u64,
        now: UnixMs,
        limit: usize,
    ) -> Result<(bool, u64)> {
        let keys = &self.keys;
        let keys = [
            keys.part(part),
            keys.states(part),
            keys.history(part),
            keys.sends(part),
            keys.retry(part),
            keys.error_codes(part),
            keys.tries(part),
        ];
        let call = retry.add_to(Call::new(&script::REOPEN, &keys).arg(version).arg(now.0).arg(limit));
        let (more, reopened): (u8, u64) = self.call_noting(call, Untold::Part(part)).await?;
        Ok((more == 1, reopened))
    }
}

/// The version with which the gates of a retry's parts are held while their recipients reopen. `retry.lua` skips this
/// version, so no other change has it.
fn held_version(retry_version: u64) -> u64 {
    retry_version - 1
}
