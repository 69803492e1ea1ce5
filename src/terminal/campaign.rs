//! `pregon campaign list|show|watch|preflight|test|change|launch|pause|resume|cancel|retry|delete|recipients|report`:
//! one API call for each page or campaign, and one more to find a campaign by its external id.

use std::path::Path;

use serde_json::json;

use super::{
    CommandError,
    arguments::{self, CampaignName},
    download,
    each::each,
    find, out,
    pages::first_rows,
    preflight,
    source::Source,
    table, upload, watch,
    words::{count, counted},
};
use crate::{
    api_types::{CampaignChange, NewRetry, NewTest},
    client::{Client, ControlAction},
    domain::{CampaignState, MetaCode},
    intake::UploadLayout,
    telemetry::clock,
};

/// What it means that a campaign was cancelled while it was sent again.
const CANCELLED_RETRY: &str = ": recipients who got no new message are failed or unknown, as before the retry; the \
    campaign cannot be retried once more";

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
pub async fn show(client: &Client, name: &CampaignName, json: bool) -> Result<(), CommandError> {
    let campaign = client.campaign(find::campaign(client, name).await?).await?;
    Ok(if json { out::json(&campaign) } else { out::line(&table::campaign(&campaign, clock::now())) }?)
}

/// Prints what would happen if a campaign were launched now.
pub async fn preflight(client: &Client, name: &CampaignName, json: bool) -> Result<(), CommandError> {
    let preflight = client.preflight(find::campaign(client, name).await?).await?;
    Ok(if json { out::json(&preflight) } else { out::line(&preflight::text(&preflight)) }?)
}

/// Sends the message of a campaign to a few numbers.
pub async fn test(client: &Client, options: arguments::TestOptions) -> Result<(), CommandError> {
    let arguments::TestOptions { id, to, external_id, output } = options;
    let n = to.len() as u64;
    let test = client.test_campaign(find::campaign(client, &id).await?, &NewTest { to, external_id }).await?;
    if output.json {
        return Ok(out::json(&test)?);
    }
    let (numbers, test) = (counted(n, "number"), test.id);
    Ok(out::line(&format!(
        "the test of campaign {id} goes to {numbers}; pregon campaign show {test} shows its result"
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
    let campaign = client.amend_campaign(find::campaign(client, &options.id).await?, &change).await?;
    let json = options.output.json;
    Ok(if json { out::json(&campaign) } else { out::line(&table::campaign(&campaign, clock::now())) }?)
}

/// Launches, pauses, resumes or cancels campaigns, one by one. A failure does not affect the others.
pub async fn change(
    client: &Client,
    campaigns: &arguments::CampaignArguments,
    action: ControlAction,
) -> Result<(), CommandError> {
    let call = async |name: &CampaignName| client.change_campaign(find::campaign(client, name).await?, action).await;
    each(&campaigns.ids, call, |name, campaign| match campaigns.output.json {
        true => out::json(&campaign),
        false => {
            // A campaign that was completed can be cancelled only during a retry.
            let ended_retry = campaign.retried && campaign.state == CampaignState::Cancelled;
            let consequence = if ended_retry { CANCELLED_RETRY } else { "" };
            out::line(&format!("campaign {name} “{}” is {}{consequence}", campaign.name, campaign.state.predicate()))
        }
    })
    .await
}

/// Sends a completed campaign again to some of its recipients.
pub async fn retry(client: &Client, options: arguments::RetryOptions) -> Result<(), CommandError> {
    let arguments::RetryOptions { id, states, codes, external_id, output } = options;
    let codes = (!codes.is_empty()).then(|| codes.into_iter().map(MetaCode).collect());
    let retried =
        client.retry_campaign(find::campaign(client, &id).await?, &NewRetry { states, codes, external_id }).await?;
    if output.json {
        return Ok(out::json(&retried)?);
    }
    let (state, n) = (retried.state, retried.recipients);
    Ok(out::line(&format!("campaign {id} is {state}: it sends again to {}", counted(n, "recipient")))?)
}

/// Deletes campaigns, one by one. A failure does not affect the others.
pub async fn delete(client: &Client, campaigns: &arguments::CampaignArguments) -> Result<(), CommandError> {
    let call = async |name: &CampaignName| {
        let id = find::campaign(client, name).await?;
        client.delete_campaign(id).await.map(|()| id)
    };
    each(&campaigns.ids, call, |name, id| match campaigns.output.json {
        true => out::json(&json!({ "id": id, "deleted": true })),
        false => out::line(&format!("campaign {name} is deleted")),
    })
    .await
}

/// Writes the report of a campaign to the file at `path`, or to standard output.
pub async fn report(client: &Client, name: &CampaignName, path: Option<&Path>) -> Result<(), CommandError> {
    let request = async { client.report(find::campaign(client, name).await?).await };
    download::save(client, path, request).await
}

/// Follows a campaign until it is completed or cancelled.
pub async fn watch(client: &Client, name: &CampaignName, json: bool) -> Result<(), CommandError> {
    watch::watch(client, find::campaign(client, name).await?, json).await
}

/// Uploads recipients into a campaign that has not started.
///
/// Errors: the file or a call failed; no row was accepted, the file could not be read to its end, or too many rows were
/// rejected.
pub async fn upload(client: &Client, options: arguments::UploadOptions) -> Result<(), CommandError> {
    let arguments::UploadOptions { id: name, file, ignore, max_rejected, output } = options;
    let source = Source::open(&file).await?;
    let id = find::campaign(client, &name).await?;
    let layout = UploadLayout { format: source.format, ignored: ignore };
    let send = async |rows| client.upload(id, &source.digest, &layout, source.coding, rows).await;
    let uploaded = upload::send(&source, send).await?;
    let (accepted, rejected) = (uploaded.accepted, uploaded.rejected_count);
    match output.json {
        true => out::json(&uploaded)?,
        false => {
            let counts = format!("campaign {name}: {} accepted, {} rejected", count(accepted), count(rejected));
            out::line(&(counts + &upload::rejections(&uploaded)))?;
        }
    }
    if accepted == 0 {
        return Err(CommandError::Failed("no recipient was accepted".into()));
    }
    upload::shortfall(&uploaded, max_rejected).map_or(Ok(()), |why| Err(CommandError::Failed(why)))
}

/// Prints recipients of a campaign: one by its number, or those in a state, at most `limit`.
pub async fn recipients(client: &Client, options: arguments::RecipientsOptions) -> Result<(), CommandError> {
    let arguments::RecipientsOptions { id, state, to, limit, output } = options;
    let (id, limit) = (find::campaign(client, &id).await?, usize::from(limit));
    let (recipients, cut) = match to {
        Some(to) => (vec![client.recipient(id, to).await?], false),
        None => first_rows(limit, async |next| client.recipients(id, state, next.as_deref()).await).await?,
    };
    if output.json {
        return Ok(out::json(&json!({ "recipients": recipients }))?);
    }
    out::line(&table::recipients(&recipients))?;
    if cut {
        out::line(&format!(
            "\nOnly the first {limit} are shown; a larger --limit shows more, and `pregon campaign report` writes all."
        ))?;
    }
    Ok(())
}
