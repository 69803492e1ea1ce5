//! Whoever stops marketing is suppressed before Meta gets its answer.

use pregon::domain::{PersonHash, Phone, Suppression, SuppressionReason, SuppressionScope, SuppressionSource, UnixMs};
use serde_json::{Value, json};

use crate::support::hooks::{Hooks, inbound, now, payload, status_without_token, statuses};

const PERSON: u64 = 5_491_155_550_101;

fn phone() -> Phone {
    Phone::from_digits(PERSON).expect("a number")
}

fn text(id: &str, text: &str) -> Value {
    let at = now().seconds().to_string();
    json!({"type": "text", "text": {"body": text}, "id": id, "from": PERSON.to_string(), "timestamp": at})
}

fn preference(value: &str) -> Value {
    let wish = json!({"wa_id": PERSON.to_string(), "category": "marketing_messages", "value": value,
        "timestamp": 1_795_300_000});
    payload(&[json!({"field": "user_preferences", "value": {
        "metadata": {"phone_number_id": "3001"}, "user_preferences": [wish]}})])
}

async fn entry(hooks: &Hooks) -> Option<Suppression> {
    let person = PersonHash::of(phone().into(), &hooks.key.get());
    hooks.store.suppressions(&"1001".into(), &[person]).await.expect("redis").remove(0)
}

/// The scope and the source of the person's suppression.
async fn suppression(hooks: &Hooks) -> Option<(SuppressionScope, SuppressionSource)> {
    entry(hooks).await.map(|entry| (entry.scope, entry.source))
}

#[tokio::test]
async fn a_person_who_stops_marketing_in_whatsapp_is_suppressed_until_they_resume_it() {
    let hooks = Hooks::start().await;
    for (value, suppressed) in [("stop", true), ("signup", true), ("resume", false), ("resume", false)] {
        assert_eq!(hooks.deliver(&preference(value)).await, 200);
        let expected = suppressed.then_some(Suppression {
            phone: Some(phone()),
            scope: SuppressionScope::Marketing,
            reason: SuppressionReason::OptOut,
            source: SuppressionSource::Meta,
            since: UnixMs(1_795_300_000_000),
        });
        assert_eq!(entry(&hooks).await, expected, "{value}");
    }
    hooks.stop().await;
}

#[tokio::test]
async fn meta_lifts_no_suppression_with_another_source_and_narrows_none() {
    let hooks = Hooks::start().await;
    assert_eq!(hooks.deliver(&inbound("3001", &[text("a", "Stop all.")])).await, 200);
    for value in ["stop", "resume"] {
        assert_eq!(hooks.deliver(&preference(value)).await, 200);
        assert_eq!(suppression(&hooks).await, Some((SuppressionScope::All, SuppressionSource::StopWord)), "{value}");
    }
    hooks.stop().await;
}

#[tokio::test]
async fn a_stop_word_is_a_whole_message_from_a_person_to_a_line_of_ours() {
    let hooks = Hooks::start().await;
    let mut grouped = text("b", "stop");
    grouped["group_id"] = "g1".into();
    for (line, message) in [("3001", text("a", "please stop")), ("3001", grouped), ("9999", text("c", "stop"))] {
        assert_eq!(hooks.deliver(&inbound(line, std::slice::from_ref(&message))).await, 200);
        assert_eq!(suppression(&hooks).await, None, "{message}");
    }
    assert_eq!(hooks.deliver(&inbound("3001", &[text("d", " STOP! ")])).await, 200);
    assert_eq!(suppression(&hooks).await, Some((SuppressionScope::Marketing, SuppressionSource::StopWord)));
    hooks.stop().await;
}

#[tokio::test]
async fn a_message_that_failed_because_the_person_had_stopped_marketing_suppresses_them() {
    let hooks = Hooks::start().await;
    for (code, suppressed) in [(131_026, false), (131_050, true)] {
        let failed = status_without_token("wamid.1", &format!("failed {code}"));
        assert_eq!(hooks.deliver(&statuses("3001", &[failed])).await, 200);
        assert_eq!(suppression(&hooks).await.is_some(), suppressed, "{code}");
    }
    hooks.stop().await;
}
