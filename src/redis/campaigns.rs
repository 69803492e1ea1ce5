//! Campaigns in Redis: their records, their lists, and their changes of state.
//!
//! A change of state is committed in the hash of the campaign first. Its parts and the work of its lines follow
//! ([`Store::follow`]). If the process dies in between, the housekeeping of any worker finds `applied` behind
//! `version` and repeats the second step, which is idempotent and fenced by the version.

use std::{collections::HashMap, time::Duration};

use deadpool_redis::redis::{Pipeline, cmd};
use serde_json::Value;
use tracing::info;

use super::{
    Call, Result, Store, StoreError, phone_index::IndexedBy, script, stored::StoredPauseReason, untold::Untold,
};
use crate::domain::{
    Campaign, CampaignId, CampaignState, LineId, OnWithheld, PartId, SendWindow, State, UnixMs,
    campaign::{CampaignRetry, PauseReason},
    template::Category,
};

/// Maximum number of rows that one call of `sweep.lua` ends: about a millisecond of Redis.
const SWEEP_ROWS: usize = 1_000;

/// Parts that are checked for open recipients in one round trip.
const PARTS_AT_ONCE: usize = 64;

/// Campaigns read in one round trip.
const READ_AT_ONCE: usize = 256;

/// Active campaigns listed in one round trip.
const LISTED_AT_ONCE: usize = 1_000;

/// The fields of a definition that can be changed after submission. A changed value is JSON in a field of the same name
/// in the hash of the campaign, because the definition is written once; `null` removes the value.
const CHANGEABLE: [&str; 7] = ["start_at", "expires_at", "priority", "rate", "send_window", "late", "requires"];

/// How long a campaign that resends withheld messages waits for statuses after the last acceptance. Meta usually
/// reports within seconds that it withheld a message.
const WITHHELD_WITHIN: Duration = Duration::from_secs(60);

/// Maximum clock skew between two processes. Campaigns whose time is up to this far ahead are listed too, so that a
/// process finds a campaign that another one, with a clock that is ahead, has just launched.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(60);

/// The stored record of a campaign.
#[derive(Clone, Debug)]
pub struct CampaignRecord {
    /// The campaign with its present values, and with the category that Meta gives its template now.
    pub campaign: Campaign,
    /// Its state.
    pub state: CampaignState,
    /// Rises with every change of its state or its values.
    pub version: u64,
    /// How often its values were changed.
    pub changes: u64,
    /// The newest version that its parts follow.
    pub applied: u64,
    /// The reason, if a worker paused it.
    pub reason: Option<PauseReason>,
    /// When it entered its state.
    pub changed_at: UnixMs,
    /// When it first ran.
    pub started_at: Option<UnixMs>,
    /// When it was completed or cancelled.
    pub ended_at: Option<UnixMs>,
    /// Its parts with their lines, by number.
    pub parts: Vec<(PartId, LineId)>,
    /// The group of the recipients of each part that has one, by the number of the part: see
    /// [`Group`](crate::rules::windows::Group).
    pub zones: HashMap<u16, String>,
    /// Recipients admitted, each with its own phone number.
    pub numbers: u64,
    /// The number of buckets of its phone index.
    pub buckets: u32,
    /// Whether its phone index has an entry for each number or for each person.
    pub indexed_by: IndexedBy,
    /// Changes when the send window is switched to the recipients' time zones, because batches that were prepared
    /// before have no groups.
    pub grouping: u64,
    /// Whether the data of its recipients were deleted at the end of their retention.
    pub forgotten: bool,
    /// Its newest retry, and the version with which the retry began.
    pub retry: Option<(CampaignRetry, u64)>,
}

impl CampaignRecord {
    /// Whether recipients of its newest retry are still to be reopened. After a restart of Redis, that waits for the
    /// end of a grace period, because other processes may have to replay that a recipient got the message.
    pub fn is_reopening(&self) -> bool {
        self.unfinished_retry().is_some()
    }

    /// The newest retry and its version, if its recipients are still to be reopened.
    pub(super) fn unfinished_retry(&self) -> Option<(&CampaignRetry, u64)> {
        let may_send = matches!(self.state, CampaignState::Running | CampaignState::Paused);
        let (retry, version) = self.retry.as_ref().filter(|(_, version)| may_send && *version > self.applied)?;
        Some((retry, *version))
    }
}

/// What a line reads about a campaign each time it reads its work.
#[derive(Clone, Debug, Default)]
pub struct CampaignWorkState {
    /// Its state; `None` if there is no such campaign.
    pub state: Option<CampaignState>,
    /// The category of its template, if that changed since the campaign was submitted.
    pub category: Option<Category>,
    /// How often its values were changed.
    pub changes: u64,
}

/// A campaign with its present values, and with the category that Meta gives its template now.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The campaign.
    pub campaign: Campaign,
    /// How often its values were changed.
    pub changes: u64,
    /// The number of its parts if their recipients may be grouped, else 0: see [`Store::groups`].
    pub grouped_parts: u64,
}

/// The result of changing the state of a campaign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateChange {
    /// The state has changed.
    Done,
    /// The campaign is in this state, which does not allow the change.
    Not(CampaignState),
    /// The campaign has no recipient.
    Empty,
    /// There is no such campaign.
    Missing,
}

impl Store {
    /// Creates a campaign, or finds the one that has its `external_id` already.
    ///
    /// Returns the id of the stored campaign, and whether this call created it.
    pub async fn create_campaign(&self, campaign: &Campaign) -> Result<(CampaignId, bool)> {
        let mut id = campaign.id;
        if let Some(external_id) = &campaign.external_id {
            let key = self.keys.external(external_id);
            // The external id first: a crash after it leaves an id without a campaign, which the caller's next
            // attempt creates.
            let before: Option<String> =
                self.query("SET external", cmd("SET").arg(&key).arg(id.to_string()).arg("NX").arg("GET")).await?;
            if let Some(before) = before {
                id = before
                    .parse()
                    .map_err(|_| StoreError::Corrupt { key, reason: format!("{before} is not a campaign") })?;
            }
        }
        let definition = Campaign { id, ..campaign.clone() };
        let json = serde_json::to_string(&definition).expect("a campaign has only strings, numbers and lists");
        let mut listing = cmd("ZADD");
        listing.arg(self.keys.campaigns()).arg("NX").arg(campaign.created_at.0).arg(id.to_string());
        self.query::<u8>("ZADD campaigns", &listing).await?;
        let call = Call::new(&script::CREATE, &[self.keys.campaign(id)]).arg(json).arg(campaign.created_at.0);
        let created: u8 = self.call_noting(call, Untold::Campaign(id)).await?;
        Ok((id, created == 1))
    }

    /// The campaign that was submitted with `external_id`.
    pub async fn campaign_by_external_id(&self, external_id: &str) -> Result<Option<CampaignId>> {
        let id: Option<String> = self.query("GET external", cmd("GET").arg(self.keys.external(external_id))).await?;
        Ok(id.and_then(|id| id.parse().ok()))
    }

    /// The record of a campaign; `None` if there is no such campaign.
    pub async fn campaign(&self, id: CampaignId) -> Result<Option<CampaignRecord>> {
        Ok(self.campaigns(&[id]).await?.pop().flatten())
    }

    /// The records of campaigns; `None` for a campaign that does not exist.
    pub async fn campaigns(&self, ids: &[CampaignId]) -> Result<Vec<Option<CampaignRecord>>> {
        let mut records = Vec::with_capacity(ids.len());
        for ids in ids.chunks(READ_AT_ONCE) {
            let mut pipeline = Pipeline::new();
            for &id in ids {
                pipeline.hgetall(self.keys.campaign(id));
            }
            let hashes: Vec<HashMap<String, String>> = self.query_all("HGETALL campaign", &pipeline).await?;
            for (&id, hash) in ids.iter().zip(hashes) {
                records.push(self.read_campaign(id, &hash)?);
            }
        }
        Ok(records)
    }

    /// Campaigns in one round trip; `None` for a campaign that does not exist. Does not read the parts, which are many
    /// in a campaign with many lines.
    pub async fn definitions(&self, ids: &[CampaignId]) -> Result<Vec<Option<Definition>>> {
        let fields: Vec<&str> = ["definition", "category", "changes", "deleted", "grouped", "parts"]
            .into_iter()
            .chain(CHANGEABLE)
            .collect();
        let mut pipeline = Pipeline::new();
        for &id in ids {
            pipeline.cmd("HMGET").arg(self.keys.campaign(id)).arg(&fields);
        }
        let values: Vec<Vec<Option<String>>> = self.query_all("HMGET definition", &pipeline).await?;
        let read = |(&id, values): (&CampaignId, Vec<Option<String>>)| {
            let hash = fields.iter().zip(values).filter_map(|(field, value)| Some(((*field).to_owned(), value?)));
            self.definition(id, &hash.collect())
        };
        ids.iter().zip(values).map(read).collect()
    }

    /// A campaign from the hash that stores it; `None` if there is no such campaign, or its deletion has begun.
    fn definition(&self, id: CampaignId, hash: &HashMap<String, String>) -> Result<Option<Definition>> {
        let Some(json) = hash.get("definition").filter(|_| !hash.contains_key("deleted")) else { return Ok(None) };
        let corrupt = |error: serde_json::Error| {
            let (key, reason) = (self.keys.campaign(id), error.to_string());
            StoreError::Corrupt { key, reason }
        };
        let mut campaign = with_changes(json, hash).map_err(corrupt)?;
        if let Some(category) = hash.get("category").and_then(|json| serde_json::from_str(json).ok()) {
            campaign.template.category = category;
        }
        let changes = changes(hash.get("changes").map(String::as_str));
        let is_grouped = is_by_recipient(&campaign) || hash.contains_key("grouped");
        let parts = hash.get("parts").filter(|_| is_grouped).and_then(|parts| parts.parse().ok());
        Ok(Some(Definition { campaign, changes, grouped_parts: parts.unwrap_or(0) }))
    }

    /// The groups of recipients in campaigns, by the number of the part, in one round trip. `parts`: how many parts of
    /// each campaign to read. A part without a group has no entry.
    pub async fn groups(&self, campaigns: &[(CampaignId, u64)]) -> Result<HashMap<CampaignId, HashMap<u16, String>>> {
        let mut pipeline = Pipeline::new();
        for (id, parts) in campaigns {
            let fields: Vec<String> = (0..*parts).map(|part| format!("zones:{part}")).collect();
            pipeline.cmd("HMGET").arg(self.keys.campaign(*id)).arg(fields);
        }
        let groups: Vec<Vec<Option<String>>> = self.query_all("HMGET zones", &pipeline).await?;
        let by_part =
            |groups: Vec<Option<String>>| (0..).zip(groups).filter_map(|(part, group)| Some((part, group?))).collect();
        Ok(campaigns.iter().map(|(id, _)| *id).zip(groups.into_iter().map(by_part)).collect())
    }

    /// Stores the category that Meta gives the template of a campaign now, and wakes every worker if the category
    /// changed.
    pub async fn set_category(&self, id: CampaignId, category: &Category) -> Result<()> {
        let json = serde_json::to_string(category).expect("a category is a string");
        let call = Call::new(&script::SET_CATEGORY, &[self.keys.campaign(id)]).arg(json);
        if self.call::<u8>(call).await? == 1 {
            info!(campaign.id = %id, %category, "the category of the template has changed");
            self.wake().await?;
        }
        Ok(())
    }

    pub(super) fn read_campaign(
        &self,
        id: CampaignId,
        hash: &HashMap<String, String>,
    ) -> Result<Option<CampaignRecord>> {
        let Some(Definition { campaign, changes, .. }) = self.definition(id, hash)? else { return Ok(None) };
        let corrupt = |reason: String| StoreError::Corrupt { key: self.keys.campaign(id), reason };
        let number = |field: &str| hash.get(field).and_then(|text| text.parse::<u64>().ok());
        let (mut parts, mut zones) = (Vec::new(), HashMap::new());
        for part in 0..number("parts").unwrap_or(0) {
            let line = hash.get(&format!("line:{part}")).ok_or_else(|| corrupt(format!("part {part} has no line")))?;
            let part = u16::try_from(part).map_err(|_| corrupt(format!("part {part} is out of range")))?;
            zones.extend(hash.get(&format!("zones:{part}")).map(|group| (part, group.clone())));
            parts.push((PartId { campaign: id, number: part }, LineId::from(line.as_str())));
        }
        let state = hash.get("state").and_then(|state| state.parse().ok());
        let reason: Option<StoredPauseReason> = hash.get("reason").and_then(|json| serde_json::from_str(json).ok());
        let created_at = campaign.created_at;
        Ok(Some(CampaignRecord {
            campaign,
            state: state.ok_or_else(|| corrupt("no state".into()))?,
            version: number("version").unwrap_or(0),
            changes,
            applied: number("applied").unwrap_or(0),
            reason: reason.map(PauseReason::from),
            changed_at: number("changed").map_or(created_at, UnixMs),
            started_at: number("started").map(UnixMs),
            ended_at: number("ended").map(UnixMs),
            parts,
            zones,
            numbers: number("numbers").unwrap_or(0),
            buckets: number("buckets").and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
            indexed_by: IndexedBy::read(hash.get("index").map(String::as_str)),
            grouping: number("grouping").unwrap_or(0),
            forgotten: hash.contains_key("forgotten"),
            retry: hash.get("retry").and_then(|json| serde_json::from_str(json).ok()).zip(number("retry_version")),
        }))
    }

    /// The states of campaigns, in one round trip; `None` for a campaign that does not exist.
    pub async fn campaign_states(&self, ids: &[CampaignId]) -> Result<Vec<Option<CampaignState>>> {
        let mut pipeline = Pipeline::new();
        for &id in ids {
            pipeline.hget(self.keys.campaign(id), "state");
        }
        let states: Vec<Option<String>> = self.query_all("HGET state", &pipeline).await?;
        Ok(states.into_iter().map(|state| state?.parse().ok()).collect())
    }

    /// When campaigns started, in one round trip; `None` for a campaign that does not run.
    pub async fn running_since(&self, ids: &[CampaignId]) -> Result<Vec<Option<UnixMs>>> {
        let mut pipeline = Pipeline::new();
        for &id in ids {
            pipeline.cmd("HMGET").arg(self.keys.campaign(id)).arg("state").arg("started");
        }
        let fields: Vec<(Option<String>, Option<u64>)> = self.query_all("HMGET state", &pipeline).await?;
        let is_running = |state: Option<String>| state.is_some_and(|state| state.parse() == Ok(CampaignState::Running));
        Ok(fields.into_iter().map(|(state, started)| started.filter(|_| is_running(state)).map(UnixMs)).collect())
    }

    /// What lines read about campaigns, in one round trip.
    pub async fn campaign_progress(&self, ids: &[CampaignId]) -> Result<Vec<CampaignWorkState>> {
        let mut pipeline = Pipeline::new();
        for &id in ids {
            pipeline.cmd("HMGET").arg(self.keys.campaign(id)).arg("state").arg("category").arg("changes");
        }
        type Fields = (Option<String>, Option<String>, Option<String>);
        let fields: Vec<Fields> = self.query_all("HMGET state", &pipeline).await?;
        let read = |(state, category, changed): Fields| CampaignWorkState {
            state: state.and_then(|state| state.parse().ok()),
            category: category.and_then(|json| serde_json::from_str(&json).ok()),
            changes: changes(changed.as_deref()),
        };
        Ok(fields.into_iter().map(read).collect())
    }

    /// Ids of at most `limit` campaigns, newest first, starting after `before`.
    pub async fn newest_campaigns(&self, before: Option<CampaignId>, limit: usize) -> Result<Vec<CampaignId>> {
        let key = self.keys.campaigns();
        let from: usize = match before {
            None => 0,
            Some(id) => {
                let rank: Option<usize> =
                    self.query("ZREVRANK campaigns", cmd("ZREVRANK").arg(&key).arg(id.to_string())).await?;
                rank.map_or(0, |rank| rank + 1)
            }
        };
        let ids: Vec<String> =
            self.query("ZREVRANGE campaigns", cmd("ZREVRANGE").arg(key).arg(from).arg(from + limit - 1)).await?;
        Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
    }

    /// The campaigns that need maintenance at `now`: those that were launched or cancelled and are not yet retired, and
    /// those whose scheduled start is at most a minute ahead. Each has the time from which it needs maintenance.
    pub async fn active_campaigns(&self, now: UnixMs) -> Result<Vec<(CampaignId, UnixMs)>> {
        let until = now.after(CLOCK_SKEW_MAX).0;
        let (mut from, mut limit) = (0, LISTED_AT_ONCE);
        let mut active = Vec::new();
        loop {
            let mut range = cmd("ZRANGE");
            range.arg(self.keys.active()).arg(from).arg(until).arg("BYSCORE").arg("LIMIT").arg(0).arg(limit);
            let mut page: Vec<(String, u64)> = self.query("ZRANGE active", range.arg("WITHSCORES")).await?;
            let last = page.last().map_or(0, |(_, since)| *since);
            let is_last_page = page.len() < limit;
            if !is_last_page {
                // The next page starts at the last time of this one, because more campaigns may have been listed in
                // that millisecond.
                page.retain(|(_, since)| *since < last);
                from = last;
                limit = if page.is_empty() { limit * 2 } else { LISTED_AT_ONCE };
            }
            active.extend(page.into_iter().filter_map(|(id, since)| Some((id.parse().ok()?, UnixMs(since)))));
            if is_last_page {
                return Ok(active);
            }
        }
    }

    /// The campaigns whose recipients may change or are stored: launched campaigns whose retention has not ended.
    pub async fn stored_campaigns(&self) -> Result<Vec<CampaignId>> {
        let mut pipeline = Pipeline::new();
        pipeline.zrange(self.keys.active(), 0, -1).zrange(self.keys.ended(), 0, -1);
        let lists: Vec<Vec<String>> = self.query_all("ZRANGE campaigns", &pipeline).await?;
        Ok(lists.iter().flatten().filter_map(|id| id.parse().ok()).collect())
    }

    /// Postpones the maintenance of active campaigns, each given with the time from [`Store::active_campaigns`] and
    /// the time at which it is due next; `None` removes it from the list. A campaign that was listed again meanwhile
    /// keeps its new time.
    pub async fn postpone_campaigns(&self, campaigns: &[(CampaignId, UnixMs, Option<UnixMs>)]) -> Result<()> {
        let calls = campaigns.iter().map(|(id, since, due)| {
            let due = due.map_or(String::new(), |due| due.0.to_string());
            Call::new(&script::POSTPONE, &[self.keys.active()]).arg(id.to_string()).arg(since.0).arg(due)
        });
        self.run_all(&calls.collect::<Vec<_>>()).await
    }

    /// Retires an ended campaign, listed with the time `since` by [`Store::active_campaigns`]. Until the retention of
    /// its recipients ends, its only maintenance is the indexing of its message ids. A campaign that was listed again
    /// meanwhile, because it runs again, stays active.
    pub async fn retire_campaign(&self, id: CampaignId, ended_at: UnixMs, since: UnixMs) -> Result<()> {
        // Added to `ended` before it is removed from `active`: a crash in between leaves it in both lists, which is
        // harmless.
        let store = self.in_this_incarnation();
        let (name, ended) = (id.to_string(), self.keys.ended());
        store.query::<u8>("ZADD ended", cmd("ZADD").arg(&ended).arg(ended_at.0).arg(&name)).await?;
        store.mark_unindexed([id]).await?;
        store.wait_durable_if_spread(&[ended, self.keys.unindexed()]).await?;
        store.postpone_campaigns(&[(id, since, None)]).await?;
        if store.query("EXISTS campaign", cmd("EXISTS").arg(self.keys.campaign(id))).await? {
            Ok(())
        } else {
            store.unlist(id).await
        }
    }

    /// At most ten campaigns that ended at `before` or earlier and whose recipients are to be deleted, each with its
    /// end time as listed.
    pub async fn ended_campaigns(&self, before: UnixMs) -> Result<Vec<(CampaignId, UnixMs)>> {
        let mut range = cmd("ZRANGEBYSCORE");
        range.arg(self.keys.ended()).arg("-inf").arg(before.0).arg("WITHSCORES").arg("LIMIT").arg(0).arg(10);
        let listed: Vec<(String, u64)> = self.query("ZRANGEBYSCORE ended", &range).await?;
        Ok(listed.into_iter().filter_map(|(id, listed)| Some((id.parse().ok()?, UnixMs(listed)))).collect())
    }

    /// Deletes the recipients of a campaign that ended at `before` or earlier. Returns false, and deletes nothing, if
    /// the campaign runs again or has ended again since it was listed. A campaign that is marked as forgotten never
    /// runs again.
    pub async fn forget_ended(&self, id: CampaignId, before: UnixMs) -> Result<bool> {
        let mark = Call::new(&script::FORGET, &[self.keys.campaign(id)]).arg(before.0);
        if self.call::<Option<u8>>(mark).await? == Some(0) {
            return Ok(false);
        }
        // No recipient may be deleted while Redis can still lose the mark.
        self.wait_durable_if_spread(&[self.keys.campaign(id)]).await?;
        self.forget_recipients(id).await?;
        Ok(true)
    }

    /// Deletes the phone numbers, values and message ids of the recipients of a campaign. The statistics stay, as
    /// does the state byte of each recipient, from which they can be recounted.
    pub async fn forget_recipients(&self, id: CampaignId) -> Result<()> {
        if let Some(record) = self.campaign(id).await? {
            // Marked before the recipients are deleted, so that a reader who finds no recipients finds the reason.
            let mark = cmd("HSET").arg(self.keys.campaign(id)).arg("forgotten").arg(1).clone();
            self.query::<u8>("HSET forgotten", &mark).await?;
            let mut pipeline = Pipeline::new();
            for &(part, _) in &record.parts {
                let keys = &self.keys;
                // The part is marked before the deletion too: from then on, a late status stores no code, history or
                // message id.
                pipeline.hset(keys.part(part), "forgotten", 1);
                // The counter is deleted first: without it, no script uses the bits.
                pipeline.hdel(keys.part(part), "held");
                let dropped = [keys.chunks(part), keys.ids(part), keys.wamids(part), keys.history(part)];
                let of_rows = [keys.error_codes(part), keys.tries(part), keys.held(part), keys.withheld(part)];
                for key in dropped.into_iter().chain(of_rows).chain([keys.before(part)]) {
                    pipeline.unlink(key);
                }
            }
            self.query_all::<u8>("UNLINK recipients", &pipeline).await?;
            self.drop_numbers(id, record.buckets).await?;
            // A concurrent deletion of the campaign may have missed the marks.
            if !self.query("EXISTS campaign", cmd("EXISTS").arg(self.keys.campaign(id))).await? {
                self.drop_work(&record.parts).await?;
            }
        }
        Ok(())
    }

    /// Removes a campaign from the list of ended campaigns, unless it was listed again since its entry `listed` was
    /// read.
    pub async fn unlist_ended(&self, id: CampaignId, listed: UnixMs) -> Result<()> {
        let call = Call::new(&script::POSTPONE, &[self.keys.ended()]).arg(id.to_string()).arg(listed.0).arg("");
        self.call::<u8>(call).await.map(drop)
    }

    /// Changes the state of a campaign, and returns when its parts follow: once a pause has returned, no row is
    /// claimed. A draft or scheduled campaign is listed as active before the change, so that it is maintained even if
    /// this process dies.
    ///
    /// Errors: after `OutcomeUnknown` the state may have changed without its parts; the housekeeping makes them follow.
    pub async fn change_campaign(
        &self,
        id: CampaignId,
        from: &[CampaignState],
        to: CampaignState,
        now: UnixMs,
        reason: Option<&PauseReason>,
    ) -> Result<StateChange> {
        let reason = reason.map_or(String::new(), |reason| {
            serde_json::to_string(&StoredPauseReason::from(reason)).expect("a reason has only a number and a string")
        });
        let mut store = self.clone();
        if from.iter().any(|state| matches!(state, CampaignState::Draft | CampaignState::Scheduled)) {
            // Fails if the incarnation changes, so that no campaign is launched after Redis lost its entry in the list.
            store = self.in_this_incarnation();
            store.list_active(id, now).await?;
        }
        let from: Vec<&str> = from.iter().map(|state| state.name()).collect();
        loop {
            let call = Call::new(&script::CHANGE, &[self.keys.campaign(id), self.keys.outbox(id)])
                .arg(from.join(" "))
                .arg(to.name())
                .arg(now.0)
                .arg(&reason);
            let (answer, detail): (u8, String) = store.call(call).await?;
            match answer {
                1 => break,
                2 => drop(store.drain_outbox(id).await?),
                3 => return Ok(StateChange::Empty),
                _ => return Ok(detail.parse().map_or(StateChange::Missing, StateChange::Not)),
            }
        }
        store.follow(id, now).await?;
        Ok(StateChange::Done)
    }

    /// Stores the values of `changed` that differ from those in `record`, and returns when the parts of the campaign
    /// follow. Returns false, and stores nothing, if the campaign has changed since `record` was read, was deleted, or
    /// got recipients that would have to be grouped.
    ///
    /// Errors: as for [`Store::change_campaign`].
    pub async fn amend_campaign(&self, record: &CampaignRecord, changed: &Campaign, now: UnixMs) -> Result<bool> {
        let id = record.campaign.id;
        // Fails if the incarnation changes, so that no start is moved to an earlier time after Redis lost the
        // campaign's entry in the list.
        let store = self.in_this_incarnation();
        let is_scheduled = record.state == CampaignState::Scheduled;
        if is_scheduled {
            store.list_active(id, now).await?;
        }
        let mut call = Call::new(&script::AMEND, &[self.keys.campaign(id)]).arg(record.version);
        // No recipient may be without a group: the campaign must have as many recipients as were read, and the new
        // `grouping` rejects batches that were prepared without groups.
        call = if is_by_recipient(changed) && !is_by_recipient(&record.campaign) {
            call.arg(record.numbers).arg("grouping").arg(record.version + 1)
        } else {
            call.arg("")
        };
        for (field, value) in changed_values(&record.campaign, changed) {
            call = call.arg(field).arg(value);
        }
        if store.call::<u8>(call).await? == 0 {
            return Ok(false);
        }
        if is_scheduled {
            // Housekeeping may have read the old start meanwhile, and postponed the campaign to it.
            store.list_active(id, now).await?;
        }
        store.follow(id, now).await?;
        Ok(true)
    }

    /// Lists a campaign as active, so that it is maintained even if this process dies.
    pub(super) async fn list_active(&self, id: CampaignId, now: UnixMs) -> Result<()> {
        let active = self.keys.active();
        self.query::<u8>("ZADD active", cmd("ZADD").arg(&active).arg(now.0).arg(id.to_string())).await?;
        self.wait_durable_if_spread(&[active]).await
    }

    /// Makes the parts of a campaign and the work of its lines follow its state. Idempotent.
    pub async fn follow(&self, id: CampaignId, now: UnixMs) -> Result<()> {
        // Fails if the incarnation changes: otherwise `applied` could cover changes of parts that Redis lost.
        self.in_this_incarnation().follow_now(id, now).await
    }

    async fn follow_now(&self, id: CampaignId, now: UnixMs) -> Result<()> {
        let Some(record) = self.campaign(id).await? else { return Ok(()) };
        self.note_changed([Untold::Campaign(id)]).await?;
        // Parts must not follow a version that Redis could lose and then assign to another change.
        self.wait_durable_if_spread(&[self.keys.campaign(id)]).await?;
        let gate = match record.state {
            CampaignState::Running => "open",
            CampaignState::Completed => "completed",
            CampaignState::Cancelled => "cancelled",
            CampaignState::Draft | CampaignState::Scheduled | CampaignState::Paused => "held",
        };
        if let Some((retry, version)) = record.unfinished_retry() {
            self.reopen(&record, retry, version, now).await?;
        }
        let open = self.set_gates(&record, record.version, gate).await?;
        if record.state == CampaignState::Running {
            let mut work = Pipeline::new();
            for (part, line) in &record.parts {
                work.sadd(self.keys.work(line), part.to_string());
            }
            self.query_all::<u64>("SADD work", &work).await?;
        }
        if record.state == CampaignState::Completed {
            // Rows that were reopened after the campaign was found done and before the gate closed.
            for ((part, _), _) in record.parts.iter().zip(&open).filter(|(_, open)| **open > 0) {
                self.sweep(*part, State::Failed, now).await?;
            }
        } else {
            // A completed campaign has no work, so its lines are not woken: a thousand completions would wake all lines
            // for nothing.
            self.wake().await?;
        }
        if record.state == CampaignState::Cancelled {
            for &(part, _) in &record.parts {
                self.sweep(part, State::Cancelled, now).await?;
            }
            // The owners of the lines then find that the parts have no open rows, and remove them from the work.
            self.wake().await?;
        }
        let followed = record.parts.iter().flat_map(|(part, line)| [self.keys.part(*part), self.keys.work(line)]);
        self.wait_durable_if_spread(&followed.collect::<Vec<_>>()).await?;
        let call = Call::new(&script::APPLIED, &[self.keys.campaign(id)]).arg(record.version);
        match self.call::<Option<u8>>(call).await? {
            Some(_) => Ok(()),
            None => self.drop_work(&record.parts).await,
        }
    }

    /// Sets the gates of all parts of a campaign, unless a part follows this or a newer version already. Returns the
    /// number of open recipients of each.
    pub(super) async fn set_gates(
        &self,
        record: &CampaignRecord,
        version: u64,
        gate: &'static str,
    ) -> Result<Vec<u64>> {
        let expires = record.campaign.expires_at.map_or(String::new(), |at| at.0.to_string());
        let gates = record.parts.iter().map(|&(part, _)| {
            let keys = [self.keys.part(part), self.keys.states(part)];
            Call::new(&script::GATE, &keys).arg(version).arg(gate).arg(&expires)
        });
        self.call_all::<u64>(&gates.collect::<Vec<_>>()).await?.into_iter().collect()
    }

    /// Ends the unsent rows of a part, in state `to`: cancelled, expired, or failed if the campaign is completed.
    /// Returns the number of open recipients.
    pub async fn sweep(&self, part: PartId, to: State, now: UnixMs) -> Result<u64> {
        let keys = [
            self.keys.part(part),
            self.keys.states(part),
            self.keys.history(part),
            self.keys.sends(part),
            self.keys.retry(part),
            self.keys.error_codes(part),
            self.keys.before(part),
        ];
        loop {
            let call = Call::new(&script::SWEEP, &keys).arg(now.0).arg(SWEEP_ROWS).arg(to.code());
            let (more, open): (u8, u64) = self.call_noting(call, Untold::Part(part)).await?;
            if more == 0 {
                return Ok(open);
            }
        }
    }

    /// Completes a campaign if it has no open recipient, and Meta keeps none of its messages back. Returns whether it
    /// did.
    ///
    /// Every shard (a dispatch thread) that finishes its parts calls this, often while parts of another shard are open.
    /// The parts are therefore read a few at a time, and only up to the first with open recipients.
    pub async fn complete_if_done(&self, id: CampaignId, now: UnixMs) -> Result<bool> {
        let fields = cmd("HMGET").arg(self.keys.campaign(id)).arg("state").arg("parts").clone();
        let (state, parts): (Option<String>, Option<usize>) = self.query("HMGET campaign", &fields).await?;
        let from = [CampaignState::Running, CampaignState::Paused];
        if !state.and_then(|state| state.parse().ok()).is_some_and(|state| from.contains(&state)) {
            return Ok(false);
        }
        let numbers = (0..=u16::MAX).take(parts.unwrap_or(0));
        let parts: Vec<PartId> = numbers.map(|number| PartId { campaign: id, number }).collect();
        for batch in parts.rchunks(PARTS_AT_ONCE) {
            if self.has_unfinished(batch, now).await? {
                return Ok(false);
            }
        }
        if self.may_be_withheld(id, &parts, now).await? {
            return Ok(false);
        }
        let done = self.change_campaign(id, &from, CampaignState::Completed, now, None).await? == StateChange::Done;
        if done {
            info!(campaign.id = %id, "campaign completed");
        }
        Ok(done)
    }

    /// Whether a campaign resends withheld messages and Meta accepted one of its messages so recently that Meta may
    /// still report it as withheld. If so, the campaign must not be completed yet, because a completed campaign resends
    /// nothing.
    async fn may_be_withheld(&self, id: CampaignId, parts: &[PartId], now: UnixMs) -> Result<bool> {
        let campaign = self.definitions(&[id]).await?.pop().flatten();
        if campaign.is_none_or(|read| read.campaign.on_withheld == OnWithheld::Fail) {
            return Ok(false);
        }
        for batch in parts.rchunks(PARTS_AT_ONCE) {
            if self.last_acceptance(batch).await?.is_some_and(|at| now.since(at) < WITHHELD_WITHIN) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn is_by_recipient(campaign: &Campaign) -> bool {
    campaign.send_window.as_ref().is_some_and(SendWindow::is_by_recipient)
}

/// The number of changes in the field `changes`, which a campaign that was never changed does not have.
fn changes(field: Option<&str>) -> u64 {
    field.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// A campaign from its definition, with the values of `hash` that were changed since.
fn with_changes(definition: &str, hash: &HashMap<String, String>) -> serde_json::Result<Campaign> {
    let changed: Vec<(&str, &String)> =
        CHANGEABLE.iter().filter_map(|field| Some((*field, hash.get(*field)?))).collect();
    if changed.is_empty() {
        return serde_json::from_str(definition);
    }
    let mut values: serde_json::Map<String, Value> = serde_json::from_str(definition)?;
    for (field, json) in changed {
        match serde_json::from_str(json)? {
            Value::Null => values.remove(field),
            value => values.insert(field.to_owned(), value),
        };
    }
    serde_json::from_value(Value::Object(values))
}

/// The values in which `after` differs from `before`, as JSON.
fn changed_values(before: &Campaign, after: &Campaign) -> Vec<(&'static str, String)> {
    let json = |campaign| serde_json::to_value(campaign).expect("a campaign has only strings, numbers and lists");
    let (before, after) = (json(before), json(after));
    let differing = CHANGEABLE.into_iter().filter(|field| before.get(field) != after.get(field));
    differing.map(|field| (field, after.get(field).unwrap_or(&Value::Null).to_string())).collect()
}
