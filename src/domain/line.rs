//! A line: the unit of rate limiting.

use super::{BusinessId, LineId, Secret, WabaId};

/// The minimum rate of a line, in messages per second: one message in 100 seconds. To stop a line, pause it.
pub const LINE_RATE_MIN: f64 = 0.01;

/// The maximum rate of a line, in messages per second. It is higher than any rate that Meta allows, for load tests.
pub const LINE_RATE_MAX: f64 = 1_000_000.0;

/// A configured line.
#[derive(Clone, Debug)]
pub struct Line {
    /// Meta's `phone_number_id`.
    pub id: LineId,
    /// The WABA that the line belongs to.
    pub waba: WabaId,
    /// The business that the WABA belongs to.
    pub business: BusinessId,
    /// The access token of the line.
    pub token: Secret,
    /// The phone number, formatted for people.
    pub display: String,
    /// The operator's name for the line.
    pub name: String,
    /// The rate that Meta allows on the line, in messages per second, inbound and outbound together.
    pub messages_per_second: f64,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A line of business 1001, at 80 messages a second.
    pub(crate) fn line(id: &str, waba: &str) -> Line {
        Line {
            id: id.into(),
            waba: waba.into(),
            business: "1001".into(),
            token: Secret::new("t"),
            display: String::new(),
            name: String::new(),
            messages_per_second: 80.0,
        }
    }
}
