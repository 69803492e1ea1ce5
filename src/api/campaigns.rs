//! Campaigns: create, read, list, launch, pause, resume, cancel, change, retry, delete.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use tokio::time::timeout;
use utoipa::IntoParams;

use super::{
    Shared, SharedState,
    access::Access,
    audit::Audit,
    extract::{CampaignPath, JsonBody},
    values::invalid,
};
use crate::{
    api_types::{
        CampaignChange, CampaignChatsView, CampaignCreated, CampaignPage, CampaignRetried, CampaignView, NewCampaign,
        NewRetry, NewTest, Page, Statistics, TemplateName,
    },
    config::KeyScope,
    domain::{CampaignId, CampaignState, campaign::CampaignRetry},
    http::request::{Params, bad_query},
    http::{page, problem::Result},
    intake::{CampaignAction, IntakeError, Retried, Submitted},
    postgres::campaign_chats::CampaignChats,
    redis::{self, campaigns::CampaignRecord},
};

/// How long the statistics of a campaign wait for those of its chats.
const CHATS_WAIT: Duration = Duration::from_secs(1);

/// Maximum number of campaigns that a filtered list scans for one page.
const SCANNED_MAX: usize = 10_000;

/// How many campaigns' states a filtered list reads in one round trip.
const STATES_AT_ONCE: usize = 1_000;

fn view(record: CampaignRecord, statistics: Option<Statistics>) -> CampaignView {
    let CampaignRecord { campaign, state, reason, started_at, ended_at, retry, .. } = record;
    CampaignView {
        id: campaign.id,
        external_id: campaign.external_id,
        test_of: campaign.test_of,
        name: campaign.name,
        state,
        reason,
        template: TemplateName {
            name: campaign.template.name,
            language: campaign.template.language.as_str().to_owned(),
        },
        lines: campaign.lines,
        priority: campaign.priority,
        rate: campaign.rate,
        send_window: campaign.send_window,
        late: campaign.late,
        on_doubt: campaign.on_doubt,
        on_withheld: campaign.on_withheld,
        opt_out_buttons: campaign.opt_out_buttons,
        frequency_cap: campaign.frequency_cap,
        reply: campaign.reply,
        start_at: campaign.start_at,
        expires_at: campaign.expires_at,
        created_at: Some(campaign.created_at),
        started_at,
        ended_at,
        retried: retry.is_some(),
        statistics,
    }
}

/// Create a campaign.
///
/// With an `external_id` the call can be repeated: the campaign that has it is returned, and what an interrupted call
/// left undone is completed. Invalid recipients are listed in `rejected`; the others are accepted.
#[utoipa::path(
    post, path = "/v1/campaigns", tag = "campaigns", operation_id = "create_campaign",
    security(("api_key" = [KeyScope::Submit])),
    request_body = NewCampaign,
    responses(
        (
            status = 201, description = "The campaign was created.", body = CampaignCreated,
            headers(("Location" = String, description = "The path of the campaign.")),
        ),
        (
            status = 200, description = "A campaign with this `external_id` exists.", body = CampaignCreated,
            headers(("Location" = String, description = "The path of the campaign.")),
        ),
    ),
    extensions(("x-problems" = json!(["no-database",
        "invalid", "template-changed", "template-missing", "template-not-approved", "template-unsupported",
        "templates-not-synced", "campaign-not-found", "campaign-conflict", "campaign-state", "campaign-expired",
        "campaign-empty", "upload-conflict", "upload-in-progress", "too-many-recipients"
    ]))),
)]
pub(super) async fn create(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    JsonBody(new): JsonBody<NewCampaign>,
) -> Result<Response> {
    shared.check_reply(&new).await?;
    let submitted = shared.intake(&access).submit(new).await?;
    audit.on(submitted.id);
    audit.changed(submitted.created);
    Ok(created(submitted))
}

/// The response for a campaign that was created, or that existed.
fn created(submitted: Submitted) -> Response {
    let status = if submitted.created { StatusCode::CREATED } else { StatusCode::OK };
    let upload = submitted.upload;
    let created = CampaignCreated {
        id: submitted.id,
        state: submitted.state,
        accepted: upload.accepted,
        rejected_count: upload.rejected_count,
        rejected: upload.rejected,
    };
    let location = [(header::LOCATION, format!("/v1/campaigns/{}", submitted.id))];
    (status, location, Json(created)).into_response()
}

/// Send the message of a campaign to a few numbers.
///
/// The test is a campaign of its own, with `test_of`, and does not change the statistics of this one. The first number
/// gets the values of the first recipient, the second those of the second, and so on; with fewer recipients, the values
/// repeat. A test ignores `start_at` and the send window, and is sent before other campaigns; holds, pauses, limits and
/// suppressions apply. Messages that are not sent within an hour expire. With an `external_id` the call can be
/// repeated.
#[utoipa::path(
    post, path = "/v1/campaigns/{campaign}/test", tag = "campaigns", operation_id = "test_campaign",
    security(("api_key" = [KeyScope::Submit])),
    params(CampaignPath),
    request_body = NewTest,
    responses(
        (
            status = 201, description = "The test was created and launched.", body = CampaignCreated,
            headers(("Location" = String, description = "The path of the test, which is a campaign.")),
        ),
        (
            status = 200, description = "A test with this `external_id` exists.", body = CampaignCreated,
            headers(("Location" = String, description = "The path of the test, which is a campaign.")),
        ),
    ),
    extensions(("x-problems" = json!([
        "invalid", "template-changed", "template-missing", "template-not-approved", "template-unsupported",
        "templates-not-synced", "campaign-conflict", "campaign-state", "campaign-expired", "campaign-empty",
        "too-many-recipients"
    ]))),
)]
pub(super) async fn test(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    CampaignPath(id): CampaignPath,
    JsonBody(test): JsonBody<NewTest>,
) -> Result<Response> {
    let submitted = shared.intake(&access).send_test(id, &test).await?;
    audit.on(submitted.id);
    audit.changed(submitted.created);
    Ok(created(submitted))
}

/// Launch a campaign.
///
/// Sending begins now, or at `start_at`. Repeating the call changes nothing.
#[utoipa::path(
    post, path = "/v1/campaigns/{campaign}/launch", tag = "campaigns", operation_id = "launch_campaign",
    security(("api_key" = [KeyScope::Submit])),
    params(CampaignPath),
    responses((status = 200, description = "The campaign after the change.", body = CampaignView)),
    extensions(("x-problems" = json!([
        "campaign-state", "campaign-expired", "campaign-empty", "template-changed", "template-missing",
        "template-not-approved", "template-unsupported", "templates-not-synced"
    ]))),
)]
pub(super) async fn launch(State(shared): SharedState, audit: Audit, path: CampaignPath) -> Result<Json<CampaignView>> {
    act(&shared, &audit, path, CampaignAction::Launch).await
}

/// Pause a campaign.
///
/// After the response no further recipient is claimed. Requests already in flight are still sent. A scheduled campaign
/// does not start at `start_at`.
#[utoipa::path(
    post, path = "/v1/campaigns/{campaign}/pause", tag = "campaigns", operation_id = "pause_campaign",
    security(("api_key" = [KeyScope::Operate])),
    params(CampaignPath),
    responses((status = 200, description = "The campaign after the change.", body = CampaignView)),
    extensions(("x-problems" = json!(["campaign-state"]))),
)]
pub(super) async fn pause(State(shared): SharedState, audit: Audit, path: CampaignPath) -> Result<Json<CampaignView>> {
    act(&shared, &audit, path, CampaignAction::Pause).await
}

/// Resume a campaign.
///
/// The template is checked again. A campaign that was paused before its `start_at` waits for it.
#[utoipa::path(
    post, path = "/v1/campaigns/{campaign}/resume", tag = "campaigns", operation_id = "resume_campaign",
    security(("api_key" = [KeyScope::Operate])),
    params(CampaignPath),
    responses((status = 200, description = "The campaign after the change.", body = CampaignView)),
    extensions(("x-problems" = json!([
        "campaign-state", "campaign-expired", "campaign-empty", "template-changed", "template-missing",
        "template-not-approved", "template-unsupported", "templates-not-synced"
    ]))),
)]
pub(super) async fn resume(State(shared): SharedState, audit: Audit, path: CampaignPath) -> Result<Json<CampaignView>> {
    act(&shared, &audit, path, CampaignAction::Resume).await
}

/// Cancel a campaign.
///
/// No further message is sent, and the campaign can never be resumed.
#[utoipa::path(
    post, path = "/v1/campaigns/{campaign}/cancel", tag = "campaigns", operation_id = "cancel_campaign",
    security(("api_key" = [KeyScope::Operate])),
    params(CampaignPath),
    responses((status = 200, description = "The campaign after the change.", body = CampaignView)),
    extensions(("x-problems" = json!(["campaign-state"]))),
)]
pub(super) async fn cancel(State(shared): SharedState, audit: Audit, path: CampaignPath) -> Result<Json<CampaignView>> {
    act(&shared, &audit, path, CampaignAction::Cancel).await
}

/// Change a campaign that has not ended.
///
/// The times, the priority, the rate and the send window can be changed; `start_at` and `late` only before the campaign
/// starts. Fields that are left out keep their values. Repeating the call changes nothing.
#[utoipa::path(
    patch, path = "/v1/campaigns/{campaign}", tag = "campaigns", operation_id = "change_campaign",
    security(("api_key" = [KeyScope::Operate])),
    params(CampaignPath),
    request_body = CampaignChange,
    responses((status = 200, description = "The campaign after the change.", body = CampaignView)),
    extensions(("x-problems" = json!(["invalid", "campaign-state"]))),
)]
pub(super) async fn change(
    State(shared): SharedState,
    audit: Audit,
    CampaignPath(id): CampaignPath,
    JsonBody(change): JsonBody<CampaignChange>,
) -> Result<Json<CampaignView>> {
    let (record, changed) = shared.state.intake.amend(id, &change).await?;
    audit.changed(changed);
    with_statistics(&shared, record).await
}

/// Send a completed campaign again to some of its recipients.
///
/// Recipients in the given states get the message once more, with the values of the upload. Repeating the call while
/// the campaign runs changes nothing. With an `external_id`, repeating it later changes nothing either.
#[utoipa::path(
    post, path = "/v1/campaigns/{campaign}/retry", tag = "campaigns", operation_id = "retry_campaign",
    security(("api_key" = [KeyScope::Submit])),
    params(CampaignPath),
    request_body = NewRetry,
    responses((status = 200, description = "How many recipients get the message again.", body = CampaignRetried)),
    extensions(("x-problems" = json!([
        "invalid", "campaign-state", "campaign-expired", "recipients-forgotten", "retry-conflict", "template-changed",
        "template-missing", "template-not-approved", "template-unsupported", "templates-not-synced"
    ]))),
)]
pub(super) async fn retry(
    State(shared): SharedState,
    audit: Audit,
    CampaignPath(id): CampaignPath,
    JsonBody(NewRetry { states, codes, external_id }): JsonBody<NewRetry>,
) -> Result<Json<CampaignRetried>> {
    if codes.as_ref().is_some_and(Vec::is_empty) {
        let problem = "codes is empty: name at least one, or leave it out to send again whatever the code is";
        return Err(IntakeError::Invalid(vec![problem.to_owned()]).into());
    }
    let codes = codes.unwrap_or_default().into_iter().collect();
    let retry = CampaignRetry { states: states.into_iter().collect(), codes, external_id };
    let Retried { record, recipients, changed } = shared.state.intake.retry(id, &retry).await?;
    audit.changed(changed);
    Ok(Json(CampaignRetried { id, state: record.state, recipients }))
}

/// Delete a draft or an ended campaign.
///
/// Its recipients, statistics and uploads are deleted, and its `external_id` can be used again. Statuses that Meta
/// reports later are ignored. Cancel a campaign first if it has not ended.
#[utoipa::path(
    delete, path = "/v1/campaigns/{campaign}", tag = "campaigns", operation_id = "delete_campaign",
    security(("api_key" = [KeyScope::Submit])),
    params(CampaignPath),
    responses((status = 204, description = "The campaign is deleted.")),
    extensions(("x-problems" = json!(["campaign-state"]))),
)]
pub(super) async fn delete(
    State(shared): SharedState,
    audit: Audit,
    CampaignPath(id): CampaignPath,
) -> Result<StatusCode> {
    shared.state.intake.delete(id).await?;
    audit.changed(true);
    Ok(StatusCode::NO_CONTENT)
}

async fn act(
    shared: &Arc<Shared>,
    audit: &Audit,
    CampaignPath(id): CampaignPath,
    action: CampaignAction,
) -> Result<Json<CampaignView>> {
    let (record, changed) = shared.state.intake.act(id, action).await?;
    audit.changed(changed);
    with_statistics(shared, record).await
}

/// Get a campaign with its statistics.
#[utoipa::path(
    get, path = "/v1/campaigns/{campaign}", tag = "campaigns", operation_id = "get_campaign",
    security(("api_key" = [KeyScope::Read])),
    params(CampaignPath),
    responses((status = 200, description = "The campaign.", body = CampaignView)),
)]
pub(super) async fn one(State(shared): SharedState, CampaignPath(id): CampaignPath) -> Result<Json<CampaignView>> {
    let record = shared.campaign(id).await?;
    with_statistics(&shared, record).await
}

async fn with_statistics(shared: &Shared, record: CampaignRecord) -> Result<Json<CampaignView>> {
    let statistics = shared.statistics(&record).await?;
    Ok(Json(view(record, Some(statistics))))
}

impl Shared {
    /// The statistics of a campaign. Those of chats are missing without a database, and while it does not answer.
    pub(super) async fn statistics(&self, record: &CampaignRecord) -> redis::Result<Statistics> {
        let statistics = self.reader.statistics(record, self.now()).await?;
        let Ok(database) = self.database() else { return Ok(statistics) };
        let chats = match statistics.funnel.replied {
            0 => Some(CampaignChats::default()),
            _ => timeout(CHATS_WAIT, database.campaign_chats(record.campaign.id)).await.ok().and_then(|read| read.ok()),
        };
        let chats = chats.map(|chats| CampaignChatsView {
            answered: chats.answered,
            opened: chats.opened,
            assigned: chats.assigned,
            attended: chats.attended,
        });
        Ok(Statistics { chats, ..statistics })
    }

    /// Errors: what an answer is to do needs a database, or a group or tag that the business does not have.
    async fn check_reply(&self, new: &NewCampaign) -> Result<()> {
        let Some(route) = new.reply.as_ref().filter(|route| route.problems().is_empty()) else { return Ok(()) };
        let database = self.database()?;
        let lines = self.state.lines.get();
        let Some(business) = lines.first_of(&new.lines).map(|line| &line.business) else { return Ok(()) };
        match database.missing_of_route(business, route).await? {
            None => Ok(()),
            Some(missing) => {
                let detail =
                    format!("business {business} has no {missing}: GET /v1/groups and /v1/tags list what there is");
                Err(invalid(detail))
            }
        }
    }
}

/// The query parameters of the campaign list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CampaignListParams {
    /// Only campaigns in this state.
    #[param(value_type = Option<CampaignState>, nullable = false)]
    state: Option<String>,
    /// Only the campaign that was created with this `external_id`.
    #[param(nullable = false, example = "crm-4711")]
    external_id: Option<String>,
    /// `next` of the previous page; leave it out for the first page.
    #[param(nullable = false)]
    cursor: Option<String>,
    /// The maximum number of rows.
    #[param(value_type = Option<u16>, nullable = false, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
}

/// List campaigns, newest first.
///
/// The listed campaigns have no `statistics`. A page can have fewer rows than `limit` even if there is a next page.
#[utoipa::path(
    get, path = "/v1/campaigns", tag = "campaigns", operation_id = "list_campaigns",
    security(("api_key" = [KeyScope::Read])),
    params(CampaignListParams),
    responses((status = 200, description = "A page of campaigns.", body = CampaignPage)),
)]
pub(super) async fn list(
    State(shared): SharedState,
    access: Access,
    Params(params): Params<CampaignListParams>,
) -> Result<Json<CampaignPage>> {
    // `next` is the last campaign of the page or, if the scan limit ended the page, the last one scanned.
    let limit = page::limit(params.limit.as_deref())?;
    let cursor = page::cursor::<CampaignId>(params.cursor.as_deref())?;
    let wanted = page::non_empty(params.state.as_deref()).map(str::parse::<CampaignState>).transpose();
    let wanted = wanted.map_err(|error| bad_query(error.to_string()))?;
    let (ids, next) = match page::non_empty(params.external_id.as_deref()) {
        Some(external_id) => (shared.find_external(&access, external_id, wanted).await?, None),
        None => shared.find(&access, wanted, cursor, limit).await?,
    };
    let records = shared.state.store.campaigns(&ids).await?;
    let rows = records.into_iter().flatten().map(|record| view(record, None)).collect();
    Ok(Json(Page { rows, next: next.map(|next| next.to_string()) }))
}

impl Shared {
    /// The campaign with this `external_id`, if there is one that the caller may see, optionally only in state
    /// `wanted`.
    async fn find_external(
        &self,
        access: &Access,
        external_id: &str,
        wanted: Option<CampaignState>,
    ) -> Result<Vec<CampaignId>> {
        let store = &self.state.store;
        let Some(id) = store.campaign_by_external_id(external_id).await? else { return Ok(Vec::new()) };
        let is_visible = self.visible(access, &[id]).await? == [true];
        let state = store.campaign_states(&[id]).await?.pop().flatten();
        let is_wanted = is_visible && state.is_some() && (wanted.is_none() || state == wanted);
        Ok(if is_wanted { vec![id] } else { Vec::new() })
    }

    /// Finds up to `limit` campaigns after `cursor` that the caller may see, optionally only those in state `wanted`.
    /// Also returns the cursor of the next page, if there is one.
    async fn find(
        &self,
        access: &Access,
        wanted: Option<CampaignState>,
        cursor: Option<CampaignId>,
        limit: usize,
    ) -> Result<(Vec<CampaignId>, Option<CampaignId>)> {
        let store = &self.state.store;
        // Without a filter, one more than fits the page, to see whether there is a next page.
        let batch_len = if wanted.is_some() || access.is_limited() { STATES_AT_ONCE } else { limit + 1 };
        let (mut found, mut after, mut scanned) = (Vec::new(), cursor, 0);
        loop {
            let ids = store.newest_campaigns(after, batch_len).await?;
            let states = store.campaign_states(&ids).await?;
            // A campaign without a state is one whose creation was interrupted.
            let is_wanted = |state: Option<CampaignState>| state.is_some() && (wanted.is_none() || state == wanted);
            let matching = ids.iter().zip(states).filter(|(_, state)| is_wanted(*state));
            let matching: Vec<CampaignId> = matching.map(|(&id, _)| id).collect();
            let visible = self.visible(access, &matching).await?;
            for (id, _) in matching.into_iter().zip(visible).filter(|(_, visible)| *visible) {
                if found.len() == limit {
                    let next = found.last().copied();
                    return Ok((found, next));
                }
                found.push(id);
            }
            scanned += ids.len();
            if ids.len() < batch_len {
                return Ok((found, None));
            }
            after = ids.last().copied();
            if scanned >= SCANNED_MAX {
                return Ok((found, after));
            }
        }
    }
}
