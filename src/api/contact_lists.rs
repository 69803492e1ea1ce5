//! Lists of contacts as files: import and export.

use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::HeaderMap,
    response::Response,
};
use futures_util::{future, stream};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;
use utoipa::IntoParams;

use super::{
    Shared, SharedState,
    access::Access,
    audit::Audit,
    contacts::{ContactListParams, place},
    csv, stream_permit, uploads,
};
use crate::{
    api_types::UploadResult,
    config::KeyScope,
    domain::{
        BusinessId,
        contact_row::{ContactSchema, RawContact, to_csv},
    },
    http::{
        page,
        problem::Result,
        request::{Params, bad_query},
    },
    intake::contact_batches,
    postgres::{
        self, Database,
        contacts::{ContactFilter, ContactRecord},
    },
};

/// How many contacts an export reads at once.
const EXPORTED_AT_ONCE: usize = 1_000;

/// The columns of an export that an import has too; those of properties follow, and then the statistics.
const COLUMNS: [&str; 3] = RawContact::COLUMNS;
const STATISTICS: [&str; 7] = [
    "last_interaction",
    "conversations_by_client",
    "conversations_by_business",
    "cancelled",
    "received",
    "replies",
    "failures",
];

/// The query parameters of an import of contacts.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ContactImportParams {
    /// The business. May be left out if the caller sees only one.
    #[param(nullable = false)]
    business: Option<String>,
    /// CSV columns to ignore, separated by commas.
    #[param(nullable = false, example = "id,notes")]
    ignore: Option<String>,
    /// CSV columns that have another name in the file, separated by commas, each as `NAME:COLUMN`.
    #[param(nullable = false, example = "Teléfono:phone,Ciudad:city")]
    map: Option<String>,
}

/// Import contacts.
///
/// The body is processed while it arrives, and can have any length. A rejected row does not stop the import. A contact
/// with the number is changed: what a row gives wins, and its tags are added. An import can be repeated.
#[utoipa::path(
    post, path = "/v1/contacts/import", tag = "contacts", operation_id = "import_contacts",
    security(("api_key" = [KeyScope::Contacts])),
    params(
        ContactImportParams,
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
        content((RawContact = "application/x-ndjson"), (String = "text/csv")),
        description = "NDJSON: a `ContactRow` on each line. CSV: a header row, then a row for each contact; the columns \
            are `phone`, `name`, `tags`, and one for each property, of which only `phone` is required.",
    ),
    responses((status = 200, description = "The import was read to its end.", body = UploadResult)),
    extensions(("x-problems" = json!([
        "unsupported-encoding", "unsupported-media-type", "body-too-slow", "invalid-query", "invalid-upload-id",
        "invalid", "upload-unreadable", "upload-interrupted", "upload-undecodable", "upload-expands-too-far",
        "no-database", "business-missing", "business-not-found", "too-many-streams"
    ]))),
)]
pub(super) async fn import(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    Params(params): Params<ContactImportParams>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<UploadResult>> {
    access.check_manager()?;
    let (database, business) = (shared.database()?, &shared.business(&access, params.business.as_deref())?);
    audit.on(format_args!("business:{business}"));
    let layout = uploads::layout(&headers, params.ignore.as_deref())?;
    let renamed = renamed(params.map.as_deref())?;
    let upload_id = uploads::upload_id(&headers)?;
    let _permit = stream_permit(&shared.uploads, "uploads")?;
    let schema = shared.contact_schema(business).await?;
    let mut fault = None;
    let body = uploads::rows(&headers, body, shared.state.stall_timeout, &mut fault)?;
    let mut batches = contact_batches(upload_id, &layout, &renamed, &schema, body)?;
    let (mut next, mut changed) = (batches.next().await, 0);
    while let Ok(batch) = &next
        && !batch.is_empty()
    {
        // The next batch is read while this one is stored.
        let stored = database.import_contacts(business, batch, shared.now());
        let (stored, following) = future::join(stored, batches.next()).await;
        changed += stored?;
        next = following;
    }
    audit.changed(changed > 0);
    let result = std::mem::take(&mut batches.result);
    // The body reports its fault until it is dropped.
    drop(batches);
    uploads::ended(next.map(|_| result), fault).map(Json)
}

/// Download contacts, as CSV.
///
/// The parameters are those of the list, without `cursor` and `limit`. The columns are those of an import and the
/// `statistics`. A text that a spreadsheet would take for a formula has a `'` in front, which an import removes. If the
/// server can't finish, the connection is cut without the end of the body.
#[utoipa::path(
    get, path = "/v1/contacts.csv", tag = "contacts", operation_id = "export_contacts",
    security(("api_key" = [KeyScope::Contacts])),
    params(ContactListParams),
    responses(
        (
            status = 200, description = "The contacts: RFC 4180 with a header row.",
            body = String, content_type = "text/csv",
            headers(("Content-Disposition" = String, description = "A file name for the export.")),
        ),
    ),
    extensions(("x-problems" = json!(["no-database", "business-missing", "business-not-found", "invalid", "too-many-streams"]))),
)]
pub(super) async fn export(
    State(shared): SharedState,
    access: Access,
    Params(params): Params<ContactListParams>,
) -> Result<Response> {
    access.check_manager()?;
    let filter = shared.contact_filter(&access, params).await?;
    let business = filter.business.clone();
    let keys: Vec<String> = shared.defined(&business).await?.into_iter().map(|property| property.key).collect();
    let columns: Vec<String> = COLUMNS
        .iter()
        .map(|name| (*name).to_owned())
        .chain(keys.clone())
        .chain(STATISTICS.map(str::to_owned))
        .collect();
    let export = Export {
        database: shared.database()?.clone(),
        filter,
        keys,
        is_done: false,
        _permit: stream_permit(&shared.reports, "reports")?,
    };
    let name = format!("contacts-{business}.csv");
    let rows = stream::try_unfold(export, move |mut export| {
        let business = business.clone();
        async move {
            let piece = export.next().await.inspect_err(|error| warn!(%business, %error, "export ended early"))?;
            Ok::<_, postgres::DatabaseError>(piece.map(|piece| (piece, export)))
        }
    });
    Ok(csv::attachment(&name, &columns, rows))
}

/// An export that is being written to a body.
struct Export {
    database: Database,
    /// What is left of the list.
    filter: ContactFilter,
    /// The keys of the properties.
    keys: Vec<String>,
    is_done: bool,
    _permit: OwnedSemaphorePermit,
}

impl Export {
    /// Returns the next piece of the body, or `None` at the end.
    async fn next(&mut self) -> postgres::Result<Option<Bytes>> {
        if self.is_done {
            return Ok(None);
        }
        let contacts = self.database.contacts(&self.filter, EXPORTED_AT_ONCE).await?;
        self.is_done = contacts.len() < EXPORTED_AT_ONCE;
        self.filter.after = contacts.last().map(|last| place(last, self.filter.order));
        let mut piece = Vec::new();
        contacts.iter().for_each(|contact| csv::write_row(&mut piece, &self.row(contact)));
        Ok((!piece.is_empty()).then(|| piece.into()))
    }

    fn row(&self, contact: &ContactRecord) -> Vec<String> {
        let statistics = &contact.statistics;
        let tags: Vec<&str> = contact.tags.iter().map(|tag| tag.as_str()).collect();
        let mut row = vec![
            contact.number.map_or(String::new(), |number| number.to_string()),
            to_csv(contact.name.as_deref().unwrap_or_default()),
            tags.join(" "),
        ];
        row.extend(self.keys.iter().map(|key| match contact.properties.get(key) {
            None => String::new(),
            Some(Value::String(text)) => to_csv(text),
            Some(value) => value.to_string(),
        }));
        row.push(statistics.last_interaction.map_or(String::new(), |at| at.to_string()));
        let counts = [
            statistics.conversations_by_client,
            statistics.conversations_by_business,
            statistics.cancelled,
            statistics.received,
            statistics.replies,
            statistics.failures,
        ];
        row.extend(counts.map(|count| count.to_string()));
        row
    }
}

impl Shared {
    /// What a business has defined for its contacts.
    async fn contact_schema(&self, business: &BusinessId) -> Result<ContactSchema> {
        let properties = self.defined(business).await?.into_iter();
        let tags = self.database()?.tag_ids(business).await?;
        Ok(ContactSchema {
            properties: properties.map(|property| (property.key, (property.kind, property.choices))).collect(),
            tags: tags.into_iter().collect(),
        })
    }
}

/// The columns that have another name in the file: that name, and their own.
fn renamed(map: Option<&str>) -> Result<Vec<(String, String)>> {
    let Some(map) = page::non_empty(map) else { return Ok(Vec::new()) };
    let pairs = map.split(',').map(|pair| {
        let (name, column) = pair.rsplit_once(':')?;
        (!name.trim().is_empty()).then(|| (name.trim().to_owned(), column.trim().to_owned()))
    });
    let pairs: Option<Vec<_>> = pairs.collect();
    pairs.ok_or_else(|| bad_query("map is a list of NAME:COLUMN, such as Teléfono:phone,Ciudad:city"))
}
