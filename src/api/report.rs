//! Every recipient with its outcome, as CSV, part by part at constant memory.
//!
//! A report is a picture of each part at the moment it is read: statuses that come while it is written may be in it or not.
//! If Redis goes away in the middle the connection is cut without the end of the body, so that half a report is never
//! taken for a whole one.
//!
//! Against formulas in spreadsheets: every field is a number, a time, an id or a word of ours, and no text of a caller,
//! of a recipient or of Meta is in it, so nothing needs to be disarmed, and a number keeps the `+` that the API gives it.

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use csv_core::{Terminator, WriterBuilder};
use futures_util::stream::{self, StreamExt as _};
use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;

use super::{
    SharedState,
    extract::CampaignPath,
    place,
    recipients::{RecipientView, remembered},
};
use crate::{
    domain::{LineId, PartId, UnixMs},
    http::problem::Result,
    redis::{self, Store, StoreError, pages::RowDetails, parts::PartRows},
};

const COLUMNS: [&str; 12] = [
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
];

/// Chunks that become one piece of the body: about a thousand rows, 100 kB.
const CHUNKS_AT_ONCE: usize = 4;

/// `GET /v1/campaigns/{id}/report.csv`
pub(super) async fn report(State(shared): SharedState, CampaignPath(id): CampaignPath) -> Result<Response> {
    let record = shared.campaign(id).await?;
    remembered(&record)?;
    let report = Report {
        store: shared.state.store.clone(),
        parts: record.parts.into_iter(),
        open: None,
        _place: place(&shared.reports, "reports")?,
    };
    let mut head = Vec::new();
    write_row(&mut head, COLUMNS);
    let rows = stream::try_unfold(report, move |mut report| async move {
        let piece = report.next().await.inspect_err(|error| warn!(campaign.id = %id, %error, "report cut"))?;
        Ok::<_, StoreError>(piece.map(|piece| (piece, report)))
    });
    let pieces = stream::iter([Ok(Bytes::from(head))]).chain(rows);
    let disposition = format!("attachment; filename=\"campaign-{id}.csv\"");
    let headers =
        [(header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()), (header::CONTENT_DISPOSITION, disposition)];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

struct Report {
    store: Store,
    parts: std::vec::IntoIter<(PartId, LineId)>,
    open: Option<OpenPart>,
    _place: OwnedSemaphorePermit,
}

/// The part that is being written.
struct OpenPart {
    part: PartId,
    line: LineId,
    rows: PartRows,
    /// Its chunks from here on are still to be written.
    next: usize,
}

impl Report {
    /// The next rows; `None` at the end.
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
            let mut piece = Vec::new();
            for (&start, chunk) in starts.iter().zip(self.store.chunks(open.part, starts).await?) {
                for (row, &to) in (start..=u16::MAX).zip(chunk.numbers()) {
                    let place = usize::from(row);
                    let (Some(&byte), Some(&times)) = (open.rows.states.get(place), open.rows.times.get(place)) else {
                        continue;
                    };
                    let tries = open.rows.tries.get(&row).copied().unwrap_or(0);
                    let details = RowDetails { code: open.rows.why.get(&row).copied(), tries, times };
                    if let Some(view) = RecipientView::new(to, &open.line, byte, &details) {
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
        view.to.to_string(),
        view.state.to_owned(),
        view.code.map_or(String::new(), |code| code.to_string()),
        view.reason.unwrap_or_default().to_owned(),
        view.attempts.to_string(),
        view.line.to_string(),
        time(times.accepted_at),
        time(times.sent_at),
        time(times.delivered_at),
        time(times.read_at),
        time(times.failed_at),
        time(times.updated_at),
    ];
    write_row(out, fields);
}

/// Appends a row as RFC 4180 has it, quoted where it has to be.
fn write_row<const N: usize>(out: &mut Vec<u8>, fields: [impl AsRef<str>; N]) {
    let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).build();
    // Room for a field of which every character is a quote, and for what stands around it: nothing ever has to wait.
    let mut room = vec![0; 3 + 2 * fields.iter().map(|field| field.as_ref().len()).max().unwrap_or(0)];
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            let (_, written) = writer.delimiter(&mut room);
            out.extend(&room[..written]);
        }
        let (_, _, written) = writer.field(field.as_ref().as_bytes(), &mut room);
        out.extend(&room[..written]);
    }
    let (_, written) = writer.terminator(&mut room);
    out.extend(&room[..written]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_quoted_where_it_has_to_be() {
        let mut out = Vec::new();
        write_row(&mut out, ["+5491155550001", "a, b", "\"\"\"", ""]);
        write_row(&mut out, ["", ""]);
        assert_eq!(String::from_utf8_lossy(&out), "+5491155550001,\"a, b\",\"\"\"\"\"\"\"\",\r\n,\r\n");
    }
}
