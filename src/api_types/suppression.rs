//! Suppressions: people who want no messages from a business.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Listed, Page};
use crate::domain::{BusinessId, Phone, Suppression, SuppressionReason, SuppressionScope, SuppressionSource, UnixMs};

/// A suppressed person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Suppression)]
pub struct SuppressionView {
    /// The phone number; null if the person was forgotten. The suppression goes on.
    #[schema(required)]
    pub phone: Option<Phone>,
    /// The business whose messages the person does not get.
    pub business: BusinessId,
    /// Which messages the person does not get.
    pub scope: SuppressionScope,
    /// Why.
    pub reason: SuppressionReason,
    /// Since when, in whole seconds. A change of the suppression does not change it.
    pub since: UnixMs,
    /// Where the suppression comes from.
    pub source: SuppressionSource,
}

impl SuppressionView {
    /// The view of an entry of `business`.
    pub fn of(business: &BusinessId, entry: &Suppression) -> Self {
        let Suppression { phone, scope, reason, source, since } = *entry;
        Self { phone, business: business.clone(), scope, reason, since, source }
    }
}

impl Listed for SuppressionView {
    const NAME: &str = "suppressions";
}

/// A page of suppressions.
pub type SuppressionPage = Page<SuppressionView>;

/// How to suppress a person: the body of `PUT /v1/suppressions/{phone}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSuppression {
    /// The business whose messages the person does not want. May be left out if the key sees only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub business: Option<BusinessId>,
    /// Which messages the person does not want.
    pub scope: SuppressionScope,
    /// Why: `opt_out` by default.
    #[serde(default)]
    #[schema(default = "opt_out")]
    pub reason: SuppressionReason,
}
