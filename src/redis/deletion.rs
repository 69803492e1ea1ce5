//! Deletes a draft or an ended campaign, with all its keys.
//!
//! A mark in its hash begins the deletion: from then on the campaign counts as one that does not exist. Its external id
//! and the keys of its parts and its index go next, then its hash, then its entries in the lists. If the process dies
//! before the hash is deleted, the campaign is still listed as active, and housekeeping finishes the deletion; so does
//! a repetition of the call. If it dies later, both remove the id from the lists.
//!
//! A concurrent upload or the housekeeping may write to the parts and so create their keys again. Each of them
//! therefore checks after a write that the campaign exists, and otherwise deletes what it wrote. The deletion in turn
//! deletes the parts a second time after the campaign's hash is gone. Whichever comes last leaves no key. The scripts
//! that claim and settle write nothing to a part that does not exist.
//!
//! The shared index of message ids of each line keeps the fingerprints until `id_retention`. They lead to no recipient.

use std::collections::HashMap;

use deadpool_redis::redis::{Pipeline, cmd};

use super::{Call, Result, Store, campaigns::CampaignRecord, script};
use crate::domain::{CampaignId, LineId, PartId, UnixMs};

/// Maximum number of keys in one command.
const KEYS_AT_ONCE: usize = 1_000;

/// The result of `delete.lua`: number of parts, buckets of the index, ids of uploads.
type Deleted = (u32, u32, Vec<String>);

/// Whether a deletion has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeletionStart {
    /// The deletion has begun. To all other operations the campaign no longer exists.
    Begun,
    /// The campaign has not ended, and nothing was changed. Its state, as text.
    NotEnded(String),
    /// There is no such campaign.
    Missing,
}

impl Store {
    /// Begins the deletion of an ended campaign. [`Store::finish_deletion`] does the rest.
    ///
    /// Errors: after `OutcomeUnknown` the deletion may have begun; then housekeeping finishes it.
    pub async fn begin_deletion(&self, id: CampaignId, now: UnixMs) -> Result<DeletionStart> {
        // Fails if the incarnation changes, so that no deletion begins after Redis lost the campaign's entry in the
        // list.
        let store = self.in_this_incarnation();
        store.list_active(id, now).await?;
        let key = self.keys.campaign(id);
        let begun =
            store.call::<Option<String>>(Call::new(&script::BEGIN_DELETION, std::slice::from_ref(&key))).await?;
        // Nothing is deleted while Redis can still lose the mark of the deletion.
        store.wait_durable_if_spread(&[key]).await?;
        Ok(match begun {
            None => DeletionStart::Missing,
            Some(state) if state.is_empty() => DeletionStart::Begun,
            Some(state) => DeletionStart::NotEnded(state),
        })
    }

    /// Deletes what is left of a campaign whose deletion has begun. Returns whether there was such a campaign.
    ///
    /// Errors: after `OutcomeUnknown` some of it may be left, until housekeeping or a repetition deletes the rest.
    pub async fn finish_deletion(&self, id: CampaignId) -> Result<bool> {
        let store = self.in_this_incarnation();
        let Some(record) = store.campaign_in_deletion(id).await? else { return Ok(false) };
        if let Some(external_id) = &record.campaign.external_id {
            let free = Call::new(&script::FREE_NAME, &[self.keys.external(external_id)]).arg(id.to_string());
            store.call::<u8>(free).await?;
        }
        store.drop_work(&record.parts).await?;
        store.drop_numbers(id, record.buckets).await?;
        // Durable before the hash is deleted: if a server loses a deletion, it can be repeated only while the campaign
        // exists.
        let dropped = record.parts.iter().flat_map(|(part, line)| [self.keys.part(*part), self.keys.work(line)]);
        store.wait_durable_if_spread(&dropped.collect::<Vec<_>>()).await?;
        store.delete_record(id, &record).await?;
        store.unlist(id).await?;
        // The runners of its lines drop its parts.
        store.wake().await?;
        Ok(true)
    }

    /// The record of a campaign whose deletion has begun; `None` if there is no such campaign.
    async fn campaign_in_deletion(&self, id: CampaignId) -> Result<Option<CampaignRecord>> {
        let read = cmd("HGETALL").arg(self.keys.campaign(id)).clone();
        let mut hash: HashMap<String, String> = self.query("HGETALL campaign", &read).await?;
        match hash.remove("deleted") {
            Some(_) => self.read_campaign(id, &hash),
            None => Ok(None),
        }
    }

    /// Deletes the hash of a campaign, the records of its uploads, and what was written to its parts since `record` was
    /// read.
    async fn delete_record(&self, id: CampaignId, record: &CampaignRecord) -> Result<()> {
        let keys = [self.keys.campaign(id), self.keys.outbox(id), self.keys.uploads(id)];
        let deleted = self.call::<Option<Deleted>>(Call::new(&script::DELETE, &keys)).await?;
        let Some((parts, buckets, uploads)) = deleted else { return Ok(()) };
        self.drop_work(&record.parts).await?;
        let numbers = (0..=u16::MAX).take(parts as usize);
        self.drop_parts(numbers.map(|number| PartId { campaign: id, number })).await?;
        self.drop_numbers(id, buckets).await?;
        let records =
            uploads.iter().flat_map(|upload| [self.keys.upload(id, upload), self.keys.rejections(id, upload)]);
        self.drop_of_campaign(&records.collect::<Vec<_>>()).await
    }

    /// Removes a deleted campaign from all lists.
    pub async fn unlist(&self, id: CampaignId) -> Result<()> {
        let mut pipeline = Pipeline::new();
        for list in [self.keys.active(), self.keys.ended(), self.keys.unindexed(), self.keys.campaigns()] {
            pipeline.zrem(list, id.to_string());
        }
        self.query_all::<u64>("ZREM campaign", &pipeline).await.map(drop)
    }

    /// Deletes all keys of parts, and removes the parts from the work of their lines.
    pub(super) async fn drop_work(&self, parts: &[(PartId, LineId)]) -> Result<()> {
        self.drop_parts(parts.iter().map(|(part, _)| *part)).await?;
        let mut work = Pipeline::new();
        for (part, line) in parts {
            work.srem(self.keys.work(line), part.to_string());
        }
        self.query_all::<u64>("SREM work", &work).await.map(drop)
    }

    /// Deletes all keys of parts.
    pub(super) async fn drop_parts(&self, parts: impl IntoIterator<Item = PartId>) -> Result<()> {
        let mut pipeline = Pipeline::new();
        for part in parts {
            pipeline.unlink(&self.keys.all_of(part));
        }
        self.query_all::<u64>("UNLINK parts", &pipeline).await.map(drop)
    }

    /// Deletes the phone index of a campaign.
    pub(super) async fn drop_numbers(&self, id: CampaignId, buckets: u32) -> Result<()> {
        let numbers: Vec<String> = (0..buckets).map(|bucket| self.keys.phone_bucket(id, bucket)).collect();
        self.drop_of_campaign(&numbers).await
    }

    /// Deletes keys in the slot of one campaign.
    async fn drop_of_campaign(&self, keys: &[String]) -> Result<()> {
        let mut pipeline = Pipeline::new();
        for keys in keys.chunks(KEYS_AT_ONCE) {
            pipeline.unlink(keys);
        }
        self.query_all::<u64>("UNLINK campaign", &pipeline).await.map(drop)
    }
}
