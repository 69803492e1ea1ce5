//! What Meta has of the configured businesses, and how the configuration differs, in a response.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{BusinessId, LineId, WabaId};

/// What Meta has of each configured business.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Discovery {
    /// The businesses of the configured lines, in the order of their ids.
    #[serde(default)]
    #[schema(required)]
    pub businesses: Vec<DiscoveredBusiness>,
}

/// What Meta has of a business.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiscoveredBusiness {
    /// The id of the portfolio.
    pub id: BusinessId,
    /// Its WABAs at Meta and in the configuration, in the order of their ids.
    #[serde(default)]
    #[schema(required)]
    pub wabas: Vec<DiscoveredWaba>,
    /// How Meta and the configuration differ, and what Meta reports that stops a configured line. Empty: nothing.
    #[serde(default)]
    #[schema(required)]
    pub drift: Vec<Drift>,
}

/// A WABA at Meta.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiscoveredWaba {
    /// The id of the WABA.
    pub id: WabaId,
    /// Its name at Meta; empty if Meta does not list it.
    #[serde(default)]
    #[schema(required)]
    pub name: String,
    /// `owned` by the business, or `client`: another business owns it and shares it. Null if Meta does not list it.
    #[schema(required)]
    pub ownership: Option<Cow<'static, str>>,
    /// Whether a configured line is on it.
    #[serde(default)]
    #[schema(required)]
    pub configured: bool,
    /// The apps that receive its webhooks; null if they could not be read.
    #[schema(required)]
    pub apps: Option<Vec<DiscoveredApp>>,
    /// Whether the app of the access token receives its webhooks; null if that is not known.
    #[schema(required)]
    pub subscribed: Option<bool>,
    /// Its lines at Meta.
    #[serde(default)]
    #[schema(required)]
    pub lines: Vec<DiscoveredLine>,
}

/// An app that receives webhooks. Null is what Meta did not say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiscoveredApp {
    /// Meta's id of the app.
    #[schema(required)]
    pub id: Option<String>,
    /// Its name.
    #[schema(required)]
    pub name: Option<String>,
}

/// A line at Meta. Values are as Meta writes them; null is what Meta did not say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiscoveredLine {
    /// Meta's `phone_number_id`.
    pub id: LineId,
    /// The phone number, formatted for people.
    #[serde(default)]
    #[schema(required)]
    pub display: String,
    /// The name that people see.
    #[schema(required)]
    pub verified_name: Option<String>,
    /// Whether Meta accepted the name, such as `APPROVED` or `DECLINED`.
    #[schema(required)]
    pub name_status: Option<String>,
    /// Whether the number was verified, such as `VERIFIED`.
    #[schema(required)]
    pub code_verification: Option<String>,
    /// The status, such as `CONNECTED`.
    #[schema(required)]
    pub status: Option<String>,
    /// The quality rating, such as `GREEN`.
    #[schema(required)]
    pub quality: Option<String>,
    /// The throughput level: `STANDARD` or `HIGH`.
    #[schema(required)]
    pub throughput: Option<String>,
    /// The messaging limit of the business, such as `TIER_10K`.
    #[schema(required)]
    pub messaging_limit: Option<String>,
    /// Whether Meta lets the line send, from its health; null if Meta did not say.
    #[schema(required)]
    pub can_send: Option<bool>,
    /// Whether the configuration lists the line on this WABA.
    #[serde(default)]
    #[schema(required)]
    pub configured: bool,
}

/// A difference between Meta and the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drift {
    /// What differs; a newer server may have more kinds.
    #[serde(default)]
    #[schema(required, schema_with = kinds)]
    pub kind: Cow<'static, str>,
    /// The WABA that it is about; null for the business as a whole.
    #[schema(required)]
    pub waba: Option<WabaId>,
    /// The line that it is about; null for the WABA as a whole.
    #[schema(required)]
    pub line: Option<LineId>,
    /// What was found, in one sentence.
    #[serde(default)]
    #[schema(required)]
    pub detail: String,
    /// What to do, in one sentence.
    #[serde(default)]
    #[schema(required)]
    pub remedy: String,
}

/// Every kind of [`Drift`].
pub const DRIFT_KINDS: [&str; 10] = [
    "unreadable",
    "waba_not_of_business",
    "waba_not_configured",
    "line_missing",
    "line_of_other_waba",
    "line_not_configured",
    "app_not_subscribed",
    "name_not_approved",
    "number_not_verified",
    "line_blocked",
];

fn kinds() -> utoipa::openapi::schema::Schema {
    utoipa::openapi::schema::ObjectBuilder::new()
        .schema_type(utoipa::openapi::schema::Type::String)
        .enum_values(Some(DRIFT_KINDS))
        .description(Some("What differs; a newer server may have more kinds."))
        .into()
}
