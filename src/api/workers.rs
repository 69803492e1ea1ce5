//! Workers: list them.

use std::collections::HashMap;

use axum::{Json, extract::State};

use super::{SharedState, access::Access};
use crate::{
    api_types::{Page, WorkerPage, WorkerView},
    config::{KeyScope, Role},
    domain::LineId,
    http::{
        page::{self, PageParams},
        problem::Result,
        request::Params,
    },
    redis::processes::ProcessRecord,
};

/// What a worker of release 0.1.0 has, which stores no record of itself.
fn of_first_release(id: String, lines: Vec<LineId>) -> WorkerView {
    let roles = vec![Role::Dispatch.name().to_owned()];
    WorkerView { name: id.clone(), id, version: None, roles, lines, since: None }
}

fn view(id: String, record: ProcessRecord, lines: Vec<LineId>) -> WorkerView {
    let ProcessRecord { name, version, roles, since, .. } = record;
    WorkerView { id, name, version: Some(version), roles, lines, since: Some(since) }
}

/// List the workers, in the order of their ids.
///
/// A worker is a running `pregon serve` process. A killed process stays listed for some seconds.
#[utoipa::path(
    get, path = "/v1/workers", tag = "workers", operation_id = "list_workers",
    security(("api_key" = [KeyScope::Read])),
    params(PageParams),
    responses((status = 200, description = "A page of workers.", body = WorkerPage)),
)]
pub(super) async fn list(
    State(shared): SharedState,
    access: Access,
    Params(params): Params<PageParams>,
) -> Result<Json<WorkerPage>> {
    let limit = page::limit(params.limit.as_deref())?;
    let after = page::non_empty(params.cursor.as_deref());
    let (store, now) = (&shared.state.store, shared.now());
    let ids: Vec<LineId> = shared.lines(&access).iter().map(|line| line.id.clone()).collect();
    let (mut processes, live, owners) =
        tokio::try_join!(store.processes(now), store.live_workers(now), store.owners(&ids))?;
    let mut lines: HashMap<String, Vec<LineId>> = HashMap::new();
    for (line, owner) in ids.into_iter().zip(owners) {
        if let Some(owner) = owner {
            lines.entry(owner.worker).or_default().push(line);
        }
    }
    let mut all: Vec<String> = processes.keys().cloned().chain(live).collect();
    all.sort_unstable();
    all.dedup();
    all.retain(|id| after.is_none_or(|after| id.as_str() > after));
    let has_more = all.len() > limit;
    all.truncate(limit);
    let rows = all.into_iter().map(|id| {
        let lines = lines.remove(&id).unwrap_or_default();
        match processes.remove(&id) {
            Some(record) => view(id, record, lines),
            None => of_first_release(id, lines),
        }
    });
    let rows: Vec<WorkerView> = rows.collect();
    let next = rows.last().filter(|_| has_more).map(|row| row.id.clone());
    Ok(Json(Page { rows, next }))
}
