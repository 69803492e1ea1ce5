//! A line: the unit of rate limiting.

use super::{LineId, Secret, WabaId};

/// A line as it is configured.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its `phone_number_id`.
    pub id: LineId,
    /// The WABA it belongs to.
    pub waba: WabaId,
    /// The token it sends with.
    pub token: Secret,
    /// The number as people read it.
    pub display: String,
    /// What the operator calls it.
    pub name: String,
    /// What Meta allows on it, inbound and outbound together.
    pub messages_per_second: f64,
}
