//! Recipients of a campaign: a paged list, and lookup by phone number.
//!
//! A cursor is a part and a row. To fill a page, the state bytes are scanned from the cursor on, then the chunks and
//! details of the matching rows are read. A recipient that the filter skips costs one byte read from Redis.

use std::{fmt, str::FromStr};

use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    Shared, SharedState,
    extract::{self, CampaignPath, RecipientPath},
};
use crate::{
    api_types::{Page, RecipientPage, RecipientView, Times, recipient_state},
    config::KeyScope,
    domain::{LineId, PartId, Phone, RowReason, State as RecipientState, UnixMs, Wamid},
    http::request::{Params, bad_query},
    http::{
        page,
        problem::{Problem, Result},
    },
    redis::{
        campaigns::CampaignRecord,
        pages::RowDetails,
        parts::{PART_ROWS, PhoneQuery},
    },
};

/// Maximum number of state bytes that one page scans: those of 16 parts.
const SCANNED_MAX: usize = 16 * PART_ROWS;

/// Maximum number of parts per page. Each part costs a scan of its history, which can be several MB.
const PARTS_MAX: usize = 4;

/// Builds the view of a recipient from the state byte and the details of its row, and the id of its message.
///
/// Returns `None` if the byte has no state: the row has no recipient.
pub(super) fn view(
    to: Option<Phone>,
    line: &LineId,
    byte: u8,
    details: &RowDetails,
    wamid: Option<Wamid>,
) -> Option<RecipientView> {
    let (state, why, times) = (RecipientState::of(byte)?, details.reason, &details.times);
    let at = |seconds: u32| (seconds > 0).then(|| UnixMs(u64::from(seconds) * 1000));
    let entered = |state: RecipientState| times[usize::from(state.code())];
    // A status can come before Meta's response, and then the acceptance is not in the history.
    let of_status = [RecipientState::Sent, RecipientState::Delivered, RecipientState::Read, RecipientState::Failed];
    let first_status = of_status.map(entered).into_iter().filter(|&at| at > 0).min();
    let accepted = match entered(RecipientState::Accepted) {
        0 => first_status.unwrap_or(0),
        stored => stored,
    };
    Some(RecipientView {
        to,
        state: state.name().into(),
        code: why.and_then(RowReason::code),
        reason: why.map(|why| why.title().into()),
        attempts: details.tries + u8::from(state.is_attempt()),
        line: line.clone(),
        times: Times {
            accepted_at: at(accepted),
            sent_at: at(entered(RecipientState::Sent)),
            delivered_at: at(entered(RecipientState::Delivered)),
            read_at: at(entered(RecipientState::Read)),
            failed_at: at(entered(RecipientState::Failed).max(entered(RecipientState::Refused))),
            updated_at: at(times.iter().copied().max().unwrap_or(0)),
        },
        wamid,
    })
}

/// The query parameters of the recipient list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RecipientListParams {
    /// Only recipients in this state.
    #[param(schema_with = recipient_state)]
    state: Option<String>,
    /// `next` of the previous page; leave it out for the first page.
    #[param(nullable = false)]
    cursor: Option<String>,
    /// The maximum number of rows.
    #[param(value_type = Option<u16>, nullable = false, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
}

/// The row at which a page begins: `part.row`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cursor {
    part: usize,
    row: u16,
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let (part, row) = text.split_once('.').ok_or(())?;
        Ok(Self { part: part.parse().map_err(drop)?, row: row.parse().map_err(drop)? })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.part, self.row)
    }
}

/// List the recipients of a campaign.
///
/// A page can have fewer rows than `limit`, or none, even if there is a next page.
#[utoipa::path(
    get, path = "/v1/campaigns/{campaign}/recipients", tag = "recipients", operation_id = "list_recipients",
    security(("api_key" = [KeyScope::Read])),
    params(CampaignPath, RecipientListParams),
    responses((status = 200, description = "A page of recipients.", body = RecipientPage)),
    extensions(("x-problems" = json!(["recipients-dropped"]))),
)]
pub(super) async fn list(
    State(shared): SharedState,
    CampaignPath(id): CampaignPath,
    Params(params): Params<RecipientListParams>,
) -> Result<Json<RecipientPage>> {
    let limit = page::limit(params.limit.as_deref())?;
    let cursor = page::cursor::<Cursor>(params.cursor.as_deref())?.unwrap_or_default();
    let wanted = page::non_empty(params.state.as_deref()).map(state_name).transpose()?;
    let record = shared.campaign(id).await?;
    ensure_recipients_kept(&record)?;
    let (found, next) = shared.rows(&record, wanted, cursor, limit).await?;
    let mut recipients = Vec::new();
    for (part, rows) in found {
        recipients.extend(shared.views(&record, part, &rows).await?);
    }
    Ok(Json(Page { rows: recipients, next: next.map(|next| next.to_string()) }))
}

/// Get a recipient by phone number.
#[utoipa::path(
    get, path = "/v1/campaigns/{campaign}/recipients/{phone}", tag = "recipients", operation_id = "get_recipient",
    security(("api_key" = [KeyScope::Read])),
    params(RecipientPath),
    responses((status = 200, description = "The recipient.", body = RecipientView)),
    extensions(("x-problems" = json!(["recipient-not-found", "invalid-phone", "recipients-dropped"]))),
)]
pub(super) async fn one(
    State(shared): SharedState,
    RecipientPath(id, phone): RecipientPath,
) -> Result<Json<RecipientView>> {
    let to = extract::phone(phone)?;
    let record = shared.campaign(id).await?;
    ensure_recipients_kept(&record)?;
    let unknown =
        || Problem::not_found("recipient-not-found", format!("campaign {id} has no recipient with this number"));
    let (part, row) = shared.find_recipient(&record, to).await?.ok_or_else(unknown)?;
    let bytes = shared.state.store.states_from(part, row, 1).await?;
    let rows: Vec<(u16, u8)> = bytes.into_iter().map(|byte| (row, byte)).collect();
    let view = shared.views(&record, part, &rows).await?.pop().ok_or_else(unknown)?;
    Ok(Json(view))
}

/// Errors: 410 if the campaign's recipients were deleted at the end of their retention.
pub(super) fn ensure_recipients_kept(record: &CampaignRecord) -> Result<()> {
    if record.forgotten {
        let detail =
            format!("the recipients of campaign {} were dropped at the end of their retention", record.campaign.id);
        return Err(Problem::new(StatusCode::GONE, "recipients-dropped", detail));
    }
    Ok(())
}

fn state_name(text: &str) -> Result<&'static str> {
    // The last state, `Refused`, is left out: it has the same name as `Failed`.
    let names = RecipientState::ALL.map(RecipientState::name);
    let names = || names.into_iter().take(RecipientState::ALL.len() - 1);
    names()
        .find(|&name| name == text)
        .ok_or_else(|| bad_query(format!("state is {text}; it is one of {}", names().collect::<Vec<_>>().join(", "))))
}

/// Rows and their state bytes, grouped by part.
type Rows = Vec<(PartId, Vec<(u16, u8)>)>;

impl Shared {
    /// Finds up to `limit` rows from `at` on that have a recipient, optionally only those in state `wanted`. Also
    /// returns the cursor of the next page, if there is one.
    async fn rows(
        &self,
        record: &CampaignRecord,
        wanted: Option<&str>,
        mut at: Cursor,
        limit: usize,
    ) -> Result<(Rows, Option<Cursor>)> {
        let batch_len = if wanted.is_some() { PART_ROWS } else { 2 * limit };
        let (mut rows, mut left, mut scanned) = (Rows::new(), limit, 0);
        while let Some(&(part, _)) = record.parts.get(at.part) {
            let bytes = self.state.store.states_from(part, at.row, batch_len).await?;
            let (mut here, mut full_at) = (Vec::new(), None);
            for (row, &byte) in (at.row..=u16::MAX).zip(&bytes) {
                let Some(state) = RecipientState::of(byte) else { continue };
                if wanted.is_some_and(|wanted| wanted != state.name()) {
                    continue;
                }
                if left == 0 || rows.len() == PARTS_MAX {
                    full_at = Some(row);
                    break;
                }
                here.push((row, byte));
                left -= 1;
            }
            if !here.is_empty() {
                rows.push((part, here));
            }
            if let Some(row) = full_at {
                return Ok((rows, Some(Cursor { row, ..at })));
            }
            scanned += bytes.len();
            let next_row = u16::try_from(usize::from(at.row) + bytes.len()).ok().filter(|_| bytes.len() == batch_len);
            at = next_row.map_or(Cursor { part: at.part + 1, row: 0 }, |row| Cursor { row, ..at });
            if scanned >= SCANNED_MAX && at.part < record.parts.len() {
                return Ok((rows, Some(at)));
            }
        }
        Ok((rows, None))
    }

    async fn views(&self, record: &CampaignRecord, part: PartId, rows: &[(u16, u8)]) -> Result<Vec<RecipientView>> {
        let line = record.parts.get(usize::from(part.number)).map(|(_, line)| line);
        let Some(line) = line else { return Ok(Vec::new()) };
        let numbers: Vec<u16> = rows.iter().map(|&(row, _)| row).collect();
        let store = &self.state.store;
        let (phones, details, wamids) = tokio::try_join!(
            store.numbers(part, &numbers),
            store.row_details(part, &numbers),
            store.wamids_of(part, numbers.iter().copied())
        )?;
        let rows = rows.iter().zip(phones).zip(details);
        let view = |((&(row, byte), to), details): ((&(u16, u8), Option<Phone>), RowDetails)| {
            view(to, line, byte, &details, wamids.of_last_claim(row, byte))
        };
        Ok(rows.filter_map(view).collect())
    }

    /// Finds the part and row of `phone`. Repeats the lookup if an upload split buckets of the phone index during it,
    /// because the entry may have moved.
    async fn find_recipient(&self, record: &CampaignRecord, phone: Phone) -> Result<Option<(PartId, u16)>> {
        let (id, mut buckets) = (record.campaign.id, record.buckets);
        loop {
            let query = PhoneQuery { campaign: id, buckets, indexed_by: record.indexed_by, phone };
            let found = self.state.store.find_phones(&[query]).await?.pop().flatten();
            let buckets_now = self.campaign(id).await?.buckets;
            if found.is_some() || buckets_now == buckets {
                return Ok(found);
            }
            buckets = buckets_now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{FailureReason, MetaCode, SkipReason};

    #[test]
    fn a_cursor_survives_printing_and_parsing() {
        for cursor in [Cursor::default(), Cursor { part: 152, row: 65_535 }] {
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for bad in ["", "1", "1.", ".1", "1.65536", "-1.0", "1.2.3", "a.b"] {
            assert_eq!(bad.parse::<Cursor>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn a_message_was_accepted_at_its_first_status_if_that_came_before_the_response() {
        let accepted_at = |entered: &[(RecipientState, u32)]| {
            let mut details = RowDetails { reason: None, tries: 0, times: [0; 16] };
            entered.iter().for_each(|(state, at)| details.times[usize::from(state.code())] = *at);
            let view =
                view(None, &"3001".into(), RecipientState::Read.code() | 0x10, &details, None).expect("a recipient");
            view.times.accepted_at.map(UnixMs::seconds)
        };
        let (delivered, read) = ((RecipientState::Delivered, 12), (RecipientState::Read, 15));
        assert_eq!(accepted_at(&[delivered, read]), Some(12));
        assert_eq!(accepted_at(&[(RecipientState::Accepted, 13), delivered, read]), Some(13));
        assert_eq!(accepted_at(&[(RecipientState::Refused, 11)]), None, "Meta refused it");
    }

    #[test]
    fn a_recipient_shows_only_codes_of_meta() {
        let shown = |byte, reason: Option<RowReason>| {
            let to = Phone::from_digits(5_491_155_550_001);
            let details = RowDetails { reason, tries: 1, times: [0; 16] };
            serde_json::to_value(view(to, &"3001".into(), byte, &details, None)).expect("an object")
        };
        let undeliverable = FailureReason::Meta(MetaCode(131_026));
        let refused = RecipientState::Refused.code() | 0x20;
        let expected = serde_json::json!({
            "to": "+5491155550001", "state": "failed", "code": 131_026, "reason": undeliverable.title(),
            "attempts": 2, "line": "3001"
        });
        assert_eq!(shown(refused, Some(RowReason::Failure(undeliverable))), expected);
        let doubtful = RecipientState::InDoubt.code() | 0x10;
        let expected = serde_json::json!({
            "to": "+5491155550001", "state": "in_doubt", "reason": FailureReason::NoAnswer.title(),
            "attempts": 2, "line": "3001"
        });
        assert_eq!(shown(doubtful, Some(RowReason::Failure(FailureReason::NoAnswer))), expected);
        let skipped = shown(RecipientState::Skipped.code() | 0x10, Some(RowReason::Skip(SkipReason::Suppressed)));
        assert_eq!((&skipped["code"], &skipped["reason"]), (&serde_json::Value::Null, &"suppressed".into()));
        let unexplained = shown(RecipientState::Failed.code(), Some(RowReason::Failure(FailureReason::NotGiven)));
        assert_eq!(
            (&unexplained["code"], &unexplained["reason"]),
            (&serde_json::Value::Null, &serde_json::json!(FailureReason::NotGiven.title()))
        );
        assert_eq!(shown(0, None), serde_json::Value::Null, "no recipient");
    }
}
