use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    fields::messages::{
        Messages,
        status::{Status, StatusKind},
    },
    *,
};
use crate::{
    domain::{MetaCode, Wamid},
    telemetry::metrics::AccountEvent,
    webhook::account::AccountChange,
};

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/fixtures/webhooks/", $name, ".json")).as_slice()
    };
}

fn read(body: &[u8]) -> Vec<WebhookChange<'_>> {
    Payload::read(body).expect("a payload").entries.into_iter().flat_map(|entry| entry.changes).collect()
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
    Status {
        wamid: wamid.into(),
        kind,
        at: at.map(UnixMs),
        token: None,
        recipient: None,
        code: None,
        details: "".into(),
    }
}

#[test]
fn a_status_is_parsed_with_its_token() {
    let read = messages(fixture!("status_sent"));
    assert_eq!(read.line, "3001");
    assert_eq!(read.inbound, []);
    let wamid = "wamid.HBgNNTQ5MTE1NTU1MDEwMRUCABEYEjA4";
    let (token, recipient) = (Some("c42:r981".into()), Some("5491155550101".into()));
    let expected = Status { token, recipient, ..status(wamid, StatusKind::Sent, Some(1_795_300_000_000)) };
    assert_eq!(read.statuses, [expected]);
    assert!(matches!(read.statuses[0].token, Some(Cow::Borrowed(_))), "without a copy");
}

#[test]
fn a_failed_status_is_parsed_with_its_code_and_error_text() {
    let wamid = "wamid.HBgNNTQ5MTE1NTU1MDEwMhUCABEYEjA5";
    let failed = status(wamid, StatusKind::Failed, Some(1_795_300_007_000));
    let recipient = Some("5491155550102".into());
    let expected =
        Status { recipient, code: Some(MetaCode(131_026)), details: "Message Undeliverable.".into(), ..failed };
    assert_eq!(messages(fixture!("status_failed_131026")).statuses, [expected]);
}

#[test]
fn a_reply_is_parsed_with_the_message_it_answers() {
    let tapped = messages(fixture!("reply_button")).inbound.remove(0);
    assert_eq!(tapped.payload(), Some("c42:stop"));
    assert_eq!(tapped.answers(), Some(&Wamid::from("wamid.HBgNNTQ5MTE1NTU1MDEwMxUCABEYEjEw")));
    assert_eq!(tapped.at, Some(UnixMs(1_795_300_042_000)));

    let read = messages(fixture!("inbound_mixed"));
    let read: Vec<_> =
        read.inbound.iter().map(|inbound| (inbound.payload(), inbound.answers().map(Wamid::as_str))).collect();
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
fn an_entry_has_its_waba_and_its_time() {
    let payload = Payload::read(fixture!("template_paused")).expect("a payload");
    let [entry] = payload.entries.as_slice() else { panic!("{payload:?}") };
    assert_eq!((&*entry.waba, entry.at), ("2001", Some(UnixMs(1_795_300_100_000))));
    assert!(matches!(entry.changes.as_slice(), [WebhookChange::Template(change)] if change.name == "spring_sale"));
    let payload = Payload::read(fixture!("status_sent")).expect("a payload");
    assert_eq!(payload.entries[0].at, None, "an entry of messages");
}

fn account(field: &'static str, kind: AccountEvent, event: &'static str) -> WebhookChange<'static> {
    WebhookChange::Account(Box::new(AccountChange::notice(field, kind, event.into())))
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
        WebhookChange::Messages(Messages { line: "3001".into(), statuses, inbound: Vec::new() }),
        account("messages", AccountEvent::Errors, "131052"),
        WebhookChange::Malformed,
        WebhookChange::Malformed,
        account("security", AccountEvent::Security, "PIN_CHANGED"),
        WebhookChange::Other,
    ];
    assert_eq!(changes, expected);
}

/// A body with these changes.
fn body_of(changes: &str) -> String {
    format!(r#"{{"entry":[{{"changes":[{changes}],"id":"2001","time":1795300100}}]}}"#)
}

#[test]
fn a_value_is_parsed_as_its_field_in_any_order() {
    let statuses = r#""value":{"metadata":{"phone_number_id":"3001"},"statuses":[{"id":"wamid.A"}],"event":7}"#;
    let event = r#""value":{"event":"PIN_CHANGED","statuses":7,"messages":[[]],"metadata":"x"}"#;
    let status = status("wamid.A", StatusKind::Other, None);
    let messages = || Messages { line: "3001".into(), statuses: vec![status.clone()], inbound: vec![] };
    let messages = || WebhookChange::Messages(messages());
    let security = || account("security", AccountEvent::Security, "PIN_CHANGED");
    for (changes, expected) in [
        (format!(r#"{{{statuses},"field":"messages"}}"#), vec![messages()]),
        (format!(r#"{{"field":"messages",{statuses}}}"#), vec![messages()]),
        (format!(r#"{{{event},"field":"security"}}"#), vec![security()]),
        (format!(r#"{{"field":"security",{event}}}"#), vec![security()]),
        (
            format!(
                r#"{{{statuses},"field":"messages"}},{{{event},"field":"security"}},{{}},7,{{"field":"messages"}}"#
            ),
            vec![messages(), security(), WebhookChange::Malformed],
        ),
        (format!(r#"{{"field":"messages",{event},"field":"security"}}"#), vec![security()]),
        (format!(r#"{{{event},"value":7,"field":"security"}}"#), vec![WebhookChange::Malformed]),
        (format!(r#"{{{event},"field":"flows"}},{{{event}}}"#), vec![WebhookChange::Other, WebhookChange::Other]),
        (r#"{"value":[],"field":"flows"},{"value":[]},{"field":null}"#.into(), vec![WebhookChange::Malformed]),
    ] {
        let body = body_of(&changes);
        let payload = Payload::read(body.as_bytes()).expect("a payload");
        let [entry] = payload.entries.as_slice() else { panic!("{payload:?}") };
        assert_eq!((&*entry.waba, entry.at), ("2001", Some(UnixMs(1_795_300_100_000))), "{changes}");
        assert_eq!(entry.changes, expected, "{changes}");
    }
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
        r#"{"entry":[{"changes":[{"value":{"event":@,"ban_info":@,"other":@},"field":"account_update","x":@}]}]}"#,
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
