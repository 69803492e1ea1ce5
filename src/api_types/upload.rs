//! The result of an upload.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The result of an upload: the response of `POST /v1/campaigns/{campaign}/recipients`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UploadResult {
    /// The number of accepted recipients.
    pub accepted: u64,
    /// The number of rejected rows.
    #[serde(default)]
    #[schema(required)]
    pub rejected_count: u64,
    /// The first 1,000 rejected rows.
    #[serde(default)]
    #[schema(required)]
    pub rejected: Vec<Rejection>,
}

/// A rejected row. Stored in Redis in the same form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rejection {
    /// The number of the row in the upload, from 1. A CSV header row does not count.
    pub row: u64,
    /// The line of the file at which the row begins, from 1, counting every line. Absent if the row does not come from
    /// a file, or its line is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub line: Option<u64>,
    /// A stable code for programs, such as `duplicate` or `not_e164`.
    #[serde(default)]
    #[schema(required)]
    pub code: String,
    /// A sentence for people.
    pub reason: String,
}
