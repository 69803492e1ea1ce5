//! `phone_number_quality_update`: the throughput or the messaging limit of a phone number changed. The value has no
//! quality rating, despite the name of the field.

use super::WebhookChange;
use crate::{
    json::{Text, objects},
    telemetry::metrics::AccountEvent,
    webhook::account::AccountChange,
};

pub(super) const FIELD: &str = "phone_number_quality_update";

objects! {
    Value { event: Text<'a>, }
}

impl<'a> From<Value<'a>> for WebhookChange<'a> {
    fn from(value: Value<'a>) -> Self {
        let event = value.event.0.unwrap_or_default();
        Self::Account(Box::new(AccountChange::notice(FIELD, AccountEvent::Quality, event)))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::account, *};

    #[test]
    fn a_change_of_a_limit_is_reported_with_its_event() {
        for (json, event) in [
            (r#"{"event":"THROUGHPUT_UPGRADE","current_limit":"TIER_UNLIMITED"}"#, "THROUGHPUT_UPGRADE"),
            (r#"{"event":[]}"#, ""),
        ] {
            assert_eq!(
                account(FIELD, json),
                AccountChange::notice(FIELD, AccountEvent::Quality, event.into()),
                "{json}"
            );
        }
    }
}
