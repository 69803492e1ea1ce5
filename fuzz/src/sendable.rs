//! Properties of a request: every accepted row can be rendered, and no value can escape from its JSON string.

use std::sync::LazyLock;

use pregon::{
    domain::{Form, RawRecipient, Recipient, Reject, Template},
    graph::body::BodyPlan,
};
use serde_json::Value;

const TOKEN: &str = "p1.01J9ZK3V5T8R7Q6P5N4M3K2J1H.12.65535.15.0123456789abcdef";

/// A template of each kind.
static TEMPLATES: LazyLock<Vec<(Form, BodyPlan)>> = LazyLock::new(|| {
    [
        include_str!("../../tests/fixtures/templates/authentication.json"),
        include_str!("../../tests/fixtures/templates/buttons.json"),
        include_str!("../../tests/fixtures/templates/copy_code.json"),
        include_str!("../../tests/fixtures/templates/header_document.json"),
        include_str!("../../tests/fixtures/templates/header_location.json"),
        include_str!("../../tests/fixtures/templates/header_text.json"),
        include_str!("../../tests/fixtures/templates/named.json"),
        include_str!("../../tests/fixtures/templates/positional.json"),
        include_str!("../../tests/fixtures/templates/static.json"),
        include_str!("../../tests/fixtures/templates/url.json"),
    ]
    .map(|json| {
        let template: Template = serde_json::from_str(json).expect("a template of Meta's");
        let form = Form::of(&template).expect("a form");
        let plan = BodyPlan::new(&template, &form);
        (form, plan)
    })
    .into()
});

/// A row that fits a template is rendered to a request with exactly the values of the row.
pub(crate) fn sendable(raw: &RawRecipient) {
    for (form, plan) in TEMPLATES.iter() {
        match form.fit(raw.clone()) {
            Ok(recipient) => {
                assert_eq!(recipient.values.len(), form.slots().len());
                rendered(plan, &recipient);
            }
            Err(Reject::NotE164 { .. }) => return,
            Err(reject) => assert!(!reject.to_string().is_empty()),
        }
    }
}

fn rendered(plan: &BodyPlan, recipient: &Recipient) {
    let mut body = Vec::new();
    plan.render(recipient.to, &recipient.values, TOKEN, &mut body);
    let body: Value = serde_json::from_slice(&body).expect("a request is JSON");
    assert_eq!(body["to"], recipient.to.to_string());
    assert_eq!(body["biz_opaque_callback_data"], TOKEN);
    let fields = body.as_object().expect("an object").keys().map(String::as_str);
    assert!(fields.eq(["biz_opaque_callback_data", "messaging_product", "recipient_type", "template", "to", "type"]));
    for value in &recipient.values {
        // The value of a header that is not text is stored as JSON. A button without a payload carries the token.
        let is_value = |json: &Value| match json {
            Value::String(text) => text == value || (value.is_empty() && text == TOKEN),
            Value::Object(_) => serde_json::from_str::<Value>(value).is_ok_and(|value| value == *json),
            _ => false,
        };
        assert!(anywhere(&body["template"], &is_value), "{value:?} is not in the request");
    }
}

/// Whether `json` or a value in it satisfies `predicate`.
fn anywhere(json: &Value, predicate: &impl Fn(&Value) -> bool) -> bool {
    predicate(json)
        || match json {
            Value::Array(items) => items.iter().any(|item| anywhere(item, predicate)),
            Value::Object(fields) => fields.values().any(|field| anywhere(field, predicate)),
            _ => false,
        }
}
