//! Properties of the parser of webhooks.

use pregon::{
    domain::{Inbound, inbound::Content},
    webhook::{
        fields::{WebhookChange, messages::status::StatusKind},
        payload::Payload,
    },
};
use serde_json::Value;

use super::within_memory;

/// A valid status, which has to be parsed whatever surrounds it.
const GOOD: &str = r#"{"id":"wamid.good","status":"read","timestamp":"1795300000"}"#;
/// A valid message, likewise.
const GOOD_MESSAGE: &str = r#"{"id":"wamid.in","type":"text","text":{"body":"Hola"}}"#;
/// The names of the members of a message that are objects or arrays.
const OBJECTS: [&str; 21] = [
    "context",
    "referral",
    "errors",
    "text",
    "button",
    "interactive",
    "image",
    "video",
    "audio",
    "document",
    "sticker",
    "location",
    "contacts",
    "reaction",
    "order",
    "system",
    "unsupported",
    "edit",
    "revoke",
    "type",
    "unknown",
];

/// Every JSON object is parsed, and an invalid part does not affect the valid parts next to it.
pub fn webhook(input: &[u8]) {
    if let Ok(payload) = within_memory(64, 8192, input, Payload::read) {
        payload.changes().for_each(|(_, change)| check(change));
        assert_eq!(Ok(payload), Payload::read(input).map_err(|error| error.to_string()), "parsing is deterministic");
    }
    let (Ok(text), Ok(json)) = (str::from_utf8(input), serde_json::from_slice::<Value>(input)) else { return };
    if json.is_object() {
        assert!(Payload::read(input).is_ok(), "{:?}", Payload::read(input));
    }
    let status = |field: &str| format!(r#"{{"id":"wamid.bad","status":"sent","{field}":{text}}}"#);
    let bad = ["id", "timestamp", "errors", "biz_opaque_callback_data", "unknown"].map(status).join(",");
    let message = |name: &str| format!(r#"{{"type":"{name}","{name}":{text},"from":{text},"id":"wamid.odd"}}"#);
    let odd = OBJECTS.map(message).join(",");
    let value = format!(
        r#"{{"metadata":{{"phone_number_id":"3001","display_phone_number":{text}}},"contacts":{text},
            "errors":{text},"statuses":[{text},{bad},{GOOD},{text}],"event":{text},
            "messages":[{text},{odd},{GOOD_MESSAGE},{text}]}}"#
    );
    let change = format!(r#"{{"value":{value},"field":"messages","unknown":{text}}}"#);
    let entry = format!(r#"{{"id":{text},"time":{text},"changes":[{text},{change}]}}"#);
    let body = format!(r#"{{"object":{text},"entry":[{text},{entry}]}}"#);
    let payload = Payload::read(body.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
    let Some((_, WebhookChange::Messages(messages))) = payload.changes().last() else { panic!("{payload:?}") };
    assert_eq!(messages.line, "3001");
    let good =
        messages.statuses.iter().filter(|status| status.wamid == "wamid.good" && status.kind == StatusKind::Read);
    assert!(good.count() >= 1, "{messages:?}");
    let bad = messages.statuses.iter().filter(|status| status.wamid == "wamid.bad" && status.kind == StatusKind::Sent);
    // Four of the five invalid statuses. In the one that has two `id` fields, the second one may apply.
    assert!(bad.count() >= 4, "{messages:?}");
    messages.inbound.iter().for_each(|inbound| check_document(inbound));
    let with_id = |id: &str| messages.inbound.iter().filter(|inbound| inbound.id == Some(id.into())).count();
    assert!(with_id("wamid.odd") >= OBJECTS.len(), "{messages:?}");
    let good = messages.inbound.iter().any(|inbound| inbound.content == Content::Text("Hola".into()));
    assert!(good, "{messages:?}");
}

/// A message can be stored.
fn check_document(inbound: &Inbound) {
    let document = serde_json::to_string(inbound).expect("a document");
    let read: Inbound = serde_json::from_str(&document).unwrap_or_else(|error| panic!("{document}: {error}"));
    assert_eq!(read, *inbound, "{document}");
}

fn check(change: &WebhookChange<'_>) {
    match change {
        WebhookChange::Messages(messages) => {
            assert!(!messages.statuses.is_empty() || !messages.inbound.is_empty());
            messages.inbound.iter().for_each(|inbound| check_document(inbound));
        }
        WebhookChange::Template(change) => {
            let named = |text: &str| !text.is_empty() && !text.contains('/');
            assert!(named(&change.name) && named(change.language.as_str()));
        }
        WebhookChange::Account(change) => assert!(!change.field.is_empty()),
        WebhookChange::Preferences(preferences) => {
            assert!(preferences.people.iter().all(|person| person.at.is_none_or(|at| at.0 > 0)));
        }
        WebhookChange::TemplateEdited | WebhookChange::Other | WebhookChange::Malformed => {}
    }
}
