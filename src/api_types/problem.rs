//! The body of an error response.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The beginning of every `type`. The kind follows, such as `campaign-not-found`.
pub const PROBLEM_PREFIX: &str = "urn:pregon:problem:";

/// An error response: RFC 9457, `application/problem+json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// The kind, for programs. It never changes.
    #[schema(required)]
    pub r#type: String,
    /// The kind in words.
    #[schema(required)]
    pub title: String,
    /// The HTTP status.
    #[schema(required)]
    pub status: u16,
    /// What is wrong with this request, and the remedy, for people.
    #[schema(required)]
    pub detail: String,
    /// Each fault, if there can be several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

impl ProblemBody {
    /// The kind, such as `campaign-conflict`; `None` if the problem is not Pregón's.
    pub fn kind(&self) -> Option<&str> {
        self.r#type.strip_prefix(PROBLEM_PREFIX)
    }

    /// Whether the problem is of this kind, such as `campaign-conflict`.
    pub fn is(&self, kind: &str) -> bool {
        self.kind() == Some(kind)
    }
}
