//! Dead letters of the job stream: read, retry, delete.

use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;

use super::{SharedState, access::Access, extract::DeadLetterPath};
use crate::{
    api_types::{DeadJobPage, DeadJobView, Page, RetriedJob},
    config::KeyScope,
    domain::EntryId,
    http::{
        page::{self, PageParams},
        problem::Result,
        request::Params,
    },
    json,
    redis::dead_letters::DeadLetter,
};

/// How much of a job a list shows. Jobs with recipients can have megabytes.
const LISTED_JOB_BYTES_MAX: usize = 4_096;

/// What a dead letter shows of its job besides the text.
#[derive(Default, Deserialize)]
struct JobSummary {
    r#type: Option<String>,
    external_id: Option<String>,
}

impl JobSummary {
    fn of(job: &[u8]) -> Self {
        json::object(&mut serde_json::Deserializer::from_slice(job)).unwrap_or_default()
    }
}

/// Builds the view of a dead letter, with at most `job_bytes_max` bytes of its job.
fn view(letter: &DeadLetter, job_bytes_max: usize) -> DeadJobView {
    let job = letter.entry.job();
    let JobSummary { r#type, external_id } = job.map(JobSummary::of).unwrap_or_default();
    let text = job.map(|job| {
        let text = String::from_utf8_lossy(job);
        text[..text.floor_char_boundary(job_bytes_max)].to_owned()
    });
    DeadJobView {
        id: letter.id,
        entry: letter.entry.id,
        at: letter.at,
        code: letter.code.clone(),
        reason: letter.reason.clone(),
        rejected: letter.rejected.as_deref().and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default(),
        r#type,
        external_id,
        job: text,
        job_bytes: job.map_or(0, |job| job.len() as u64),
    }
}

/// List the dead letters of jobs, newest first.
///
/// The list shows the beginning of each job. It is empty for a key that is limited to businesses. A page can have fewer
/// rows than `limit` even if there is a next page.
#[utoipa::path(
    get, path = "/v1/jobs/dead", tag = "jobs", operation_id = "list_dead_jobs",
    security(("api_key" = [KeyScope::Read])),
    params(PageParams),
    responses((status = 200, description = "A page of dead letters.", body = DeadJobPage)),
)]
pub(super) async fn list(
    State(shared): SharedState,
    access: Access,
    Params(params): Params<PageParams>,
) -> Result<Json<DeadJobPage>> {
    // `next` is the last dead letter of the page.
    let limit = page::limit(params.limit.as_deref())?;
    let cursor = page::cursor::<EntryId>(params.cursor.as_deref())?;
    if access.is_limited() {
        return Ok(Json(Page { rows: Vec::new(), next: None }));
    }
    let (letters, more) = shared.state.store.dead_letters(cursor, limit).await?;
    let next = letters.last().filter(|_| more).map(|letter| letter.id.to_string());
    Ok(Json(Page { rows: letters.iter().map(|letter| view(letter, LISTED_JOB_BYTES_MAX)).collect(), next }))
}

/// Get a dead letter with its whole job.
#[utoipa::path(
    get, path = "/v1/jobs/dead/{dead_letter}", tag = "jobs", operation_id = "get_dead_job",
    security(("api_key" = [KeyScope::Read])),
    params(DeadLetterPath),
    responses((status = 200, description = "The dead letter.", body = DeadJobView)),
)]
pub(super) async fn one(State(shared): SharedState, DeadLetterPath(id): DeadLetterPath) -> Result<Json<DeadJobView>> {
    let letter = shared.state.intake.dead_letter(id).await?;
    Ok(Json(view(&letter, usize::MAX)))
}

/// Retry the job of a dead letter.
///
/// The retry is added to the end of the stream of jobs. Once it has been applied, the dead letter is deleted; if the
/// job fails again, it becomes a new one. Repeating the call changes nothing.
#[utoipa::path(
    post, path = "/v1/jobs/dead/{dead_letter}/retry", tag = "jobs", operation_id = "retry_dead_job",
    security(("api_key" = [KeyScope::Submit])),
    params(DeadLetterPath),
    responses((status = 202, description = "The retry is on the stream of jobs.", body = RetriedJob)),
)]
pub(super) async fn retry(
    State(shared): SharedState,
    DeadLetterPath(dead_letter): DeadLetterPath,
) -> Result<(StatusCode, Json<RetriedJob>)> {
    let entry = shared.state.intake.retry_dead_letter(dead_letter).await?;
    Ok((StatusCode::ACCEPTED, Json(RetriedJob { dead_letter, entry })))
}

/// Delete a dead letter.
///
/// If a retry of it has not been applied yet, that retry changes nothing.
#[utoipa::path(
    delete, path = "/v1/jobs/dead/{dead_letter}", tag = "jobs", operation_id = "delete_dead_job",
    security(("api_key" = [KeyScope::Submit])),
    params(DeadLetterPath),
    responses((status = 204, description = "The dead letter is deleted.")),
)]
pub(super) async fn delete(State(shared): SharedState, DeadLetterPath(id): DeadLetterPath) -> Result<StatusCode> {
    shared.state.intake.delete_dead_letter(id).await?;
    Ok(StatusCode::NO_CONTENT)
}
