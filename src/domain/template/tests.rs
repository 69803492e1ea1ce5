use serde_json::json;

use super::*;
use crate::domain::{
    RawRecipient, Reject,
    reject::{HeaderNeeds, RejectedField},
};

/// A template as Meta returns it, from `tests/fixtures/templates`.
pub(crate) fn fixture(name: &str) -> Template {
    serde_json::from_value(item(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn item(name: &str) -> Value {
    let path = format!("{}/tests/fixtures/templates/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn form(name: &str) -> Form {
    Form::of(&fixture(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The stored values of a recipient with these fields and a valid phone number.
fn fit(template: &str, fields: &str) -> Result<Vec<String>, Reject> {
    let separator = if fields.is_empty() { "" } else { "," };
    let line = format!(r#"{{"to":"+5491155550001"{separator}{fields}}}"#);
    let raw = RawRecipient::from_json(line.as_bytes()).unwrap_or_else(|reject| panic!("{line}: {reject}"));
    form(template).fit(raw).map(|recipient| recipient.values)
}

fn parameter(name: &str, times: usize) -> Slot {
    Slot::Parameter { name: name.to_owned(), times }
}

#[test]
fn fields_that_sending_does_not_need_are_not_stored() {
    let template = fixture("buttons");
    let stored = serde_json::to_string(&template).expect("JSON");
    assert_eq!(serde_json::from_str::<Template>(&stored).expect("a template"), template);
    assert!(!stored.contains("example\"") && !stored.contains("date"), "{stored}");
}

#[test]
fn a_template_keeps_its_id_and_quality_in_any_form() {
    let read = |id: Value, quality: Value| {
        let item = json!({
            "id": id, "name": "a", "language": "es", "status": "APPROVED", "category": "UTILITY", "components": [],
            "quality_score": quality,
        });
        let Template { id, quality_score, unreadable, .. } = Template::read(&item);
        assert_eq!(unreadable, "");
        (id, quality_score)
    };
    let green = ("9001".to_owned(), "GREEN".to_owned());
    assert_eq!(read("9001".into(), json!({ "score": "GREEN", "date": 1_795_300_000 })), green);
    assert_eq!(read(9001.into(), "GREEN".into()), green, "as it is stored");
    assert_eq!(read(Value::Null, Value::Null), (String::new(), String::new()), "as 0.1.0 stored it");
}

#[test]
fn only_an_approved_template_is_sendable() {
    assert!(fixture("positional").is_sendable());
    let paused = fixture("paused");
    assert_eq!(paused.status, TemplateStatus::Paused);
    assert!(!paused.is_sendable());
    let strange: TemplateStatus = serde_json::from_str(r#""UNDER_A_SPELL""#).expect("any status");
    assert_eq!(strange, TemplateStatus::Other("UNDER_A_SPELL".into()));
    assert_eq!(serde_json::to_string(&strange).expect("JSON"), r#""UNDER_A_SPELL""#);
}

#[test]
fn a_language_is_written_as_the_api_accepts_it() {
    assert_eq!(fixture("paused").language.as_str(), "pt_BR");
    assert_eq!(Language::from("en-GB"), Language::from("en_GB"));
    assert_eq!(Language::from("es").to_string(), "es");
}

#[test]
fn slots_are_in_the_order_of_the_request() {
    let cases: [(&str, Vec<Slot>); 13] = [
        ("static", vec![]),
        ("positional", vec![parameter("1", 2), parameter("2", 1)]),
        (
            "named",
            vec![
                Slot::HeaderText { name: "shop".into(), fixed_chars: 4 },
                parameter("first_name", 2),
                parameter("order_number", 1),
            ],
        ),
        ("header_text", vec![Slot::HeaderText { name: "1".into(), fixed_chars: 11 }, parameter("1", 1)]),
        ("header_image", vec![Slot::HeaderMedia(Media::Image), parameter("1", 1)]),
        ("header_video", vec![Slot::HeaderMedia(Media::Video)]),
        ("header_document", vec![Slot::HeaderMedia(Media::Document), parameter("1", 1)]),
        ("header_location", vec![Slot::HeaderLocation, parameter("1", 1)]),
        ("quick_reply", vec![parameter("1", 1), Slot::Payload { button: 0 }, Slot::Payload { button: 1 }]),
        (
            "buttons",
            vec![
                parameter("1", 1),
                Slot::UrlSuffix { button: 0, fixed_chars: 21 },
                Slot::CopyCode { button: 3 },
                Slot::Payload { button: 4 },
            ],
        ),
        ("copy_code", vec![Slot::CopyCode { button: 0 }]),
        ("authentication", vec![Slot::OneTimeCode { button: 0 }]),
        ("authentication_one_tap", vec![Slot::OneTimeCode { button: 0 }]),
    ];
    for (name, slots) in cases {
        assert_eq!(form(name).slots(), slots, "{name}");
    }
}

#[test]
fn positional_parameters_are_ordered_by_number() {
    let mut template = fixture("positional");
    template.components[0].text = "{{10}} {{2}} {{1}} {{2}} {{{3}} {{ }} {{a b}} {{".into();
    let form = Form::of(&template).expect("a form");
    assert_eq!(form.slots(), [parameter("1", 1), parameter("2", 2), parameter("3", 1), parameter("10", 1)]);
}

#[test]
fn unsupported_components_are_refused_by_name() {
    let cases = [
        (
            "carousel",
            "template spring_cards (es_AR) has a carousel, which pregon cannot send: use a template without it",
        ),
        (
            "limited_time_offer",
            "template last_day (es_AR) has a limited-time offer, which pregon cannot send: use a template without it",
        ),
        (
            "product_header",
            "template one_product (es_AR) has a product header, which pregon cannot send: use a template without it",
        ),
        ("flow", "template flow_button (es_AR) has a flow button, which pregon cannot send: use a template without it"),
        (
            "catalog",
            "template catalog_button (es_AR) has a catalog button, which pregon cannot send: use a template without it",
        ),
        (
            "mpm",
            "template mpm_button (es_AR) has a multi-product button, which pregon cannot send: use a template without \
            it",
        ),
    ];
    for (name, sentence) in cases {
        assert_eq!(Form::of(&fixture(name)).expect_err(name).to_string(), sentence);
    }
}

#[test]
fn order_templates_are_refused_by_sub_category() {
    for sub_category in ["ORDER_STATUS", "ORDER_DETAILS", "RICH_ORDER_STATUS", "order_status"] {
        let mut item = item("positional");
        item["sub_category"] = sub_category.into();
        let problem = Template::read(&item).problem().expect("a problem");
        let expected = format!("has the sub-category {}, and each", sub_category.to_uppercase());
        assert!(problem.contains(&expected), "{problem}");
    }
    for plain in [Value::Null, "CUSTOM".into()] {
        let mut item = item("positional");
        item["sub_category"] = plain;
        assert_eq!(Template::read(&item).problem(), None);
    }
}

#[test]
fn an_authentication_template_accepts_only_the_code() {
    let refused = |change: &dyn Fn(&mut Template)| {
        let mut template = fixture("authentication");
        change(&mut template);
        Form::of(&template).err().map(|error| error.to_string()).unwrap_or_default()
    };
    let with_body = |text: &str| refused(&|template| template.components[0].text = text.to_owned());
    assert!(with_body("{{1}} is your code for {{2}}").contains("its body takes 2 values, {{1}}, {{2}}, where"));
    assert!(with_body("{{code}} is your code").contains("its body takes the value {{code}}, where"));
    assert!(with_body("Your code is here").contains("its body takes no value, where"));
    for good in ["", "{{1}} is your code, {{1}}"] {
        assert_eq!(with_body(good), "", "{good}");
    }
    let two = refused(&|template| {
        let buttons = &mut template.components[2].buttons;
        buttons.push(buttons[0].clone());
    });
    assert!(two.contains("AUTHENTICATION and more than one button"), "{two}");
    let none = refused(&|template| template.components.truncate(2));
    assert!(none.contains("AUTHENTICATION and no button"), "{none}");
    let other = refused(&|template| template.components[2].buttons[0].kind = "QUICK_REPLY".into());
    assert!(other.contains("AUTHENTICATION and a button of type QUICK_REPLY"), "{other}");
}

#[test]
fn an_unreadable_template_keeps_its_name_and_the_reason() {
    let mut item = item("buttons");
    item["components"][1]["buttons"][0]["type"] = 3.into();
    let template = Template::read(&item);
    assert_eq!(template.to_string(), fixture("buttons").to_string());
    assert_eq!(template.status, TemplateStatus::Approved);
    let problem = template.problem().expect("a problem");
    assert!(
        problem.contains("cannot be read as Meta lists it (components[1].buttons[0].type: invalid type"),
        "{problem}"
    );
    let stored = serde_json::to_string(&template).expect("JSON");
    assert_eq!(serde_json::from_str::<Template>(&stored).expect("a template"), template);

    item["name"] = Value::Null;
    item["status"] = 7.into();
    item["id"] = "9001".into();
    let template = Template::read(&item);
    assert_eq!(template.name, "unnamed-9001");
    assert!(!template.is_sendable());
    assert!(Template::read(&Value::Null).problem().is_some());
}

#[test]
fn an_unapproved_template_is_refused_with_status_and_remedy() {
    let problem = fixture("paused").problem().expect("a problem");
    assert!(
        problem.contains(" (pt_BR) is PAUSED by Meta for bad feedback: a first pause ends after 3 hours"),
        "{problem}"
    );
    let mut rejected = item("positional");
    rejected["status"] = "REJECTED".into();
    rejected["rejected_reason"] = "INVALID_FORMAT".into();
    let problem = Template::read(&rejected).problem().expect("a problem");
    assert!(problem.contains(" is REJECTED by Meta (INVALID_FORMAT): edit it in WhatsApp Manager"), "{problem}");
    assert_eq!(fixture("positional").problem(), None);
}

#[test]
fn an_incompatible_edit_is_reported_change_by_change() {
    let changes = |then: &str, now: &str| match fixture(then).check_still_fits(Some(&fixture(now))) {
        Ok(()) => Vec::new(),
        Err(TemplateError::Changed { changes, .. }) => changes,
        Err(other) => panic!("{other}"),
    };
    for name in ["positional", "named", "buttons", "authentication", "header_image", "static"] {
        assert_eq!(changes(name, name), [""; 0]);
    }
    assert_eq!(changes("positional", "static"), ["the body takes 0 values now, and took 2"]);
    assert_eq!(
        changes("header_image", "header_text"),
        ["the header takes a text now, and took an image"],
        "both bodies take one value"
    );
    assert_eq!(
        changes("positional", "named"),
        [
            "its parameters have names now, and had numbers",
            "the header takes the text shop now, and took nothing",
            "the body takes first_name, order_number now, and took 1, 2",
        ]
    );
    assert_eq!(
        changes("copy_code", "quick_reply"),
        [
            "the body takes 1 value now, and took 0",
            "button 0 takes a payload now, and took a coupon",
            "button 1 takes a payload now, and took nothing",
        ]
    );
    let mut reworded = fixture("positional");
    reworded.components[0].text = "{{2}} for {{1}}".into();
    reworded.category = Category::Marketing;
    assert_eq!(fixture("positional").check_still_fits(Some(&reworded)), Ok(()), "Meta has the text");
    let text = fixture("positional").check_still_fits(None).expect_err("it is gone").to_string();
    assert!(text.starts_with("template order_update (es_AR) is no longer in Meta's list"), "{text}");
    assert!(fixture("positional").check_still_fits(Some(&fixture("carousel"))).is_err());
}

#[test]
fn compatible_templates_have_the_same_kinds_of_slots() {
    let names = [
        "static",
        "positional",
        "named",
        "header_text",
        "header_image",
        "header_video",
        "header_document",
        "header_location",
        "quick_reply",
        "buttons",
        "copy_code",
        "url",
        "authentication",
        "authentication_one_tap",
    ];
    let kinds = |name: &str| -> Vec<_> { form(name).slots().iter().map(std::mem::discriminant).collect() };
    for then in names {
        for now in names {
            if fixture(then).check_still_fits(Some(&fixture(now))).is_ok() {
                assert_eq!(kinds(then), kinds(now), "{then} and {now}");
            }
        }
    }
}

#[test]
fn a_named_placeholder_in_a_positional_template_is_refused() {
    let mut template = fixture("named");
    template.parameter_format = ParameterFormat::Positional;
    let error = Form::of(&template).expect_err("a placeholder that is no number");
    assert!(error.to_string().contains("placeholder first_name"), "{error}");
}

#[test]
fn a_recipient_that_fits_has_a_value_for_each_slot() {
    let cases: [(&str, &str, &[&str]); 17] = [
        ("static", "", &[]),
        ("positional", r#""params":{"2":10,"1":"Maria"}"#, &["Maria", "10"]),
        (
            "named",
            r#""header":"Acme","params":{"order_number":"A-10","first_name":"Ñandú 🦤"}"#,
            &["Acme", "Ñandú 🦤", "A-10"],
        ),
        ("header_text", r#""header":2026,"params":{"1":"Maria"}"#, &["2026", "Maria"]),
        (
            "header_image",
            r#""header":{"link":"https://cdn.example/a.jpg"},"params":{"1":"M"}"#,
            &[r#"{"link":"https://cdn.example/a.jpg"}"#, "M"],
        ),
        ("header_image", r#""header":{"id":17},"params":{"1":"M"}"#, &[r#"{"id":"17"}"#, "M"]),
        ("header_video", r#""header":"https://cdn.example/a.mp4""#, &[r#"{"link":"https://cdn.example/a.mp4"}"#]),
        ("header_video", r#""header":"1234567890""#, &[r#"{"id":"1234567890"}"#]),
        (
            "header_document",
            r#""header":{"filename":"A \"10\".pdf","id":"17"},"params":{"1":"A-10"}"#,
            &[r#"{"id":"17","filename":"A \"10\".pdf"}"#, "A-10"],
        ),
        (
            "header_location",
            concat!(
                r#""header":{"latitude":-34.6037,"longitude":"-58.3816","name":"Obelisco","address":"Av. 9 de Julio"},"#,
                r#""params":{"1":"lunes"}"#
            ),
            &[
                r#"{"latitude":"-34.6037","longitude":"-58.3816","name":"Obelisco","address":"Av. 9 de Julio"}"#,
                "lunes",
            ],
        ),
        (
            "header_location",
            r#""header":{"latitude":1e1,"longitude":180},"params":{"1":"lunes"}"#,
            &[r#"{"latitude":"10","longitude":"180"}"#, "lunes"],
        ),
        ("quick_reply", r#""params":{"1":"Maria"}"#, &["Maria", "", ""]),
        ("quick_reply", r#""params":{"1":"Maria"},"buttons":{"1":"no\tthanks"}"#, &["Maria", "", "no\tthanks"]),
        (
            "buttons",
            r#""params":{"1":"Maria"},"buttons":{"4":"bye","3":"SAVE20","0":"u/abc"}"#,
            &["Maria", "u/abc", "SAVE20", "bye"],
        ),
        ("copy_code", r#""buttons":{"0":"SAVE20"}"#, &["SAVE20"]),
        ("authentication", r#""params":{"1":482913}"#, &["482913"]),
        ("authentication_one_tap", r#""params":{"1":"048291"}"#, &["048291"]),
    ];
    for (template, fields, values) in cases {
        assert_eq!(fit(template, fields).unwrap_or_else(|reject| panic!("{template} {fields}: {reject}")), values);
    }
}

#[test]
fn a_recipient_that_does_not_fit_is_refused_with_the_reason() {
    let long = |n: usize| "x".repeat(n);
    let header = |value: &str| format!(r#""header":{value},"params":{{"1":"M"}}"#);
    let one = |value: &str| format!(r#""params":{{"1":"{value}","2":"A"}}"#);
    let button = |value: &str| format!(r#""buttons":{{"0":"{value}"}}"#);
    let cases: Vec<(&str, String, &str, &str)> = vec![
        ("positional", r#""params":{"2":"A"}"#.into(), "parameter_missing", "parameter 1 is missing"),
        ("positional", String::new(), "parameter_missing", "parameter 1 is missing"),
        (
            "named",
            r#""header":"A","params":{"first_name":"M"}"#.into(),
            "parameter_missing",
            "parameter order_number is missing",
        ),
        (
            "positional",
            r#""params":{"1":"M","2":"A","3":"B"}"#.into(),
            "parameter_unknown",
            "the template has no parameter 3",
        ),
        ("static", r#""params":{"1":"M"}"#.into(), "parameter_unknown", "the template has no parameter 1"),
        ("positional", r#""params":{"1":"M","2":"A","1":"N"}"#.into(), "given_twice", "parameter 1 is given twice"),
        ("url", r#""buttons":{"0":"a","0":"b"}"#.into(), "given_twice", "button 0 is given twice"),
        ("positional", one(""), "empty", "parameter 1 is empty"),
        ("positional", one(" "), "empty", "parameter 1 is empty"),
        ("positional", one("\u{a0}\u{3000}"), "empty", "parameter 1 is empty"),
        ("positional", one("\u{200b}\u{feff}\u{2060}"), "empty", "parameter 1 is empty"),
        ("positional", one(r"\u0000\n\t"), "empty", "parameter 1 is empty"),
        ("header_text", header("\" \""), "empty", "the header is empty"),
        ("url", button("\u{ad} "), "empty", "button 0 is empty"),
        ("quick_reply", r#""params":{"1":"M"},"buttons":{"1":"  "}"#.into(), "empty", "button 1 is empty"),
        ("header_text", header(r#""""#), "empty", "the header is empty"),
        ("url", button(""), "empty", "button 0 is empty"),
        ("quick_reply", r#""params":{"1":"M"},"buttons":{"1":""}"#.into(), "empty", "button 1 is empty"),
        (
            "positional",
            one(r"a\nb"),
            "whitespace",
            "parameter 1 has a newline, a tab or more than four spaces in a row",
        ),
        (
            "positional",
            one(r"a\tb"),
            "whitespace",
            "parameter 1 has a newline, a tab or more than four spaces in a row",
        ),
        ("positional", one(r"a\r"), "whitespace", "parameter 1 has a newline, a tab or more than four spaces in a row"),
        (
            "positional",
            one("a     b"),
            "whitespace",
            "parameter 1 has a newline, a tab or more than four spaces in a row",
        ),
        ("url", button(r"a\nb"), "whitespace", "button 0 has a newline, a tab or more than four spaces in a row"),
        (
            "header_document",
            header(r#"{"id":1,"filename":"a\nb"}"#),
            "whitespace",
            "the header's filename has a newline, a tab or more than four spaces in a row",
        ),
        (
            "positional",
            one(&long(493)),
            "too_long",
            "the body with parameter 1 (its longest) is too long: 1025 characters, at most 1024; shorten “",
        ),
        (
            "header_text",
            header(&format!("\"{}\"", long(50))),
            "too_long",
            "the header is too long: 61 characters, at most 60",
        ),
        ("url", button(&long(1979)), "too_long", "the URL of button 0 is too long: 2002 characters, at most 2000"),
        ("copy_code", button(&long(21)), "too_long", "button 0 is too long: 21 characters, at most 20"),
        (
            "authentication",
            format!(r#""params":{{"1":"{}"}}"#, long(16)),
            "too_long",
            "parameter 1 is too long: 16 characters, at most 15; shorten “",
        ),
        (
            "quick_reply",
            format!(r#""params":{{"1":"M"}},"buttons":{{"0":"{}"}}"#, long(129)),
            "too_long",
            "button 0 is too long: 129 characters, at most 128",
        ),
        (
            "header_image",
            header(&format!(r#"{{"link":"https://{}"}}"#, long(1993))),
            "too_long",
            "the header's link is too long: 2001 characters, at most 2000",
        ),
        ("header_text", r#""params":{"1":"M"}"#.into(), "header_missing", "the header is missing: it takes a text"),
        (
            "header_image",
            r#""params":{"1":"M"}"#.into(),
            "header_missing",
            "the header is missing: it takes either an https link or a numeric media id",
        ),
        (
            "positional",
            r#""header":"M","params":{"1":"M","2":"A"}"#.into(),
            "header_unexpected",
            "the template has no header to fill",
        ),
        ("static", r#""header":"M""#.into(), "header_unexpected", "the template has no header to fill"),
        ("url", "".into(), "button_missing", "button 0 is missing"),
        (
            "url",
            r#""buttons":{"0":"a","1":"b"}"#.into(),
            "button_unknown",
            "the template has no button 1 to fill (buttons are counted from 0)",
        ),
        (
            "buttons",
            r#""params":{"1":"M"},"buttons":{"1":"b"}"#.into(),
            "button_unknown",
            "the template has no button 1 to fill (buttons are counted from 0)",
        ),
        (
            "url",
            r#""buttons":{"first":"b"}"#.into(),
            "button_unknown",
            "the template has no button first to fill (buttons are counted from 0)",
        ),
        (
            "authentication",
            r#""params":{"1":"1"},"buttons":{"0":"1"}"#.into(),
            "button_unknown",
            "the template has no button 0 to fill (buttons are counted from 0)",
        ),
    ];
    for (template, fields, code, sentence) in cases {
        let reject = fit(template, &fields).expect_err(&fields);
        let text = reject.to_string();
        assert!(reject.code() == code && text.starts_with(sentence), "{template}: {fields}: {text}");
    }
}

#[test]
fn a_header_of_the_wrong_form_is_refused_with_the_right_one() {
    let link = r#"{"link":"https://cdn.example/a"}"#;
    let cases = [
        ("header_text", link, HeaderNeeds::Text),
        ("header_location", link, HeaderNeeds::Location),
        ("header_location", r#""Obelisco""#, HeaderNeeds::Location),
        ("header_location", r#"{"latitude":1}"#, HeaderNeeds::Location),
        ("header_location", r#"{"latitude":91,"longitude":1}"#, HeaderNeeds::Location),
        ("header_location", r#"{"latitude":1,"longitude":-180.5}"#, HeaderNeeds::Location),
        ("header_location", r#"{"latitude":"NaN","longitude":1}"#, HeaderNeeds::Location),
        ("header_location", r#"{"latitude":"south","longitude":1}"#, HeaderNeeds::Location),
        ("header_image", "{}", HeaderNeeds::Media),
        ("header_image", r#"{"latitude":1,"longitude":1}"#, HeaderNeeds::Media),
        ("header_image", r#"{"link":"https://cdn.example/a","id":"1"}"#, HeaderNeeds::Media),
        ("header_image", r#"{"link":"http://cdn.example/a"}"#, HeaderNeeds::Media),
        ("header_image", r#"{"link":"https://"}"#, HeaderNeeds::Media),
        ("header_image", r#"{"link":"https://cdn.example/a b"}"#, HeaderNeeds::Media),
        ("header_image", r#"{"id":"1","filename":"a.jpg"}"#, HeaderNeeds::Media),
        ("header_image", r#""Maria""#, HeaderNeeds::Media),
        ("header_document", r#"{"id":""}"#, HeaderNeeds::Document),
        ("header_document", r#"{"filename":"a.pdf"}"#, HeaderNeeds::Document),
    ];
    for (template, header, needs) in cases {
        let fields = format!(r#""header":{header},"params":{{"1":"M"}}"#);
        let reject = fit(template, &fields).expect_err(header);
        assert!(matches!(reject, Reject::HeaderForm { needs: other, .. } if other == needs), "{template}: {header}");
    }
    let text = |template, header: &str| {
        fit(template, &format!(r#""header":{header},"params":{{"1":"M"}}"#)).expect_err(header).to_string()
    };
    assert_eq!(
        text("header_image", r#"{"link":"http://cdn.example/a","filename":"b"}"#),
        "the header is link “http://cdn.example/a”, filename “b”, which does not fit the template: it takes either an https link or \
        a numeric media id"
    );
    let text = text("header_location", r#""Obelisco""#);
    assert!(
        text.starts_with("the header is “Obelisco”, which does not fit the template: it takes a latitude"),
        "{text}"
    );
}

#[test]
fn values_of_the_maximum_length_are_accepted() {
    let x = |n: usize| "ñ".repeat(n);
    assert!(fit("positional", &format!(r#""params":{{"1":"{}","2":"AB"}}"#, x(492))).is_ok());
    assert!(fit("header_text", &format!(r#""header":"{}","params":{{"1":"M"}}"#, x(49))).is_ok());
    assert!(fit("copy_code", &format!(r#""buttons":{{"0":"{}"}}"#, x(15))).is_ok());
    assert!(fit("url", &format!(r#""buttons":{{"0":"{}"}}"#, x(1977))).is_ok());
    assert!(fit("positional", r#""params":{"1":"a    b","2":"A"}"#).is_ok(), "four spaces are fine");
}

#[test]
fn a_number_that_is_not_e164_is_refused_first() {
    let raw = RawRecipient::from_json(br#"{"to":5491155550001,"params":{"9":"x"}}"#).expect("a row");
    let reject = form("positional").fit(raw).expect_err("no plus sign");
    let expected = "`to` is …0001: the plus in front is missing, which spreadsheets drop from numbers; format the column as text and \
        write the number in E.164, such as +5491155550001";
    assert_eq!((reject.code(), reject.to_string().as_str()), ("not_e164", expected));
}

#[test]
fn a_rejection_names_the_field_in_words() {
    assert!(
        Reject::Empty(RejectedField::HeaderField("address")).to_string().starts_with("the header's address is empty")
    );
    let text = Reject::Duplicate("…0001".into()).to_string();
    assert!(text.starts_with("the number …0001 is already in the campaign"), "{text}");
}
