//! Uploads of recipients: NDJSON or CSV of any size, plain or compressed, read as a stream. Imports of suppressions read
//! their bodies in the same way.

use std::{
    error::Error,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Json,
    body::{Body, BodyDataStream, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode},
};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, future::Either};
use serde::Deserialize;
use tokio_util::io::{ReaderStream, StreamReader};
use tower_http::timeout::TimeoutError;
use utoipa::IntoParams;

use super::{SharedState, access::Access, extract::CampaignPath, stream_permit};
use crate::{
    api_types::UploadResult,
    coding::Coding,
    config::KeyScope,
    domain::RawRecipient,
    http::problem::{Problem, Result},
    http::request::{Params, bad_query, content_coding, expect_media_type, too_slow},
    intake::{Format, IntakeError, UploadLayout},
};

/// The header with the caller's id for an upload. Repeating an upload with the same id continues it if it was
/// interrupted, and changes nothing if it was complete.
const UPLOAD_ID: &str = "upload-id";

/// Maximum number of decoded bytes per byte of a compressed body. Files of recipients compress to about a tenth.
const EXPANSION_MAX: u64 = 1_000;

/// Decoded bytes allowed in addition to those of [`EXPANSION_MAX`], so that short bodies pass.
const EXPANSION_SPARE: u64 = 1 << 20;

/// The size of the buffer for decoded data, in bytes.
const DECODED_AT_ONCE: usize = 64 * 1024;

/// The query parameters of an upload.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UploadParams {
    /// CSV columns to ignore, separated by commas.
    #[param(nullable = false, example = "email,city")]
    ignore: Option<String>,
}

/// Why reading a body failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// The connection failed before the end of the body.
    #[error(transparent)]
    Broken(axum::Error),
    /// The body does not match its `Content-Encoding`.
    #[error("it can't be decoded as {}: {cause}", coding.name())]
    Undecodable { coding: Coding, cause: io::Error },
    /// The body expands by more than [`EXPANSION_MAX`], as no file of recipients does. It may be a decompression bomb.
    #[error("it expands too far")]
    ExpandsTooFar,
}

/// Upload recipients into a campaign that has not started.
///
/// The body is processed while it arrives, and may have any length. A rejected row does not stop the upload.
#[utoipa::path(
    post, path = "/v1/campaigns/{campaign}/recipients", tag = "recipients", operation_id = "upload_recipients",
    security(("api_key" = [KeyScope::Submit])),
    params(
        CampaignPath, UploadParams,
        (
            "Upload-Id" = Option<String>, Header, nullable = false,
            min_length = 1, max_length = 128, pattern = "^[!-~]*$",
            description = "Makes the upload repeatable for seven days: rows that were accepted before are skipped.",
        ),
        (
            "Content-Encoding" = Option<String>, Header, nullable = false, pattern = "^(gzip|zstd|br)$",
            description = "The compression of the body. Row numbers are those of the uncompressed text.",
        ),
    ),
    request_body(
        content((RawRecipient = "application/x-ndjson"), (String = "text/csv")),
        description = "NDJSON: a `NewRecipient` on each line. CSV: a header row, then a row for each recipient; the \
            columns are `to`, one for each parameter, `header`, `button.0`, `button.1` and so on, and `zone`.",
    ),
    responses((status = 200, description = "The upload was read to its end.", body = UploadResult)),
    extensions(("x-problems" = json!([
        "unsupported-encoding", "unsupported-media-type", "body-too-slow", "invalid-query", "invalid-upload-id",
        "invalid", "upload-unreadable", "upload-interrupted", "upload-undecodable", "upload-expands-too-far",
        "upload-conflict", "upload-in-progress", "too-many-recipients", "campaign-state", "template-changed",
        "template-missing", "template-not-approved", "template-unsupported", "templates-not-synced",
        "too-many-streams"
    ])), ("x-unaudited" = json!(true))),
)]
pub(super) async fn upload(
    State(shared): SharedState,
    access: Access,
    CampaignPath(id): CampaignPath,
    Params(params): Params<UploadParams>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<UploadResult>> {
    let layout = layout(&headers, params.ignore.as_deref())?;
    let upload_id = upload_id(&headers)?;
    let _permit = stream_permit(&shared.uploads, "uploads")?;
    let mut fault = None;
    let body = rows(&headers, body, shared.state.stall_timeout, &mut fault)?;
    let result = shared.intake(&access).upload(id, upload_id, layout, body).await;
    ended(result, fault).map(Json)
}

/// How to parse the body of an upload. `ignore` is the parameter of this name.
///
/// Errors: 415 for another media type; 400 for NDJSON with columns to ignore.
pub(super) fn layout(headers: &HeaderMap, ignore: Option<&str>) -> Result<UploadLayout> {
    let format = match expect_media_type(headers, &["application/x-ndjson", "text/csv"])? {
        "text/csv" => Format::Csv,
        _ => Format::Ndjson,
    };
    let ignored: Vec<String> = ignore.map(ignored).unwrap_or_default();
    if format == Format::Ndjson && !ignored.is_empty() {
        return Err(bad_query("ignore applies only to CSV, and this upload is NDJSON: remove the parameter ignore"));
    }
    Ok(UploadLayout { format, ignored })
}

/// The columns to ignore: the parameter is a list separated by commas.
fn ignored(names: &str) -> Vec<String> {
    names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The body of an upload, decoded as it arrives. What is wrong with it is put into `fault`, for [`ended`].
///
/// Errors: 415 for a compression that there is not.
pub(super) fn rows(
    headers: &HeaderMap,
    body: Body,
    stall_timeout: Duration,
    fault: &mut Option<Problem>,
) -> Result<impl Stream<Item = std::result::Result<Bytes, BodyError>> + Unpin> {
    let coding = content_coding(headers, &Coding::ALL)?;
    let body = body.into_data_stream();
    let body = match coding {
        None => Either::Left(body.map_err(BodyError::Broken)),
        Some(coding) => Either::Right(decoded(coding, body)),
    };
    Ok(body.inspect_err(move |error| *fault = problem(error, stall_timeout)))
}

/// The result of an upload. If the body was at fault, the problem says what was wrong with it.
pub(super) fn ended<T>(result: std::result::Result<T, IntakeError>, fault: Option<Problem>) -> Result<T> {
    match (result, fault) {
        (Err(IntakeError::Interrupted(_)), Some(problem)) => Err(problem),
        (result, _) => Ok(result?),
    }
}

/// Decodes a compressed body as it arrives.
///
/// Errors: [`BodyError`]; `ExpandsTooFar` as soon as the limit is exceeded.
fn decoded(coding: Coding, body: BodyDataStream) -> impl Stream<Item = std::result::Result<Bytes, BodyError>> + Unpin {
    let received = Arc::new(AtomicU64::new(0));
    let counter = received.clone();
    let encoded = body.inspect_ok(move |bytes| {
        counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    });
    let decoder = coding.decoder(StreamReader::new(encoded.map_err(io::Error::other)));
    let mut expanded = 0;
    ReaderStream::with_capacity(decoder, DECODED_AT_ONCE).map(move |piece| {
        let piece = piece.map_err(|error| match error.downcast::<axum::Error>() {
            Ok(error) => BodyError::Broken(error),
            Err(cause) => BodyError::Undecodable { coding, cause },
        })?;
        expanded += piece.len() as u64;
        if expanded > received.load(Ordering::Relaxed) * EXPANSION_MAX + EXPANSION_SPARE {
            return Err(BodyError::ExpandsTooFar);
        }
        Ok(piece)
    })
}

/// The problem to return for `error`, or `None` if "upload interrupted" describes it best.
fn problem(error: &BodyError, stall_timeout: Duration) -> Option<Problem> {
    match error {
        BodyError::Broken(error) => is_timeout(error).then(|| too_slow(stall_timeout)),
        BodyError::Undecodable { coding, cause } => Some(Problem::bad_request(
            "upload-undecodable",
            format!(
                "the header Content-Encoding says {0}, but the body is not {0}, or breaks off ({cause}): compress the \
                 file again and repeat the upload with the same Upload-Id; rows that were stored are skipped",
                coding.name()
            ),
        )),
        BodyError::ExpandsTooFar => Some(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "upload-expands-too-far",
            format!(
                "the body expands to more than {EXPANSION_MAX} times its bytes, which no file of recipients does: \
                 check the file, or send it without Content-Encoding"
            ),
        )),
    }
}

/// Whether reading a body failed because it stalled.
pub(super) fn is_timeout(error: &axum::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<TimeoutError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The caller's id for an upload.
///
/// Errors: 400 if it is not ASCII.
pub(super) fn upload_id(headers: &HeaderMap) -> Result<Option<&str>> {
    let Some(value) = headers.get(UPLOAD_ID) else { return Ok(None) };
    let invalid = |_| {
        Problem::bad_request(
            "invalid-upload-id",
            "the header Upload-Id has a character that is not visible ASCII: use only letters, digits and punctuation",
        )
    };
    value.to_str().map(Some).map_err(invalid)
}
