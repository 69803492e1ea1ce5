//! Intake: validates and stores campaigns and their recipients, from jobs, API calls and uploads, and imports
//! suppressions.
//!
//! Validation comes before the write. A campaign is created only if its template is approved and can be sent, and its
//! lines are configured. A recipient is stored only if it fits the template. A rejected campaign changes nothing; a
//! rejected recipient is reported, and the others are stored.

mod contacts;
mod dead_letters;
mod error;
mod groups;
pub mod job;
mod job_events;
pub mod jobs;
mod memory_guard;
mod retry;
pub mod rows;
mod submit;
mod suppressions;
mod test_send;
mod upload;

use std::{sync::Arc, time::Duration};

pub use contacts::contact_batches;
pub use error::{IntakeError, TemplateProblem};
pub use memory_guard::MemoryGuard;
pub use retry::Retried;
use serde::Deserialize;
pub use suppressions::Imported;

use crate::{
    api_types::UploadResult,
    domain::{CampaignId, CampaignState, Lines, Live},
    redis::{Store, clock::Clock},
    rules::contact_hours::ContactHours,
    telemetry::traces::Origin,
};

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

/// The format of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    Ndjson,
    /// A header row, then one row per recipient or suppression.
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
    /// Stop claiming recipients, or do not start at `start_at`.
    Pause,
    /// Continue after a pause: send, or wait for `start_at`.
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
    /// The lines that campaigns may use: the configured ones, or those of the caller.
    pub lines: Live<Lines>,
    /// Whether the caller is limited to `lines`. Campaigns on other lines are then hidden from the caller.
    pub is_limited: bool,
    /// How long after a restart of Redis other processes may still replay lost writes: `dispatch.lease`.
    pub grace_period: Duration,
    /// Maximum number of recipients of one campaign: `intake.recipients_max`.
    pub recipients_max: u64,
    /// Refuses recipients before Redis is full: `intake.memory_share_max`.
    pub memory: MemoryGuard,
    /// `[[contact_hours]]`
    pub contact_hours: Live<ContactHours>,
    /// What brings the recipients, for their traces.
    pub origin: Origin,
}

impl Intake {
    /// The same intake, bound to the current incarnation of Redis. If Redis restarts or fails over during a call, the
    /// call fails instead of continuing on data that may have been lost.
    fn in_this_incarnation(&self) -> Self {
        Self { store: self.store.in_this_incarnation(), ..self.clone() }
    }
}
