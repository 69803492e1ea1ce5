//! Templates that change while campaigns run: pacing, pauses, edits, categories. Meta is the simulator, and its ledger
//! is compared with the statistics.

use std::{collections::HashMap, net::Ipv4Addr, time::Duration};

use pregon::{
    domain::{Hold, HoldScope, MetaCode, Settled, State, UnixMs},
    redis::Store,
    sim::{
        Scenario, Sim,
        scenario::{Business, Limits, MessagingLimit, Pacing, PacingOutcome, Target},
    },
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::{
    hooks::{self, APP_SECRET, Hooks, Message, statuses},
    redis::TestRedis,
    server::{Api, Installation, Server},
    until, world,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// How many messages Meta accepts before it holds the next ones.
const FIRST: u64 = 10;
const RECIPIENTS: u64 = 60;
/// The hold on the template of these tests.
const TEMPLATE: &str = "template:2001/order_update/es_AR";
/// The call to unpause it.
const UNPAUSE: &str = "templates/2001/order_update/es_AR/unpause";

/// A worker, Redis and the simulator. Fields are dropped in this order.
struct Stage {
    server: Server,
    sim: Sim,
    http: reqwest::Client,
    redis: TestRedis,
    _installation: Installation,
    _stop: DropGuard,
}

impl Stage {
    /// `rate`: messages per second of line 3001.
    async fn start(mut scenario: Scenario, rate: f64) -> Self {
        let redis = TestRedis::start().await;
        // The simulator's port is bound before the worker starts, and served afterwards: each needs the other's
        // address.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let meta = format!("http://{}", listener.local_addr().expect("an address"));
        let installation = Installation::new(&redis, &meta, &[("3001", rate)], "");
        let token = [("PREGON_TEST_ACCESS_TOKEN", "sim-token-2001")];
        let server = installation.serve_with("w1", "api,webhook,dispatch", &token).await;
        scenario.wabas[0].webhook = Some(Target { url: server.webhook(), app_secret: APP_SECRET.into() });
        let stop = CancellationToken::new();
        let sim = Sim::start(scenario, listener, stop.clone()).await.expect("the simulator");
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { server, sim, http, redis, _installation: installation, _stop: stop.drop_guard() }
    }

    fn api(&self) -> Api {
        self.server.api()
    }

    async fn campaign(&self) -> String {
        let first = 5_491_100_000_000;
        self.api().campaign(&["3001"], first..first + RECIPIENTS, json!({})).await
    }

    async fn statistics(&self, id: &str) -> Value {
        let campaign = self.api().get(&format!("campaigns/{id}")).await;
        let statistics = campaign["statistics"].clone();
        let count = |path: &str| statistics.pointer(path).and_then(Value::as_u64).expect("a number");
        assert!(count("/held") <= count("/by_state/accepted"), "{statistics}");
        let by_state = statistics["by_state"].as_object().expect("an object").values();
        assert_eq!(by_state.filter_map(Value::as_u64).sum::<u64>(), RECIPIENTS, "{statistics}");
        statistics
    }

    async fn hold(&self, id: &str) -> Option<Value> {
        let holds = self.api().get("holds").await;
        holds["holds"].as_array().expect("a list").iter().find(|hold| hold["id"] == id).cloned()
    }

    /// Waits until the hold with this id satisfies `is_right`, and returns it.
    async fn wait_for_hold(&self, id: &str, is_right: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        until("the hold is there", async || {
            found = self.hold(id).await.filter(&is_right);
            found.is_some()
        })
        .await;
        found.expect("a hold")
    }

    /// Changes the simulator: the template of the tests with `what` = `template`.
    async fn control(&self, what: &str, mut body: Value) {
        if what == "template" {
            body["name"] = "order_update".into();
            body["language"] = "es_AR".into();
        }
        let url = format!("http://{}/sim/{what}", self.sim.addr());
        let answer = self.http.post(url).json(&body).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK, "{body}");
    }

    /// The components of the template, as Meta lists them.
    async fn components(&self) -> Value {
        let list = "v25.0/2001/message_templates?name=order_update&language=es_AR&fields=components";
        let request = self.http.get(format!("http://{}/{list}", self.sim.addr())).bearer_auth("sim-token-2001");
        let listed: Value = request.send().await.expect("an answer").json().await.expect("JSON");
        listed["data"][0]["components"].clone()
    }

    /// Waits for the end of the campaign and for the last status. Everybody got one message, and no rule was broken.
    async fn all_delivered_once(&self, id: &str) {
        self.api().wait_for_state(id, "completed", PATIENCE).await;
        self.sim.idle().await;
        let mut statistics = Value::Null;
        until("every status counts", async || {
            statistics = self.statistics(id).await;
            statistics["funnel"]["delivered"] == RECIPIENTS
        })
        .await;
        assert_eq!((&statistics["held"], &statistics["failures"]), (&json!(0), &json!([])), "{statistics}");
        let total = self.sim.ledger().total;
        assert_eq!((total.unique_recipients, total.recipients_reached_twice), (RECIPIENTS, 0), "{total:?}");
        assert!(total.violations.values().all(|count| *count == 0), "{:?}", total.violations);
    }
}

/// The scenario `calm` for business 1001, with a rate that no test reaches and without the limit for pairs.
fn calm() -> Scenario {
    let mut scenario = Scenario::named("calm").expect("it comes with the program");
    scenario.limits = Limits { pair: false, ..Limits::default() };
    scenario.lines.iter_mut().for_each(|line| line.messages_per_second = 1_000_000);
    scenario.wabas[0].business = "1001".into();
    scenario
}

fn pacing(outcome: PacingOutcome, release_after: Duration) -> Option<Pacing> {
    Some(Pacing { after: FIRST, release_after, outcome })
}

fn template_paced(outcome: PacingOutcome) -> Scenario {
    let mut scenario = calm();
    let mut templates = scenario.templates.iter_mut();
    let ours = templates.find(|template| (&*template.name, &*template.language) == ("order_update", "es_AR"));
    ours.expect("the template").pacing = pacing(outcome, Duration::from_secs(4));
    scenario
}

#[tokio::test]
async fn held_messages_are_shown_and_waited_for_until_meta_releases_them() {
    let stage = Stage::start(template_paced(PacingOutcome::Release), 500.0).await;
    let id = stage.campaign().await;
    until("the messages after the first are held", async || {
        let statistics = stage.statistics(&id).await;
        statistics["held"] == RECIPIENTS - FIRST && statistics["funnel"]["accepted"] == RECIPIENTS
    })
    .await;
    assert_eq!(stage.api().get(&format!("campaigns/{id}")).await["state"], "running", "Meta may still return them");
    stage.all_delivered_once(&id).await;
    assert_eq!(stage.sim.ledger().total.duplicate_messages, 0);
}

#[tokio::test]
async fn messages_dropped_by_template_pacing_are_sent_after_an_unpause() {
    let stage = Stage::start(template_paced(PacingOutcome::Drop), 500.0).await;
    let id = stage.campaign().await;
    let (status, not_paused) = stage.api().call(Method::POST, UNPAUSE, None).await;
    assert_eq!((status, &not_paused["type"]), (409, &json!("urn:pregon:problem:template-not-paused")), "{not_paused}");
    until("the held messages came back", async || {
        let statistics = stage.statistics(&id).await;
        statistics["held"] == 0 && statistics["by_state"]["pending"] == RECIPIENTS - FIRST
    })
    .await;
    let hold = stage.wait_for_hold(TEMPLATE, |hold| hold["code"] == 132_015).await;
    assert_eq!(hold["until"], Value::Null, "a pause by pacing does not end by itself: {hold}");
    let waiting = stage.statistics(&id).await["waiting_for"][0].clone();
    assert_eq!(waiting["reason"], "template_paused", "{waiting}");

    for (path, status, kind) in [
        ("templates/2001/no_such_template/es_AR/unpause", 404, "template-not-found"),
        ("templates/2009/order_update/es_AR/unpause", 404, "template-not-found"),
    ] {
        let (given, problem) = stage.api().call(Method::POST, path, None).await;
        let kind = format!("urn:pregon:problem:{kind}");
        assert_eq!((given, problem["type"].as_str()), (status, Some(kind.as_str())), "{problem}");
    }
    let unpaused = stage.api().post(UNPAUSE).await;
    assert_eq!(unpaused, json!({"waba": "2001", "name": "order_update", "language": "es_AR"}));
    stage.all_delivered_once(&id).await;
    assert_eq!(stage.hold(TEMPLATE).await, None);
}

#[tokio::test]
async fn messages_dropped_by_portfolio_pacing_hold_the_business() {
    let mut scenario = calm();
    let pacing = pacing(PacingOutcome::Drop, Duration::from_secs(4));
    scenario.businesses =
        vec![Business { id: "1001".into(), limit: MessagingLimit::Unlimited, pacing, frequency_cap: None }];
    let stage = Stage::start(scenario, 500.0).await;
    let id = stage.campaign().await;
    let hold = stage.wait_for_hold("business:1001", |hold| hold["code"] == 135_000).await;
    assert_eq!((&hold["until"], &hold["lifted_by"]), (&Value::Null, &json!(["person"])), "{hold}");
    until("the held messages came back", async || {
        let statistics = stage.statistics(&id).await;
        statistics["held"] == 0 && statistics["by_state"]["pending"] == RECIPIENTS - FIRST
    })
    .await;
    let reinstated = json!({"business": "1001", "event": "DISABLED_UPDATE", "state": "REINSTATE"});
    stage.control("account", reinstated).await;
    until("the restriction of the WABA has ended", async || stage.hold("waba:2001").await.is_none()).await;
    assert_eq!(stage.statistics(&id).await["by_state"]["pending"], RECIPIENTS - FIRST, "the business is still held");
    stage.api().post("holds/business:1001/lift").await;
    stage.all_delivered_once(&id).await;
}

#[tokio::test]
async fn a_pause_for_quality_ends_by_itself() {
    let stage = Stage::start(calm(), 5.0).await;
    let id = stage.campaign().await;
    stage.control("template", json!({"status": "PAUSED", "for": "4s"})).await;
    // A refused message (132015) may hold the template before the webhook does.
    let by_webhook = |hold: &Value| hold["reason"].as_str().is_some_and(|reason| reason.starts_with("Meta says"));
    let hold = stage.wait_for_hold(TEMPLATE, by_webhook).await;
    let at = |field: &str| UnixMs::parse(hold[field].as_str().expect("a time")).expect("a time");
    assert_eq!(at("until").since(at("since")), Duration::from_secs(3 * 3_600 + 60), "{hold}");
    assert_eq!(hold["lifted_by"][0], "time", "{hold}");
    // Here, Meta ends the pause earlier, and reports that.
    until("the hold is lifted", async || stage.hold(TEMPLATE).await.is_none()).await;
    stage.all_delivered_once(&id).await;
}

#[tokio::test]
async fn an_edit_that_no_longer_fits_pauses_a_running_campaign() {
    // Slow enough that the campaign is paused before Meta has refused five messages in a row.
    let stage = Stage::start(calm(), 1.0).await;
    let id = stage.campaign().await;
    let before = stage.components().await;
    stage.control("template", json!({"components": [{"type": "BODY", "text": "Hola {{1}}."}]})).await;
    let paused = stage.api().wait_for_state(&id, "paused", PATIENCE).await;
    let reason = paused["reason"]["details"].as_str().expect("a reason");
    assert!(reason.contains("the body takes 1 value now, and took 2"), "{reason}");
    assert_eq!(paused["reason"]["code"], 0, "not because of a refusal: {paused}");
    // The edit is undone, and the campaign continues.
    stage.control("template", json!({"components": before})).await;
    until("the list has the template again", async || {
        stage.api().call(Method::POST, &format!("campaigns/{id}/resume"), None).await.0 == 200
    })
    .await;
    stage.api().post(&format!("campaigns/{id}/cancel")).await;
}

#[tokio::test]
async fn a_change_of_category_acts_on_running_campaigns() {
    let stage = Stage::start(calm(), 500.0).await;
    let store = Store::connect(&world::address(&stage.redis)).await.expect("a store");
    let since = store.time().await.expect("the time");
    let capped = Hold { code: Some(MetaCode(131_064)), reason: "the cap".into(), since, until: None };
    store.hold(&HoldScope::Utility("2001".into()), &capped).await.expect("redis");
    let id = stage.campaign().await;
    until("the campaign waits", async || stage.statistics(&id).await["waiting_for"][0]["code"] == 131_064).await;
    stage.control("template", json!({"category": "MARKETING"})).await;
    stage.all_delivered_once(&id).await;
    assert!(stage.hold("utility:2001").await.is_some(), "the cap is still there");
}

#[tokio::test]
async fn a_change_of_quality_is_shown_with_the_template() {
    let stage = Stage::start(calm(), 5.0).await;
    let quality = async || {
        let templates = stage.api().get("templates").await;
        let all = templates["templates"].as_array().expect("a list").iter();
        let ours = |template: &&Value| template["name"] == "order_update" && template["language"] == "es_AR";
        all.clone().find(ours).map(|template| template["quality_score"].clone())
    };
    until("the templates are read", async || quality().await == Some("GREEN".into())).await;
    stage.control("template", json!({"quality": "YELLOW"})).await;
    until("the quality is shown", async || quality().await == Some("YELLOW".into())).await;
}

#[tokio::test]
async fn only_a_held_message_is_dropped() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 3).await;
    let ours = &messages[&"3001".into()];
    let held = |message: &Message| (*message, Settled::Held(message.wamid().as_str().into()));
    hooks.settle([held(&ours[0]), held(&ours[1]), (ours[2], hooks::accepted(&ours[2]))]).await;
    assert_eq!(hooks.counts(id).await.held, 2);
    let template = hooks.record(id).await.campaign.template;
    let (template, business) = (
        HoldScope::of_template(&"2001".into(), &template.name, &template.language),
        HoldScope::Business("1001".into()),
    );
    let now = hooks.clock.now();
    // A hold that Pregón set because Meta refused a message during the same pause.
    let refused =
        Hold { code: Some(MetaCode(132_015)), reason: String::new(), since: now, until: Some(now.after(PATIENCE)) };
    hooks.store.hold(&template, &refused).await.expect("redis");
    let ends = async |scope: &HoldScope| {
        hooks.store.holds(now).await.expect("redis").get(scope).map(|hold| (hold.code, hold.until))
    };
    let report = async |message: &Message, word: &str| {
        assert_eq!(hooks.deliver(&statuses("3001", &[hooks.status(message, word)])).await, 200);
    };
    for _ in 0..2 {
        report(&ours[0], "failed 132015").await;
        assert_eq!(ends(&template).await, Some((Some(MetaCode(132_015)), None)));
        report(&ours[2], "failed 135000").await;
        assert_eq!(ends(&business).await, None, "it is about the message");
    }
    report(&ours[1], "failed 135000").await;
    assert_eq!(ends(&business).await, Some((Some(MetaCode(135_000)), None)));
    let counts = hooks.counts(id).await;
    assert_eq!((counts.held, counts.by_state), (0, HashMap::from([(State::Pending, 2), (State::Failed, 1)])));
    hooks.stop().await;
}

#[tokio::test]
async fn an_answer_to_a_message_does_not_shorten_a_hold() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let scope = HoldScope::Line("3001".into());
    let since = store.time().await.expect("the time");
    let hold = |hours: Option<u64>| {
        let until = hours.map(|hours| since.after(Duration::from_secs(hours * 3_600)));
        Hold { code: None, reason: format!("{hours:?}"), since, until }
    };
    for (new, expected) in [(Some(3), Some(3)), (Some(1), Some(3)), (Some(6), Some(6)), (None, None), (Some(9), None)] {
        store.hold_at_least(&scope, &hold(new)).await.expect("redis");
        assert_eq!(store.holds(since).await.expect("redis")[&scope], hold(expected), "{new:?}");
    }
}
