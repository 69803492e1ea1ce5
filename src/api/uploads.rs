//! Recipients stream in: NDJSON or CSV of any size.

use axum::{
    Json,
    body::Body,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};

use super::{
    SharedState,
    extract::{CampaignPath, expect_media_type},
    problem::{Problem, Result},
};
use crate::intake::Format;

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
    let result = shared.state.intake.upload(id, upload_id, format, body.into_data_stream()).await?;
    Ok(Json(result).into_response())
}

fn upload_id(headers: &HeaderMap) -> Result<Option<&str>> {
    let Some(value) = headers.get(UPLOAD_ID) else { return Ok(None) };
    let refused = |_| Problem::bad_request("invalid-upload-id", "the header Upload-Id is not visible ASCII");
    value.to_str().map(Some).map_err(refused)
}
