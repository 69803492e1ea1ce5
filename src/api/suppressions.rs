//! Suppressions: people who want no messages from a business.
//!
//! A response to a change means that the change is durable, and that nothing is claimed for the person any more.

use std::{fmt, str::FromStr};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;
use utoipa::IntoParams;

use super::{
    SharedState,
    access::Access,
    audit::Audit,
    csv,
    extract::{JsonBody, PhonePath},
    stream_permit, uploads,
};
use crate::{
    api_types::{NewSuppression, Page, SuppressionPage, SuppressionView, UploadResult},
    config::KeyScope,
    domain::{
        BusinessId, PersonHash, Phone, RawSuppression, Suppression, SuppressionDefaults, SuppressionReason,
        SuppressionScope, SuppressionSource,
    },
    http::{
        page,
        problem::{Problem, Result},
        request::{Params, bad_query},
    },
    redis::{self, Store},
};

/// About how many entries a piece of the export has: some 400 kB.
const EXPORTED_AT_ONCE: usize = 5_000;

/// The business of a call.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BusinessParams {
    /// The business; optional if the key sees only one.
    #[param(value_type = Option<BusinessId>, nullable = false)]
    business: Option<String>,
}

/// Suppress a person.
///
/// The person gets no more marketing, or no more messages at all, from campaigns of the business. When the response
/// arrives, the suppression is stored, and no further message to the person is claimed. Requests already in flight are
/// still sent. If the person is suppressed already, the scope and the reason change, and `since` stays.
#[utoipa::path(
    put, path = "/v1/suppressions/{phone}", tag = "suppressions", operation_id = "suppress",
    security(("api_key" = [KeyScope::Submit])),
    params(PhonePath),
    request_body = NewSuppression,
    responses((status = 200, description = "The suppression.", body = SuppressionView)),
    extensions(("x-problems" = json!(["invalid-phone", "not-found", "business-missing", "business-not-found"]))),
)]
pub(super) async fn put(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    PhonePath(phone): PhonePath,
    JsonBody(new): JsonBody<NewSuppression>,
) -> Result<Json<SuppressionView>> {
    let business = &shared.business(&access, new.business.as_ref().map(BusinessId::as_str))?;
    audit.on(on(business, phone));
    // If Redis restarts meanwhile, it may lose the entry: then the call fails.
    let store = shared.state.store.in_this_incarnation();
    let hash = hash(&store, phone).await?;
    let entry = Suppression {
        phone: Some(phone),
        scope: new.scope,
        reason: new.reason,
        source: SuppressionSource::Api,
        since: shared.now(),
    };
    let counts = store.suppress(business, &[(hash, entry)], false).await?;
    audit.changed(counts.new + counts.changed > 0);
    // Waits even if nothing changed: an entry that an interrupted call stored may not be durable yet.
    store.make_durable().await?;
    // Another call may have ended the suppression since.
    let stored = find(&store, business, hash).await?.unwrap_or(entry);
    Ok(Json(SuppressionView::of(business, &stored)))
}

/// Get a suppression.
#[utoipa::path(
    get, path = "/v1/suppressions/{phone}", tag = "suppressions", operation_id = "get_suppression",
    security(("api_key" = [KeyScope::Read])),
    params(PhonePath, BusinessParams),
    responses((status = 200, description = "The suppression.", body = SuppressionView)),
    extensions(("x-problems" = json!([
        "invalid-phone", "not-found", "business-missing", "business-not-found", "suppression-not-found"
    ]))),
)]
pub(super) async fn one(
    State(shared): SharedState,
    access: Access,
    PhonePath(phone): PhonePath,
    Params(params): Params<BusinessParams>,
) -> Result<Json<SuppressionView>> {
    let business = &shared.business(&access, params.business.as_deref())?;
    let store = &shared.state.store;
    let entry = find(store, business, hash(store, phone).await?).await?.ok_or_else(|| not_found(business))?;
    Ok(Json(SuppressionView::of(business, &entry)))
}

/// End a suppression.
///
/// The person gets messages from the business again. Messages that were skipped stay skipped.
#[utoipa::path(
    delete, path = "/v1/suppressions/{phone}", tag = "suppressions", operation_id = "unsuppress",
    security(("api_key" = [KeyScope::Submit])),
    params(PhonePath, BusinessParams),
    responses((status = 204, description = "The suppression has ended.")),
    extensions(("x-problems" = json!([
        "invalid-phone", "not-found", "business-missing", "business-not-found", "suppression-not-found"
    ]))),
)]
pub(super) async fn delete(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    PhonePath(phone): PhonePath,
    Params(params): Params<BusinessParams>,
) -> Result<StatusCode> {
    let business = &shared.business(&access, params.business.as_deref())?;
    audit.on(on(business, phone));
    let store = shared.state.store.in_this_incarnation();
    let removed = store.unsuppress(business, hash(&store, phone).await?).await?;
    store.make_durable().await?;
    if removed { Ok(StatusCode::NO_CONTENT) } else { Err(not_found(business)) }
}

/// The query parameters of the list of suppressions.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SuppressionListParams {
    /// The business; optional if the key sees only one.
    #[param(value_type = Option<BusinessId>, nullable = false)]
    business: Option<String>,
    /// `next` of the previous page; leave it out for the first page.
    #[param(nullable = false)]
    cursor: Option<String>,
    /// The maximum number of rows.
    #[param(value_type = Option<u16>, nullable = false, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
}

/// A person as the end of a page: the hash in hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor(PersonHash);

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let is_hash = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let hash = if is_hash { u64::from_str_radix(text, 16).map_err(drop)? } else { return Err(()) };
        Ok(Self(PersonHash(hash)))
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(PersonHash(hash)) = self;
        write!(f, "{hash:016x}")
    }
}

/// List the suppressions of a business.
///
/// The order is arbitrary but stable: each suppression is on exactly one page, except that one which begins or ends
/// while the pages are read may be missing.
#[utoipa::path(
    get, path = "/v1/suppressions", tag = "suppressions", operation_id = "list_suppressions",
    security(("api_key" = [KeyScope::Read])),
    params(SuppressionListParams),
    responses((status = 200, description = "A page of suppressions.", body = SuppressionPage)),
    extensions(("x-problems" = json!(["business-missing", "business-not-found"]))),
)]
pub(super) async fn list(
    State(shared): SharedState,
    access: Access,
    Params(params): Params<SuppressionListParams>,
) -> Result<Json<SuppressionPage>> {
    let limit = page::limit(params.limit.as_deref())?;
    let cursor = page::cursor::<Cursor>(params.cursor.as_deref())?;
    let business = &shared.business(&access, params.business.as_deref())?;
    let after = cursor.map(|Cursor(hash)| hash);
    let (mut found, more) = shared.state.store.suppressed_after(business, after, limit).await?;
    let more = more || found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|(hash, _)| Cursor(*hash).to_string());
    Ok(Json(Page { rows: found.iter().map(|(_, entry)| SuppressionView::of(business, entry)).collect(), next }))
}

/// The query parameters of an import.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ImportParams {
    /// The business; optional if the key sees only one.
    #[param(value_type = Option<BusinessId>, nullable = false)]
    business: Option<String>,
    /// The scope of rows without one.
    #[param(value_type = Option<SuppressionScope>, nullable = false)]
    scope: Option<String>,
    /// The reason of rows without one.
    #[param(value_type = Option<SuppressionReason>, nullable = false, default = "opt_out")]
    reason: Option<String>,
    /// CSV columns to ignore, separated by commas.
    #[param(nullable = false, example = "email,city")]
    ignore: Option<String>,
}

/// Import suppressions.
///
/// The body is processed while it arrives, and can have any length. A rejected row does not stop the import. The scope
/// of a person who is suppressed already changes only from `marketing` to `all`. A file from `GET /v1/suppressions.csv`
/// can be imported. When the response arrives, every accepted row is in force.
#[utoipa::path(
    post, path = "/v1/suppressions", tag = "suppressions", operation_id = "import_suppressions",
    security(("api_key" = [KeyScope::Submit])),
    params(
        ImportParams,
        (
            "Upload-Id" = Option<String>, Header, nullable = false,
            min_length = 1, max_length = 128, pattern = "^[!-~]*$",
            description = "Your name for the import. Repeating an import, with or without one, has the same result.",
        ),
        (
            "Content-Encoding" = Option<String>, Header, nullable = false, pattern = "^(gzip|zstd|br)$",
            description = "The compression of the body. Row numbers are those of the uncompressed text.",
        ),
    ),
    request_body(
        content((RawSuppression = "application/x-ndjson"), (String = "text/csv")),
        description = "NDJSON: a `SuppressionRow` on each line. CSV: a header row, then a row for each person; the \
            columns are the fields of `SuppressionRow`, of which only `phone` is required.",
    ),
    responses((status = 200, description = "The import was read to its end.", body = UploadResult)),
    extensions(("x-problems" = json!([
        "unsupported-encoding", "unsupported-media-type", "body-too-slow", "invalid-query", "invalid-upload-id",
        "invalid", "upload-unreadable", "upload-interrupted", "upload-undecodable", "upload-expands-too-far",
        "business-missing", "business-not-found", "too-many-streams"
    ]))),
)]
pub(super) async fn import(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    Params(params): Params<ImportParams>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<UploadResult>> {
    let business = &shared.business(&access, params.business.as_deref())?;
    audit.on(format_args!("business:{business}"));
    let scope = word("scope", params.scope.as_deref(), SuppressionScope::ALL, SuppressionScope::name)?;
    let reason = word("reason", params.reason.as_deref(), SuppressionReason::ALL, SuppressionReason::name)?;
    let reason = reason.unwrap_or_default();
    let defaults = SuppressionDefaults { business: business.clone(), scope, reason, now: shared.now() };
    let layout = uploads::layout(&headers, params.ignore.as_deref())?;
    let upload_id = uploads::upload_id(&headers)?;
    let _permit = stream_permit(&shared.uploads, "uploads")?;
    let mut fault = None;
    let body = uploads::rows(&headers, body, shared.state.stall_timeout, &mut fault)?;
    let result = shared.state.intake.import_suppressions(upload_id, layout, &defaults, body).await;
    let imported = uploads::ended(result, fault)?;
    audit.changed(imported.changed);
    Ok(Json(imported.rows))
}

/// Download the suppressions of a business, as CSV.
///
/// The columns are the fields of `Suppression`. People who were forgotten are left out, because nobody knows their
/// numbers. If the server can't finish, the connection is cut without the end of the body.
#[utoipa::path(
    get, path = "/v1/suppressions.csv", tag = "suppressions", operation_id = "export_suppressions",
    security(("api_key" = [KeyScope::Read])),
    params(BusinessParams),
    responses(
        (
            status = 200, description = "The suppressions: RFC 4180 with a header row.",
            body = String, content_type = "text/csv",
            headers(("Content-Disposition" = String, description = "A file name for the export.")),
        ),
    ),
    extensions(("x-problems" = json!(["business-missing", "business-not-found", "too-many-streams"]))),
)]
pub(super) async fn export(
    State(shared): SharedState,
    access: Access,
    Params(params): Params<BusinessParams>,
) -> Result<Response> {
    let business = shared.business(&access, params.business.as_deref())?;
    let export = Export {
        store: shared.state.store.clone(),
        business: business.clone(),
        after: None,
        is_done: false,
        _permit: stream_permit(&shared.reports, "reports")?,
    };
    let name = format!("suppressions-{business}.csv");
    let rows = stream::try_unfold(export, move |mut export| {
        let business = business.clone();
        async move {
            let piece = export.next().await.inspect_err(|error| warn!(%business, %error, "export ended early"))?;
            Ok::<_, redis::StoreError>(piece.map(|piece| (piece, export)))
        }
    });
    Ok(csv::attachment(&name, &RawSuppression::COLUMNS, rows))
}

/// An export that is being written to a body.
struct Export {
    store: Store,
    business: BusinessId,
    /// The last person that was written.
    after: Option<PersonHash>,
    is_done: bool,
    _permit: OwnedSemaphorePermit,
}

impl Export {
    /// Returns the next piece of the body, or `None` at the end.
    async fn next(&mut self) -> redis::Result<Option<Bytes>> {
        let mut piece = Vec::new();
        while piece.is_empty() && !self.is_done {
            let (found, more) = self.store.suppressed_after(&self.business, self.after, EXPORTED_AT_ONCE).await?;
            found.iter().for_each(|(_, entry)| write_entry(&mut piece, &self.business, entry));
            self.after = found.last().map(|(hash, _)| *hash);
            self.is_done = !more;
        }
        Ok((!piece.is_empty()).then(|| piece.into()))
    }
}

/// Appends a row, unless the number is not known. The order is that of [`RawSuppression::COLUMNS`].
fn write_entry(out: &mut Vec<u8>, business: &BusinessId, entry: &Suppression) {
    let Some(phone) = entry.phone else { return };
    let fields = [
        phone.to_string(),
        business.to_string(),
        entry.scope.name().to_owned(),
        entry.reason.name().to_owned(),
        entry.since.to_string(),
        entry.source.name().to_owned(),
    ];
    csv::write_row(out, &fields);
}

/// The value that a query parameter names. An empty one counts as missing.
fn word<T: Copy, const N: usize>(
    parameter: &str,
    text: Option<&str>,
    values: [T; N],
    name: impl Fn(T) -> &'static str,
) -> Result<Option<T>> {
    let Some(text) = page::non_empty(text) else { return Ok(None) };
    match values.into_iter().find(|value| name(*value) == text) {
        Some(value) => Ok(Some(value)),
        None => Err(bad_query(format!("{parameter} is {text}; it is one of {}", values.map(name).join(", ")))),
    }
}

/// What a change is about, in the audit trail: of the number it has the last four digits.
fn on(business: &BusinessId, phone: Phone) -> String {
    format!("business:{business} {phone:?}")
}

async fn hash(store: &Store, phone: Phone) -> Result<PersonHash> {
    Ok(PersonHash::of(phone.into(), &store.token_key().await?.get()))
}

async fn find(store: &Store, business: &BusinessId, hash: PersonHash) -> Result<Option<Suppression>> {
    Ok(store.suppressions(business, &[hash]).await?.pop().flatten())
}

fn not_found(business: &BusinessId) -> Problem {
    let detail = format!("business {business} does not suppress this number: check the number and the business");
    Problem::not_found("suppression-not-found", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_printing_and_parsing() {
        for hash in [0, 1, u64::MAX] {
            let cursor = Cursor(PersonHash(hash));
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for bad in ["", "1", "+00000000000000f", "000000000000000G", "00000000000000000"] {
            assert_eq!(bad.parse::<Cursor>(), Err(()), "{bad}");
        }
    }
}
