//! Changes of templates: pauses, quality, category, components and pacing, with their webhooks.

use std::time::Duration;

use pregon::sim::{
    Scenario, Sim,
    scenario::{Pacing, PacingOutcome, Statuses},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    kit::{SimServer, Webhook, order, quiet, with_webhook},
    referee::{broken, counts, sale},
};

const STATUS: &str = "message_template_status_update";

/// Changes the template `order_update` in `es_AR`.
async fn change(server: &SimServer, what: Value) {
    let mut body = json!({"name": "order_update", "language": "es_AR"});
    body.as_object_mut().expect("an object").extend(what.as_object().expect("an object").clone());
    let changed = server.control("template", &body).await;
    assert_eq!(changed, (200, json!({"success": true})), "{body}");
}

/// Sends until the answer has another code than `code`. Returns that code; 0 if the message is accepted.
async fn code_after(server: &SimServer, code: u64) -> u64 {
    loop {
        let found = server.code(&order(1, "")).await;
        if found != code {
            return found;
        }
    }
}

/// The node of the template `order_update` in `es_AR`.
async fn node(server: &SimServer, fields: &str) -> Value {
    let path = format!("/v25.0/2001/message_templates?name=order_update&language=es_AR&fields={fields}");
    server.get(&path).await.1["data"][0].clone()
}

/// The scenario with template pacing of `order_update` in `es_AR`: one message, then 200 ms of assessment.
fn paced(mut scenario: Scenario, outcome: PacingOutcome) -> Scenario {
    scenario.templates[0].pacing = Some(Pacing { after: 1, release_after: Duration::from_millis(200), outcome });
    scenario
}

#[tokio::test]
async fn pauses_end_by_themselves_and_the_third_disables() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(with_webhook(&webhook, Statuses::default())).await;
    for told in [2, 4] {
        change(&server, json!({"status": "PAUSED", "for": "100ms"})).await;
        assert_eq!(code_after(&server, 132_015).await, 0);
        webhook.wait_for(STATUS, told).await;
    }
    change(&server, json!({"status": "PAUSED"})).await;
    assert_eq!(server.code(&order(1, "")).await, 132_016);
    let events = webhook.wait_for(STATUS, 5).await;
    let told: Vec<_> = events
        .iter()
        .map(|value| (value["event"].as_str().unwrap_or(""), value["other_info"]["title"].as_str().unwrap_or("")))
        .collect();
    let expected = [
        ("PAUSED", "FIRST_PAUSE"),
        ("APPROVED", "UNPAUSE"),
        ("PAUSED", "SECOND_PAUSE"),
        ("APPROVED", "UNPAUSE"),
        ("DISABLED", "DISABLED"),
    ];
    assert_eq!(told, expected);
    let value = &events[0];
    assert_eq!((&value["message_template_name"], &value["reason"]), (&json!("order_update"), &json!("NONE")));
    assert_eq!(
        (&value["message_template_category"], &value["message_template_language"]),
        (&json!("UTILITY"), &json!("es-AR"))
    );
    assert!(events[4]["disable_info"]["disable_date"].is_u64());
}

#[tokio::test]
async fn a_pause_lasts_hours_and_an_unpause_ends_it() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(with_webhook(&webhook, Statuses::default())).await;
    let id = node(&server, "id").await["id"].as_str().expect("an id").to_owned();
    let path = format!("/v25.0/{id}/unpause");
    let (status, not_paused) = server.post(&path).await;
    assert_eq!((status, &not_paused["success"]), (200, &json!(false)));
    assert!(not_paused["reason"].is_string());
    change(&server, json!({"status": "PAUSED"})).await;
    assert_eq!(server.code(&order(1, "")).await, 132_015);
    assert_eq!(server.post(&path).await, (200, json!({"success": true})));
    assert_eq!(server.code(&order(1, "")).await, 0);
    server.sim.idle().await;
    assert_eq!(webhook.values_of(STATUS)[1]["event"], "APPROVED");

    assert_eq!(server.post("/v25.0/9999/unpause").await.1["error"]["code"], 100);
    let unauthorized = server.http.post(format!("{}{path}", server.base)).send().await;
    assert_eq!(unauthorized.expect("an answer").status().as_u16(), 401);
}

#[tokio::test]
async fn red_quality_is_announced_and_pauses() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(with_webhook(&webhook, Statuses::default())).await;
    change(&server, json!({"quality": "YELLOW"})).await;
    assert_eq!(server.code(&order(1, "")).await, 0);
    change(&server, json!({"quality": "RED"})).await;
    assert_eq!(server.code(&order(1, "")).await, 132_015);
    assert_eq!(node(&server, "quality_score").await["quality_score"], json!({"score": "RED"}));
    server.sim.idle().await;
    let updates = webhook.values_of("message_template_quality_update");
    let scores: Vec<_> =
        updates.iter().map(|value| (&value["previous_quality_score"], &value["new_quality_score"])).collect();
    assert_eq!(scores, [(&json!("GREEN"), &json!("YELLOW")), (&json!("YELLOW"), &json!("RED"))]);
    assert_eq!(webhook.values_of(STATUS)[0]["other_info"]["title"], "FIRST_PAUSE");
}

#[tokio::test]
async fn a_category_changes_after_its_notice() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(with_webhook(&webhook, Statuses::default())).await;
    change(&server, json!({"category": "MARKETING", "in": "100ms"})).await;
    let announced = node(&server, "category,correct_category").await;
    assert_eq!((&announced["category"], &announced["correct_category"]), (&json!("UTILITY"), &json!("MARKETING")));
    while node(&server, "category").await["category"] != "MARKETING" {}
    webhook.wait_for("template_category_update", 2).await;
    let changed = node(&server, "previous_category,correct_category").await;
    assert_eq!((&changed["previous_category"], changed.get("correct_category")), (&json!("UTILITY"), None));
    let updates = webhook.values_of("template_category_update");
    assert_eq!(
        (&updates[0]["new_category"], &updates[0]["correct_category"]),
        (&json!("UTILITY"), &json!("MARKETING"))
    );
    assert!(updates[0]["category_update_timestamp"].is_u64());
    assert_eq!(
        (&updates[1]["previous_category"], &updates[1]["new_category"]),
        (&json!("UTILITY"), &json!("MARKETING"))
    );
    server.code(&order(1, "")).await;
    server.sim.idle().await;
    assert_eq!(webhook.statuses()[0]["pricing"]["category"], "marketing");
}

#[tokio::test]
async fn edited_components_apply_at_once() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(with_webhook(&webhook, Statuses::default())).await;
    let components = json!([
        {"type": "BODY", "text": "Hola {{1}}."},
        {"type": "FOOTER", "text": "Pregón"},
        {"type": "BUTTONS", "buttons": [{"type": "QUICK_REPLY", "text": "Sí"}]},
    ]);
    change(&server, json!({"components": components})).await;
    assert_eq!(server.code(&order(1, "")).await, 132_000);
    assert_eq!(node(&server, "components").await["components"], components);
    server.sim.idle().await;
    let value = &webhook.values_of("message_template_components_update")[0];
    assert_eq!(
        (&value["message_template_element"], &value["message_template_footer"]),
        (&json!("Hola {{1}}."), &json!("Pregón"))
    );
    assert_eq!(
        value["message_template_buttons"],
        json!([{"message_template_button_type": "QUICK_REPLY", "message_template_button_text": "Sí"}])
    );
    for bad in [
        json!({}),
        json!({"components": [{"type": "BODY", "text": "Hola {{"}]}),
        json!({"status": "PAUSED", "for": "25h"}),
    ] {
        let mut body = json!({"name": "order_update"});
        body.as_object_mut().expect("an object").extend(bad.as_object().expect("an object").clone());
        assert_eq!(server.control("template", &body).await.0, 400, "{bad}");
    }
}

#[tokio::test]
async fn paced_messages_are_held_and_released() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(paced(with_webhook(&webhook, Statuses::default()), PacingOutcome::Release)).await;
    let mut answers = Vec::new();
    for person in 0..3 {
        answers.push(server.send(&order(person, "")).await.1["messages"][0]["message_status"].clone());
    }
    assert_eq!(answers, ["accepted", "held_for_quality_assessment", "held_for_quality_assessment"]);
    let answers = server.ledger().total.answers;
    assert_eq!((answers["accepted"], answers["held"]), (1, 2));
    server.sim.idle().await;
    let total = server.ledger().total;
    assert_eq!((total.told.delivered, total.accepted), (3, 3));
    let messages = server.sim.messages();
    let held = messages[1].sent_at.expect("sent").since(messages[1].accepted_at);
    assert!(held >= Duration::from_millis(195), "{held:?}");
    assert_eq!(
        server.send(&order(4, "")).await.1["messages"][0]["message_status"],
        "accepted",
        "the assessment is over"
    );
}

#[tokio::test]
async fn paced_messages_are_dropped_and_the_template_is_paused() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(paced(with_webhook(&webhook, Statuses::default()), PacingOutcome::Drop)).await;
    for person in 0..3 {
        assert_eq!(server.code(&order(person, "")).await, 0);
    }
    assert_eq!(code_after(&server, 0).await, 132_015);
    webhook.wait_for(STATUS, 1).await;
    server.sim.idle().await;
    let told = server.ledger().total.told;
    assert_eq!(told.delivered, 1);
    assert!(told.failed[&132_015] >= 2, "{told:?}");
    assert_eq!(webhook.values_of(STATUS)[0]["other_info"]["title"], "RATE_LIMITING_PAUSE");
    let id = node(&server, "id").await["id"].as_str().expect("an id").to_owned();
    assert_eq!(server.post(&format!("/v25.0/{id}/unpause")).await.1["success"], true);
    assert_eq!(server.send(&order(9, "")).await.1["messages"][0]["message_status"], "accepted");
}

#[tokio::test]
async fn a_send_with_a_template_that_is_not_approved_breaks_a_rule() {
    let webhook = Webhook::start().await;
    let mut scenario = with_webhook(&webhook, Statuses::default());
    scenario.referee.grace = Duration::ZERO;
    let server = SimServer::start(scenario).await;
    assert_eq!(server.code(&order(1, "")).await, 0);
    for status in ["FLAGGED", "REINSTATED"] {
        change(&server, json!({"status": status})).await;
        server.sim.idle().await;
        assert_eq!(server.code(&order(1, "")).await, 0, "{status}");
    }
    assert_eq!(broken(&server), []);
    change(&server, json!({"status": "PAUSED"})).await;
    server.sim.idle().await;
    assert_eq!([server.code(&order(1, "")).await, server.code(&sale(1)).await], [132_015, 0]);
    assert_eq!(broken(&server), counts(&[("template_not_approved", 1)]));

    // Without a webhook, a sender cannot know of a change, only the statuses that the templates had when it read them.
    let server = SimServer::start(quiet()).await;
    change(&server, json!({"status": "PAUSED"})).await;
    assert_eq!(server.code(&order(1, "")).await, 132_015);
    assert_eq!(broken(&server), []);
    let mut winter = order(1, "");
    winter["template"]["name"] = json!("winter_sale");
    assert_eq!(server.code(&winter).await, 132_015);
    assert_eq!(broken(&server), counts(&[("template_not_approved", 1)]));
}

#[tokio::test]
async fn pacing_of_more_than_a_day_does_not_start() {
    let mut scenario = paced(quiet(), PacingOutcome::Release);
    let day = Duration::from_secs(25 * 3600);
    scenario.templates[0].pacing.as_mut().expect("pacing").release_after = day;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let error = Sim::start(scenario, listener, CancellationToken::new()).await.err().expect("it does not start");
    assert!(error.to_string().contains("template order_update: pacing.release_after: is more than 24h"), "{error}");
}
