//! Intake: validates and stores campaigns and their recipients, from jobs, API calls and uploads.
//!
//! Validation comes before the write. A campaign is created only if its template is approved and can be sent, and its
//! lines are configured. A recipient is stored only if it fits the template. A rejected campaign changes nothing; a
//! rejected recipient is reported, and the others are stored.

mod error;
pub mod job;
pub mod jobs;
pub mod rows;
mod submit;
mod upload;

use std::sync::Arc;

pub use error::{IntakeError, TemplateProblem};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    domain::{CampaignId, CampaignState, LineId, Lines, OnDoubt, UnixMs},
    json,
    redis::{Store, clock::Clock},
};

/// A new campaign: the body of `POST /v1/campaigns`, and of a job of type `campaign`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCampaign {
    /// A name for people.
    pub name: String,
    /// The caller's id for the campaign. It makes the submission idempotent.
    pub external_id: Option<String>,
    /// The template to send.
    #[serde(deserialize_with = "json::object")]
    pub template: TemplateName,
    /// The lines to send on.
    pub lines: Vec<LineId>,
    /// The earliest time to send.
    pub start_at: Option<UnixMs>,
    /// Recipients whose message was not sent by this time end as `expired`.
    pub expires_at: Option<UnixMs>,
    /// The campaign's share of a line that several campaigns use: 1 to 10.
    pub priority: Option<u8>,
    /// What to do with a message that stays in doubt.
    #[serde(default)]
    pub on_doubt: OnDoubt,
    /// Recipients, if any: one JSON object each, not parsed yet.
    #[serde(default)]
    pub recipients: Vec<Box<RawValue>>,
    /// Whether to launch the campaign at once.
    #[serde(default)]
    pub launch: bool,
}

/// A template by name and language.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateName {
    /// The template's name at Meta.
    pub name: String,
    /// The language code, such as `es_AR`.
    pub language: String,
}

/// The result of a submission.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// The campaign.
    pub id: CampaignId,
    /// Whether this call created the campaign. If not, one with the same `external_id` existed.
    pub created: bool,
    /// The campaign's current state.
    pub state: CampaignState,
    /// The result for the recipients of the submission.
    pub upload: UploadResult,
}

/// The result of an upload: the response of `POST /v1/campaigns/{id}/recipients`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct UploadResult {
    /// The number of accepted recipients.
    pub accepted: u64,
    /// The number of rejected rows.
    pub rejected_count: u64,
    /// The first rejected rows, at most [`REJECTIONS_MAX`](crate::redis::uploads::REJECTIONS_MAX).
    pub rejected: Vec<Rejection>,
}

/// A rejected row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// The number of the row in the upload, from 1. A CSV header row does not count.
    pub row: u64,
    /// The line of the file at which the row begins, from 1, counting every line. `None` if the row does not come
    /// from a file, its line is not known, or an old version that did not count lines stored the rejection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// A stable code for programs, such as `duplicate` or `not_e164`.
    pub code: String,
    /// A sentence for people.
    pub reason: String,
}

/// The format of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    Ndjson,
    /// A header row, then one row per recipient.
    Csv,
}

/// How to parse an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadLayout {
    /// The format of its rows.
    pub format: Format,
    /// Columns of a CSV to ignore.
    pub ignored: Vec<String>,
}

impl From<Format> for UploadLayout {
    fn from(format: Format) -> Self {
        Self { format, ignored: Vec::new() }
    }
}

/// A state change that a caller requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CampaignAction {
    /// Start sending, now or at `start_at`.
    Launch,
    /// Stop claiming recipients.
    Pause,
    /// Continue after a pause.
    Resume,
    /// Stop for good: nothing is sent to the remaining recipients.
    Cancel,
}

/// Creates and changes campaigns, and stores their recipients. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    /// Redis.
    pub store: Store,
    /// Redis server time.
    pub clock: Arc<Clock>,
    /// The configured lines.
    pub lines: Lines,
    /// Maximum number of recipients of one campaign: `intake.recipients_max`.
    pub recipients_max: u64,
}

impl Intake {
    /// The same intake, bound to the current incarnation of Redis. If Redis restarts or fails over during a call, the
    /// call fails instead of continuing on data that may have been lost.
    fn in_this_incarnation(&self) -> Self {
        Self { store: self.store.in_this_incarnation(), ..self.clone() }
    }
}
