//! Recipients stream in: NDJSON or CSV of any size.

use std::error::Error;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use futures_util::TryStreamExt as _;
use tower_http::timeout::TimeoutError;

use super::{
    SharedState,
    extract::{CampaignPath, expect_media_type, too_slow},
    place,
    problem::{Problem, Result},
};
use crate::intake::{Format, IntakeError};

/// The caller's name for an upload: the same one again continues it, or changes nothing.
const UPLOAD_ID: &str = "upload-id";

/// `POST /v1/campaigns/{id}/recipients`
pub(super) async fn upload(
    State(shared): SharedState,
    CampaignPath(id): CampaignPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    let format = match expect_media_type(&headers, &["application/x-ndjson", "text/csv"])? {
        "text/csv" => Format::Csv,
        _ => Format::Ndjson,
    };
    let upload_id = upload_id(&headers)?;
    let _place = place(&shared.uploads, "uploads")?;
    let mut stalled = false;
    let rows = body.into_data_stream().inspect_err(|error| stalled |= is_time_out(error));
    match shared.state.intake.upload(id, upload_id, format, rows).await {
        Err(IntakeError::Interrupted(_)) if stalled => Err(too_slow(shared.state.stall_timeout)),
        result => Ok(Json(result?).into_response()),
    }
}

fn is_time_out(error: &axum::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<TimeoutError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn upload_id(headers: &HeaderMap) -> Result<Option<&str>> {
    let Some(value) = headers.get(UPLOAD_ID) else { return Ok(None) };
    let refused = |_| Problem::bad_request("invalid-upload-id", "the header Upload-Id is not visible ASCII");
    value.to_str().map(Some).map_err(refused)
}
