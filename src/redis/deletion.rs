//! Deletes a campaign that never started, with all its keys.
//!
//! The keys of its parts and its index go first, then its external id, then its own hash. If the process dies before
//! the hash is deleted, the campaign is still cancelled and can be deleted again. If it dies later, repeating the
//! deletion removes the id from the lists.
//!
//! A concurrent upload or the housekeeping may write to the parts and so create their keys again. Each of them
//! therefore checks after a write that the campaign exists, and otherwise deletes what it wrote. The deletion in turn
//! deletes the parts a second time after the campaign's hash is gone. Whichever comes last leaves no key.

use deadpool_redis::redis::Pipeline;

use super::{Call, Result, Store, campaigns::CampaignRecord, script};
use crate::domain::{CampaignId, PartId};

/// Maximum number of keys in one command.
const KEYS_AT_ONCE: usize = 1_000;

/// The result of `delete.lua`: number of parts, buckets of the index, ids of uploads.
type Deleted = (u32, u32, Vec<String>);

impl Store {
    /// Deletes a campaign that is cancelled and never started.
    ///
    /// Errors: after `OutcomeUnknown` some of it may be left. Delete it again, or call [`Store::unlist`] if the
    /// campaign is gone.
    pub async fn delete_campaign(&self, record: &CampaignRecord) -> Result<()> {
        let (store, id) = (self.in_this_incarnation(), record.campaign.id);
        let parts = record.parts.iter().map(|(part, _)| *part);
        store.drop_parts(parts.clone()).await?;
        store.drop_numbers(id, record.buckets).await?;
        // Before the hash is deleted: a deletion that a server forgets can be repeated only while the campaign exists.
        let dropped: Vec<String> = parts.map(|part| self.keys.part(part)).collect();
        store.wait_durable_if_spread(&dropped).await?;
        if let Some(external_id) = &record.campaign.external_id {
            let free = Call::new(&script::FREE_NAME, &[self.keys.external(external_id)]).arg(id.to_string());
            store.call::<u8>(free).await?;
        }
        let keys = [self.keys.campaign(id), self.keys.outbox(id), self.keys.uploads(id)];
        if let Some((parts, buckets, uploads)) =
            store.call::<Option<Deleted>>(Call::new(&script::DELETE, &keys)).await?
        {
            let numbers = (0..=u16::MAX).take(parts as usize);
            store.drop_parts(numbers.map(|number| PartId { campaign: id, number })).await?;
            store.drop_numbers(id, buckets).await?;
            let records =
                uploads.iter().flat_map(|upload| [self.keys.upload(id, upload), self.keys.rejections(id, upload)]);
            store.drop_of_campaign(&records.collect::<Vec<_>>()).await?;
        }
        store.unlist(id).await
    }

    /// Removes a deleted campaign from all lists.
    pub async fn unlist(&self, id: CampaignId) -> Result<()> {
        let mut pipeline = Pipeline::new();
        for list in [self.keys.active(), self.keys.ended(), self.keys.unindexed(), self.keys.campaigns()] {
            pipeline.zrem(list, id.to_string());
        }
        self.query_all::<u64>("ZREM campaign", &pipeline).await.map(drop)
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
