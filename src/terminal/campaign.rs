//! `pregon campaign list|show|preflight|test|change|pause|resume|cancel|retry|delete|report`: one API call for each page or
//! campaign.

use std::path::Path;

use serde_json::json;

use super::{CommandError, arguments, download, each::each, out, pages::first_rows, preflight, table, words::count};
use crate::{
    api_types::{CampaignChange, NewRetry, NewTest},
    client::{Client, ControlAction},
    domain::{CampaignId, CampaignState, MetaCode},
    telemetry::clock,
};

/// Prints the campaigns in `state`, newest first, at most `limit`.
pub async fn list(client: &Client, state: Option<CampaignState>, limit: usize, json: bool) -> Result<(), CommandError> {
    let (campaigns, cut) = first_rows(limit, async |next| client.campaigns(state, next.as_deref()).await).await?;
    if json {
        return Ok(out::json(&json!({ "campaigns": campaigns }))?);
    }
    out::line(&table::campaigns(&campaigns))?;
    if cut {
        out::line(&format!("\nOnly the newest {limit} are shown; a larger --limit shows more."))?;
    }
    Ok(())
}

/// Prints one campaign with its statistics.
pub async fn show(client: &Client, id: CampaignId, json: bool) -> Result<(), CommandError> {
    let campaign = client.campaign(id).await?;
    Ok(if json { out::json(&campaign) } else { out::line(&table::campaign(&campaign, clock::now())) }?)
}

/// Prints what would happen if a campaign were launched now.
pub async fn preflight(client: &Client, id: CampaignId, json: bool) -> Result<(), CommandError> {
    let preflight = client.preflight(id).await?;
    Ok(if json { out::json(&preflight) } else { out::line(&preflight::text(&preflight)) }?)
}

/// Sends the message of a campaign to a few numbers.
pub async fn test(client: &Client, options: arguments::TestOptions) -> Result<(), CommandError> {
    let arguments::TestOptions { id, to, external_id, output } = options;
    let n = to.len();
    let test = client.test_campaign(id, &NewTest { to, external_id }).await?;
    if output.json {
        return Ok(out::json(&test)?);
    }
    let numbers = if n == 1 { "1 number".to_owned() } else { format!("{n} numbers") };
    let test = test.id;
    Ok(out::line(&format!(
        "campaign {id} is tested with {numbers}: pregon campaign show {test} says what became of it"
    ))?)
}

/// Changes values of a campaign, and prints it.
pub async fn amend(client: &Client, options: &arguments::ChangeOptions) -> Result<(), CommandError> {
    let arguments::ChangedValues { start_at, expires_at, priority, rate, send_window, late } = options.values.clone();
    let change = CampaignChange {
        start_at: start_at.map(|setting| setting.0),
        expires_at: expires_at.map(|setting| setting.0),
        priority,
        rate: rate.map(|setting| setting.0),
        send_window: send_window.map(|setting| setting.0),
        late,
    };
    let campaign = client.amend_campaign(options.id, &change).await?;
    let json = options.output.json;
    Ok(if json { out::json(&campaign) } else { out::line(&table::campaign(&campaign, clock::now())) }?)
}

/// Pauses, resumes or cancels campaigns, one by one. A failure does not affect the others.
pub async fn change(
    client: &Client,
    campaigns: &arguments::CampaignArguments,
    action: ControlAction,
) -> Result<(), CommandError> {
    let call = async |id: &CampaignId| client.change_campaign(*id, action).await;
    each("campaign ", &campaigns.ids, call, |id, campaign| match campaigns.output.json {
        true => out::json(&campaign),
        false => out::line(&format!("campaign {id} “{}” is {}", campaign.name, campaign.state)),
    })
    .await
}

/// Sends a completed campaign again to some of its recipients.
pub async fn retry(client: &Client, options: arguments::RetryOptions) -> Result<(), CommandError> {
    let arguments::RetryOptions { id, states, codes, external_id, output } = options;
    let codes = (!codes.is_empty()).then(|| codes.into_iter().map(MetaCode).collect());
    let retried = client.retry_campaign(id, &NewRetry { states, codes, external_id }).await?;
    if output.json {
        return Ok(out::json(&retried)?);
    }
    let (state, n) = (retried.state, retried.recipients);
    let recipients = if n == 1 { "recipient is" } else { "recipients are" };
    Ok(out::line(&format!("campaign {id} is {state}: {} {recipients} sent to again", count(n)))?)
}

/// Deletes campaigns, one by one. A failure does not affect the others.
pub async fn delete(client: &Client, campaigns: &arguments::CampaignArguments) -> Result<(), CommandError> {
    let call = async |id: &CampaignId| client.delete_campaign(*id).await;
    each("campaign ", &campaigns.ids, call, |id, ()| match campaigns.output.json {
        true => out::json(&json!({ "id": id, "deleted": true })),
        false => out::line(&format!("campaign {id} is deleted")),
    })
    .await
}

/// Writes the report of a campaign to the file at `path`, or to standard output.
pub async fn report(client: &Client, id: CampaignId, path: Option<&Path>) -> Result<(), CommandError> {
    download::save(client, path, client.report(id)).await
}
