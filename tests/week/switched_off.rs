//! The referee notices each broken rule: every test switches off one rule in the sender, by its configuration or by an
//! action that an operator could take.

use std::time::Duration;

use deadpool_redis::redis::cmd;
use pregon::{
    domain::FrequencyCap,
    sim::{
        Scenario,
        scenario::{Business, MessagingLimit},
    },
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    stage::Stage,
    support::{until, world},
};

const LINE: &str = "3001";
const FIRST: u64 = 5_491_100_000_000;

/// A scenario with one line whose sends are always answered at once, and a strict referee.
fn scenario() -> Scenario {
    let mut scenario = Scenario::named("calm").expect("it comes with the program");
    scenario.lines.truncate(1);
    scenario.lines[0].messages_per_second = 80;
    scenario.referee.grace = Duration::from_millis(100);
    scenario
}

/// Launches a campaign to `n` people.
async fn campaign(stage: &Stage, template: &str, n: u64) -> String {
    let more = json!({"template": {"name": template, "language": "es_AR"}});
    stage.api.campaign(&[LINE], FIRST..FIRST + n, more).await
}

async fn completes(stage: &Stage, id: &str) {
    stage.api.wait_for_state(id, "completed", Duration::from_secs(60)).await;
}

async fn until_broken(stage: &Stage, rule: &str) {
    until(&format!("the referee notices {rule}"), async || stage.violations()[rule] > 0).await;
}

/// Checks that `rule` is broken, and no other rule.
fn only(stage: &Stage, rule: &str) {
    let violations = stage.violations();
    let broken: Vec<_> = violations.iter().filter(|(_, sends)| **sends > 0).map(|(rule, _)| rule.as_str()).collect();
    assert_eq!(broken, [rule], "{violations:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_spacing_of_pairs_the_referee_counts_pair() {
    let stage = Stage::start(scenario(), "pair_spacing = \"0s\"").await;
    for _ in 0..2 {
        let id = campaign(&stage, "order_update", 20).await;
        completes(&stage, &id).await;
    }
    only(&stage, "pair");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_rate_above_that_of_the_line_the_referee_counts_rate() {
    let stage = Stage::start(scenario(), "").await;
    let (status, body) =
        stage.api.call(Method::PATCH, &format!("lines/{LINE}"), Some(json!({"messages_per_second": 400}))).await;
    assert_eq!(status, 200, "{body}");
    campaign(&stage, "order_update", 300).await;
    until_broken(&stage, "rate").await;
    only(&stage, "rate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_wrong_messaging_limit_the_referee_counts_portfolio_limit() {
    let mut scenario = scenario();
    scenario.lines[0].messages_per_second = 1_000;
    scenario.businesses =
        vec![Business { id: "1001".into(), limit: MessagingLimit::Tier250, pacing: None, frequency_cap: None }];
    let stage = Stage::start(scenario, "").await;
    until("the limit is known", async || {
        stage.store.messaging_limits().await.is_ok_and(|limits| limits.contains_key(&"1001".into()))
    })
    .await;
    world::know_messaging_limits(&stage.store, &["1001"]).await;
    campaign(&stage, "order_update", 300).await;
    until_broken(&stage, "portfolio_limit").await;
    only(&stage, "portfolio_limit");
}

/// Runs a campaign, triggers `event` at Meta, and lifts every hold as soon as it appears.
async fn with_holds_lifted(event: (&str, Value), rule: &str) {
    let stage = Stage::start(scenario(), "").await;
    campaign(&stage, "order_update", 5_000).await;
    until("messages are sent", async || stage.ledger().total.accepted > 20).await;
    stage.meta(event.0, event.1).await;
    until(&format!("the referee notices {rule}"), async || {
        stage.lift("").await;
        stage.violations()[rule] > 0
    })
    .await;
    only(&stage, rule);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_holds_of_templates_lifted_the_referee_counts_template_not_approved() {
    let red = ("template", json!({"name": "order_update", "quality": "RED"}));
    with_holds_lifted(red, "template_not_approved").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_holds_of_the_account_lifted_the_referee_counts_restricted() {
    let restrictions = ["RESTRICTED_BIZ_INITIATED_MESSAGING"];
    let change = json!({"waba": "2001", "event": "ACCOUNT_RESTRICTION", "restrictions": restrictions, "for": "24h"});
    with_holds_lifted(("account", change), "restricted").await;
}

/// Deletes the list of people from whom Meta withheld marketing, and sends to them again. `withhold`: makes Meta
/// withhold marketing from everybody.
async fn with_withheld_people_forgotten(withhold: impl FnOnce(&mut Scenario)) {
    let mut scenario = scenario();
    withhold(&mut scenario);
    for template in &mut scenario.templates {
        template.category = "MARKETING".into();
    }
    let stage = Stage::start(scenario, "").await;
    let id = campaign(&stage, "order_update", 20).await;
    completes(&stage, &id).await;
    until("Meta has withheld all", async || stage.ledger().webhooks_pending == 0).await;
    let key = stage.store.keys.withheld_people(&"1001".into());
    assert_eq!(stage.store.query::<u64>("DEL withheld", cmd("DEL").arg(key)).await.expect("redis"), 1);
    campaign(&stage, "order_update", 20).await;
    until_broken(&stage, "resend_131049").await;
    only(&stage, "resend_131049");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_people_of_a_withheld_status_forgotten_the_referee_counts_resend_131049() {
    with_withheld_people_forgotten(|scenario| {
        scenario.statuses.failed.0.insert(131_049, 1.0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_people_of_a_withheld_response_forgotten_the_referee_counts_resend_131049() {
    with_withheld_people_forgotten(|scenario| {
        scenario.faults.refuse.0.insert(131_049, 1.0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_contact_hours_of_a_number_the_referee_counts_contact_hours() {
    let mut scenario = scenario();
    for template in &mut scenario.templates {
        template.category = "MARKETING".into();
    }
    let hours = json!({"prefix": "54", "zone": "UTC", "days": {}});
    scenario.referee.contact_hours = vec![serde_json::from_value(hours).expect("contact hours")];
    let stage = Stage::start(scenario, "").await;
    campaign(&stage, "order_update", 20).await;
    until_broken(&stage, "contact_hours").await;
    only(&stage, "contact_hours");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_cap_of_the_business_the_referee_counts_frequency_cap() {
    let mut scenario = scenario();
    let frequency_cap = Some(FrequencyCap { messages: 1, days: 7 });
    scenario.businesses =
        vec![Business { id: "1001".into(), limit: MessagingLimit::Unlimited, pacing: None, frequency_cap }];
    for template in &mut scenario.templates {
        template.category = "MARKETING".into();
    }
    let stage = Stage::start(scenario, "").await;
    for _ in 0..2 {
        let id = campaign(&stage, "order_update", 20).await;
        completes(&stage, &id).await;
    }
    only(&stage, "frequency_cap");
}
