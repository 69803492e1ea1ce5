//! Restrictions, bans and portfolio pacing of WABAs and businesses, and what their webhooks say.

use std::time::Duration;

use pregon::sim::{
    Scenario,
    scenario::{Business, MessagingLimit, Pacing, PacingOutcome, Statuses},
};
use serde_json::{Value, json};

use super::{
    kit::{SimServer, Webhook, number, order, quiet, text, with_webhook},
    referee::{broken, counts, sale},
};

const UPDATE: &str = "account_update";

/// Applies a change to the WABA 2001.
async fn change(server: &SimServer, what: Value) {
    let mut body = json!({"waba": "2001"});
    body.as_object_mut().expect("an object").extend(what.as_object().expect("an object").clone());
    assert_eq!(server.control("account", &body).await, (200, json!({"success": true})), "{body}");
    server.sim.idle().await;
}

/// The codes of five sends: the utility template, the marketing template and a text to a person without a service
/// window, and the utility template and a text to a person with one.
async fn codes(server: &SimServer) -> [u64; 5] {
    let wrote = json!({"line": "3001", "from": number(2), "text": "hola"});
    assert_eq!(server.control("inbound", &wrote).await.0, 200);
    [
        server.code(&order(1, "")).await,
        server.code(&sale(1)).await,
        server.code(&text(1, "hola")).await,
        server.code(&order(2, "")).await,
        server.code(&text(2, "hola")).await,
    ]
}

async fn can_send(server: &SimServer, node: &str) -> (Value, Value) {
    let (_, read) = server.get(&format!("/v25.0/{node}?fields=health_status")).await;
    let health = &read["health_status"];
    let entities = health["entities"].as_array().expect("entities");
    let waba = entities.iter().find(|entity| entity["entity_type"] == "WABA").expect("a WABA");
    (health["can_send_message"].clone(), waba.clone())
}

/// A scenario whose referee counts as soon as the webhook is answered. Texts outside service windows do not count,
/// because [`codes`] sends some.
fn strict(mut scenario: Scenario) -> Scenario {
    scenario.referee.grace = Duration::ZERO;
    scenario.referee.window = false;
    scenario
}

#[tokio::test]
async fn a_restriction_refuses_what_it_is_about() {
    let server = SimServer::start(strict(quiet())).await;
    assert_eq!(codes(&server).await, [0; 5]);
    for (restriction, expected) in [
        ("RESTRICTED_BIZ_INITIATED_MESSAGING", [368, 368, 368, 0, 0]),
        ("RESTRICTED_CUSTOMER_INITIATED_MESSAGING", [0, 0, 0, 368, 368]),
        ("RATE_LIMITED_UTILITY_TEMPLATE_MESSAGING", [131_064, 0, 0, 131_064, 0]),
        ("RESTRICTED_ADD_PHONE_NUMBER_ACTION", [0; 5]),
    ] {
        change(&server, json!({"event": "ACCOUNT_RESTRICTION", "restrictions": [restriction]})).await;
        assert_eq!(codes(&server).await, expected, "{restriction}");
        change(&server, json!({"event": "DISABLED_UPDATE", "state": "REINSTATE"})).await;
        assert_eq!(codes(&server).await, [0; 5], "{restriction}");
    }
    assert_eq!(broken(&server), [], "there is no webhook that could tell the sender");
}

#[tokio::test]
async fn a_restriction_is_announced_with_its_end_and_ends_then() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(strict(with_webhook(&webhook, Statuses::default()))).await;
    let restriction = json!({
        "event": "ACCOUNT_RESTRICTION", "restrictions": ["RESTRICTED_BIZ_INITIATED_MESSAGING"], "for": "3s",
        "violation": "SCAM",
    });
    change(&server, restriction).await;
    let value = &webhook.values_of(UPDATE)[0];
    assert_eq!(
        (&value["event"], &value["violation_info"]["violation_type"]),
        (&json!("ACCOUNT_RESTRICTION"), &json!("SCAM"))
    );
    let info = &value["restriction_info"][0];
    assert_eq!(info["restriction_type"], "RESTRICTED_BIZ_INITIATED_MESSAGING");
    let expiration = info["expiration"].as_u64().expect("Unix seconds");
    assert_eq!(server.code(&order(1, "")).await, 368);
    assert_eq!(broken(&server), counts(&[("restricted", 1)]));
    let (overall, waba) = can_send(&server, "3001").await;
    assert_eq!((overall, &waba["errors"][0]["error_code"]), (json!("BLOCKED"), &json!(368)));

    let mut refused = 1;
    while server.code(&order(1, "")).await == 368 {
        refused += 1;
    }
    let accepted_at = server.sim.messages()[0].accepted_at.0;
    assert!(accepted_at >= expiration * 1000, "{accepted_at} {expiration}");
    assert_eq!(broken(&server), counts(&[("restricted", refused)]));
    assert_eq!(can_send(&server, "2001").await.0, "AVAILABLE");
}

#[tokio::test]
async fn a_ban_refuses_everything_until_the_reinstatement() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(strict(with_webhook(&webhook, Statuses::default()))).await;
    change(&server, json!({"event": "DISABLED_UPDATE", "state": "SCHEDULE_FOR_DISABLE"})).await;
    assert_eq!(server.code(&order(1, "")).await, 0);
    change(&server, json!({"event": "DISABLED_UPDATE", "state": "DISABLE"})).await;
    assert_eq!(codes(&server).await, [131_031; 5]);
    assert_eq!(broken(&server), counts(&[("restricted", 5)]));
    assert_eq!(can_send(&server, "2001").await.0, "BLOCKED");
    assert_eq!(server.get("/v25.0/2001?fields=status").await.1["status"], "DISABLED");
    change(&server, json!({"event": "DISABLED_UPDATE", "state": "REINSTATE"})).await;
    assert_eq!(codes(&server).await, [0; 5]);
    assert_eq!(server.get("/v25.0/2001?fields=status").await.1["status"], "ACTIVE");
    let updates = webhook.values_of(UPDATE);
    let states: Vec<_> = updates.iter().map(|value| &value["ban_info"]["waba_ban_state"]).collect();
    assert_eq!(states, ["SCHEDULE_FOR_DISABLE", "DISABLE", "REINSTATE"]);
    let date = updates[0]["ban_info"]["waba_ban_date"].as_str().expect("a date");
    assert!(date.contains(", 20"), "{date}");
}

#[tokio::test]
async fn a_violation_is_reported_and_a_recovery_lifts_the_utility_cap() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(with_webhook(&webhook, Statuses::default())).await;
    change(&server, json!({"event": "ACCOUNT_VIOLATION", "violation": "SCAM"})).await;
    assert_eq!(server.code(&order(1, "")).await, 0, "a violation alone refuses nothing");
    let cap = json!({
        "event": "ACCOUNT_RESTRICTION", "restrictions": ["RATE_LIMITED_UTILITY_TEMPLATE_MESSAGING"], "for": "168h",
        "violation": "UTILITY_TEMPLATE_ABUSE_RATE_LIMIT",
    });
    change(&server, cap).await;
    assert_eq!([server.code(&order(1, "")).await, server.code(&sale(1)).await], [131_064, 0]);
    let (overall, waba) = can_send(&server, "2001").await;
    assert_eq!((overall, waba["additional_info"].as_array().map(Vec::len)), (json!("LIMITED"), Some(1)));
    let recovery = json!({"event": "ACCOUNT_VIOLATION", "violation": "UTILITY_TEMPLATE_ABUSE_RATE_LIMIT_RECOVERY"});
    change(&server, recovery).await;
    assert_eq!(server.code(&order(1, "")).await, 0);
    let updates = webhook.values_of(UPDATE);
    assert_eq!(updates[0], json!({"event": "ACCOUNT_VIOLATION", "violation_info": {"violation_type": "SCAM"}}));
    assert_eq!(updates.len(), 3);
}

#[tokio::test]
async fn restricted_utility_templates_become_marketing() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(with_webhook(&webhook, Statuses::default())).await;
    change(&server, json!({"event": "ACCOUNT_RESTRICTION", "restrictions": ["RESTRICTED_UTILITY_TEMPLATES"]})).await;
    let (_, utility) = server.get("/v25.0/2001/message_templates?category=UTILITY").await;
    assert_eq!(utility["data"], json!([]));
    assert_eq!(webhook.values_of("template_category_update").len(), 4);
}

#[tokio::test]
async fn a_restricted_business_affects_all_its_wabas() {
    let webhook = Webhook::start().await;
    let mut scenario = with_webhook(&webhook, Statuses::default());
    let mut other = scenario.wabas[0].clone();
    (other.id, other.business) = ("2002".into(), "1000".into());
    scenario.wabas.push(other);
    scenario.businesses =
        vec![Business { id: "1000".into(), limit: MessagingLimit::Unlimited, pacing: None, frequency_cap: None }];
    scenario.lines[1].waba = "2002".into();
    let server = SimServer::start(scenario).await;
    let ban = json!({"business": "1000", "event": "DISABLED_UPDATE", "state": "DISABLE"});
    assert_eq!(server.control("account", &ban).await.0, 200);
    server.sim.idle().await;
    assert_eq!(server.code(&order(1, "")).await, 0, "line 3001 belongs to another business");
    let (_, refused) = server.try_send("3002", &text(1, "hola")).await.expect("an answer");
    assert_eq!(refused["error"]["code"], 131_031);
    let (_, read) = server.get("/v25.0/3002?fields=health_status").await;
    let levels = read["health_status"]["entities"].as_array().expect("entities");
    let blocked: Vec<_> = levels.iter().filter(|level| level["can_send_message"] == "BLOCKED").collect();
    assert_eq!(blocked.len(), 1);
    assert_eq!((&blocked[0]["entity_type"], &blocked[0]["id"]), (&json!("BUSINESS"), &json!("1000")));
    for bad in [
        json!({"event": "DISABLED_UPDATE", "state": "DISABLE"}),
        json!({"waba": "2001", "business": "1000", "event": "DISABLED_UPDATE", "state": "DISABLE"}),
        json!({"waba": "9", "event": "DISABLED_UPDATE", "state": "DISABLE"}),
        json!({"waba": "2001", "event": "DISABLED_UPDATE"}),
        json!({"waba": "2001", "event": "ACCOUNT_RESTRICTION"}),
        json!({"waba": "2001", "event": "ACCOUNT_VIOLATION"}),
        json!({"waba": "2001", "event": "ACCOUNT_RESTRICTION", "restrictions": ["RESTRICTED_UTILITY_TEMPLATES"], "for": "9000h"}),
    ] {
        assert_eq!(server.control("account", &bad).await.0, 400, "{bad}");
    }
}

/// The scenario with portfolio pacing: one message, then 200 ms of assessment.
fn paced(mut scenario: Scenario, outcome: PacingOutcome) -> Scenario {
    let pacing = Some(Pacing { after: 1, release_after: Duration::from_millis(200), outcome });
    scenario.businesses =
        vec![Business { id: "1000".into(), limit: MessagingLimit::Unlimited, pacing, frequency_cap: None }];
    scenario.wabas[0].business = "1000".into();
    scenario
}

#[tokio::test]
async fn portfolio_pacing_holds_all_templates_and_drops_them() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(paced(with_webhook(&webhook, Statuses::default()), PacingOutcome::Drop)).await;
    let mut answers = Vec::new();
    for message in [order(1, ""), sale(2), order(3, "")] {
        answers.push(server.send(&message).await.1["messages"][0]["message_status"].clone());
    }
    assert_eq!(answers, ["accepted", "held_for_quality_assessment", "held_for_quality_assessment"]);
    while server.code(&sale(4)).await == 0 {}
    assert_eq!(server.code(&sale(4)).await, 368);
    webhook.wait_for(UPDATE, 1).await;
    server.sim.idle().await;
    let told = server.ledger().total.told;
    assert_eq!((told.delivered, told.failed.keys().copied().collect::<Vec<_>>()), (1, vec![135_000]));
    let info = &webhook.values_of(UPDATE)[0]["restriction_info"];
    assert_eq!((info.as_array().map(Vec::len), info[0].get("expiration")), (Some(2), None));
    let reinstated = json!({"business": "1000", "event": "DISABLED_UPDATE", "state": "REINSTATE"});
    assert_eq!(server.control("account", &reinstated).await.0, 200);
    assert_eq!(server.send(&order(5, "")).await.1["messages"][0]["message_status"], "accepted");
}

#[tokio::test]
async fn portfolio_pacing_releases_held_messages() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(paced(with_webhook(&webhook, Statuses::default()), PacingOutcome::Release)).await;
    for person in 0..3 {
        assert_eq!(server.code(&order(person, "")).await, 0);
    }
    assert_eq!(server.ledger().total.answers["held"], 2);
    server.sim.idle().await;
    assert_eq!(server.ledger().total.told.delivered, 3);
}
