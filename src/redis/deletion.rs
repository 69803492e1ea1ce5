//! The deletion of a campaign that never sent anything: nothing of it is left in Redis.
//!
//! What the campaign has in other slots goes first, then its name, then its own hash. If the process dies before that, the
//! campaign is cancelled and can be deleted again; if it dies after it, repeating the deletion takes the id off the lists.
//!
//! An upload or the housekeeping may be writing to the parts meanwhile, and would create their keys anew. So each of them looks
//! for the campaign after it wrote, and drops what it wrote if there is none; and the deletion drops the parts a second time
//! when the campaign is gone. Whichever comes last leaves nothing.

use deadpool_redis::redis::Pipeline;

use super::{Call, Result, Store, campaigns::CampaignRecord, script};
use crate::domain::{CampaignId, PartId};

/// Keys that one command drops at most.
const KEYS_AT_ONCE: usize = 1_000;

/// Parts, buckets, ids of uploads: what `delete.lua` gives.
type Had = (u32, u32, Vec<String>);

impl Store {
    /// Deletes a campaign that is cancelled and never started.
    ///
    /// Errors: `OutcomeUnknown` may leave a part of it: delete it again, or [`Store::unlist`] it where there is no campaign any more.
    pub async fn delete_campaign(&self, record: &CampaignRecord) -> Result<()> {
        let (store, id) = (self.in_this_incarnation(), record.campaign.id);
        let parts = record.parts.iter().map(|(part, _)| *part);
        store.drop_parts(parts.clone()).await?;
        store.drop_numbers(id, record.buckets).await?;
        // While the campaign is there, a deletion whose end a server forgets can be repeated.
        let dropped: Vec<String> = parts.map(|part| self.keys.part(part)).collect();
        store.wait_durable_if_spread(&dropped).await?;
        if let Some(external_id) = &record.campaign.external_id {
            let free = Call::new(&script::FREE_NAME, &[self.keys.external(external_id)]).arg(id.to_string());
            store.call::<u8>(free).await?;
        }
        let keys = [self.keys.campaign(id), self.keys.outbox(id), self.keys.uploads(id)];
        if let Some((parts, buckets, uploads)) = store.call::<Option<Had>>(Call::new(&script::DELETE, &keys)).await? {
            let numbers = (0..=u16::MAX).take(parts as usize);
            store.drop_parts(numbers.map(|number| PartId { campaign: id, number })).await?;
            store.drop_numbers(id, buckets).await?;
            let records =
                uploads.iter().flat_map(|upload| [self.keys.upload(id, upload), self.keys.rejections(id, upload)]);
            store.drop_of_campaign(&records.collect::<Vec<_>>()).await?;
        }
        store.unlist(id).await
    }

    /// Takes a campaign that is gone off every list.
    pub async fn unlist(&self, id: CampaignId) -> Result<()> {
        let mut pipeline = Pipeline::new();
        for list in [self.keys.active(), self.keys.ended(), self.keys.unindexed(), self.keys.campaigns()] {
            pipeline.zrem(list, id.to_string());
        }
        self.query_all::<u64>("ZREM campaign", &pipeline).await.map(drop)
    }

    /// Drops everything that parts have.
    pub(super) async fn drop_parts(&self, parts: impl IntoIterator<Item = PartId>) -> Result<()> {
        let mut pipeline = Pipeline::new();
        for part in parts {
            pipeline.unlink(&self.keys.all_of(part));
        }
        self.query_all::<u64>("UNLINK parts", &pipeline).await.map(drop)
    }

    /// Drops the index of numbers of a campaign.
    pub(super) async fn drop_numbers(&self, id: CampaignId, buckets: u32) -> Result<()> {
        let numbers: Vec<String> = (0..buckets).map(|bucket| self.keys.numbers(id, bucket)).collect();
        self.drop_of_campaign(&numbers).await
    }

    /// Drops keys of one campaign's slot.
    async fn drop_of_campaign(&self, keys: &[String]) -> Result<()> {
        let mut pipeline = Pipeline::new();
        for keys in keys.chunks(KEYS_AT_ONCE) {
            pipeline.unlink(keys);
        }
        self.query_all::<u64>("UNLINK campaign", &pipeline).await.map(drop)
    }
}
