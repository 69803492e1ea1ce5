//! `security`: a security setting of a phone number changed, such as its PIN.

use super::WebhookChange;
use crate::{
    json::{Text, objects},
    telemetry::metrics::AccountEvent,
    webhook::account::AccountChange,
};

pub(super) const FIELD: &str = "security";

objects! {
    Value { event: Text<'a>, }
}

impl<'a> From<Value<'a>> for WebhookChange<'a> {
    fn from(value: Value<'a>) -> Self {
        let event = value.event.0.unwrap_or_default();
        Self::Account(Box::new(AccountChange::notice(FIELD, AccountEvent::Security, event)))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::account, *};

    #[test]
    fn a_security_change_is_reported_with_its_event() {
        for (json, event) in [
            (r#"{"display_phone_number":"5491155550001","event":"PIN_CHANGED","requester":"9001"}"#, "PIN_CHANGED"),
            (r#"{"event":[]}"#, ""),
        ] {
            assert_eq!(
                account(FIELD, json),
                AccountChange::notice(FIELD, AccountEvent::Security, event.into()),
                "{json}"
            );
        }
    }
}
