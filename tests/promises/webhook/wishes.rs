//! Whoever stops marketing is suppressed before Meta gets its answer.

use pregon::domain::{
    PersonHash, Phone, Suppression, SuppressionReason, SuppressionScope, SuppressionSource, UnixMs,
    campaign::OptOutButton,
};
use serde_json::{Value, json};

use crate::support::{
    hooks::{Hooks, inbound, now, payload, status_without_token, statuses},
    world,
};

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

#[tokio::test]
async fn a_tap_on_an_opt_out_button_of_its_campaign_suppresses_the_person() {
    let hooks = Hooks::start().await;
    let button = |text: &str, scope| OptOutButton { text: text.into(), scope };
    let marked = world::campaign_with(&hooks.store, &["3001"], 2, |campaign| {
        campaign.opt_out_buttons =
            vec![button("Basta", SuppressionScope::Marketing), button("Nunca más", SuppressionScope::All)];
    });
    let marked = hooks.launch(marked.await, 2).await.remove(&"3001".into()).expect("messages");
    let (_, mut unmarked) = hooks.campaign(&["3001"], 1).await;
    let unmarked = unmarked.remove(&"3001".into()).expect("messages");
    hooks.accept(marked.iter().chain(&unmarked)).await;
    let tap = |payload: String, text: &str, of: &str| {
        let context = json!({"from": "5491155550001", "id": of});
        json!({"type": "button", "button": {"payload": payload, "text": text}, "context": context,
            "id": format!("{payload}{text}"), "from": PERSON.to_string(), "timestamp": now().seconds().to_string()})
    };
    let by_token = |message, text: &str| tap(hooks.token(message), text, "");
    let typed = json!({"type": "text", "text": {"body": "Basta"}, "id": "typed", "from": PERSON.to_string(),
        "context": {"from": "5491155550001", "id": marked[0].wamid()}});
    for ignored in [by_token(&marked[0], "Sí"), by_token(&unmarked[0], "Basta"), typed] {
        assert_eq!(hooks.deliver(&inbound("3001", std::slice::from_ref(&ignored))).await, 200);
        assert_eq!(suppression(&hooks).await, None, "{ignored}");
    }
    let own_payload = tap("the caller's own".into(), "Basta", &marked[0].wamid());
    for (tapped, scope) in [
        (own_payload, SuppressionScope::Marketing),
        (by_token(&marked[1], "Nunca más"), SuppressionScope::All),
        (by_token(&marked[1], "Basta"), SuppressionScope::All),
    ] {
        assert_eq!(hooks.deliver(&inbound("3001", std::slice::from_ref(&tapped))).await, 200);
        assert_eq!(suppression(&hooks).await, Some((scope, SuppressionSource::Button)), "{tapped}");
    }
    hooks.stop().await;
}
