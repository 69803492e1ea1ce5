//! `account_alerts`: Meta shows a warning on the page of the account.

use super::WebhookChange;
use crate::{
    json::{Object, Text, objects},
    telemetry::metrics::AccountEvent,
    webhook::account::AccountChange,
};

pub(super) const FIELD: &str = "account_alerts";

objects! {
    Value { alert_info: Object<Alert<'a>>, }
    Alert { alert_type: Text<'a>, alert_description: Text<'a>, }
}

impl<'a> From<Value<'a>> for WebhookChange<'a> {
    fn from(value: Value<'a>) -> Self {
        let alert = value.alert_info.0.unwrap_or_default();
        let reason = alert.alert_description.0.unwrap_or_default();
        let event = alert.alert_type.0.unwrap_or_default();
        Self::Account(Box::new(AccountChange { reason, ..AccountChange::notice(FIELD, AccountEvent::Alert, event) }))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::account, *};

    #[test]
    fn an_alert_is_reported_with_its_type_and_description() {
        let alert = r#"{"entity_type":"BUSINESS","entity_id":1001,"alert_info":{"alert_severity":"CRITICAL",
            "alert_type":"PROFILE_PICTURE_LOST","alert_description":"The picture is gone."}}"#;
        for (json, event, reason) in
            [(alert, "PROFILE_PICTURE_LOST", "The picture is gone."), (r#"{"alert_info":"lost"}"#, "", "")]
        {
            let change = account(FIELD, json);
            assert_eq!((change.field, change.kind), (FIELD, AccountEvent::Alert));
            assert_eq!((&*change.event, &*change.reason, change.stops_messages), (event, reason, false));
        }
    }
}
