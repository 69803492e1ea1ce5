//! Counts the rows that the uploads of a campaign rejected, by reason.

use std::collections::BTreeMap;

use crate::{
    api_types::{PreflightRejects, Rejection},
    redis::{Result, Store, campaigns::CampaignRecord, uploads::RejectedRows},
};

/// Counts the rejected rows of the uploads whose records are still kept.
pub async fn count(store: &Store, record: &CampaignRecord) -> Result<PreflightRejects> {
    let RejectedRows { count, uploads, rejections, is_complete } = store.rejected_rows(record.campaign.id).await?;
    // Recipients without a record of an upload: the records have expired.
    let is_complete = is_complete && (uploads > 0 || record.numbers == 0);
    let mut by_reason: BTreeMap<String, u64> = BTreeMap::new();
    for Rejection { code, .. } in rejections.iter().filter_map(|json| serde_json::from_str(json).ok()) {
        *by_reason.entry(code).or_default() += 1;
    }
    Ok(PreflightRejects { count, by_reason, complete: is_complete })
}
