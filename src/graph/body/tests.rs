use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::domain::{RawRecipient, template::tests::fixture};

const TOKEN: &str = "p1.01J9ZK3V5T8R7Q6P5N4M3K2J1H.0.17.1.0123456789abcdef";

/// The request for one recipient. `fields` are the recipient's fields without the phone number.
fn request(template: &str, fields: Value) -> Value {
    let template = fixture(template);
    let form = Form::of(&template).expect("a form");
    let mut row = json!({"to": "+5491155550001"});
    row.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    let raw = RawRecipient::from_json(row.to_string().as_bytes()).expect("a row");
    let recipient = form.fit(raw).unwrap_or_else(|reject| panic!("{row}: {reject}"));
    let mut out = Vec::new();
    BodyPlan::new(&template, &form).render(recipient.to, &recipient.values, TOKEN, &mut out);
    serde_json::from_slice(&out).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&out)))
}

fn components(template: &str, fields: Value) -> Value {
    request(template, fields)["template"]["components"].take()
}

fn text(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

fn body(parameters: Value) -> Value {
    json!({"type": "body", "parameters": parameters})
}

fn header(parameter: Value) -> Value {
    json!({"type": "header", "parameters": [parameter]})
}

fn button(index: &str, sub_type: &str, parameter: Value) -> Value {
    json!({"type": "button", "sub_type": sub_type, "index": index, "parameters": [parameter]})
}

#[test]
fn a_body_for_the_marketing_api_says_how_the_message_goes_out() {
    let mut body = br#"{"to":"+447700900123"}"#.to_vec();
    for_marketing_api(&mut body);
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(body, json!({"to": "+447700900123", "product_policy": "CLOUD_API_FALLBACK"}));
}

#[test]
fn the_envelope_names_recipient_template_and_token() {
    assert_eq!(
        request("static", json!({})),
        json!({
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "to": "+5491155550001",
            "type": "template",
            "template": {"name": "hello_world", "language": {"code": "en_US"}},
            "biz_opaque_callback_data": TOKEN
        })
    );
}

#[test]
fn every_template_shape_renders_as_meta_documents() {
    let place = json!({"latitude": "-34.6", "longitude": "-58.4", "name": "Obelisco", "address": "Av. 9 de Julio"});
    let payload = |value: &str| json!({"type": "payload", "payload": value});
    let cases = [
        (
            "positional",
            json!({"params": {"1": "Maria", "2": "A-10"}}),
            json!([body(json!([text("Maria"), text("A-10")]))]),
        ),
        (
            "named",
            json!({"header": "Acme", "params": {"first_name": "Maria", "order_number": "A-10"}}),
            json!([
                header(json!({"type": "text", "parameter_name": "shop", "text": "Acme"})),
                body(json!([
                    {"type": "text", "parameter_name": "first_name", "text": "Maria"},
                    {"type": "text", "parameter_name": "order_number", "text": "A-10"}
                ]))
            ]),
        ),
        (
            "header_text",
            json!({"header": "otoño", "params": {"1": "Maria"}}),
            json!([header(text("otoño")), body(json!([text("Maria")]))]),
        ),
        (
            "header_image",
            json!({"header": {"id": "17"}, "params": {"1": "M"}}),
            json!([header(json!({"type": "image", "image": {"id": "17"}})), body(json!([text("M")]))]),
        ),
        (
            "header_video",
            json!({"header": {"link": "https://cdn.example/a.mp4"}}),
            json!([header(json!({"type": "video", "video": {"link": "https://cdn.example/a.mp4"}}))]),
        ),
        (
            "header_document",
            json!({"header": {"id": "17", "filename": "a.pdf"}, "params": {"1": "A-10"}}),
            json!([
                header(json!({"type": "document", "document": {"id": "17", "filename": "a.pdf"}})),
                body(json!([text("A-10")]))
            ]),
        ),
        (
            "header_location",
            json!({"header": place, "params": {"1": "lunes"}}),
            json!([header(json!({"type": "location", "location": place})), body(json!([text("lunes")]))]),
        ),
        (
            "quick_reply",
            json!({"params": {"1": "Maria"}, "buttons": {"1": "no"}}),
            json!([
                body(json!([text("Maria")])),
                button("0", "quick_reply", payload(TOKEN)),
                button("1", "quick_reply", payload("no"))
            ]),
        ),
        (
            "buttons",
            json!({"params": {"1": "Maria"}, "buttons": {"0": "u/abc", "3": "SAVE20"}}),
            json!([
                body(json!([text("Maria")])),
                button("0", "url", text("u/abc")),
                button("3", "copy_code", json!({"type": "coupon_code", "coupon_code": "SAVE20"})),
                button("4", "quick_reply", payload(TOKEN))
            ]),
        ),
        ("url", json!({"buttons": {"0": "1"}}), json!([button("0", "url", text("1"))])),
        (
            "copy_code",
            json!({"buttons": {"0": "SAVE20"}}),
            json!([button("0", "copy_code", json!({"type": "coupon_code", "coupon_code": "SAVE20"}))]),
        ),
        (
            "authentication",
            json!({"params": {"1": "482913"}}),
            json!([body(json!([text("482913")])), button("0", "url", text("482913"))]),
        ),
        (
            "authentication_one_tap",
            json!({"params": {"1": "482913"}}),
            json!([body(json!([text("482913")])), button("0", "url", text("482913"))]),
        ),
    ];
    for (template, fields, expected) in cases {
        assert_eq!(components(template, fields), expected, "{template}");
    }
}

#[test]
fn a_plan_renders_one_recipient_after_another() {
    let template = fixture("positional");
    let plan = BodyPlan::new(&template, &Form::of(&template).expect("a form"));
    let to: Phone = "+447700900123".parse().expect("a number");
    let (mut both, mut second) = (Vec::new(), Vec::new());
    plan.render(to, &["Ana", "1"], TOKEN, &mut both);
    let first_len = both.len();
    plan.render(to, &["Zoë", "2"], "p1.x", &mut both);
    plan.render(to, &["Zoë".to_owned(), "2".to_owned()], "p1.x", &mut second);
    assert_eq!(both[first_len..], second);
}

#[test]
#[should_panic(expected = "values for a template with another number of slots")]
fn values_of_another_form_are_never_sent() {
    let template = fixture("positional");
    let plan = BodyPlan::new(&template, &Form::of(&template).expect("a form"));
    plan.render("+447700900123".parse().expect("a number"), &["Ana"], TOKEN, &mut Vec::new());
}

/// Any text that a recipient may have: no line break or tab, and at least one visible character.
fn value() -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>(), 1..15)
        .prop_map(|chars| chars.into_iter().filter(|c| !matches!(c, '\n' | '\r' | '\t')).collect::<String>())
        .prop_filter("something to be seen", |text| text.contains(|c: char| c.is_alphanumeric()))
        .prop_filter("at most four spaces", |text| !text.contains("     "))
}

proptest! {
    #[test]
    fn every_accepted_recipient_is_sent_with_exactly_its_values(
        digits in 1_000_000_u64..1_000_000_000_000_000,
        name in value(), suffix in value(), code in value(), payload in proptest::option::of(value()),
        token in value(),
    ) {
        let template = fixture("buttons");
        let form = Form::of(&template).expect("a form");
        let mut row = json!({
            "to": format!("+{digits}"), "params": {"1": name}, "buttons": {"0": suffix, "3": code}
        });
        if let Some(payload) = &payload {
            row["buttons"]["4"] = json!(payload);
        }
        let raw = RawRecipient::from_json(row.to_string().as_bytes()).expect("a row");
        let recipient = form.fit(raw).expect("it fits");
        let mut out = Vec::new();
        BodyPlan::new(&template, &form).render(recipient.to, &recipient.values, &token, &mut out);
        let sent: Value = serde_json::from_slice(&out).expect("JSON");
        prop_assert_eq!(&sent["to"], &json!(format!("+{digits}")));
        prop_assert_eq!(&sent["biz_opaque_callback_data"], &json!(token));
        prop_assert_eq!(
            &sent["template"]["components"],
            &json!([
                body(json!([text(&name)])),
                button("0", "url", text(&suffix)),
                button("3", "copy_code", json!({"type": "coupon_code", "coupon_code": code})),
                button("4", "quick_reply", json!({"type": "payload", "payload": payload.as_ref().unwrap_or(&token)}))
            ])
        );
    }

    #[test]
    fn every_accepted_header_is_sent_with_exactly_its_fields(
        filename in value(), name in value(), address in value(), id in 1_u64..,
        latitude in -90.0..90.0_f64, longitude in -180.0..180.0_f64,
    ) {
        let document = json!({"id": id.to_string(), "filename": filename});
        let sent = components("header_document", json!({"header": document, "params": {"1": "A"}}));
        prop_assert_eq!(&sent[0], &header(json!({"type": "document", "document": document})));

        let place = json!({
            "latitude": latitude.to_string(), "longitude": longitude.to_string(), "name": name, "address": address
        });
        let sent = components("header_location", json!({"header": place, "params": {"1": "A"}}));
        prop_assert_eq!(&sent[0], &header(json!({"type": "location", "location": place})));
    }
}
