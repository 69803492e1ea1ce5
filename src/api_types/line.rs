//! Lines and their holds in a response, and a change of a line.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use utoipa::{
    ToSchema,
    openapi::{
        RefOr,
        schema::{ObjectBuilder, Schema, Type},
    },
};

use super::{HoldView, Listed, Page, PauseView};
use crate::domain::{LINE_RATE_MAX, LINE_RATE_MIN, LineId, RateSource, UnixMs, WabaId};

/// Every state of a line.
pub const LINE_STATES: [&str; 9] =
    ["paused", "held", "no_worker", "unreachable", "path_broken", "warm_up", "throttled", "sending", "idle"];

/// Every source of a rate: [`RateSource::name`].
pub const RATE_SOURCES: [&str; 4] = [
    RateSource::Operator.name(),
    RateSource::Configuration.name(),
    RateSource::Meta.name(),
    RateSource::Default.name(),
];

/// A line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Line)]
pub struct LineView {
    /// Meta's `phone_number_id`.
    pub id: LineId,
    /// The WABA that owns the line.
    pub waba: WabaId,
    /// The operator's name of the line.
    #[serde(default)]
    #[schema(required)]
    pub name: String,
    /// The phone number, formatted for people.
    #[serde(default)]
    #[schema(required)]
    pub display: String,
    /// One of [`LINE_STATES`], or another one of a newer server.
    #[serde(default)]
    #[schema(required, schema_with = line_states)]
    pub state: Cow<'static, str>,
    /// The rate in force, in messages per second, inbound and outbound together: the one set through the API, otherwise
    /// `configured`.
    #[serde(default)]
    #[schema(required)]
    pub messages_per_second: f64,
    /// Where the rate in force comes from: one of [`RATE_SOURCES`], or another one of a newer server. Empty if an older
    /// server does not say.
    #[serde(default)]
    #[schema(required, schema_with = rate_sources)]
    pub rate_source: Cow<'static, str>,
    /// The rate that applies unless one is set through the API, in messages per second: that of the configuration,
    /// otherwise what Meta allows.
    #[serde(default)]
    #[schema(required)]
    pub configured: f64,
    /// What Meta allows on the line, in messages per second, inbound and outbound together; null if it is not known.
    #[schema(required)]
    pub allowance: Option<f64>,
    /// What campaigns may send now, in messages per second; null if nothing may be sent, or if it is unknown.
    #[schema(required)]
    pub allowed_now: Option<f64>,
    /// The worker that has the line's lease.
    #[schema(required)]
    pub owner: Option<String>,
    /// The number of requests that wait for Meta's answer.
    #[serde(default)]
    #[schema(required)]
    pub in_flight: u64,
    /// Messages that Meta accepted per second, recently.
    #[serde(default)]
    #[schema(required)]
    pub accepted_per_second: f64,
    /// Whether Meta told the line to slow down.
    #[serde(default)]
    #[schema(required)]
    pub throttled: bool,
    /// Whether an operator paused this line. The line is also paused while `pauses` has an entry.
    #[serde(default)]
    #[schema(required)]
    pub paused: bool,
    /// The pauses of everything that stop the line.
    #[serde(default)]
    #[schema(required)]
    pub pauses: Vec<PauseView>,
    /// Why Meta can't be reached, while it can't; otherwise absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub unreachable: Option<String>,
    /// What arrives instead of Meta's responses, while sending is stopped because of it; otherwise absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub path_broken: Option<String>,
    /// Since when Meta can't be reached, the path to Meta is broken, Meta throttles the line, or the messages of this
    /// day of its warm-up are sent; otherwise absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub since: Option<UnixMs>,
    /// When the next day of the line's warm-up begins, while the messages of this day are sent; otherwise absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub warm_up_until: Option<UnixMs>,
    /// The holds on the line, its WABA and its access token.
    #[serde(default)]
    #[schema(required)]
    pub holds: Vec<HoldView>,
    /// Recipients of running campaigns on this line without a final result.
    #[serde(default)]
    #[schema(required)]
    pub backlog: u64,
}

impl Listed for LineView {
    const NAME: &str = "lines";
}

/// A page of lines.
pub type LinePage = Page<LineView>;

fn line_states() -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(LINE_STATES))
        .description(Some("The state in one word. If several apply, the one that an operator has to end."))
        .into()
}

fn rate_sources() -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(RATE_SOURCES))
        .description(Some(
            "Where the rate in force comes from: `operator` (set through the API), `configuration`, `meta` (what Meta \
             allows on the line), or `default` (nothing is known).",
        ))
        .into()
}

/// A change of a line: the body of `PATCH /v1/lines/{line}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LineChange {
    /// The rate in messages per second; null restores the configured rate, or what Meta allows.
    // A missing field is an error: it does not count as `null`.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(required, schema_with = rate)]
    pub messages_per_second: Option<f64>,
}

fn rate() -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(utoipa::openapi::schema::SchemaType::from_iter([Type::Number, Type::Null]))
        .description(Some("The rate in messages per second; null restores the configured rate, or what Meta allows."))
        .minimum(Some(LINE_RATE_MIN))
        .maximum(Some(LINE_RATE_MAX))
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_or_null_and_required() {
        let read = |json| serde_json::from_str::<LineChange>(json).map(|change| change.messages_per_second).ok();
        assert_eq!(read(r#"{"messages_per_second":20}"#), Some(Some(20.0)));
        assert_eq!(read(r#"{"messages_per_second":null}"#), Some(None));
        for bad in ["{}", r#"{"messages_per_second":"20"}"#, r#"{"messages_per_second":20,"paused":true}"#] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
