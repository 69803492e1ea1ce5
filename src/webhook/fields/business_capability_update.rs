//! `business_capability_update`: a limit of the business portfolio changed. The value has the limits and no event.

use super::WebhookChange;
use crate::{
    domain::MessagingLimit,
    json::{Text, objects},
    telemetry::metrics::AccountEvent,
    webhook::account::AccountChange,
};

pub(super) const FIELD: &str = "business_capability_update";

objects! {
    Value {
        max_daily_conversations_per_business: Text<'a>,
        // The name until October 2025, when each number had a limit of its own.
        max_daily_conversation_per_phone: Text<'a>,
    }
}

impl<'a> From<Value<'a>> for WebhookChange<'a> {
    fn from(value: Value<'a>) -> Self {
        let texts = [value.max_daily_conversations_per_business, value.max_daily_conversation_per_phone];
        let messaging_limit: Option<MessagingLimit> = texts.iter().find_map(|text| text.0.as_ref()?.parse().ok());
        let notice = AccountChange::notice(FIELD, AccountEvent::Capability, "".into());
        Self::Account(Box::new(AccountChange { messaging_limit, ..notice }))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::account, *};

    #[test]
    fn the_messaging_limit_is_read_in_every_form() {
        for (json, limit) in [
            (r#"{"max_daily_conversations_per_business":"TIER_2K"}"#, Some(MessagingLimit::People(2_000))),
            (r#"{"max_daily_conversations_per_business":100000}"#, Some(MessagingLimit::People(100_000))),
            (r#"{"max_daily_conversation_per_phone":-1}"#, Some(MessagingLimit::Unlimited)),
            (r#"{"max_daily_conversations_per_business":"TIER_NOT_SET","event":[]}"#, None),
            ("{}", None),
        ] {
            let notice = AccountChange::notice(FIELD, AccountEvent::Capability, "".into());
            assert_eq!(account(FIELD, json), AccountChange { messaging_limit: limit, ..notice }, "{json}");
        }
    }
}
