//! Dead letters of jobs in a response.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Listed, Page, Rejection};
use crate::domain::{EntryId, UnixMs};

/// A dead letter: a job that could not be applied, or some of whose recipients were rejected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeadJob)]
pub struct DeadJobView {
    /// The id of the dead letter.
    pub id: EntryId,
    /// The entry of the job. It differs from `id` if the job was retried and failed again.
    pub entry: EntryId,
    /// When the job failed; null if the dead letter was not written by Pregón.
    #[schema(required)]
    pub at: Option<UnixMs>,
    /// The reason for programs, such as `campaign-not-found`.
    #[serde(default)]
    #[schema(required)]
    pub code: String,
    /// The reason for people.
    #[serde(default)]
    #[schema(required)]
    pub reason: String,
    /// With the code `recipients-rejected`: the first 1,000 rejected recipients. Otherwise empty.
    #[serde(default)]
    #[schema(required)]
    pub rejected: Vec<Rejection>,
    /// The type of the job; absent if the job can't be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub r#type: Option<String>,
    /// The `external_id` in the job; absent if it has none, or can't be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub external_id: Option<String>,
    /// The job as text, which may be anything. In a list, at most its first 4,096 bytes. Null if the entry has no field
    /// `job`.
    #[schema(required)]
    pub job: Option<String>,
    /// The length of the whole job in bytes.
    #[serde(default)]
    #[schema(required)]
    pub job_bytes: u64,
}

impl Listed for DeadJobView {
    const NAME: &str = "jobs";
}

/// A page of dead letters.
pub type DeadJobPage = Page<DeadJobView>;

/// A dead letter that will be retried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RetriedJob {
    /// The id of the dead letter.
    pub dead_letter: EntryId,
    /// The entry on the stream of jobs that retries it. If the job fails again, its dead letter has this id.
    pub entry: EntryId,
}
