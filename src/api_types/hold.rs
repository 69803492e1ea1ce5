//! Holds in a response.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Listed, Page};
use crate::domain::{BusinessId, Lifter, MetaCode, UnixMs};

/// A hold: sending that an error of Meta has stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Hold)]
pub struct HoldView {
    /// The id of the hold: its scope.
    #[serde(default)]
    #[schema(required, example = "waba:2001")]
    pub id: String,
    /// What is held: `line:3001`, `waba:2001`, `token:2001`, `business:1001`, `platform:meta`,
    /// `template:2001/order_update/es_AR`, `utility:2001` (utility templates of a WABA), or `country:2001/55`
    /// (recipients with that calling code).
    #[schema(example = "waba:2001")]
    pub scope: String,
    /// The business that it belongs to; null for `platform:meta`, and if none of its lines is configured.
    #[serde(default)]
    #[schema(required)]
    pub business: Option<BusinessId>,
    /// Meta's error code; absent if a person or Meta's list of templates is the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub code: Option<MetaCode>,
    /// The reason, for people.
    pub reason: String,
    /// When the hold began.
    pub since: UnixMs,
    /// When the hold ends by itself; null if something else has to end it.
    #[schema(required)]
    pub until: Option<UnixMs>,
    /// What can lift the hold: `time` (its end comes), `probe` (Pregón asks Meta, and Meta says that the cause is
    /// gone), `webhook` (Meta reports it), `person` (an operator calls `POST /v1/holds/{hold}/lift`).
    #[serde(default)]
    #[schema(required)]
    pub lifted_by: Vec<Lifter>,
    /// How many running campaigns with messages left it stops, at most a second old. Only in the list of holds, and
    /// absent for a country, whose recipients fail instead of waiting.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub campaigns: Option<usize>,
}

impl Listed for HoldView {
    const NAME: &str = "holds";
}

/// A page of holds.
pub type HoldPage = Page<HoldView>;

/// The result of lifting a hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiftedHold {
    /// The id of the hold.
    pub id: String,
    /// Whether there was a hold.
    #[serde(default)]
    #[schema(required)]
    pub changed: bool,
}
