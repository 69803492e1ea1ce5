//! People who stop marketing are suppressed before Meta gets its answer.

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
    preference_at(value, 1_795_300_000)
}

/// `at`: seconds since 1970.
fn preference_at(value: &str, at: u64) -> Value {
    let wish = json!({"wa_id": PERSON.to_string(), "category": "marketing_messages", "value": value, "timestamp": at});
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
async fn a_person_without_a_number_is_suppressed_as_the_recipient_who_answers() {
    let hooks = Hooks::start().await;
    let campaign = world::campaign_with(&hooks.store, &["3001"], 4, |campaign| {
        campaign.opt_out_buttons = vec![OptOutButton { text: "Basta".into(), scope: SuppressionScope::All }];
    });
    let messages = hooks.launch(campaign.await, 4).await.remove(&"3001".into()).expect("messages");
    hooks.accept(&messages).await;
    let nameless = |mut message: Value| {
        let fields = message.as_object_mut().expect("an object");
        fields.remove("from");
        fields.insert("from_user_id".into(), "AR.1A2b".into());
        message
    };
    let at = now().seconds().to_string();
    let tap = nameless(json!({"type": "button", "button": {"payload": hooks.token(&messages[0]), "text": "Basta"},
        "id": "tap", "timestamp": at}));
    let mut word = nameless(text("word", "stop"));
    word["context"] = json!({"from": "5491155550001", "id": messages[1].wamid()});
    let mut failed = hooks.status(&messages[2], "failed 131050");
    failed.as_object_mut().expect("an object").remove("recipient_id");
    for webhook in [
        inbound("3001", &[tap]),
        inbound("3001", &[word]),
        statuses("3001", &[failed]),
        inbound("3001", &[nameless(text("unknown", "stop"))]),
    ] {
        assert_eq!(hooks.deliver(&webhook).await, 200);
    }
    let rows: Vec<u16> = messages.iter().map(|message| message.row).collect();
    let numbers = hooks.store.numbers(messages[0].part, &rows).await.expect("redis");
    let hashes = numbers.into_iter().flatten().map(|phone| PersonHash::of(phone.into(), &hooks.key.get()));
    let found = hooks.store.suppressions(&"1001".into(), &hashes.collect::<Vec<_>>()).await.expect("redis");
    let sources: Vec<_> = found.into_iter().map(|entry| entry.map(|entry| entry.source)).collect();
    let expected = [SuppressionSource::Button, SuppressionSource::StopWord, SuppressionSource::Meta].map(Some);
    assert_eq!(sources, [&expected[..], &[None]].concat());
    hooks.stop().await;
}

/// Ends the person's suppression, as an operator does.
async fn lift(hooks: &Hooks) {
    let person = PersonHash::of(phone().into(), &hooks.key.get());
    assert!(hooks.store.unsuppress(&"1001".into(), person).await.expect("redis"), "the person was suppressed");
}

#[tokio::test]
async fn a_wish_that_meta_delivers_again_suppresses_nobody_anew() {
    let hooks = Hooks::start().await;
    let status = |wamid: &str| statuses("3001", &[status_without_token(wamid, "failed 131050")]);
    let word = |id: &str| inbound("3001", &[text(id, "stop")]);
    let stop = |at: u64| preference_at("stop", 1_795_300_000 + at);
    for [first, again] in [[word("a"), word("b")], [status("wamid.a"), status("wamid.b")], [stop(0), stop(60)]] {
        assert_eq!(hooks.deliver(&first).await, 200);
        lift(&hooks).await;
        assert_eq!(hooks.deliver(&first).await, 200);
        assert_eq!(suppression(&hooks).await, None, "{first}");
        assert_eq!(hooks.deliver(&again).await, 200);
        assert!(suppression(&hooks).await.is_some(), "{again}");
        lift(&hooks).await;
    }
    hooks.stop().await;
}

#[tokio::test]
async fn preferences_that_meta_delivers_again_change_nothing() {
    let hooks = Hooks::start().await;
    let at = |value, seconds: u64| preference_at(value, 1_795_300_000 + seconds);
    for (wish, suppressed) in [
        (at("stop", 0), true),
        (at("resume", 10), false),
        (at("stop", 0), false),
        (at("stop", 20), true),
        (at("resume", 10), true),
        (at("resume", 20), false),
    ] {
        assert_eq!(hooks.deliver(&wish).await, 200);
        assert_eq!(suppression(&hooks).await.is_some(), suppressed, "{wish}");
    }
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
