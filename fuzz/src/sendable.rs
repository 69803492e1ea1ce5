//! From a row to the request: what is taken in can be sent, and nothing in it can break out of its place.

use std::sync::LazyLock;

use pregon::{
    domain::{Form, RawRecipient, Recipient, Reject, Template},
    graph::body::BodyPlan,
};
use serde_json::Value;

const TOKEN: &str = "p1.01J9ZK3V5T8R7Q6P5N4M3K2J1H.12.65535.15.0123456789abcdef";

/// One template of each kind.
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

/// What fits a template becomes a request that says what the row said, and nothing else.
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
        // A header that is no text is kept as JSON; a button without a payload carries the token.
        let said = |said: &Value| match said {
            Value::String(text) => text == value || (value.is_empty() && text == TOKEN),
            Value::Object(_) => serde_json::from_str::<Value>(value).is_ok_and(|value| value == *said),
            _ => false,
        };
        assert!(anywhere(&body["template"], &said), "{value:?} is not in the request");
    }
}

fn anywhere(json: &Value, said: &impl Fn(&Value) -> bool) -> bool {
    said(json)
        || match json {
            Value::Array(items) => items.iter().any(|item| anywhere(item, said)),
            Value::Object(fields) => fields.values().any(|field| anywhere(field, said)),
            _ => false,
        }
}
