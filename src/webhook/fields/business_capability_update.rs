//! `business_capability_update`: a limit of the business portfolio changed. The value has the limits, which are not
//! used, and no event.

use serde::Deserialize;

use super::WebhookChange;
use crate::{telemetry::metrics::AccountEvent, webhook::account::AccountChange};

pub(super) const FIELD: &str = "business_capability_update";

/// Nothing in the value is used.
#[derive(Deserialize)]
pub(super) struct Value {}

impl From<Value> for WebhookChange<'_> {
    fn from(_: Value) -> Self {
        Self::Account(Box::new(AccountChange::notice(FIELD, AccountEvent::Capability, "".into())))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::account, *};

    #[test]
    fn a_change_of_limits_is_reported_whatever_their_types() {
        for json in ["{}", r#"{"max_daily_conversations_per_business":"TIER_2K"}"#, r#"{"event":1e9,"event":[]}"#] {
            let expected = AccountChange::notice(FIELD, AccountEvent::Capability, "".into());
            assert_eq!(account(FIELD, json), expected, "{json}");
        }
    }
}
