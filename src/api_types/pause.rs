//! Pauses of everything: all sending of the installation, or of one business.

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::domain::{BusinessId, UnixMs};

/// A pause of everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Pause)]
pub struct PauseView {
    /// The business whose lines are paused; absent if all lines are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub business: Option<BusinessId>,
    /// When the operator paused it.
    pub since: UnixMs,
}

/// What to pause or resume: the body of `POST /v1/pause` and of `POST /v1/resume`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PauseTarget {
    /// The business whose lines are meant. Without it, all lines are.
    // `null` is an error: a caller whose variable is empty does not mean all lines.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub business: Option<BusinessId>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BusinessId>, D::Error> {
    BusinessId::deserialize(deserializer).map(Some)
}

/// The pauses of everything after a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PauseChange {
    /// Whether the call changed anything.
    #[serde(default)]
    #[schema(required)]
    pub changed: bool,
    /// The pauses that are in force.
    #[serde(default)]
    #[schema(required)]
    pub pauses: Vec<PauseView>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_target_without_a_business_means_everything() {
        let read = |json| serde_json::from_str::<PauseTarget>(json).map(|target| target.business).ok();
        assert_eq!(read("{}"), Some(None));
        assert_eq!(read(r#"{"business":"1001"}"#), Some(Some("1001".into())));
        for bad in [r#"{"business":null}"#, r#"{"business":1001}"#, r#"{"buisness":"1001"}"#] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
