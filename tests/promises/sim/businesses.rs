//! The messaging limit of a business: how many people its lines reach outside service windows in 24 hours.

use pregon::sim::{
    Scenario, Sim,
    scenario::{Business, MessagingLimit, Odds, Statuses},
};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::kit::{SimServer, Webhook, number, order, quiet, text, with_webhook};

/// The scenario of [`quiet`] whose WABA belongs to business 1000 with a limit of 250 people.
fn limited(mut scenario: Scenario) -> Scenario {
    scenario.businesses =
        vec![Business { id: "1000".into(), limit: MessagingLimit::Tier250, pacing: None, frequency_cap: None }];
    scenario.wabas[0].business = "1000".into();
    scenario
}

/// Sends to these people on lines 3001 and 3002 in turn. Returns how many messages were accepted.
async fn reach(server: &SimServer, people: std::ops::Range<u32>) -> usize {
    let mut accepted = 0;
    for person in people {
        let line = if person % 2 == 0 { "3001" } else { "3002" };
        let (status, _) = server.try_send(line, &order(person, "")).await.expect("an answer");
        accepted += usize::from(status == 200);
    }
    accepted
}

#[tokio::test]
async fn the_lines_of_a_business_share_its_limit() {
    let server = SimServer::start(limited(quiet())).await;
    assert_eq!(reach(&server, 0..260).await, 250);
    let (status, refused) = server.send(&order(260, "")).await;
    assert_eq!((status, &refused["error"]["code"]), (429, &json!(131_048)));
    assert_eq!(server.code(&order(7, "")).await, 0, "a person who was reached already costs nothing");
    assert_eq!(server.code(&text(270, "hola")).await, 0, "accepted, and fails by webhook");

    let wrote = json!({"line": "3001", "from": number(261), "text": "hola"});
    assert_eq!(server.control("inbound", &wrote).await.0, 200);
    assert_eq!(server.code(&order(261, "")).await, 0, "a person with an open window costs nothing");
    assert_eq!(server.try_send("3002", &order(261, "")).await.expect("an answer").0, 429, "a window is of one line");
}

#[tokio::test]
async fn a_message_that_is_never_delivered_takes_no_place() {
    let mut scenario = limited(quiet());
    scenario.statuses = Statuses { failed: Odds([(131_026, 1.0)].into()), ..Statuses::default() };
    let server = SimServer::start(scenario).await;
    assert_eq!(reach(&server, 0..300).await, 300);
}

#[tokio::test]
async fn the_code_of_a_spent_limit_is_configurable() {
    let mut scenario = limited(quiet());
    scenario.limits.messaging_limit_code = 130_429;
    let server = SimServer::start(scenario).await;
    assert_eq!(reach(&server, 0..250).await, 250);
    assert_eq!(server.code(&order(250, "")).await, 130_429);
}

#[tokio::test]
async fn a_changed_limit_applies_at_once_and_is_announced() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(limited(with_webhook(&webhook, Statuses::default()))).await;
    server.control("scenario", &json!({"statuses": {"sent": 0.0}})).await;
    assert_eq!(reach(&server, 0..250).await, 250);
    // Nothing was delivered, so every place is free.
    assert_eq!(server.code(&order(250, "")).await, 0);
    server.control("scenario", &json!({"statuses": {}})).await;
    assert_eq!(reach(&server, 0..260).await, 250);
    assert_eq!(server.control("business", &json!({"id": "1000", "limit": 2000})).await.0, 200);
    assert_eq!(reach(&server, 250..260).await, 10);
    let value = &webhook.wait_for("business_capability_update", 1).await[0];
    assert_eq!(value["max_daily_conversations_per_business"], "TIER_2K");

    server.control("reset", &json!({})).await;
    assert_eq!(reach(&server, 300..560).await, 250, "a reset restores the limit and frees all places");
}

#[tokio::test]
async fn nodes_show_the_limit_of_their_business() {
    let server = SimServer::start(limited(quiet())).await;
    for (limit, tier) in [
        (json!(250), "TIER_250"),
        (json!(2000), "TIER_2K"),
        (json!(10_000), "TIER_10K"),
        (json!(100_000), "TIER_100K"),
        (json!("unlimited"), "TIER_UNLIMITED"),
    ] {
        assert_eq!(server.control("business", &json!({"id": "1000", "limit": limit})).await.0, 200);
        for node in ["3001", "2001", "1000"] {
            let (_, read) =
                server.get(&format!("/v25.0/{node}?fields=whatsapp_business_manager_messaging_limit")).await;
            assert_eq!(read, json!({"id": node, "whatsapp_business_manager_messaging_limit": tier}));
        }
    }
    let (_, waba) = server.get("/v25.0/2001?fields=owner_business_info").await;
    assert_eq!(waba["owner_business_info"]["id"], "1000");
    for (path, code) in [("/v25.0/1000?fields=colour", 100), ("/v25.0/1000/nothing", 100)] {
        assert_eq!(server.get(path).await.1["error"]["code"], code, "{path}");
    }
    let unauthorized = server.http.get(format!("{}/v25.0/1000", server.base)).send().await;
    assert_eq!(unauthorized.expect("an answer").status().as_u16(), 401);
    for bad in
        [json!({"id": "1000", "limit": 1}), json!({"id": "1000", "limit": "many"}), json!({"id": "9", "limit": 250})]
    {
        assert_eq!(server.control("business", &bad).await.0, 400, "{bad}");
    }
}

#[tokio::test]
async fn a_waba_without_a_business_is_unlimited() {
    let server = SimServer::start(quiet()).await;
    assert_eq!(reach(&server, 0..300).await, 300);
    let (_, business) = server.get("/v25.0/1001?fields=id,whatsapp_business_manager_messaging_limit").await;
    assert_eq!(business, json!({"id": "1001", "whatsapp_business_manager_messaging_limit": "TIER_UNLIMITED"}));
    let changed = server.control("business", &json!({"id": "1001", "limit": 250})).await;
    assert_eq!(changed.0, 400, "nobody was counted");

    let mut scenario = quiet();
    scenario.wabas[0].business = "9".into();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let error = Sim::start(scenario, listener, CancellationToken::new()).await.err().expect("it does not start");
    assert!(error.to_string().contains("waba 2001: there is no business 9"), "{error}");
}

#[test]
fn only_metas_limits_are_limits() {
    let read = |limit: &str| {
        let text = format!(
            "[[business]]\nid = \"1000\"\nlimit = {limit}\n[[waba]]\nid = \"1\"\nbusiness = \"1000\"\ntoken = \"t\"\n\
             [[line]]\nid = \"2\"\nwaba = \"1\"\nmessages_per_second = 1\n"
        );
        Scenario::from_toml(&text).map(|scenario| scenario.businesses[0].limit)
    };
    assert_eq!(read("2000").ok(), Some(MessagingLimit::Tier2K));
    assert_eq!(read("\"unlimited\"").ok(), Some(MessagingLimit::Unlimited));
    for bad in ["1", "-1", "\"2000\"", "true"] {
        assert!(read(bad).is_err(), "{bad}");
    }
}
