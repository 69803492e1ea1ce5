//! The CSV report: every recipient with its outcome, streamed part by part at constant memory.
//!
//! Each part is a snapshot at the moment it is read. Statuses that arrive during the download may or may not be
//! included. If Redis fails midway, the connection closes without the end of the body, so that a client can't mistake
//! a truncated report for a complete one.
//!
//! A spreadsheet runs a field as a formula if it begins with a character such as `=`. A report contains no text from a
//! caller or a recipient: every field is a number, a time, an id or one of Pregón's fixed texts. Meta's message ids
//! begin with `wamid.`; one that does not is left out. So no field is escaped, and phone numbers keep their `+`.

use axum::{body::Bytes, extract::State, response::Response};
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;

use super::{
    SharedState, csv,
    extract::CampaignPath,
    recipients::{ensure_recipients_kept, view},
    stream_permit,
};
use crate::{
    api_types::RecipientView,
    config::KeyScope,
    domain::{LineId, PartId, UnixMs, Wamid},
    http::problem::Result,
    redis::{self, Store, StoreError, chunk::CHUNK_ROWS_MAX, pages::RowDetails, parts::PartRows},
};

const COLUMNS: [&str; 13] = [
    "to",
    "state",
    "code",
    "reason",
    "attempts",
    "line",
    "accepted_at",
    "sent_at",
    "delivered_at",
    "read_at",
    "failed_at",
    "updated_at",
    "wamid",
];

/// Maximum number of chunks per piece of the body: about a thousand rows, 170 kB.
const CHUNKS_AT_ONCE: usize = 4;

/// Download every recipient with its outcome, as CSV.
///
/// The columns are the fields of `Recipient`. If the server can't finish the report, the connection is cut without
/// the end of the body.
#[utoipa::path(
    get, path = "/v1/campaigns/{campaign}/report.csv", tag = "recipients", operation_id = "download_report",
    security(("api_key" = [KeyScope::Read])),
    params(CampaignPath),
    responses(
        (
            status = 200, description = "The report: RFC 4180 with a header row.",
            body = String, content_type = "text/csv",
            headers(("Content-Disposition" = String, description = "A file name for the report.")),
        ),
    ),
    extensions(("x-problems" = json!(["recipients-dropped", "too-many-streams"]))),
)]
pub(super) async fn report(State(shared): SharedState, CampaignPath(id): CampaignPath) -> Result<Response> {
    let record = shared.campaign(id).await?;
    ensure_recipients_kept(&record)?;
    let report = Report {
        store: shared.state.store.clone(),
        parts: record.parts.into_iter(),
        open: None,
        _permit: stream_permit(&shared.reports, "reports")?,
    };
    let rows = stream::try_unfold(report, move |mut report| async move {
        let piece = report.next().await.inspect_err(|error| warn!(campaign.id = %id, %error, "report ended early"))?;
        Ok::<_, StoreError>(piece.map(|piece| (piece, report)))
    });
    Ok(csv::attachment(&format!("campaign-{id}.csv"), &COLUMNS, rows))
}

struct Report {
    store: Store,
    parts: std::vec::IntoIter<(PartId, LineId)>,
    open: Option<OpenPart>,
    _permit: OwnedSemaphorePermit,
}

/// The part whose rows are being written to the body.
struct OpenPart {
    part: PartId,
    line: LineId,
    rows: PartRows,
    /// The first chunk that is not written yet, as an index into `rows.chunks`.
    next: usize,
}

impl Report {
    /// Returns the next piece of the body, or `None` at the end.
    async fn next(&mut self) -> redis::Result<Option<Bytes>> {
        loop {
            let Some(open) = &mut self.open else {
                let Some((part, line)) = self.parts.next() else { return Ok(None) };
                let rows = self.store.part_rows(part).await?;
                self.open = Some(OpenPart { part, line, rows, next: 0 });
                continue;
            };
            let starts = &open.rows.chunks[open.next..];
            let starts = &starts[..starts.len().min(CHUNKS_AT_ONCE)];
            if starts.is_empty() {
                self.open = None;
                continue;
            }
            let rows = starts.iter().flat_map(|&start| start..=start.saturating_add(CHUNK_ROWS_MAX as u16 - 1));
            let (chunks, wamids) =
                tokio::try_join!(self.store.chunks(open.part, starts), self.store.wamids_of(open.part, rows))?;
            let mut piece = Vec::new();
            for (&start, chunk) in starts.iter().zip(chunks) {
                for (row, &to) in (start..=u16::MAX).zip(chunk.numbers()) {
                    let index = usize::from(row);
                    let (Some(&byte), Some(&times)) = (open.rows.states.get(index), open.rows.times.get(index)) else {
                        continue;
                    };
                    let tries = open.rows.tries.get(&row).copied().unwrap_or(0);
                    let details = RowDetails { reason: open.rows.why.get(&row).copied(), tries, times };
                    let wamid = wamids.of_last_claim(row, byte);
                    if let Some(view) = view(to, &open.line, byte, &details, wamid) {
                        write_recipient(&mut piece, &view);
                    }
                }
            }
            open.next += starts.len();
            if !piece.is_empty() {
                return Ok(Some(piece.into()));
            }
        }
    }
}

fn write_recipient(out: &mut Vec<u8>, view: &RecipientView) {
    let time = |at: Option<UnixMs>| at.map_or(String::new(), |at| at.to_string());
    let times = &view.times;
    let fields = [
        view.to.map_or(String::new(), |to| to.to_string()),
        view.state.to_string(),
        view.code.map_or(String::new(), |code| code.to_string()),
        view.reason.as_deref().unwrap_or_default().to_owned(),
        view.attempts.to_string(),
        view.line.to_string(),
        time(times.accepted_at),
        time(times.sent_at),
        time(times.delivered_at),
        time(times.read_at),
        time(times.failed_at),
        time(times.updated_at),
        view.wamid
            .as_ref()
            .map(Wamid::as_str)
            .filter(|wamid| wamid.starts_with("wamid."))
            .unwrap_or_default()
            .to_owned(),
    ];
    csv::write_row(out, &fields);
}
