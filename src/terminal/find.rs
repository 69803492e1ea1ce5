//! Finds the campaign or agent that a command line names.

use super::{
    arguments::{AgentName, CampaignName},
    pages::all_pages,
};
use crate::{
    client::{self, Client},
    domain::{AgentId, CampaignId},
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

/// The id of the agent `name`. Calls the server only for an email address.
///
/// Errors: [`client::ClientError::NoAgent`] for an address that no agent has.
pub(super) async fn agent(client: &Client, name: &AgentName) -> client::Result<AgentId> {
    let email = match name {
        AgentName::Id(id) => return Ok(*id),
        AgentName::Email(email) => email,
    };
    let agents = all_pages(async |cursor| client.agents(false, cursor.as_deref()).await).await?;
    let has_email = |given: &str| given.eq_ignore_ascii_case(email);
    let agent = agents.iter().find(|agent| agent.email.as_deref().is_some_and(has_email));
    agent.map(|agent| agent.id).ok_or_else(|| client::ClientError::NoAgent(email.clone()))
}
