//! Intake: jobs, calls and uploads become campaigns with recipients.
//!
//! Everything is checked here before anything is stored: the template is approved and fits, the lines are ours, each
//! recipient can work. A refusal changes nothing.

mod error;
pub mod job;
pub mod jobs;
pub mod rows;
mod submit;
mod upload;

use std::{collections::HashMap, sync::Arc};

pub use error::{IntakeError, TemplateProblem};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    domain::{CampaignId, CampaignState, LineId, OnDoubt, UnixMs, WabaId},
    json,
    redis::{Store, clock::Clock},
};

/// A campaign as a caller submits it: the body of `POST /v1/campaigns`, and of a job of type `campaign`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCampaign {
    /// For people.
    pub name: String,
    /// The caller's id.
    pub external_id: Option<String>,
    /// Which template.
    #[serde(deserialize_with = "json::object")]
    pub template: TemplateName,
    /// The lines it may go out on.
    pub lines: Vec<LineId>,
    /// Not before this time.
    pub start_at: Option<UnixMs>,
    /// What is not sent by then ends as expired.
    pub expires_at: Option<UnixMs>,
    /// 1 to 10.
    pub priority: Option<u8>,
    /// What becomes of a message that stays in doubt.
    #[serde(default)]
    pub on_doubt: OnDoubt,
    /// Recipients, if they come along; each one yet to be read.
    #[serde(default)]
    pub recipients: Vec<Box<RawValue>>,
    /// Launch it at once.
    #[serde(default)]
    pub launch: bool,
}

/// A template by name and language.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateName {
    /// Its name at Meta.
    pub name: String,
    /// Its language, `es_AR`.
    pub language: String,
}

/// What came of a submission.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// The campaign.
    pub id: CampaignId,
    /// This call created it; otherwise its `external_id` was known.
    pub created: bool,
    /// Where it stands now.
    pub state: CampaignState,
    /// What came of the recipients that came along.
    pub upload: UploadResult,
}

/// What came of an upload: the answer of `POST /v1/campaigns/{id}/recipients`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct UploadResult {
    /// Recipients accepted.
    pub accepted: u64,
    /// Rows rejected in all.
    pub rejected_count: u64,
    /// The first of them.
    pub rejected: Vec<Rejection>,
}

/// A row that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// Its number in the upload, from 1; a header is not counted.
    pub row: u64,
    /// The line of the file on which it begins, from 1, counting every line. Rows that are in no file have none, nor have those
    /// that were rejected by a version before lines were told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// For programs: `duplicate`, `not_e164`, …
    pub code: String,
    /// For people.
    pub reason: String,
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON object a line.
    Ndjson,
    /// A header, then a row a line.
    Csv,
}

/// What an upload is, so that it can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadLayout {
    /// How its rows are written.
    pub format: Format,
    /// Columns of a CSV that are left out.
    pub ignored: Vec<String>,
}

impl From<Format> for UploadLayout {
    fn from(format: Format) -> Self {
        Self { format, ignored: Vec::new() }
    }
}

/// What a caller may do with a campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CampaignAction {
    /// Start it, now or at its `start_at`.
    Launch,
    /// Claim nothing more.
    Pause,
    /// Go on.
    Resume,
    /// Never send what was not sent.
    Cancel,
}

/// Takes campaigns in. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    /// Redis.
    pub store: Store,
    /// Redis' time.
    pub clock: Arc<Clock>,
    /// Our lines, with their WABA and their rate.
    pub lines: Arc<HashMap<LineId, (WabaId, f64)>>,
    /// Recipients of one campaign at most: `intake.recipients_max`.
    pub recipients_max: u64,
}

impl Intake {
    /// The same in the present life of Redis alone: what one call does is done on what was there when it began, or fails.
    fn in_this_incarnation(&self) -> Self {
        Self { store: self.store.in_this_incarnation(), ..self.clone() }
    }
}
