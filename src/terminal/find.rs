//! Finds the campaign that a command line names.

use super::arguments::CampaignName;
use crate::{
    client::{self, Client},
    domain::CampaignId,
};

/// The id of the campaign `name`. Calls the server only for an external id.
///
/// Errors: [`client::ClientError::NoCampaign`] for an external id that no campaign has.
pub(super) async fn campaign(client: &Client, name: &CampaignName) -> client::Result<CampaignId> {
    match name {
        CampaignName::Id(id) => Ok(*id),
        CampaignName::External(external_id) => client.campaign_id(external_id).await,
    }
}
