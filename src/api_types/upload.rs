//! The result of an upload.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::Reject;

/// The result of an upload: the response of `POST /v1/campaigns/{campaign}/recipients` and of `POST /v1/suppressions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UploadResult {
    /// The number of accepted recipients or suppressions.
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

impl Rejection {
    /// The rejection of the row with this number, at this line of its file.
    pub fn of(row: u64, line: Option<u64>, reject: &Reject) -> Self {
        Self { row, line, code: reject.code().to_owned(), reason: reject.to_string() }
    }
}
