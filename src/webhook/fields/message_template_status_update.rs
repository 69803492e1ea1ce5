//! `message_template_status_update`: Meta approved, paused, rejected or deleted a template.

use std::borrow::Cow;

use super::WebhookChange;
use crate::{
    domain::Language,
    json::{Object, Text, objects},
};

pub(super) const FIELD: &str = "message_template_status_update";

/// A change of a template's status.
#[derive(Debug, PartialEq)]
pub struct TemplateChange<'a> {
    /// Its name; not empty, and without a slash.
    pub name: Cow<'a, str>,
    /// Its language.
    pub language: Language,
    /// Meta's event: `PAUSED`, `APPROVED`, …
    pub event: Cow<'a, str>,
    /// Meta's title of a pause or of its end: `FIRST_PAUSE`, `UNPAUSE`, …; may be empty.
    pub title: Cow<'a, str>,
    /// Meta's reason; may be empty.
    pub reason: Cow<'a, str>,
}

objects! {
    Value {
        event: Text<'a>,
        message_template_name: Text<'a>,
        message_template_language: Text<'a>,
        reason: Text<'a>,
        other_info: Object<OtherInfo<'a>>,
        rejection_info: Object<RejectionInfo<'a>>,
    }
    OtherInfo { title: Text<'a>, description: Text<'a>, }
    RejectionInfo { reason: Text<'a>, }
}

impl<'a> From<Value<'a>> for WebhookChange<'a> {
    fn from(value: Value<'a>) -> Self {
        let is_valid = |text: &Cow<'a, str>| !text.is_empty() && !text.contains('/');
        let (Some(name), Some(language)) = (
            value.message_template_name.0.filter(is_valid),
            value.message_template_language.0.filter(is_valid).map(|code| Language::from(&*code)),
        ) else {
            return Self::Malformed;
        };
        let other = value.other_info.0.unwrap_or_default();
        let rejection = value.rejection_info.0.and_then(|info| info.reason.0);
        let is_reason = |text: &Cow<'a, str>| text != "NONE";
        let texts = [value.reason.0, rejection, other.description.0, other.title.0.clone()];
        Self::Template(Box::new(TemplateChange {
            name,
            language,
            event: value.event.0.unwrap_or_default(),
            title: other.title.0.unwrap_or_default(),
            reason: super::first(texts.map(|text| text.filter(is_reason))),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::value, *};

    fn template(json: &str) -> TemplateChange<'_> {
        match value(FIELD, json) {
            WebhookChange::Template(change) => *change,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_template_change_has_the_language_code_of_the_api() {
        let paused = template(
            r#"{"event":"PAUSED","message_template_id":9001,"message_template_name":"spring_sale",
                "message_template_language":"en-GB","reason":"NONE",
                "other_info":{"title":"FIRST_PAUSE","description":"Your template was paused for 3 hours."}}"#,
        );
        let expected = TemplateChange {
            name: "spring_sale".into(),
            language: Language::from("en_GB"),
            event: "PAUSED".into(),
            title: "FIRST_PAUSE".into(),
            reason: "Your template was paused for 3 hours.".into(),
        };
        assert_eq!(paused, expected);
    }

    #[test]
    fn the_reason_is_the_first_text_that_says_something() {
        for (texts, reason) in [
            (r#""reason":"ABUSIVE_CONTENT","rejection_info":{"reason":"It is spam."}"#, "ABUSIVE_CONTENT"),
            (r#""reason":"NONE","rejection_info":{"reason":"It is spam."}"#, "It is spam."),
            (r#""reason":null,"other_info":{"title":"UNPAUSED"}"#, "UNPAUSED"),
            (r#""reason":["spam"],"other_info":"paused""#, ""),
        ] {
            let json = format!(r#"{{"message_template_name":"a","message_template_language":"es",{texts}}}"#);
            assert_eq!(template(&json).reason, reason, "{texts}");
        }
    }

    #[test]
    fn a_template_without_a_usable_name_is_malformed() {
        for json in [
            r#"{"event":"PAUSED"}"#,
            r#"{"message_template_name":"a/b","message_template_language":"es"}"#,
            r#"{"message_template_name":"","message_template_language":"es"}"#,
            r#"{"message_template_name":"a","message_template_language":{}}"#,
        ] {
            assert_eq!(value(FIELD, json), WebhookChange::Malformed, "{json}");
        }
    }
}
