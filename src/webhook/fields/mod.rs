//! The values of webhook changes: one module for each webhook field, with the type of its JSON and the change that it
//! reports. Different fields use the same key with different types, so no type is shared.
//!
//! A new field is a module with `FIELD` and `Value`, and a line in `read`. If it has consequences of its own, it is
//! also a variant of [`WebhookChange`], which `receive` applies.

mod account_alerts;
mod account_update;
mod business_capability_update;
pub mod message_template_status_update;
pub mod messages;
mod phone_number_quality_update;
mod security;
mod template_edits;
pub mod user_preferences;

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, de::IgnoredAny};

use self::{message_template_status_update::TemplateChange, messages::Messages, user_preferences::Preferences};
use super::account::AccountChange;
use crate::{
    domain::UnixMs,
    json::{Number, Object},
};

/// Timestamps from this value on are milliseconds. Meta sends seconds, and sometimes has sent milliseconds. As
/// seconds this value is in the year 33658.
const MILLISECONDS_FROM: u64 = 1_000_000_000_000;

/// What a change reports. The rare variants are boxed, because a body may have very many changes.
#[derive(Debug, PartialEq)]
pub enum WebhookChange<'a> {
    /// Statuses and inbound messages, or what the business wrote in its app.
    Messages(Messages<'a>),
    /// People stopped or resumed marketing.
    Preferences(Box<Preferences<'a>>),
    /// The status of a template changed.
    Template(Box<TemplateChange<'a>>),
    /// A template of the WABA was edited, or Meta changed its category or quality.
    TemplateEdited,
    /// The status of the account or of one of its numbers changed; or errors that belong to no message.
    Account(Box<AccountChange<'a>>),
    /// Any other change.
    Other,
    /// One of the above in another form than Meta documents.
    Malformed,
}

/// Parses the value of `field`. `None` if the value is not an object.
pub(super) fn read<'de, D: Deserializer<'de>>(field: &str, value: D) -> Result<Option<WebhookChange<'de>>, D::Error> {
    match field {
        messages::FIELD => object::<messages::Value<'_>, D>(value),
        messages::echoes::FIELD => object::<messages::echoes::Value<'_>, D>(value),
        message_template_status_update::FIELD => object::<message_template_status_update::Value<'_>, D>(value),
        template_edits::COMPONENTS_FIELD | template_edits::CATEGORY_FIELD | template_edits::QUALITY_FIELD => {
            object::<template_edits::Value, D>(value)
        }
        account_update::FIELD => object::<account_update::Value<'_>, D>(value),
        account_alerts::FIELD => object::<account_alerts::Value<'_>, D>(value),
        security::FIELD => object::<security::Value<'_>, D>(value),
        phone_number_quality_update::FIELD => object::<phone_number_quality_update::Value<'_>, D>(value),
        user_preferences::FIELD => object::<user_preferences::Value<'_>, D>(value),
        business_capability_update::FIELD => object::<business_capability_update::Value<'_>, D>(value),
        _ => Object::<IgnoredAny>::deserialize(value).map(|Object(value)| value.map(|_| WebhookChange::Other)),
    }
}

fn object<'de, V, D>(value: D) -> Result<Option<WebhookChange<'de>>, D::Error>
where
    V: Deserialize<'de> + Into<WebhookChange<'de>>,
    D: Deserializer<'de>,
{
    Object::<V>::deserialize(value).map(|Object(value)| value.map(V::into))
}

/// Meta's timestamp.
pub(super) fn time(Number(timestamp): Number) -> Option<UnixMs> {
    let timestamp = timestamp.filter(|timestamp| *timestamp > 0)?;
    Some(UnixMs(if timestamp < MILLISECONDS_FROM { timestamp * 1000 } else { timestamp }))
}

/// The first of `texts` that is not empty, or an empty text.
fn first<'a, const N: usize>(texts: [Option<Cow<'a, str>>; N]) -> Cow<'a, str> {
    texts.into_iter().flatten().find(|text| !text.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The change that this value of `field` reports.
    pub(super) fn value<'a>(field: &str, json: &'a str) -> WebhookChange<'a> {
        let change = read(field, &mut serde_json::Deserializer::from_str(json));
        change.unwrap_or_else(|error| panic!("{json}: {error}")).expect("an object")
    }

    /// The change of the account that this value of `field` reports.
    pub(super) fn account<'a>(field: &str, json: &'a str) -> AccountChange<'a> {
        match value(field, json) {
            WebhookChange::Account(change) => *change,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_unknown_field_is_skipped() {
        assert_eq!(value("flows", r#"{"event":{"a":[1e9]},"timestamp":"x"}"#), WebhookChange::Other);
    }

    #[test]
    fn timestamps_are_read_in_seconds_and_milliseconds() {
        for (timestamp, ms) in [
            (Some(1_795_300_000), Some(1_795_300_000_000)),
            (Some(1_795_300_002_500), Some(1_795_300_002_500)),
            (Some(0), None),
            (None, None),
        ] {
            assert_eq!(time(Number(timestamp)), ms.map(UnixMs), "{timestamp:?}");
        }
    }
}
