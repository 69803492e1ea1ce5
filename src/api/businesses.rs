//! Businesses: list them, with how much of their messaging limits is used.

use std::collections::{BTreeMap, BTreeSet};

use axum::{Json, extract::State};

use super::{SharedState, access::Access, holds::hold_view};
use crate::{
    api_types::{BusinessPage, BusinessView, Page},
    config::KeyScope,
    domain::{BusinessId, HoldScope, WabaId},
    http::{
        page::{self, PageParams},
        problem::Result,
        request::Params,
    },
};

/// List the businesses of the configured lines, in the order of their ids.
#[utoipa::path(
    get, path = "/v1/businesses", tag = "businesses", operation_id = "list_businesses",
    security(("api_key" = [KeyScope::Read])),
    params(PageParams),
    responses((status = 200, description = "A page of businesses.", body = BusinessPage)),
)]
pub(super) async fn list(
    State(shared): SharedState,
    access: Access,
    Params(params): Params<PageParams>,
) -> Result<Json<BusinessPage>> {
    let limit = page::limit(params.limit.as_deref())?;
    let after = page::non_empty(params.cursor.as_deref());
    let lines = shared.lines(&access);
    let mut businesses: BTreeMap<&BusinessId, BTreeSet<&WabaId>> = BTreeMap::new();
    for line in lines.iter() {
        businesses.entry(&line.business).or_default().insert(&line.waba);
    }
    let rest = businesses.into_iter().filter(|(id, _)| after.is_none_or(|after| id.as_str() > after));
    let rest: Vec<(&BusinessId, BTreeSet<&WabaId>)> = rest.take(limit + 1).collect();
    let (store, now) = (&shared.state.store, shared.now());
    let (known, mut holds) = tokio::try_join!(store.messaging_limits(), store.holds(now))?;
    let limited = store.limited_businesses(&known, now).await?;
    let mut view = |(id, wabas): &(&BusinessId, BTreeSet<&WabaId>)| {
        let id = *id;
        let (limit, places) = limited.get(id).map(|limited| (limited.limit, limited.places)).unzip();
        let scope = HoldScope::Business(id.clone());
        BusinessView {
            id: id.clone(),
            limit,
            limit_known: known.contains_key(id),
            used_24h: places.map(|places| places.used),
            remaining: places.map(|places| places.left),
            frees_at: places.and_then(|places| places.frees_at),
            wabas: wabas.iter().copied().cloned().collect(),
            holds: holds.remove(&scope).map(|hold| hold_view(&scope, hold, Some(id))).into_iter().collect(),
        }
    };
    let rows: Vec<BusinessView> = rest.iter().take(limit).map(&mut view).collect();
    let next = rows.last().filter(|_| rest.len() > limit).map(|row| row.id.to_string());
    Ok(Json(Page { rows, next }))
}
