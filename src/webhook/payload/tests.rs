use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/fixtures/webhooks/", $name, ".json")).as_slice()
    };
}

fn read(body: &[u8]) -> Vec<WebhookChange<'_>> {
    Payload::read(body).expect("a payload").changes
}

fn only(body: &[u8]) -> WebhookChange<'_> {
    let mut changes = read(body);
    assert_eq!(changes.len(), 1, "{changes:?}");
    changes.remove(0)
}

fn messages(body: &[u8]) -> Messages<'_> {
    match only(body) {
        WebhookChange::Messages(messages) => messages,
        other => panic!("{other:?}"),
    }
}

fn status(wamid: &str, kind: StatusKind, at: Option<u64>) -> Status<'_> {
    Status { wamid: wamid.into(), kind, at: at.map(UnixMs), token: None, code: None, details: "".into() }
}

#[test]
fn a_status_is_parsed_with_its_token() {
    let read = messages(fixture!("status_sent"));
    assert_eq!(read.line, "3001");
    assert_eq!(read.inbound, []);
    let wamid = "wamid.HBgNNTQ5MTE1NTU1MDEwMRUCABEYEjA4";
    let expected =
        Status { token: Some("c42:r981".into()), ..status(wamid, StatusKind::Sent, Some(1_795_300_000_000)) };
    assert_eq!(read.statuses, [expected]);
    assert!(matches!(read.statuses[0].token, Some(Cow::Borrowed(_))), "without a copy");
}

#[test]
fn a_failed_status_is_parsed_with_its_code_and_error_text() {
    let wamid = "wamid.HBgNNTQ5MTE1NTU1MDEwMhUCABEYEjA5";
    let failed = status(wamid, StatusKind::Failed, Some(1_795_300_007_000));
    let expected = Status { code: Some(MetaCode(131_026)), details: "Message Undeliverable.".into(), ..failed };
    assert_eq!(messages(fixture!("status_failed_131026")).statuses, [expected]);
}

#[test]
fn a_reply_is_parsed_with_the_message_it_answers() {
    let tapped = Inbound {
        payload: Some("c42:stop".into()),
        answers: Some("wamid.HBgNNTQ5MTE1NTU1MDEwMxUCABEYEjEw".into()),
        at: Some(UnixMs(1_795_300_042_000)),
    };
    assert_eq!(messages(fixture!("reply_button")).inbound, [tapped]);

    let read = messages(fixture!("inbound_mixed"));
    let read: Vec<_> =
        read.inbound.iter().map(|inbound| (inbound.payload.as_deref(), inbound.answers.as_deref())).collect();
    let expected = [
        (None, None),
        (Some("chosen-button"), Some("wamid.OUT1")),
        (Some("chosen-row"), None),
        (None, Some("wamid.OUT2")),
        (None, None),
    ];
    assert_eq!(read, expected);
}

#[test]
fn a_template_change_has_the_language_code_of_the_api() {
    let paused = TemplateChange {
        waba: "2001".into(),
        name: "spring_sale".into(),
        language: Language::from("en_GB"),
        event: "PAUSED".into(),
        reason: "Your template was paused for 3 hours.".into(),
    };
    assert_eq!(only(fixture!("template_paused")), WebhookChange::Template(paused));
    let WebhookChange::Template(approved) = only(fixture!("template_approved")) else { panic!("a template's change") };
    assert_eq!((&*approved.event, &*approved.reason), ("APPROVED", "UNPAUSED"));
}

fn account(field: &'static str, event: &'static str, until: Option<u64>) -> WebhookChange<'static> {
    WebhookChange::Account(AccountChange {
        waba: "2001".into(),
        field: field.into(),
        event: event.into(),
        reason: "".into(),
        stops_messages: until.is_some(),
        until: until.map(UnixMs),
        at: Some(UnixMs(1_795_300_000_000)),
    })
}

#[test]
fn malformed_values_are_skipped_and_their_siblings_used() {
    let changes = read(fixture!("unusual"));
    let failed = |wamid, code: Option<u32>, details: &'static str| Status {
        code: code.map(MetaCode),
        details: details.into(),
        ..status(wamid, StatusKind::Failed, None)
    };
    let statuses = vec![
        status("wamid.1", StatusKind::Delivered, Some(1_795_300_001_000)),
        status("wamid.2", StatusKind::Read, Some(1_795_300_002_500)),
        failed("wamid.3", Some(131_049), "m"),
        failed("wamid.4", None, ""),
        failed("wamid.5", None, ""),
        Status { token: Some("42".into()), ..status("wamid.6", StatusKind::Read, Some(1_795_300_006_000)) },
        status("wamid.7", StatusKind::Other, Some(1_795_300_007_000)),
    ];
    let expected = [
        WebhookChange::Malformed,
        WebhookChange::Malformed,
        WebhookChange::Malformed,
        WebhookChange::Messages(Messages { waba: "2001".into(), line: "3001".into(), statuses, inbound: Vec::new() }),
        account("messages", "131052", None),
        WebhookChange::Malformed,
        WebhookChange::Malformed,
        account("security", "PIN_CHANGED", None),
        WebhookChange::Other,
    ];
    assert_eq!(changes, expected);
}

#[test]
fn the_last_of_duplicate_fields_counts() {
    let body = br#"{"entry":[],"entry":[{"id":1,"changes":[{"field":"x","field":"messages","value":{
        "metadata":{"phone_number_id":"3001"},"statuses":[{"id":"a","id":"wamid.A","status":"sent","status":"read"}]}}]}]}"#;
    assert_eq!(messages(body).statuses, [status("wamid.A", StatusKind::Read, None)]);
}

#[test]
fn a_body_that_is_not_a_json_object_is_an_error() {
    let cut = &fixture!("status_sent")[..300];
    for body in [b"".as_slice(), b"[]", b"null", b"7", b"\"x\"", b"{", b"{}x", b"\xff\xfe", cut] {
        assert!(Payload::read(body).is_err(), "{}", String::from_utf8_lossy(body));
    }
    for body in ["{}", r#"{"entry":null}"#, r#"{"entry":{}}"#] {
        assert_eq!(read(body.as_bytes()), [], "{body}");
    }
}

#[test]
fn deep_nesting_does_not_overflow_the_stack() {
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    for place in [
        r#"{"x":@}"#,
        r#"{"entry":@}"#,
        r#"{"entry":[{"id":@}]}"#,
        r#"{"entry":[{"changes":[{"field":"messages","value":{"metadata":@,"statuses":[{"id":@,"timestamp":@}]}}]}]}"#,
    ] {
        let body = place.replace('@', &deep(100_000));
        let _ = Payload::read(body.as_bytes());
        // Unclosed brackets are invalid JSON, and must be rejected without deep recursion.
        let _ = Payload::read(&body.as_bytes()[..body.len() / 2]);
    }
}

/// Any JSON value.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-z_]{1,8}", inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Fields of a status and of its parents whose values may have any type.
const FIELDS: [&str; 12] = [
    "timestamp",
    "biz_opaque_callback_data",
    "errors",
    "recipient_id",
    "pricing",
    "conversation",
    "contacts",
    "messages",
    "event",
    "reason",
    "other_info",
    "future",
];

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Payload::read(&bytes);
    }

    #[test]
    fn a_damaged_body_never_panics(at in 0usize..2_000, with in any::<u8>(), cut in any::<bool>()) {
        let mut body = fixture!("unusual").to_vec();
        let at = at % body.len();
        body[at] = with;
        let _ = Payload::read(if cut { &body[..at] } else { &body });
    }

    #[test]
    fn a_field_of_any_type_affects_only_itself(field in 0..FIELDS.len(), junk in any_json(), before in any::<bool>()) {
        let mut bad = json!({"id": "wamid.bad", "status": "sent"});
        let mut value = json!({
            "metadata": {"phone_number_id": "3001"},
            "statuses": [{"id": "wamid.good", "status": "read", "timestamp": "1795300000"}],
        });
        bad[FIELDS[field]] = junk.clone();
        value[FIELDS[field]] = junk.clone();
        let statuses = value["statuses"].as_array_mut().expect("an array");
        statuses.insert(if before { 0 } else { 1 }, bad);
        statuses.push(junk.clone());
        let body = json!({
            "entry": [junk.clone(), {"id": junk.clone(), "changes": [junk, {"field": "messages", "value": value}]}],
        });
        let body = serde_json::to_vec(&body).expect("JSON");
        let changes = read(&body);
        let Some(WebhookChange::Messages(messages)) = changes.last() else { panic!("{changes:?}") };
        let good = status("wamid.good", StatusKind::Read, Some(1_795_300_000_000));
        prop_assert_eq!(messages.statuses.iter().filter(|status| **status == good).count(), 1);
        prop_assert_eq!(messages.statuses.iter().filter(|status| status.wamid == "wamid.bad").count(), 1);
    }
}
