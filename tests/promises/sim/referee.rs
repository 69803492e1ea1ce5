//! The referee: the ledger counts the sends that break a rule of Meta, whatever the response to them is.

use std::time::Duration;

use pregon::{
    domain::{FrequencyCap, State},
    sim::{
        Scenario,
        scenario::{Business, Limits, MessagingLimit, Odds, Statuses},
    },
};
use serde_json::{Value, json};

use super::kit::{SimServer, Webhook, number, order, quiet, template, with_webhook};

/// The rules that were broken, with their counts.
pub(crate) fn broken(server: &SimServer) -> Vec<(String, u64)> {
    let violations = server.ledger().total.violations;
    violations.into_iter().filter(|(_, count)| *count > 0).collect()
}

pub(crate) fn counts(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    expected.iter().map(|(rule, count)| ((*rule).to_owned(), *count)).collect()
}

/// A marketing template.
pub(crate) fn sale(person: u32) -> Value {
    template(
        person,
        "",
        "spring_sale",
        &json!([
            {"type": "header", "parameters": [{"type": "image", "image": {"id": "1"}}]},
            {"type": "body", "parameters": [{"type": "text", "parameter_name": "first_name", "text": "Ana"}]},
            {"type": "button", "sub_type": "copy_code", "index": "0", "parameters": [{"type": "coupon_code", "coupon_code": "SALE20"}]},
        ]),
    )
}

/// A scenario whose referee counts as soon as the webhook is answered.
fn strict(mut scenario: Scenario) -> Scenario {
    scenario.referee.grace = Duration::ZERO;
    scenario
}

#[tokio::test]
async fn every_rule_starts_at_0() {
    let server = SimServer::start(quiet()).await;
    assert_eq!(server.code(&order(1, "")).await, 0);
    let ledger = server.ledger();
    let account = ["rate", "portfolio_limit", "template_not_approved", "restricted"];
    let people = ["pair", "resend_131049", "after_stop", "us_marketing", "contact_hours", "frequency_cap", "window"];
    for rule in account.into_iter().chain(people) {
        assert_eq!((ledger.total.violations[rule], ledger.lines["3001"].violations[rule]), (0, 0), "{rule}");
    }
}

#[tokio::test]
async fn more_than_the_rate_in_and_out_breaks_the_rate() {
    let mut scenario = quiet();
    scenario.limits = Limits { rate_tolerance: 0.0, rate_burst: 0, pair: false, ..Limits::default() };
    scenario.lines[0].messages_per_second = 4;
    let server = SimServer::start(scenario).await;
    let inbound = json!({"line": "3001", "from": number(9), "text": "hola"});
    assert_eq!(server.control("inbound", &inbound).await.0, 200);
    // Refused sends count too, even if a fault decides the response.
    server.control("scenario", &json!({"faults": {"html_502": 1.0}})).await;
    for person in 0..5 {
        assert_eq!(server.send(&order(person, "")).await.0, 502);
    }
    assert_eq!(server.try_send("3002", &order(1, "")).await.expect("an answer").0, 502);
    assert_eq!(broken(&server), counts(&[("rate", 2)]));
    assert_eq!(server.ledger().lines["3002"].violations["rate"], 0);
    server.control("reset", &json!({})).await;
    assert_eq!(broken(&server), []);
}

#[tokio::test]
async fn a_second_send_within_6_s_breaks_the_pair_rule() {
    let mut scenario = quiet();
    scenario.limits.pair = true;
    let server = SimServer::start(scenario).await;
    assert_eq!([server.code(&order(1, "")).await, server.code(&order(2, "")).await], [0, 0]);
    assert_eq!(server.try_send("3002", &order(1, "")).await.expect("an answer").0, 200);
    assert_eq!(broken(&server), [], "other people and other lines are other pairs");
    assert_eq!(server.code(&order(1, "")).await, 0, "Meta tolerates it");
    assert_eq!(broken(&server), counts(&[("pair", 1)]));
    server.control("scenario", &json!({"faults": {"server_error": 1.0}})).await;
    assert_eq!(server.code(&order(2, "")).await, 131_000);
    assert_eq!(broken(&server), counts(&[("pair", 2)]));
}

#[tokio::test]
async fn a_new_person_beyond_the_limit_breaks_the_portfolio_limit() {
    let mut scenario = quiet();
    scenario.businesses =
        vec![Business { id: "1000".into(), limit: MessagingLimit::Tier250, pacing: None, frequency_cap: None }];
    scenario.wabas[0].business = "1000".into();
    let server = SimServer::start(scenario).await;
    for person in 0..250 {
        assert_eq!(server.code(&order(person, "")).await, 0);
    }
    assert_eq!(server.code(&order(0, "")).await, 0);
    assert_eq!(broken(&server), []);
    for person in 250..253 {
        assert_eq!(server.code(&order(person, "")).await, 131_048);
    }
    server.control("scenario", &json!({"faults": {"throttle": 1.0}})).await;
    assert_eq!(server.code(&order(253, "")).await, 130_429);
    assert_eq!(broken(&server), counts(&[("portfolio_limit", 4)]));
}

#[tokio::test]
async fn marketing_within_a_day_of_131049_breaks_a_rule() {
    let webhook = Webhook::start().await;
    let failed = Odds([(131_049, 1.0)].into());
    let server = SimServer::start(strict(with_webhook(&webhook, Statuses { failed, ..Statuses::default() }))).await;
    assert_eq!([server.code(&sale(1)).await, server.code(&order(2, "")).await], [0, 0]);
    server.sim.idle().await;
    assert_eq!(server.code(&sale(2)).await, 0, "the failure of person 2 was not marketing");
    assert_eq!(server.code(&order(1, "")).await, 0, "only marketing has to wait");
    assert_eq!(broken(&server), []);
    assert_eq!(server.code(&sale(1)).await, 0);
    assert_eq!(broken(&server), counts(&[("resend_131049", 1)]));
}

#[tokio::test]
async fn marketing_within_a_day_of_a_response_with_131049_breaks_a_rule() {
    let mut scenario = quiet();
    scenario.referee.grace = Duration::from_mins(1);
    let server = SimServer::start(scenario).await;
    let fails_with = async |code: &str| {
        assert_eq!(server.control("scenario", &json!({"faults": {"refuse": {code: 1.0}}})).await.0, 200);
    };
    fails_with("131026").await;
    assert_eq!(server.code(&sale(4)).await, 131_026);
    fails_with("131049").await;
    assert_eq!([server.code(&sale(1)).await, server.code(&order(2, "")).await], [131_049; 2]);
    server.send_and_hang_up(&sale(3)).await;
    assert_eq!(server.code(&sale(1)).await, 131_049, "on its way");
    server.sim.advance(Duration::from_mins(2)).await;
    assert_eq!(broken(&server), []);
    assert_eq!(
        [server.code(&sale(2)).await, server.code(&order(1, "")).await, server.code(&sale(4)).await],
        [131_049; 3]
    );
    server.send_and_hang_up(&sale(3)).await;
    assert_eq!(broken(&server), [], "the sender to person 3 may have died before it could store the response");
    assert_eq!(server.code(&sale(1)).await, 131_049);
    assert_eq!(broken(&server), counts(&[("resend_131049", 1)]));
    server.sim.advance(Duration::from_hours(25)).await;
    assert_eq!(server.code(&sale(1)).await, 131_049, "a day later");
    assert_eq!(broken(&server), counts(&[("resend_131049", 1)]));
}

#[tokio::test]
async fn marketing_after_a_stop_fails_and_breaks_a_rule() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(strict(with_webhook(&webhook, Statuses::default()))).await;
    let prefer = async |value: &str| {
        let preference = json!({"line": "3001", "from": number(1), "value": value});
        assert_eq!(server.control("preference", &preference).await.0, 200);
        server.sim.idle().await;
    };
    prefer("stop").await;
    let value = &webhook.values()[0];
    assert_eq!(value["metadata"]["phone_number_id"], "3001");
    let preference = &value["user_preferences"][0];
    assert_eq!((&preference["value"], &preference["category"]), (&json!("stop"), &json!("marketing_messages")));
    assert_eq!((&preference["wa_id"], preference["timestamp"].is_u64()), (&json!(number(1)[1..]), true));

    // The stop is valid for all lines of the business, and only for marketing.
    assert_eq!(server.try_send("3002", &sale(1)).await.expect("an answer").0, 200);
    assert_eq!([server.code(&order(1, "")).await, server.code(&sale(2)).await], [0, 0]);
    server.sim.idle().await;
    assert_eq!(broken(&server), counts(&[("after_stop", 1)]));
    let failed: Vec<_> = server.sim.messages().into_iter().filter(|message| message.state == State::Failed).collect();
    assert_eq!(failed.iter().map(|message| message.code).collect::<Vec<_>>(), [Some(131_050)]);

    prefer("resume").await;
    assert_eq!(server.code(&sale(1)).await, 0);
    server.sim.idle().await;
    assert_eq!(broken(&server), counts(&[("after_stop", 1)]));
    let unknown = json!({"line": "3001", "from": number(1), "value": "maybe"});
    assert_eq!(server.control("preference", &unknown).await.0, 400);
}

#[tokio::test]
async fn marketing_to_the_usa_is_withheld_and_breaks_a_rule() {
    let webhook = Webhook::start().await;
    let server = SimServer::start(strict(with_webhook(&webhook, Statuses::default()))).await;
    let to = |mut message: Value, number: &str| {
        message["to"] = number.into();
        message
    };
    for message in [to(order(1, ""), "+12025550123"), to(sale(2), "+14165550100"), to(sale(3), "+12025550123")] {
        assert_eq!(server.code(&message).await, 0);
    }
    server.sim.idle().await;
    assert_eq!(broken(&server), counts(&[("us_marketing", 1)]));
    let failed: Vec<_> = server.sim.messages().into_iter().filter(|message| message.state == State::Failed).collect();
    assert_eq!(failed.iter().map(|message| message.code).collect::<Vec<_>>(), [Some(131_049)]);
}

#[tokio::test]
async fn marketing_beyond_the_cap_of_the_business_breaks_a_rule() {
    let mut scenario = quiet();
    let frequency_cap = Some(FrequencyCap { messages: 2, days: 7 });
    scenario.businesses =
        vec![Business { id: "1000".into(), limit: MessagingLimit::Unlimited, pacing: None, frequency_cap }];
    scenario.wabas[0].business = "1000".into();
    let server = SimServer::start(scenario).await;
    for message in [sale(1), order(1, ""), sale(1), sale(2), order(1, "")] {
        assert_eq!(server.code(&message).await, 0);
    }
    assert_eq!(broken(&server), []);
    assert_eq!(server.code(&sale(1)).await, 0, "Meta does not mind");
    assert_eq!(broken(&server), counts(&[("frequency_cap", 1)]));
}

#[tokio::test]
async fn each_edge_takes_only_the_messages_that_meta_takes_there() {
    let with_policy = |mut message: Value, policy: &str| {
        message["product_policy"] = policy.into();
        message
    };
    let mut scenario = quiet();
    for is_only in [false, true] {
        scenario.wabas[0].marketing_api_only = is_only;
        let server = SimServer::start(scenario.clone()).await;
        assert_eq!(server.code(&order(1, "")).await, 0);
        assert_eq!(server.code(&sale(2)).await, if is_only { 131_063 } else { 0 });
        assert_eq!(server.code(&with_policy(order(3, ""), "STRICT")).await, 100);
        assert_eq!(server.marketing_code(&sale(4)).await, 0);
        assert_eq!(server.marketing_code(&with_policy(sale(5), "CLOUD_API_FALLBACK")).await, 0);
        assert_eq!(server.marketing_code(&with_policy(sale(6), "ANY")).await, 100);
        assert_eq!(server.marketing_code(&order(7, "")).await, 131_055);
        let (_, waba) = server.get("/v25.0/2001?fields=disable_marketing_messages_on_cloud_api").await;
        assert_eq!(waba["disable_marketing_messages_on_cloud_api"], is_only);
        server.stop().await;
    }
}

#[tokio::test]
async fn what_no_webhook_has_acknowledged_breaks_no_rule() {
    let stop = json!({"line": "3001", "from": number(1), "value": "stop"});
    let webhook = Webhook::answering(std::iter::repeat_n(503, 1_000)).await;
    let mut scenario = strict(with_webhook(&webhook, Statuses::default()));
    scenario.webhooks.retry_for = Duration::from_millis(100);
    let server = SimServer::start(scenario).await;
    server.control("preference", &stop).await;
    server.sim.idle().await;
    assert_eq!(server.code(&sale(1)).await, 0);
    assert_eq!(broken(&server), [], "the webhook never answered 200");

    let webhook = Webhook::start().await;
    let mut scenario = with_webhook(&webhook, Statuses::default());
    scenario.referee.grace = Duration::from_secs(3600);
    let server = SimServer::start(scenario).await;
    server.control("preference", &stop).await;
    server.sim.idle().await;
    assert_eq!(server.code(&sale(1)).await, 0);
    assert_eq!(broken(&server), [], "the send may have been on its way");
}

#[tokio::test]
async fn marketing_outside_the_contact_hours_of_a_number_breaks_them() {
    let mut scenario = strict(quiet());
    let hours = |days: Value| {
        let hours = json!({"prefix": &number(1)[1..], "zone": "UTC", "days": days});
        vec![serde_json::from_value(hours).expect("contact hours")]
    };
    scenario.referee.contact_hours = hours(json!({}));
    let server = SimServer::start(scenario.clone()).await;
    for message in [order(1, ""), sale(2), sale(1)] {
        assert_eq!(server.code(&message).await, 0);
    }
    assert_eq!(broken(&server), counts(&[("contact_hours", 1)]), "only marketing to the number");

    let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"].map(|day| (day.to_owned(), json!("00:00-24:00")));
    scenario.referee.contact_hours = hours(Value::Object(days.into_iter().collect()));
    let server = SimServer::start(scenario).await;
    assert_eq!(server.code(&sale(1)).await, 0);
    assert_eq!(broken(&server), [], "at all hours");
}
