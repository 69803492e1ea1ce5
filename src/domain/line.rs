//! A line: a business phone number. Each line has its own rate.

use std::sync::Arc;

use super::{BusinessId, FrequencyCap, LineId, Secret, WabaId};

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
    /// The configured rate, in messages per second, inbound and outbound together. `None`: what Meta allows.
    pub messages_per_second: Option<f64>,
    /// The warm-up: how many messages the line may send on each of its first days. Empty: any number.
    pub warm_up: Arc<[u32]>,
    /// Whether marketing goes through the Marketing Messages API, as the configuration says.
    pub marketing_api: bool,
    /// The frequency cap of the business, which then counts its marketing.
    pub frequency_cap: Option<FrequencyCap>,
}

impl Line {
    /// Whether what sends on this line can go on when its configuration becomes `other`. Otherwise it has to begin anew.
    pub fn can_become(&self, other: &Line) -> bool {
        (&self.id, &self.waba, &self.business, &self.token, &self.warm_up)
            == (&other.id, &other.waba, &other.business, &other.token, &other.warm_up)
    }
}

/// What Meta allows on a line, in messages per second, inbound and outbound together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum LineAllowance {
    /// Meta was not asked yet.
    #[default]
    Unasked,
    /// Meta was asked, and gave no rate.
    Unknown,
    /// Meta's answer.
    Known(f64),
}

/// Where the rate of a line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateSource {
    /// An operator set it through the API.
    Operator,
    /// The configuration.
    Configuration,
    /// Meta reported it.
    Meta,
    /// Meta's usual allowance, because nothing else is known.
    Default,
}

impl RateSource {
    /// Its name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Configuration => "configuration",
            Self::Meta => "meta",
            Self::Default => "default",
        }
    }
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
            messages_per_second: Some(80.0),
            warm_up: Arc::default(),
            marketing_api: false,
            frequency_cap: None,
        }
    }
}
