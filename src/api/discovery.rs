//! Discovery: what Meta has of the configured businesses, and how the configuration differs.

use axum::{Json, extract::State};

use super::{SharedState, access::Access};
use crate::{api_types::Discovery, config::KeyScope, http::problem::Result};

/// Read from Meta what the configured businesses have there.
///
/// For each business of the configured lines: its WABAs, their lines and subscribed apps, and how the configuration
/// differs. Each call asks Meta anew, with some calls for each WABA. What Meta does not answer is drift of the kind
/// `unreadable`.
#[utoipa::path(
    get, path = "/v1/discovery", tag = "businesses", operation_id = "discover",
    security(("api_key" = [KeyScope::Admin])),
    responses((status = 200, description = "What Meta has.", body = Discovery)),
)]
pub(super) async fn discover(State(shared): SharedState, access: Access) -> Result<Json<Discovery>> {
    let businesses = (shared.state.discover)(shared.lines(&access)).await;
    Ok(Json(Discovery { businesses }))
}
