//! A line: the unit of rate limiting.

use super::{LineId, Secret, WabaId};

/// The lowest rate of a line, messages per second: one message in 100 seconds. To stop a line, pause it.
pub const LINE_RATE_MIN: f64 = 0.01;

/// The highest rate of a line, messages per second: above what Meta allows anybody, for load tests.
pub const LINE_RATE_MAX: f64 = 1_000_000.0;

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
