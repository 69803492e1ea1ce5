//! `account_update`: Meta restricted, banned or reinstated the WABA, or changed something else about it.

use super::WebhookChange;
use crate::{
    json::{List, Number, Object, Text, objects},
    telemetry::metrics::AccountEvent,
    webhook::account::{AccountChange, UtilityChange},
};

pub(super) const FIELD: &str = "account_update";

objects! {
    Value {
        event: Text<'a>,
        ban_info: Object<BanInfo<'a>>,
        restriction_info: List<Restriction<'a>>,
        violation_info: Object<Violation<'a>>,
    }
    BanInfo { waba_ban_state: Text<'a>, }
    Restriction { restriction_type: Text<'a>, expiration: Number, }
    Violation { violation_type: Text<'a>, }
}

impl Restriction<'_> {
    fn stops_messages(&self) -> bool {
        let kind = self.restriction_type.0.as_deref();
        matches!(kind, Some("RESTRICTED_BIZ_INITIATED_MESSAGING" | "RESTRICTED_CUSTOMER_INITIATED_MESSAGING"))
    }

    fn caps_utility(&self) -> bool {
        self.restriction_type.0.as_deref() == Some("RATE_LIMITED_UTILITY_TEMPLATE_MESSAGING")
    }
}

impl<'a> From<Value<'a>> for WebhookChange<'a> {
    fn from(value: Value<'a>) -> Self {
        let ban = value.ban_info.0.and_then(|ban| ban.waba_ban_state.0);
        let event = ban.or(value.event.0).unwrap_or_default();
        let restrictions = value.restriction_info.0;
        let stopping: Vec<_> = restrictions.iter().filter(|restriction| restriction.stops_messages()).collect();
        // If one of these restrictions has no end, all of them together have none.
        let ends: Option<Vec<_>> = stopping.iter().map(|restriction| super::time(restriction.expiration)).collect();
        let (stops_messages, until) = (!stopping.is_empty(), ends.and_then(|ends| ends.into_iter().max()));
        let cap = restrictions.iter().find(|restriction| restriction.caps_utility());
        let capped = cap.map(|cap| UtilityChange::Capped(super::time(cap.expiration)));
        let kinds: Vec<_> = restrictions.into_iter().filter_map(|restriction| restriction.restriction_type.0).collect();
        let violation = value.violation_info.0.and_then(|violation| violation.violation_type.0);
        let recovered = matches!(
            violation.as_deref(),
            Some("UTILITY_TEMPLATE_ABUSE_RATE_LIMIT_RECOVERY" | "UTILITY_TEMPLATE_ABUSE_UNBAN")
        );
        let utility = capped.or(recovered.then_some(UtilityChange::Recovered));
        let kind = match &*event {
            "ACCOUNT_RESTRICTION" => AccountEvent::Restricted,
            "ACCOUNT_VIOLATION" => AccountEvent::Violation,
            "ACCOUNT_DELETED" | "DISABLE" => AccountEvent::Disabled,
            "REINSTATE" => AccountEvent::Reinstated,
            _ => AccountEvent::Other,
        };
        Self::Account(Box::new(AccountChange {
            field: FIELD,
            kind,
            event,
            reason: super::first([Some(kinds.join(", ").into()), violation]),
            stops_messages,
            until,
            utility,
            messaging_limit: None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::account, *};
    use crate::domain::UnixMs;

    #[test]
    fn a_ban_is_reported_by_its_state() {
        for (json, event, kind) in [
            (
                r#"{"event":"DISABLED_UPDATE","ban_info":{"waba_ban_state":"DISABLE"}}"#,
                "DISABLE",
                AccountEvent::Disabled,
            ),
            (
                r#"{"event":"DISABLED_UPDATE","ban_info":{"waba_ban_state":"REINSTATE"}}"#,
                "REINSTATE",
                AccountEvent::Reinstated,
            ),
            (
                r#"{"event":"DISABLED_UPDATE","ban_info":{"waba_ban_state":"SCHEDULE_FOR_DISABLE"}}"#,
                "SCHEDULE_FOR_DISABLE",
                AccountEvent::Other,
            ),
            (r#"{"event":"ACCOUNT_DELETED"}"#, "ACCOUNT_DELETED", AccountEvent::Disabled),
            (r#"{"event":"PARTNER_ADDED","ban_info":[]}"#, "PARTNER_ADDED", AccountEvent::Other),
            ("{}", "", AccountEvent::Other),
        ] {
            let change = account(FIELD, json);
            assert_eq!((change.field, &*change.event, change.kind), (FIELD, event, kind), "{json}");
        }
    }

    #[test]
    fn a_restriction_stops_messages_until_the_last_of_its_ends() {
        let (sending, replies) = ("RESTRICTED_BIZ_INITIATED_MESSAGING", "RESTRICTED_CUSTOMER_INITIATED_MESSAGING");
        for (restrictions, stops_messages, until) in [
            (r#"{"restriction_type":"RESTRICTED_ADD_PHONE_NUMBER_ACTION","expiration":7}"#.to_owned(), false, None),
            (format!(r#"{{"restriction_type":"{sending}","expiration":"4102444800"}}"#), true, Some(4_102_444_800_000)),
            (
                format!(
                    r#"{{"restriction_type":"{sending}","expiration":7}},
                       {{"restriction_type":"{replies}","expiration":9}}"#
                ),
                true,
                Some(9_000),
            ),
            (
                format!(r#"{{"restriction_type":"{sending}","expiration":7}},{{"restriction_type":"{replies}"}}"#),
                true,
                None,
            ),
        ] {
            let json = format!(r#"{{"event":"ACCOUNT_RESTRICTION","restriction_info":[{restrictions}]}}"#);
            let change = account(FIELD, &json);
            assert_eq!(change.kind, AccountEvent::Restricted);
            assert_eq!((change.stops_messages, change.until), (stops_messages, until.map(UnixMs)), "{json}");
        }
    }

    #[test]
    fn the_cap_on_utility_messages_begins_and_ends() {
        for (json, utility) in [
            (
                r#"{"event":"ACCOUNT_RESTRICTION","restriction_info":[
                    {"restriction_type":"RATE_LIMITED_UTILITY_TEMPLATE_MESSAGING","expiration":"4102444800"}]}"#,
                Some(UtilityChange::Capped(Some(UnixMs(4_102_444_800_000)))),
            ),
            (
                r#"{"event":"ACCOUNT_RESTRICTION","restriction_info":[
                    {"restriction_type":"RATE_LIMITED_UTILITY_TEMPLATE_MESSAGING"}]}"#,
                Some(UtilityChange::Capped(None)),
            ),
            (
                r#"{"event":"ACCOUNT_VIOLATION","violation_info":
                    {"violation_type":"UTILITY_TEMPLATE_ABUSE_RATE_LIMIT_RECOVERY"}}"#,
                Some(UtilityChange::Recovered),
            ),
            (r#"{"event":"ACCOUNT_VIOLATION","violation_info":{"violation_type":"UTILITY_TEMPLATE_ABUSE"}}"#, None),
        ] {
            let change = account(FIELD, json);
            assert_eq!((change.utility, change.stops_messages), (utility, false), "{json}");
        }
    }

    #[test]
    fn the_reason_is_the_restrictions_or_the_violation() {
        let both = r#"{"event":"ACCOUNT_VIOLATION","violation_info":{"violation_type":"SCAM"},
            "restriction_info":[{"restriction_type":"A"},7,{"restriction_type":"B"}]}"#;
        assert_eq!(account(FIELD, both).reason, "A, B");
        let violation = r#"{"event":"ACCOUNT_VIOLATION","violation_info":{"violation_type":"SCAM"}}"#;
        let change = account(FIELD, violation);
        assert_eq!((change.kind, &*change.reason), (AccountEvent::Violation, "SCAM"));
    }
}
