//! `user_preferences`: people stop or resume marketing from the business.
//!
//! Source:
//! <https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference/user_preferences>,
//! read 2026-11-28.

use std::borrow::Cow;

use super::WebhookChange;
use crate::{
    domain::{Phone, UnixMs},
    json::{List, Number, Object, Text, objects},
};

pub(super) const FIELD: &str = "user_preferences";

/// Meta's name of the preference about marketing.
const MARKETING: &str = "marketing_messages";

/// Preferences that people set in WhatsApp.
#[derive(Debug, PartialEq)]
pub struct Preferences<'a> {
    /// The line's `phone_number_id`.
    pub line: Cow<'a, str>,
    /// A preference for each person with a number.
    pub people: Vec<Preference>,
}

/// Whether a person wants marketing from the business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preference {
    /// The person's number.
    pub phone: Phone,
    /// Whether the person stops marketing, or resumes it.
    pub stops: bool,
    /// Meta's timestamp.
    pub at: Option<UnixMs>,
}

objects! {
    Value { metadata: Object<Metadata<'a>>, user_preferences: List<Wish<'a>>, }
    Metadata { phone_number_id: Text<'a>, }
    Wish { wa_id: Text<'a>, category: Text<'a>, value: Text<'a>, timestamp: Number, }
}

impl<'a> From<Value<'a>> for WebhookChange<'a> {
    fn from(value: Value<'a>) -> Self {
        let people = value.user_preferences.0.into_iter().filter_map(Wish::read).collect();
        match value.metadata.0.and_then(|metadata| metadata.phone_number_id.0) {
            Some(line) => Self::Preferences(Box::new(Preferences { line, people })),
            None => Self::Malformed,
        }
    }
}

impl Wish<'_> {
    fn read(self) -> Option<Preference> {
        let stops = match self.value.0.as_deref() {
            Some("stop") => true,
            Some("resume") => false,
            _ => return None,
        };
        let phone = Phone::from_digits(self.wa_id.0?.parse().ok()?)?;
        (self.category.0.as_deref() == Some(MARKETING)).then_some(Preference {
            phone,
            stops,
            at: super::time(self.timestamp),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::value, *};

    #[test]
    fn only_preferences_about_marketing_of_people_with_a_number_count() {
        let json = r#"{"metadata": {"phone_number_id": "3001"}, "user_preferences": [
            {"wa_id": "5491155550001", "category": "marketing_messages", "value": "stop", "timestamp": 1795300000},
            {"wa_id": "5491155550002", "category": "marketing_messages", "value": "resume", "timestamp": "x"},
            {"wa_id": "5491155550003", "category": "marketing_messages", "value": "signup", "signup_id": "7"},
            {"wa_id": "5491155550004", "category": "other", "value": "stop"},
            {"user_id": "AR.1", "category": "marketing_messages", "value": "stop"}]}"#;
        let phone = |digits| Phone::from_digits(digits).expect("a number");
        let people = vec![
            Preference { phone: phone(5_491_155_550_001), stops: true, at: Some(UnixMs(1_795_300_000_000)) },
            Preference { phone: phone(5_491_155_550_002), stops: false, at: None },
        ];
        assert_eq!(
            value(FIELD, json),
            WebhookChange::Preferences(Box::new(Preferences { line: "3001".into(), people }))
        );
        assert_eq!(value(FIELD, r#"{"user_preferences": []}"#), WebhookChange::Malformed);
    }
}
