//! Businesses in a response.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{HoldView, Listed, Page};
use crate::domain::{BusinessId, UnixMs, WabaId};

/// A business (Meta's business portfolio), and how much of its messaging limit is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Business)]
pub struct BusinessView {
    /// The id of the portfolio.
    pub id: BusinessId,
    /// To how many people its lines may open conversations in 24 hours; null if Meta reports no limit, or was not asked
    /// yet. Then the three fields about its use are null too.
    #[schema(required)]
    pub limit: Option<u32>,
    /// Whether Meta has said what the limit is, or that there is none.
    #[serde(default)]
    #[schema(required)]
    pub limit_known: bool,
    /// How many people count towards the limit now: people who got a message from Pregón within 24 hours, and people
    /// with a message in flight. People who wrote to the line in the 24 hours before the message do not count.
    #[schema(required)]
    pub used_24h: Option<u64>,
    /// How many more people may get a message now.
    #[schema(required)]
    pub remaining: Option<u64>,
    /// When the next person stops counting; null if nobody counts.
    #[schema(required)]
    pub frees_at: Option<UnixMs>,
    /// The ids of its WABAs that have a line in the configuration.
    #[serde(default)]
    #[schema(required)]
    pub wabas: Vec<WabaId>,
    /// The holds on the business as a whole.
    #[serde(default)]
    #[schema(required)]
    pub holds: Vec<HoldView>,
}

impl Listed for BusinessView {
    const NAME: &str = "businesses";
}

/// A page of businesses.
pub type BusinessPage = Page<BusinessView>;
