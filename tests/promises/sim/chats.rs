//! Messages without a template: what the simulator takes and refuses, when they reach a person, and what people answer.

use std::{collections::BTreeSet, time::Duration};

use pregon::sim::{
    Scenario,
    scenario::{Replies, Statuses},
};
use serde_json::{Value, json};

use super::{
    kit::{SimServer, TOKEN, Webhook, number, order, quiet, template, text, token, with_webhook},
    referee::{broken, counts},
};

/// A message of this type to a person.
fn free(person: u32, kind: &str, content: Value) -> Value {
    let mut message = json!({"messaging_product": "whatsapp", "to": number(person), "type": kind});
    message[kind] = content;
    message
}

fn buttons(person: u32, labels: &[&str]) -> Value {
    let reply = |label: &&str| json!({"type": "reply", "reply": {"id": format!("id-{label}"), "title": label}});
    let buttons: Vec<Value> = labels.iter().map(reply).collect();
    let content = json!({"type": "button", "body": {"text": "¿Seguimos?"}, "action": {"buttons": buttons}});
    free(person, "interactive", content)
}

fn list(person: u32, rows: usize) -> Value {
    let row = |n: usize| json!({"id": format!("row-{n}"), "title": format!("Plan {n}"), "description": "Mensual"});
    let sections = json!([{"title": "Planes", "rows": (0..rows).map(row).collect::<Vec<_>>()}]);
    let action = json!({"button": "Ver planes", "sections": sections});
    free(person, "interactive", json!({"type": "list", "body": {"text": "Elegí un plan"}, "action": action}))
}

/// The token of a message of a chat.
fn chat_token(message: u32, send: u32) -> String {
    format!("c1.01J9ZK3V5T8R7Q6P5N4M3K2J1H.{message}.{send}.00000000deadbeef")
}

async fn write(server: &SimServer, person: u32, words: &str) {
    let written = server.control("inbound", &json!({"line": "3001", "from": number(person), "text": words})).await;
    assert_eq!(written.0, 200);
}

/// A scenario in which everybody answers at once, as `replies` says.
fn answering(webhook: &Webhook, replies: Replies) -> Scenario {
    Scenario { replies, ..with_webhook(webhook, Statuses::default()) }
}

#[tokio::test]
async fn every_type_of_message_is_accepted_and_reported_with_its_token() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(with_webhook(&webhook, Statuses::default())).await;
    write(&server, 1, "¡Hola!").await;
    server.sim.idle().await;
    let received = webhook.messages()[0]["id"].clone();
    let link = json!({"link": "https://media.example/a.jpg"});
    let captioned = json!({"link": "https://media.example/a.jpg", "caption": "Tu pedido"});
    let contacts = json!([{"name": {"formatted_name": "Ana Pérez", "first_name": "Ana"}}]);
    let mut quoting = text(1, "Hola, Ana");
    quoting["context"] = json!({"message_id": received});
    let sent = [
        (quoting, "text", "Hola, Ana"),
        (free(1, "image", captioned), "image", "Tu pedido"),
        (free(1, "video", link.clone()), "video", ""),
        (free(1, "audio", link.clone()), "audio", ""),
        (free(1, "document", link.clone()), "document", ""),
        (free(1, "sticker", link), "sticker", ""),
        (buttons(1, &["Sí", "No"]), "interactive", "¿Seguimos?"),
        (list(1, 10), "interactive", "Elegí un plan"),
        (free(1, "location", json!({"latitude": -34.6, "longitude": "-58.4"})), "location", ""),
        (free(1, "contacts", contacts), "contacts", ""),
        (free(1, "reaction", json!({"message_id": received, "emoji": "👍"})), "reaction", "👍"),
    ];
    for (n, (message, ..)) in (0..).zip(&sent) {
        let mut message = message.clone();
        message["biz_opaque_callback_data"] = json!(chat_token(n, 1));
        let (status, answer) = server.send(&message).await;
        assert_eq!((status, answer["messages"][0].get("message_status")), (200, None), "{message} {answer}");
    }
    server.sim.idle().await;
    let records = server.sim.messages();
    let recorded: Vec<_> = records.iter().map(|record| (record.kind, record.text.as_deref())).collect();
    assert_eq!(recorded, sent.iter().map(|(_, kind, text)| (*kind, Some(*text))).collect::<Vec<_>>());
    for record in &records {
        let statuses = webhook.statuses();
        let of_record: Vec<_> = statuses.iter().filter(|status| status["id"] == record.wamid).collect();
        assert_eq!(of_record.iter().map(|status| &status["status"]).collect::<Vec<_>>(), ["sent", "delivered"]);
        assert!(of_record.iter().all(|status| status["biz_opaque_callback_data"] == record.callback_data));
        assert_eq!(of_record[0]["pricing"]["category"], "service");
    }
    assert_eq!(server.code(&order(2, "")).await, 0);
    let total = server.ledger().total;
    assert_eq!((total.accepted, total.free_messages), (12, 11));
    assert_eq!((server.sim.messages()[11].kind, &server.sim.messages()[11].text), ("template", &None));
    assert_eq!(broken(&server), []);
}

#[tokio::test]
async fn a_message_that_meta_does_not_take_is_refused() {
    let server = SimServer::start(quiet()).await;
    let long = |chars: usize| "ñ".repeat(chars);
    let link = "https://media.example/a";
    let with = |mut message: Value, pointer: &str, value: Value| {
        *message.pointer_mut(pointer).expect("a field") = value;
        message
    };
    let (yes_no, plans) = (buttons(1, &["Sí", "No"]), list(1, 2));
    let title = "/interactive/action/buttons/0/reply/title";
    let id = "/interactive/action/buttons/0/reply/id";
    let row = "/interactive/action/sections/0/rows/0";
    let mut quoting = text(1, "hola");
    quoting["context"] = json!({"message_id": "c42"});
    for (message, code) in [
        (text(1, &long(4_096)), 0),
        (text(1, &long(4_097)), 100),
        (free(1, "text", json!({})), 131_008),
        (json!({"messaging_product": "whatsapp", "to": number(1), "type": "image"}), 131_008),
        (quoting, 131_009),
        (free(1, "image", json!({"caption": "sin imagen"})), 131_008),
        (free(1, "image", json!({"link": link, "caption": long(1_024)})), 0),
        (free(1, "image", json!({"link": link, "caption": long(1_025)})), 100),
        (free(1, "image", json!({"link": "a.jpg"})), 100),
        (free(1, "image", json!({"id": "800000000000001"})), 100),
        (free(1, "audio", json!({"link": link, "caption": "voz"})), 100),
        (yes_no.clone(), 0),
        (with(yes_no.clone(), title, json!(long(20))), 0),
        (with(yes_no.clone(), title, json!(long(21))), 131_009),
        (with(yes_no.clone(), title, json!("No")), 131_009),
        (with(yes_no.clone(), id, json!("id-No")), 131_009),
        (with(yes_no.clone(), id, json!(long(257))), 131_009),
        (with(yes_no.clone(), title, Value::Null), 131_008),
        (with(yes_no.clone(), "/interactive/body/text", json!(long(1_025))), 131_009),
        (with(yes_no.clone(), "/interactive/type", json!("poll")), 131_009),
        (with(yes_no, "/interactive/action/buttons", json!([])), 131_009),
        (buttons(1, &["1", "2", "3", "4"]), 131_009),
        (list(1, 11), 131_009),
        (with(plans.clone(), "/interactive/action/button", Value::Null), 131_008),
        (with(plans.clone(), &format!("{row}/id"), json!(long(201))), 131_009),
        (with(plans.clone(), &format!("{row}/title"), json!(long(25))), 131_009),
        (with(plans.clone(), &format!("{row}/description"), json!(long(73))), 131_009),
        (with(plans, &format!("{row}/description"), Value::Null), 0),
        (free(1, "location", json!({"latitude": 1.0})), 131_008),
        (free(1, "location", json!({"latitude": 91, "longitude": 0})), 131_009),
        (free(1, "contacts", json!([])), 100),
        (free(1, "contacts", json!([{"name": {"first_name": "Ana"}}])), 131_008),
        (free(1, "reaction", json!({"emoji": "👍"})), 131_008),
        (free(1, "reaction", json!({"message_id": "wamid.x", "emoji": "👍"})), 131_009),
    ] {
        assert_eq!(server.code(&message).await, code, "{message}");
    }
}

#[tokio::test]
async fn a_message_outside_the_window_fails_later_and_breaks_the_rule() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(with_webhook(&webhook, Statuses::default())).await;
    write(&server, 1, "Hola").await;
    server.sim.advance(Duration::from_secs(24 * 3_600 - 60)).await;
    assert_eq!(server.code(&text(1, "a tiempo")).await, 0);
    assert_eq!(broken(&server), []);
    server.sim.advance(Duration::from_secs(60)).await;
    assert_eq!(server.code(&text(1, "tarde")).await, 0);
    assert_eq!(server.code(&text(2, "nunca escribió")).await, 0);
    server.sim.idle().await;
    assert_eq!(server.ledger().total.told.failed, [(131_047, 2)].into());
    assert_eq!(broken(&server), counts(&[("window", 2)]));
    assert_eq!(server.code(&order(2, "")).await, 0);
    assert_eq!(broken(&server), counts(&[("window", 2)]), "a template needs no window");

    let mut scenario = quiet();
    scenario.referee.window = false;
    let server = SimServer::start(scenario).await;
    assert_eq!(server.code(&text(1, "nunca escribió")).await, 0);
    assert_eq!(broken(&server), []);
}

#[tokio::test]
async fn a_chat_message_that_is_sent_twice_is_counted() {
    let server = SimServer::start(quiet()).await;
    write(&server, 1, "Hola").await;
    let with_token = |words: &str, token: String| {
        let mut message = text(1, words);
        message["biz_opaque_callback_data"] = json!(token);
        message
    };
    for message in [
        with_token("uno", chat_token(1, 1)),
        with_token("dos", chat_token(2, 1)),
        text(1, "sin token"),
        text(1, "sin token"),
        order(1, &token(1, 1)),
    ] {
        assert_eq!(server.code(&message).await, 0);
    }
    let total = server.ledger().total;
    assert_eq!((total.unique_recipients, total.duplicate_messages), (5, 0));
    assert_eq!(server.code(&with_token("uno", chat_token(1, 2))).await, 0);
    let total = server.ledger().total;
    assert_eq!((total.duplicate_messages, total.duplicated_recipients, total.recipients_reached_twice), (1, 1, 1));
}

#[tokio::test]
async fn a_read_receipt_needs_a_message_that_the_line_received() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(with_webhook(&webhook, Statuses::default())).await;
    write(&server, 1, "Hola").await;
    server.sim.idle().await;
    let received = webhook.messages()[0]["id"].clone();
    let receipt = |id: &Value| json!({"messaging_product": "whatsapp", "status": "read", "message_id": id});
    let typing = |kind: &str| {
        let mut receipt = receipt(&received);
        receipt["typing_indicator"] = json!({"type": kind});
        receipt
    };
    assert_eq!(server.send(&receipt(&received)).await, (200, json!({"success": true})));
    assert_eq!(server.send(&typing("text")).await, (200, json!({"success": true})));
    assert_eq!(server.code(&typing("audio")).await, 100);
    assert_eq!(server.code(&receipt(&json!("wamid.x"))).await, 131_009);
    assert_eq!(server.code(&receipt(&Value::Null)).await, 131_008);
    let (_, sent) = server.send(&text(1, "Hola")).await;
    assert_eq!(server.code(&receipt(&sent["messages"][0]["id"])).await, 131_009, "a message of the line itself");
    let elsewhere = server.try_send("3002", &receipt(&received)).await.expect("an answer");
    assert_eq!(elsewhere.1["error"]["code"], 131_009);
    let total = server.ledger().total;
    assert_eq!((total.answers["receipt"], total.accepted), (2, 1));
}

#[tokio::test]
async fn a_user_id_from_a_webhook_can_be_written_to() {
    let webhook = Webhook::start().await;
    let mut scenario = with_webhook(&webhook, Statuses::default());
    scenario.webhooks.user_ids = true;
    let server = SimServer::start(scenario).await;
    write(&server, 1, "Hola").await;
    server.sim.idle().await;
    let user_id = webhook.messages()[0]["from_user_id"].clone();
    assert_eq!(webhook.values()[0]["contacts"][0]["user_id"], user_id);
    let to_user = |mut message: Value| {
        message.as_object_mut().expect("an object").remove("to");
        message["recipient"] = user_id.clone();
        message
    };
    let (_, answer) = server.send(&to_user(text(1, "Hola"))).await;
    assert_eq!(answer["contacts"], json!([{"input": user_id, "user_id": user_id}]));
    server.sim.idle().await;
    assert!(webhook.statuses().iter().all(|status| status["recipient_user_id"] == user_id));
    assert_eq!(server.sim.messages()[0].to.to_string(), number(1));
    let code = json!([
        {"type": "body", "parameters": [{"type": "text", "text": "482913"}]},
        {"type": "button", "sub_type": "url", "index": "0", "parameters": [{"type": "text", "text": "482913"}]},
    ]);
    assert_eq!(server.code(&to_user(template(1, "", "login_code", &code))).await, 131_062);
    assert_eq!(server.code(&to_user(order(1, ""))).await, 0);
}

#[tokio::test]
async fn people_answer_as_many_messages_as_a_conversation_has() {
    let webhook = Webhook::start().await;
    let words = vec!["¿Cuánto cuesta?".to_owned()];
    let replies = Replies { text: 1.0, conversation: 2, words, ..Replies::default() };
    let server = SimServer::start(answering(&webhook, replies)).await;
    let answers = async || {
        server.sim.idle().await;
        webhook.messages().len()
    };
    server.send(&order(1, "")).await;
    assert_eq!(answers().await, 1, "the template");
    for expected in [2, 3, 3] {
        assert_eq!(server.code(&text(1, "Hola")).await, 0);
        assert_eq!(answers().await, expected);
    }
    write(&server, 1, "Hola de nuevo").await;
    server.send(&text(1, "Hola")).await;
    assert_eq!(answers().await, 5, "the person's own message and one more turn");
    server.send(&text(2, "Hola")).await;
    assert_eq!(answers().await, 5, "a message that fails is not answered");
    let messages = webhook.messages();
    let by_people: Vec<_> = messages.iter().filter(|message| message["text"]["body"] == "¿Cuánto cuesta?").collect();
    assert_eq!(by_people.len(), 4);
    assert!(by_people.iter().all(|message| message["from"] == number(1)[1..] && message.get("context").is_none()));
    assert_eq!(server.ledger().total.told.failed, [(131_047, 1)].into());
}

#[tokio::test]
async fn people_do_not_answer_messages_without_a_template_unless_they_converse() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(answering(&webhook, Replies { text: 1.0, ..Replies::default() })).await;
    write(&server, 1, "Hola").await;
    server.send(&text(1, "Hola")).await;
    server.sim.idle().await;
    assert_eq!(webhook.messages().len(), 1);
}

#[tokio::test]
async fn a_tap_on_a_button_or_a_row_returns_its_id() {
    let webhook = Webhook::start().await;
    let replies = Replies { tap: 1.0, conversation: 9, ..Replies::default() };
    let server = SimServer::start(answering(&webhook, replies)).await;
    write(&server, 1, "Hola").await;
    let (_, asked) = server.send(&buttons(1, &["Sí"])).await;
    server.sim.idle().await;
    let (_, listed) = server.send(&list(1, 1)).await;
    server.sim.idle().await;
    let messages = webhook.messages();
    let [_, tapped, chosen] = &messages[..] else { panic!("{messages:?}") };
    let button = json!({"type": "button_reply", "button_reply": {"id": "id-Sí", "title": "Sí"}});
    assert_eq!((&tapped["type"], &tapped["interactive"]), (&json!("interactive"), &button));
    assert_eq!(tapped["context"]["id"], asked["messages"][0]["id"]);
    let row = json!({"id": "row-0", "title": "Plan 0", "description": "Mensual"});
    assert_eq!(chosen["interactive"], json!({"type": "list_reply", "list_reply": row}));
    assert_eq!(chosen["context"]["id"], listed["messages"][0]["id"]);
}

#[tokio::test]
async fn people_write_twice_react_and_send_files_that_can_be_fetched() {
    let webhook = Webhook::start().await;
    let replies = Replies { media: 0.6, reaction: 0.4, twice: 1.0, ..Replies::default() };
    let server = SimServer::start(answering(&webhook, replies)).await;
    let mut wamids = BTreeSet::new();
    for person in 0..40 {
        let (_, answer) = server.send(&order(person, "")).await;
        wamids.insert(answer["messages"][0]["id"].as_str().expect("an id").to_owned());
    }
    server.sim.idle().await;
    let messages = webhook.messages();
    let of = |kind: &str| messages.iter().filter(|message| message["type"] == kind).collect::<Vec<_>>();
    let reactions = of("reaction");
    assert!(!reactions.is_empty());
    for reaction in &reactions {
        assert!(wamids.contains(reaction["reaction"]["message_id"].as_str().expect("an id")), "{reaction}");
    }
    let files: Vec<_> = ["image", "audio", "document"].iter().map(|kind| of(kind)).collect();
    assert!(files.iter().all(|of_kind| !of_kind.is_empty()));
    assert_eq!(of("text").len(), files.iter().map(Vec::len).sum::<usize>(), "each file is followed by words");
    assert_eq!(messages.len(), reactions.len() + 2 * of("text").len());
    for (kind, of_kind) in ["image", "audio", "document"].into_iter().zip(&files) {
        let file = &of_kind[0][kind];
        let id = file["id"].as_str().expect("an id");
        let (status, node) = server.get(&format!("/v25.0/{id}")).await;
        assert_eq!((status, &node["mime_type"]), (200, &file["mime_type"]));
        let url = node["url"].as_str().expect("a URL");
        let bytes = server.http.get(url).bearer_auth(TOKEN).send().await.expect("an answer").bytes().await;
        let bytes = bytes.expect("bytes");
        assert_eq!(node["file_size"], bytes.len());
        let digest = <sha2::Sha256 as sha2::Digest>::digest(&bytes);
        assert_eq!(node["sha256"], hex::encode(digest));
        assert_eq!(file["sha256"], base64::Engine::encode(&base64::engine::general_purpose::STANDARD, digest));
    }
}

#[tokio::test]
async fn replies_change_while_the_simulator_runs_and_impossible_ones_are_refused() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(with_webhook(&webhook, Statuses::default())).await;
    for (replies, status) in [
        (json!({"tap": 0.2, "text": 0.3, "after": "2s..1m", "typing": "2s..10s", "conversation": 5}), 200),
        (json!({"text": 0.9, "media": 0.2}), 400),
        (json!({"words": []}), 400),
        (json!({"shout": 1.0}), 400),
        (json!({"reaction": 1.0}), 200),
    ] {
        assert_eq!(server.control("scenario", &json!({"replies": replies})).await.0, status, "{replies}");
    }
    server.send(&order(1, "")).await;
    server.sim.idle().await;
    assert_eq!(webhook.messages()[0]["type"], "reaction");
}
