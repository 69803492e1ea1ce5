//! Changes of lines: status, quality, coexistence with the WhatsApp Business app, and upgrades of the rate.

use pregon::sim::scenario::{Limits, Statuses};
use serde_json::{Value, json};

use super::kit::{SimServer, Webhook, order, quiet, with_webhook};

async fn change(server: &SimServer, what: Value) {
    let mut body = json!({"id": "3001"});
    body.as_object_mut().expect("an object").extend(what.as_object().expect("an object").clone());
    assert_eq!(server.control("line", &body).await, (200, json!({"success": true})), "{body}");
}

#[tokio::test]
async fn a_line_sends_only_while_its_status_allows_it() {
    let server = SimServer::start(quiet()).await;
    for (status, code) in [
        ("FLAGGED", 0),
        ("RESTRICTED", 131_048),
        ("RATE_LIMITED", 131_048),
        ("BANNED", 131_031),
        ("DISCONNECTED", 133_010),
        ("CONNECTED", 0),
    ] {
        change(&server, json!({"status": status, "quality_rating": "YELLOW"})).await;
        assert_eq!(server.code(&order(1, "")).await, code, "{status}");
        assert_eq!(server.try_send("3002", &order(1, "")).await.expect("an answer").0, 200);
        let (_, line) = server.get("/v25.0/3001?fields=status,quality_rating,health_status").await;
        assert_eq!((&line["status"], &line["quality_rating"]), (&json!(status), &json!("YELLOW")));
        let can_send = if code == 0 { "AVAILABLE" } else { "BLOCKED" };
        assert_eq!(line["health_status"]["can_send_message"], can_send, "{status}");
    }
    server.control("reset", &json!({})).await;
    assert_eq!(server.get("/v25.0/3001?fields=quality_rating").await.1["quality_rating"], "GREEN");
}

#[tokio::test]
async fn an_upgrade_takes_a_while_and_raises_the_rate() {
    let webhook = Webhook::start().await;
    let mut scenario = with_webhook(&webhook, Statuses::default());
    scenario.lines[0].messages_per_second = 80;
    let server = SimServer::start(scenario).await;
    let level = async || server.get("/v25.0/3001?fields=throughput").await.1["throughput"]["level"].clone();
    assert_eq!(level().await, "STANDARD");
    change(&server, json!({"messages_per_second": 1000, "for": "100ms"})).await;
    assert_eq!(server.code(&order(1, "")).await, 131_057);
    while server.code(&order(1, "")).await == 131_057 {}
    let name = "phone_number_quality_update";
    webhook.wait_for(name, 1).await;
    assert_eq!(level().await, "HIGH");
    assert_eq!(server.ledger().lines["3001"].rates.as_ref().map(|rates| rates.messages_per_second), Some(1_000));
    let value = &webhook.values_of(name)[0];
    assert_eq!(
        (&value["event"], &value["display_phone_number"]),
        (&json!("THROUGHPUT_UPGRADE"), &json!("5491155550001"))
    );
    change(&server, json!({"messages_per_second": 80})).await;
    assert_eq!(level().await, "STANDARD", "a lower rate applies at once");
    for bad in
        [json!({"id": "9"}), json!({"id": "3001", "messages_per_second": 0}), json!({"id": "3001", "for": "25h"})]
    {
        assert_eq!(server.control("line", &bad).await.0, 400, "{bad}");
    }
}

#[tokio::test]
async fn a_line_in_the_business_app_sends_20_messages_a_second() {
    let mut scenario = quiet();
    scenario.limits = Limits { rate_tolerance: 0.0, rate_burst: 0, pair: false, ..Limits::default() };
    let server = SimServer::start(scenario).await;
    change(&server, json!({"is_on_biz_app": true})).await;
    assert_eq!(server.get("/v25.0/3001?fields=is_on_biz_app").await.1["is_on_biz_app"], true);
    let orders: Vec<_> = (0..200).map(|person| order(person, "")).collect();
    futures_util::future::join_all(orders.iter().map(|order| server.send(order))).await;
    let ledger = server.ledger();
    let rates = ledger.lines["3001"].rates.as_ref().expect("a line has rates");
    assert_eq!((rates.messages_per_second, rates.accepted_in_1s_max), (20, 20));
    change(&server, json!({"is_on_biz_app": false})).await;
    assert_eq!(server.code(&order(201, "")).await, 0);
}
