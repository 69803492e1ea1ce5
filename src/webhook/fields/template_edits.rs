//! `message_template_components_update`, `template_category_update` and `message_template_quality_update`: a template
//! was edited, or Meta changed its category or its quality. The value names one template, but all templates of the WABA
//! are read again, so nothing of it is used.

use serde::Deserialize;

use super::WebhookChange;

pub(super) const COMPONENTS_FIELD: &str = "message_template_components_update";
pub(super) const CATEGORY_FIELD: &str = "template_category_update";
pub(super) const QUALITY_FIELD: &str = "message_template_quality_update";

/// Nothing in the value is used.
#[derive(Deserialize)]
pub(super) struct Value {}

impl From<Value> for WebhookChange<'_> {
    fn from(_: Value) -> Self {
        Self::TemplateEdited
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::value, *};

    #[test]
    fn an_edited_template_is_reported_whatever_the_value_says() {
        for field in [COMPONENTS_FIELD, CATEGORY_FIELD, QUALITY_FIELD] {
            for json in ["{}", r#"{"message_template_name":7,"new_category":"MARKETING"}"#] {
                assert_eq!(value(field, json), WebhookChange::TemplateEdited, "{field}: {json}");
            }
        }
    }
}
