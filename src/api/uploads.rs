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
use serde::Deserialize;
use tower_http::timeout::TimeoutError;

use super::{
    SharedState,
    extract::{CampaignPath, Params, bad_query, expect_media_type, too_slow},
    place,
    problem::{Problem, Result},
};
use crate::intake::{Format, IntakeError, Layout};

/// The caller's name for an upload: the same one again continues it, or changes nothing.
const UPLOAD_ID: &str = "upload-id";

/// What stands behind the `?` of an upload.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UploadParams {
    ignore: Option<String>,
}

impl UploadParams {
    /// The columns to leave out, named one after the other.
    fn ignored(&self) -> Vec<String> {
        let names = self.ignore.iter().flat_map(|names| names.split(',')).map(str::trim);
        names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }
}

/// `POST /v1/campaigns/{id}/recipients`
pub(super) async fn upload(
    State(shared): SharedState,
    CampaignPath(id): CampaignPath,
    Params(params): Params<UploadParams>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    let format = match expect_media_type(&headers, &["application/x-ndjson", "text/csv"])? {
        "text/csv" => Format::Csv,
        _ => Format::Ndjson,
    };
    let ignored = params.ignored();
    if format == Format::Ndjson && !ignored.is_empty() {
        return Err(bad_query("ignore leaves out columns of a CSV, and this upload is NDJSON: leave ignore out"));
    }
    let layout = Layout { format, ignored };
    let upload_id = upload_id(&headers)?;
    let _place = place(&shared.uploads, "uploads")?;
    let mut stalled = false;
    let rows = body.into_data_stream().inspect_err(|error| stalled |= is_time_out(error));
    match shared.state.intake.upload(id, upload_id, layout, rows).await {
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
