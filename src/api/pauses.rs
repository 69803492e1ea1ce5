//! Pause and resume everything: all sending of the installation, or of one business.

use std::time::{Duration, Instant};

use axum::{Json, extract::State};

use super::{Shared, SharedState, access::Access, audit::Audit, extract::OptionalJsonBody, lines::pause_view};
use crate::{
    api_types::{PauseChange, PauseTarget},
    config::KeyScope,
    domain::PauseScope,
    http::problem::{Problem, Result},
    redis::Store,
};

/// How often a pause looks whether the workers obey. A worker notices a pause within 25 ms.
const CONFIRMATION_POLL: Duration = Duration::from_millis(10);

/// Pause everything.
///
/// Stops all sending, or with `business` all sending of one business, until it is resumed. After the response no
/// further recipient is claimed. Requests already in flight are still sent. Pauses of lines and campaigns are separate.
#[utoipa::path(
    post, path = "/v1/pause", tag = "operation", operation_id = "pause_all",
    security(("api_key" = [KeyScope::Operate])),
    request_body = Option<PauseTarget>,
    responses((status = 200, description = "Every worker obeys the pause.", body = PauseChange)),
    extensions(("x-problems" = json!(["business-not-found", "pause-unconfirmed"]))),
)]
pub(super) async fn pause(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    OptionalJsonBody(target): OptionalJsonBody<PauseTarget>,
) -> Result<Json<PauseChange>> {
    let scope = shared.pause_scope(&access, target)?;
    audit.on(&scope);
    // If Redis restarts meanwhile, it may lose the pause: then the call fails.
    let store = shared.state.store.in_this_incarnation();
    let (changed, version) = store.pause(&scope, shared.now()).await?;
    audit.changed(changed);
    let durable = async { Ok(store.make_durable().await?) };
    tokio::try_join!(confirmed(&store, version, shared.state.lease), durable)?;
    pauses(&store, &access, changed).await
}

/// Resume everything.
///
/// Ends the pause of everything, or with `business` that of the business. Lines, campaigns and businesses with a pause
/// of their own stay paused.
#[utoipa::path(
    post, path = "/v1/resume", tag = "operation", operation_id = "resume_all",
    security(("api_key" = [KeyScope::Operate])),
    request_body = Option<PauseTarget>,
    responses((status = 200, description = "The pause has ended.", body = PauseChange)),
    extensions(("x-problems" = json!(["business-not-found"]))),
)]
pub(super) async fn resume(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    OptionalJsonBody(target): OptionalJsonBody<PauseTarget>,
) -> Result<Json<PauseChange>> {
    let scope = shared.pause_scope(&access, target)?;
    audit.on(&scope);
    let store = shared.state.store.in_this_incarnation();
    let changed = store.resume(&scope).await?;
    audit.changed(changed);
    store.make_durable().await?;
    pauses(&store, &access, changed).await
}

async fn pauses(store: &Store, access: &Access, changed: bool) -> Result<Json<PauseChange>> {
    let pauses = store.pauses().await?.pauses;
    let seen = pauses.iter().filter(|pause| access.sees(&pause.scope));
    Ok(Json(PauseChange { changed, pauses: seen.map(pause_view).collect() }))
}

/// Waits until every live worker has confirmed the pauses up to `version`. A worker that has lost Redis stops within a
/// lease, and no longer counts as live.
///
/// Errors: 503 with the workers that are still alive after a `lease` and have confirmed nothing.
async fn confirmed(store: &Store, version: u64, lease: Duration) -> Result<()> {
    let began = Instant::now();
    loop {
        let workers = store.workers_not_obeying(version).await?;
        if workers.is_empty() {
            return Ok(());
        }
        if began.elapsed() > lease {
            let workers = workers.join(", ");
            let detail = format!(
                "the pause is stored, but these workers have not confirmed it in {lease:?} and may still send: \
                 {workers}; stop those of an older release, which know no such pause, and repeat the call"
            );
            return Err(Problem::unavailable("pause-unconfirmed", detail));
        }
        tokio::time::sleep(CONFIRMATION_POLL).await;
    }
}

impl Shared {
    /// What a pause or a resume means.
    ///
    /// Errors: 403 if the key is limited to other businesses; 404 for a business that is not configured.
    fn pause_scope(&self, access: &Access, target: PauseTarget) -> Result<PauseScope> {
        let scope = PauseScope::from(target.business.clone());
        access.check_pause(&scope)?;
        let businesses = self.state.businesses.get();
        let unknown = target.business.as_ref().filter(|business| !businesses.contains(business));
        if let Some(business) = unknown {
            let detail = format!("there is no business {business} in the configuration");
            return Err(Problem::not_found("business-not-found", detail));
        }
        Ok(scope)
    }
}
