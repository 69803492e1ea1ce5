//! Holds: list them, and lift one by hand.

use std::collections::HashSet;

use axum::{Json, extract::State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{SharedState, access::Access, audit::Audit, extract::HoldPath};
use crate::{
    api_types::{HoldPage, HoldView, LiftedHold, Page},
    config::KeyScope,
    domain::{BusinessId, Hold, HoldScope},
    http::{page, problem::Result, request::Params},
    rules,
};

pub(super) fn hold_view(scope: &HoldScope, hold: Hold, business: Option<&BusinessId>) -> HoldView {
    let lifted_by = rules::holds::lifters(scope, &hold);
    let Hold { code, reason, since, until } = hold;
    let business = business.filter(|_| *scope != HoldScope::Platform).cloned();
    let (id, scope) = (scope.to_string(), scope.to_string());
    HoldView { id, scope, business, code, reason, since, until, lifted_by, campaigns: None }
}

/// The query parameters of the list of holds.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HoldListParams {
    /// `next` of the page before. Without it the list begins.
    #[param(nullable = false)]
    cursor: Option<String>,
    /// The maximum number of rows.
    #[param(value_type = Option<u16>, nullable = false, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
    /// Only holds of this business.
    #[param(nullable = false)]
    business: Option<BusinessId>,
}

/// List the holds, in the order of their ids.
///
/// Holds of single recipients are not listed.
#[utoipa::path(
    get, path = "/v1/holds", tag = "holds", operation_id = "list_holds",
    security(("api_key" = [KeyScope::Read])),
    params(HoldListParams),
    responses((status = 200, description = "A page of holds.", body = HoldPage)),
)]
pub(super) async fn list(
    State(shared): SharedState,
    access: Access,
    Params(params): Params<HoldListParams>,
) -> Result<Json<HoldPage>> {
    let limit = page::limit(params.limit.as_deref())?;
    let after = page::non_empty(params.cursor.as_deref());
    let now = shared.now();
    let holds = shared.state.store.holds(now).await?;
    let stopped = shared.reader.stopped_by(&holds, &shared.lines(&access), now).await?;
    let mut rows: Vec<HoldView> = Vec::new();
    for (scope, hold) in holds {
        let business = shared.business_of(&scope);
        let is_asked_for = params.business.is_none() || business == params.business;
        if is_asked_for && access.sees_hold(&scope, business.as_ref()) {
            let campaigns = stopped.get(&scope).map_or(0, HashSet::len);
            let campaigns = Some(campaigns).filter(|_| !matches!(scope, HoldScope::Country { .. }));
            rows.push(HoldView { campaigns, ..hold_view(&scope, hold, business.as_ref()) });
        }
    }
    rows.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    let from = after.map_or(0, |after| rows.partition_point(|row| row.id.as_str() <= after));
    let mut rows = rows.split_off(from);
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| has_more).map(|row| row.id.clone());
    Ok(Json(Page { rows, next }))
}

/// Lift a hold.
///
/// Sending resumes at once. A hold whose cause persists returns with the next message. Faults that Meta reported before
/// the call do not set the hold again.
#[utoipa::path(
    post, path = "/v1/holds/{hold}/lift", tag = "holds", operation_id = "lift_hold",
    security(("api_key" = [KeyScope::Operate])),
    params(HoldPath),
    responses((status = 200, description = "There is no hold on this scope.", body = LiftedHold)),
)]
pub(super) async fn lift(
    State(shared): SharedState,
    audit: Audit,
    HoldPath(scope): HoldPath,
) -> Result<Json<LiftedHold>> {
    let changed = shared.state.store.unhold(&scope).await?;
    audit.changed(changed);
    Ok(Json(LiftedHold { id: scope.to_string(), changed }))
}
