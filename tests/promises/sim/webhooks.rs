//! The simulator's webhooks: signed, delayed as the scenario says, and repeated until they are answered 200.

use std::{collections::HashMap, time::Duration};

use futures_util::{StreamExt as _, future::join_all, stream};
use pregon::{
    domain::State,
    sim::{
        Scenario, States,
        scenario::{Faults, Odds, Statuses},
    },
};
use serde_json::{Value, json};

use super::kit::{SECRET, SimServer, Webhook, number, order, signature, text, token, with_webhook};

fn of<'a>(statuses: &'a [Value], wamid: &Value) -> Vec<&'a str> {
    statuses.iter().filter(|status| &status["id"] == wamid).filter_map(|status| status["status"].as_str()).collect()
}

#[tokio::test]
async fn every_status_is_delivered_signed_and_recorded() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(with_webhook(&webhook, Statuses { read: 1.0, ..Statuses::default() })).await;
    let (_, answer) = server.send(&order(1, "ñandú/1")).await;
    server.sim.idle().await;
    let statuses = webhook.statuses();
    assert_eq!(of(&statuses, &answer["messages"][0]["id"]), ["sent", "delivered", "read"]);
    assert!(statuses.iter().all(|status| status["biz_opaque_callback_data"] == "ñandú/1"));
    assert!(statuses.iter().all(|status| status["recipient_id"] == number(1)[1..]));
    assert_eq!((statuses[0]["pricing"]["category"].as_str(), statuses[2].get("pricing")), (Some("utility"), None));
    let value = &webhook.values()[0];
    assert_eq!(value["metadata"], json!({"display_phone_number": "5491155550001", "phone_number_id": "3001"}));
    assert_eq!(value["contacts"][0]["wa_id"], number(1)[1..]);
    for post in webhook.posts() {
        assert_eq!(post.signature, signature(SECRET, &post.body));
        assert!(post.body.is_ascii(), "other characters are escaped");
        let raw = String::from_utf8(post.body.to_vec()).expect("ASCII");
        assert!(raw.contains(r"\u00f1and\u00fa\/1") && !raw.replace(r"\/", "").contains('/'), "{raw}");
    }
    let ledger = server.ledger();
    assert_eq!(ledger.total.told, States { read: 1, ..States::default() });
    assert_eq!((ledger.webhooks_pending, ledger.webhooks_delivered), (0, 3));
    let message = &server.sim.messages()[0];
    assert_eq!((message.state, message.planned), (State::Read, State::Read));
    assert!(message.accepted_at <= message.sent_at.expect("sent"));
    assert!(message.read_at.is_some() && message.failed_at.is_none());
}

#[tokio::test]
async fn a_failed_status_has_its_code_and_no_contacts() {
    let webhook = Webhook::start().await;
    let failed = Odds([(131_026, 1.0)].into());
    let statuses = Statuses { failed, failed_without_token: 1.0, ..Statuses::default() };
    let server = SimServer::start(with_webhook(&webhook, statuses)).await;
    server.send(&order(1, &token(1, 1))).await;
    server.sim.idle().await;
    let values = webhook.values();
    let value = values.iter().find(|value| value["statuses"][0]["status"] == "failed").expect("a failure");
    assert!(value.get("contacts").is_none());
    assert_eq!(value["statuses"][0]["errors"][0]["code"], 131_026);
    assert!(value["statuses"][0].get("biz_opaque_callback_data").is_none());
    assert_eq!(webhook.statuses()[0]["biz_opaque_callback_data"], token(1, 1), "the sent status has our token");
    let total = server.ledger().total;
    assert_eq!(total.told, States { failed: [(131_026, 1)].into(), ..States::default() });
    assert_eq!(total.told, total.planned);
    // A second message after the failure is a duplicate, but the recipient sees only one.
    server.control("scenario", &json!({"statuses": {}})).await;
    server.send(&order(1, &token(1, 2))).await;
    let total = server.ledger().total;
    assert_eq!((total.duplicated_recipients, total.recipients_reached_twice), (1, 0));
}

#[tokio::test]
async fn duplicates_are_delivered_verbatim_and_counted_once() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(with_webhook(&webhook, Statuses { duplicated: 1.0, ..Statuses::default() })).await;
    let orders: Vec<_> = (0..20).map(|person| order(person, &token(person, 1))).collect();
    join_all(orders.iter().map(|order| server.send(order))).await;
    server.sim.idle().await;
    let mut times = HashMap::<String, usize>::new();
    for status in webhook.statuses() {
        *times.entry(status.to_string()).or_default() += 1;
    }
    assert_eq!(times.len(), 40);
    assert!(times.values().all(|times| *times == 2), "{times:?}");
    let ledger = server.ledger();
    assert_eq!((ledger.webhooks_delivered, ledger.webhooks_duplicated), (80, 40));
    assert_eq!(ledger.total.told, States { delivered: 20, ..States::default() });
}

#[tokio::test]
async fn reordered_statuses_keep_their_timestamps() {
    let webhook = Webhook::start().await;
    let mut scenario = with_webhook(&webhook, Statuses { disordered: 1.0, ..Statuses::default() });
    // Timestamps are in whole seconds.
    scenario.statuses.delivered_after = "1500ms".parse().expect("a delay");
    let server = SimServer::start(scenario).await;
    server.send(&order(1, "")).await;
    server.sim.idle().await;
    let statuses = webhook.statuses();
    let second = |status: &Value| status["timestamp"].as_str().and_then(|text| text.parse::<u64>().ok());
    assert_eq!([&statuses[0]["status"], &statuses[1]["status"]], ["delivered", "sent"]);
    assert!(second(&statuses[0]) > second(&statuses[1]));
}

#[tokio::test]
async fn read_may_skip_delivered_and_delivered_may_follow_failed() {
    let webhook = Webhook::start().await;
    let skipping = Statuses { read: 1.0, read_without_delivered: 1.0, ..Statuses::default() };
    let server = SimServer::start(with_webhook(&webhook, skipping)).await;
    let (_, answer) = server.send(&order(1, "")).await;
    server.sim.idle().await;
    assert_eq!(of(&webhook.statuses(), &answer["messages"][0]["id"]), ["sent", "read"]);
    let late =
        json!({"statuses": {"failed": {"131026": 1.0}, "sent_before_failed": 0.0, "delivered_after_failed": 1.0}});
    assert_eq!(server.control("scenario", &late).await.0, 200);
    let (_, answer) = server.send(&order(2, "")).await;
    server.sim.idle().await;
    assert_eq!(of(&webhook.statuses(), &answer["messages"][0]["id"]), ["failed", "delivered"]);
    assert_eq!(server.ledger().total.told, States { read: 1, delivered: 1, ..States::default() });
}

#[tokio::test]
async fn a_status_may_precede_the_response() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(with_webhook(&webhook, Statuses { before_answer: 1.0, ..Statuses::default() })).await;
    for person in 0..10 {
        let (_, answer) = server.send(&order(person, "")).await;
        assert!(of(&webhook.statuses(), &answer["messages"][0]["id"]).contains(&"sent"));
    }
}

#[tokio::test]
async fn a_message_with_a_lost_response_still_gets_its_statuses() {
    let webhook = Webhook::start().await;
    let mut scenario = with_webhook(&webhook, Statuses::default());
    scenario.faults = Faults { reset_after_accept: 1.0, ..Faults::default() };
    let server = SimServer::start(scenario).await;
    server.try_send("3001", &order(1, &token(1, 1))).await.expect_err("a reset");
    server.sim.idle().await;
    let statuses = webhook.statuses();
    assert_eq!(statuses.iter().map(|status| &status["status"]).collect::<Vec<_>>(), ["sent", "delivered"]);
    assert!(statuses.iter().all(|status| status["biz_opaque_callback_data"] == token(1, 1)));
}

#[tokio::test]
async fn a_webhook_is_retried_until_it_returns_200() {
    let webhook = Webhook::answering([503, 500, 204]).await;
    let mut scenario = with_webhook(&webhook, Statuses { delivered: 0.0, ..Statuses::default() });
    scenario.webhooks.retry_for = Duration::from_secs(60);
    let server = SimServer::start(scenario).await;
    server.send(&order(1, "")).await;
    server.sim.idle().await;
    let posts = webhook.posts();
    assert_eq!(posts.iter().map(|post| post.answered).collect::<Vec<_>>(), [503, 500, 204, 200]);
    assert!(posts.iter().all(|post| post.body == posts[0].body && post.signature == posts[0].signature));
    let ledger = server.ledger();
    assert_eq!((ledger.webhook_posts, ledger.webhook_posts_failed), (4, 3));
    assert_eq!((ledger.webhooks_delivered, ledger.webhooks_given_up), (1, 0));
    assert_eq!(ledger.total.told, States { sent: 1, ..States::default() });
}

#[tokio::test]
async fn a_webhook_that_never_returns_200_is_abandoned_and_counted() {
    let webhook = Webhook::answering(std::iter::repeat_n(503, 100)).await;
    let mut scenario = with_webhook(&webhook, Statuses::default());
    scenario.webhooks.retry_for = Duration::from_millis(100);
    let server = SimServer::start(scenario).await;
    server.send(&order(1, "")).await;
    server.sim.idle().await;
    let ledger = server.ledger();
    assert_eq!((ledger.webhooks_delivered, ledger.webhooks_given_up, ledger.webhooks_pending), (0, 2, 0));
    assert_eq!(
        ledger.total.told,
        States { accepted: 1, ..States::default() },
        "a webhook without a 200 does not count as delivered"
    );
    assert_eq!(ledger.total.planned, States { delivered: 1, ..States::default() });
}

#[tokio::test]
async fn a_stop_leaves_pending_webhooks_in_the_ledger() {
    let mut scenario = with_webhook(&Webhook::start().await, Statuses::default());
    scenario.statuses.sent_after = "1h".parse().expect("a delay");
    let server = SimServer::start(scenario).await;
    server.send(&order(1, "")).await;
    assert_eq!(server.ledger().webhooks_pending, 2);
    server.stop().await;
}

#[tokio::test]
async fn updates_are_batched_up_to_the_limit() {
    let webhook = Webhook::start().await;
    let mut scenario = with_webhook(&webhook, Statuses { delivered: 0.0, ..Statuses::default() });
    scenario.webhooks.batch_updates_max = 30;
    scenario.webhooks.batch_window = Duration::from_millis(500);
    let server = SimServer::start(scenario).await;
    let orders: Vec<_> = (0..200).map(|person| order(person, "")).collect();
    join_all(orders.iter().map(|order| server.send(order))).await;
    server.sim.idle().await;
    let sizes: Vec<usize> = webhook
        .posts()
        .iter()
        .map(|post| {
            let body: Value = serde_json::from_slice(&post.body).expect("JSON");
            let changes = body["entry"][0]["changes"].as_array().expect("changes");
            changes.iter().map(|change| change["value"]["statuses"].as_array().map_or(0, Vec::len)).sum()
        })
        .collect();
    assert_eq!(sizes.iter().sum::<usize>(), 200);
    assert_eq!(sizes.iter().max(), Some(&30));
    assert_eq!(server.ledger().webhook_posts, sizes.len() as u64);
}

#[tokio::test]
async fn a_tap_replies_with_the_payload_of_its_button() {
    let webhook = Webhook::start().await;
    let mut scenario = with_webhook(&webhook, Statuses::default());
    scenario.replies.tap = 1.0;
    let server = SimServer::start(scenario).await;
    let button = |index: u32| {
        let payload = format!("{}:{index}", token(1, 1));
        json!({"type": "button", "sub_type": "quick_reply", "index": index.to_string(), "parameters": [{"type": "payload", "payload": payload}]})
    };
    let mut message = order(1, "");
    let components = message["template"]["components"].as_array_mut().expect("components");
    components.extend([button(0), button(1)]);
    let (_, answer) = server.send(&message).await;
    server.sim.idle().await;
    let messages = webhook.messages();
    assert_eq!(messages.len(), 1);
    assert_eq!((&messages[0]["type"], &messages[0]["from"]), (&json!("button"), &json!(number(1)[1..])));
    let taps = [("Sí, avisame", 0), ("No, gracias", 1)]
        .map(|(label, index)| json!({"text": label, "payload": format!("{}:{index}", token(1, 1))}));
    assert!(taps.contains(&messages[0]["button"]), "{}", messages[0]);
    assert_eq!(messages[0]["context"]["id"], answer["messages"][0]["id"]);
    assert_ne!(messages[0]["id"], answer["messages"][0]["id"]);
    assert_eq!(server.ledger().lines["3001"].inbound, 1);
}

#[tokio::test]
async fn a_text_message_reaches_only_recipients_who_wrote_before() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(with_webhook(&webhook, Statuses::default())).await;
    server.send(&text(1, "¿Cómo te fue?")).await;
    server.sim.idle().await;
    assert_eq!(server.ledger().total.told.failed, [(131_047, 1)].into());
    let wrote = server.control("inbound", &json!({"line": "3001", "from": number(1), "text": "¡Hola!"})).await;
    assert_eq!(wrote.0, 200);
    server.send(&text(1, "¿Cómo te fue?")).await;
    server.sim.idle().await;
    assert_eq!(webhook.messages()[0]["text"]["body"], "¡Hola!");
    assert_eq!(server.ledger().total.told, States { delivered: 1, failed: [(131_047, 1)].into(), ..States::default() });
    assert_eq!(server.control("inbound", &json!({"line": "9", "from": number(1), "text": "x"})).await.0, 400);
}

#[tokio::test]
async fn a_template_status_change_is_delivered() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(with_webhook(&webhook, Statuses::default())).await;
    server.control("template", &json!({"name": "order_update", "language": "es_AR", "status": "PAUSED"})).await;
    server.sim.idle().await;
    let body: Value = serde_json::from_slice(&webhook.posts()[0].body).expect("JSON");
    assert_eq!(body["entry"][0]["changes"][0]["field"], "message_template_status_update");
    let value = &body["entry"][0]["changes"][0]["value"];
    assert_eq!((&value["event"], &value["message_template_name"]), (&json!("PAUSED"), &json!("order_update")));
    assert_eq!((&value["message_template_language"], value["message_template_id"].is_u64()), (&json!("es-AR"), true));
}

#[tokio::test]
async fn a_reset_drops_pending_webhooks() {
    let webhook = Webhook::start().await;
    let mut scenario = with_webhook(&webhook, Statuses::default());
    scenario.statuses.sent_after = "1h".parse().expect("a delay");
    let server = SimServer::start(scenario).await;
    server.send(&order(1, "")).await;
    server.control("reset", &json!({})).await;
    server.sim.idle().await;
    assert!(webhook.posts().is_empty());
    assert_eq!(server.ledger().webhooks_pending, 0);
}

#[tokio::test]
async fn the_rough_scenario_delivers_every_planned_status() {
    let webhook = Webhook::answering([503, 500]).await;
    let rough = Scenario::named("rough").expect("it comes with the program");
    let mut scenario = with_webhook(&webhook, rough.statuses);
    (scenario.seed, scenario.faults, scenario.replies.tap) = (rough.seed, rough.faults, rough.replies.tap);
    scenario.faults.no_answer_for = Duration::from_millis(20);
    scenario.faults.held_for = scenario.statuses.sent_after;
    let server = SimServer::start(scenario).await;
    let orders: Vec<_> = (0..3_000).map(|person| order(person, &token(person, 1))).collect();
    let lines = ["3001", "3002", "3003", "3004"].into_iter().cycle();
    let sends = orders.iter().zip(lines).map(|(order, line)| server.try_send(line, order));
    let answers: Vec<_> = stream::iter(sends).buffer_unordered(64).collect().await;
    server.sim.idle().await;

    let taken = answers.iter().flatten().filter(|(status, _)| *status == 200).count() as u64;
    let ledger = server.ledger();
    let answered: u64 = ledger.total.answers.values().sum();
    assert_eq!((ledger.total.requests, answered), (3_000, 3_000));
    assert_eq!(ledger.total.answers["accepted"] + ledger.total.answers["held"], taken);
    assert!(ledger.total.accepted > taken, "some answers were lost");
    assert_eq!(ledger.total.told, ledger.total.planned);
    assert_eq!((ledger.total.duplicated_recipients, ledger.total.unique_recipients), (0, ledger.total.accepted));
    assert_eq!((ledger.webhooks_pending, ledger.webhooks_given_up), (0, 0));
    // Message by message, the webhook received the state that the ledger has.
    let mut received = HashMap::<String, State>::new();
    for status in webhook.statuses() {
        let state: State = serde_json::from_value(status["status"].clone()).expect("a state");
        let best = received.entry(status["id"].as_str().expect("an id").to_owned()).or_insert(State::Accepted);
        if state.rank() > best.rank() {
            *best = state;
        }
    }
    for message in server.sim.messages() {
        assert_eq!(received.get(&message.wamid).copied().unwrap_or(State::Accepted), message.state);
    }
    let inbound = webhook.messages().len() as u64;
    assert!(inbound > 0 && inbound == ledger.total.inbound);
}
