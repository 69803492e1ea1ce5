//! Account faults that Meta reports only in `failed` statuses, after it accepted every send.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use pregon::domain::{Hold, HoldScope, MetaCode, UnixMs};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    self,
    hooks::{Hooks, now, signature, status_without_token, statuses},
    hostile::{Conduct, Courier, Meta, Reply, Sent, Status, accepted, wamid},
    redis::TestRedis,
    server::{Installation, Server},
    until,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Time from a send to its status.
const STATUS_DELAY: Duration = Duration::from_millis(20);

/// Of the sends whose failed status lacks our token, one in this many is answered after the status, and this late: the
/// first search for the message finds nothing.
const LATE_EVERY: usize = 3;
const LATE_ANSWER: Duration = Duration::from_millis(1_200);

/// A fake Meta that accepts every send. While `code` is set, each message fails with it; otherwise each is delivered.
#[derive(Clone, Default)]
struct Faulty {
    code: Arc<Mutex<Option<u32>>>,
    /// Whether the failed statuses lack our token.
    without_token: bool,
    sent: Arc<Mutex<HashMap<String, u64>>>,
}

impl Faulty {
    fn set(&self, code: Option<u32>) {
        *self.code.lock().expect("no panic under the lock") = code;
    }
}

impl Conduct for Faulty {
    fn send(&mut self, sent: Sent, courier: &Courier) -> Reply {
        let mut counts = self.sent.lock().expect("no panic under the lock");
        let n = counts.entry(sent.to.clone()).or_default();
        *n += 1;
        let wamid = wamid(&sent.to, *n);
        let code = *self.code.lock().expect("no panic under the lock");
        let status = Status {
            line: sent.line,
            to: sent.to.clone(),
            wamid: wamid.clone(),
            token: (!self.without_token || code.is_none()).then_some(sent.token),
            word: code.map_or("delivered".to_owned(), |code| format!("failed {code}")),
        };
        let reply = Reply::of(accepted(&sent.to, &wamid), Duration::ZERO);
        let is_late = status.token.is_none() && counts.len().is_multiple_of(LATE_EVERY);
        courier.report(STATUS_DELAY, status);
        if is_late { Reply { delay: LATE_ANSWER, ..reply } } else { reply }
    }
}

struct World {
    _redis: TestRedis,
    _installation: Installation,
    server: Server,
    faulty: Faulty,
    meta: Meta,
}

impl World {
    async fn start(faulty: Faulty) -> Self {
        let redis = TestRedis::start().await;
        let meta = Meta::start(faulty.clone(), support::seed());
        let installation = Installation::new(&redis, &meta.url(), &[("3001", 100.0)], "");
        let server = installation.serve("w1", "api,webhook,dispatch").await;
        meta.set_webhook(server.webhook());
        Self { _redis: redis, _installation: installation, server, faulty, meta }
    }

    async fn campaign(&self, id: &str) -> Value {
        self.server.api().get(&format!("campaigns/{id}")).await
    }

    /// Lifts all holds: resumes the line, as an operator does, and reports the template as approved, as Meta does.
    async fn lift(&self) {
        self.server.api().post("lines/3001/resume").await;
        let approved = json!({"entry": [{"id": "2001", "changes": [{"field": "message_template_status_update", "value": {
            "event": "APPROVED", "message_template_name": "order_update", "message_template_language": "es_AR"}}]}]});
        let body = approved.to_string();
        let request = support::http_client().post(self.server.webhook());
        let request = request.header("x-hub-signature-256", signature(body.as_bytes())).body(body);
        assert_eq!(request.send().await.expect("an answer").status(), 200);
    }
}

/// Fails a campaign's messages with `code`: the campaign waits with `reason`, no recipient fails, and after the hold is
/// lifted every recipient gets one message.
async fn holds_and_fails_nobody(world: &World, code: u32, reason: &str, first: u64) {
    const N: u64 = 150;
    world.faulty.set(Some(code));
    let id = world.server.api().campaign(&["3001"], first..first + N, json!({})).await;
    let mut waiting = Value::Null;
    until("the work waits", async || {
        let campaign = world.campaign(&id).await;
        assert_eq!(campaign["state"], "running", "{code}: {campaign}");
        waiting = campaign["statistics"]["waiting_for"][0].clone();
        waiting["reason"] == reason
    })
    .await;
    assert_eq!(waiting["code"], code, "{waiting}");
    until("every status is delivered", async || world.meta.is_idle()).await;
    let statistics = world.campaign(&id).await["statistics"].clone();
    assert_eq!(statistics["failures"], json!([]), "{code}: no recipient fails: {statistics}");
    assert_eq!(statistics["by_state"]["failed"], 0, "{code}: {statistics}");
    assert_eq!(statistics["waiting_for"][0]["reason"], reason, "{code}: sends have stopped: {statistics}");
    assert!(world.meta.requests() > 0, "{code}");
    // A status that came before the response to its send is applied a second later or more. A message that is returned
    // after the campaign has completed would be failed.
    until("every message is returned", async || {
        let statistics = world.campaign(&id).await["statistics"].take();
        statistics["by_state"]["accepted"] == 0
    })
    .await;
    world.faulty.set(None);
    world.lift().await;
    let completed = world.server.api().wait_for_state(&id, "completed", PATIENCE).await;
    until("every status is delivered", async || world.meta.is_idle()).await;
    let statistics = world.campaign(&id).await["statistics"].clone();
    assert_eq!(statistics["by_state"]["delivered"], N, "{code}: {completed}");
    assert_eq!(statistics["failures"], json!([]), "{code}");
    let reported = world.meta.reported();
    for to in first..first + N {
        let to = to.to_string();
        let delivered = reported.iter().filter(|status| status.to == to && status.word == "delivered").count();
        assert_eq!(delivered, 1, "{code}: {to}");
    }
}

#[tokio::test]
async fn account_faults_in_statuses_hold_their_scope_and_fail_nobody() {
    let world = World::start(Faulty::default()).await;
    let table = [
        (131_042, "line_blocked"),
        (131_031, "line_blocked"),
        (368, "line_blocked"),
        (131_048, "line_blocked"),
        (133_010, "line_blocked"),
        (132_015, "template_paused"),
        (190, "token"),
    ];
    for (n, (code, reason)) in table.into_iter().enumerate() {
        holds_and_fails_nobody(&world, code, reason, 5_491_155_000_000 + n as u64 * 1_000).await;
    }
}

#[tokio::test]
async fn account_faults_without_our_token_hold_and_fail_nobody() {
    let world = World::start(Faulty { without_token: true, ..Faulty::default() }).await;
    for (n, (code, reason)) in [(131_042, "line_blocked"), (132_015, "template_paused")].into_iter().enumerate() {
        holds_and_fails_nobody(&world, code, reason, 5_491_155_000_000 + n as u64 * 1_000).await;
    }
}

#[tokio::test]
async fn a_streak_of_failed_messages_pauses_the_campaign() {
    const N: u64 = 150;
    let world = World::start(Faulty::default()).await;
    world.faulty.set(Some(131_053));
    let api = world.server.api();
    let id = api.campaign(&["3001"], 5_491_155_000_000..5_491_155_000_000 + N, json!({})).await;
    let paused = api.wait_for_state(&id, "paused", PATIENCE).await;
    assert_eq!(paused["statistics"]["waiting_for"][0]["code"], 131_053, "{paused}");
    until("every status is delivered", async || world.meta.is_idle()).await;
    let statistics = world.campaign(&id).await["statistics"].clone();
    let failed = json!([{"code": 131_053, "title": "Outgoing media could not be fetched/uploaded", "count": 19}]);
    let without_details = |failures: &Value| {
        let mut failures = failures.clone();
        for failure in failures.as_array_mut().expect("a list") {
            failure.as_object_mut().expect("an object").remove("details");
        }
        failures
    };
    assert_eq!(without_details(&statistics["failures"]), failed, "failed before the pause: {statistics}");
    world.faulty.set(None);
    assert_eq!(api.call(Method::POST, &format!("campaigns/{id}/resume"), None).await.0, 200);
    api.wait_for_state(&id, "completed", PATIENCE).await;
    until("every status is delivered", async || world.meta.is_idle()).await;
    let statistics = world.campaign(&id).await["statistics"].clone();
    assert_eq!(statistics["by_state"]["delivered"], N - 19, "{statistics}");
    assert_eq!(without_details(&statistics["failures"]), failed, "{statistics}");
}

fn template() -> HoldScope {
    HoldScope::Template { waba: "2001".into(), name: "order_update".into(), language: "es_AR".into() }
}

#[tokio::test]
async fn a_failed_status_holds_the_scope_of_its_code() {
    let hooks = Hooks::start().await;
    let (_, messages) = hooks.campaign(&["3001"], 40).await;
    let ours = &messages[&"3001".into()];
    hooks.accept(ours).await;
    let (line, waba, token) =
        (HoldScope::Line("3001".into()), HoldScope::Waba("2001".into()), HoldScope::Token("2001".into()));
    let table = [
        (131_042, Some(waba.clone())),
        (131_031, Some(waba.clone())),
        (368, Some(waba)),
        (131_048, Some(line.clone())),
        (133_010, Some(line.clone())),
        (130_429, Some(line)),
        (0, Some(token.clone())),
        (190, Some(token)),
        (132_015, Some(template())),
        (131_026, None),
        (131_049, None),
        (131_053, None),
        (999_999, None),
    ];
    for ((code, scope), pair) in table.into_iter().zip(ours.chunks(2)) {
        let word = format!("failed {code}");
        let reported = [hooks.status(&pair[0], &word), status_without_token(&pair[1].wamid(), &word)];
        assert_eq!(hooks.deliver(&statuses("3001", &reported)).await, 200, "{code}");
        let holds = hooks.store.holds(now()).await.expect("a store");
        assert_eq!(holds.keys().collect::<Vec<_>>(), scope.iter().collect::<Vec<_>>(), "{code}");
        for (scope, hold) in &holds {
            assert_eq!(
                (hold.code, hold.reason.as_str()),
                (Some(MetaCode(code)), format!("details of {code}").as_str())
            );
            hooks.store.unhold(scope).await.expect("a store");
        }
        // A scope whose hold was just stored is checked against Redis again only after a second.
        tokio::time::sleep(Duration::from_millis(1_050)).await;
    }
    hooks.stop().await;
}

#[tokio::test]
async fn an_account_fault_of_an_unknown_message_holds_only_the_account() {
    let hooks = Hooks::start().await;
    for (code, held) in [(190, 0), (132_015, 0), (131_042, 1)] {
        let reported = [status_without_token("wamid.of-another-app", &format!("failed {code}"))];
        assert_eq!(hooks.deliver(&statuses("3001", &reported)).await, 200);
        assert_eq!(hooks.store.holds(now()).await.expect("a store").len(), held, "{code}");
    }
    assert_eq!(hooks.deliver(&statuses("9999", &[status_without_token("wamid.x", "failed 131048")])).await, 200);
    assert_eq!(hooks.store.holds(now()).await.expect("a store").len(), 1, "a line that is not ours");
    hooks.stop().await;
}

#[tokio::test]
async fn a_repeated_status_does_not_renew_a_lifted_hold() {
    let hooks = Hooks::start().await;
    let (_, messages) = hooks.campaign(&["3001"], 1).await;
    let mut status = hooks.status(&messages[&"3001".into()][0], "failed 131042");
    let waba = HoldScope::Waba("2001".into());
    assert_eq!(hooks.deliver(&statuses("3001", std::slice::from_ref(&status))).await, 200);
    assert!(hooks.store.holds(now()).await.expect("a store").contains_key(&waba));
    hooks.store.unhold(&waba).await.expect("a store");
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    assert_eq!(hooks.deliver(&statuses("3001", std::slice::from_ref(&status))).await, 200);
    assert!(
        hooks.store.holds(now()).await.expect("a store").is_empty(),
        "the status is older than the end of the hold"
    );
    status["timestamp"] = (now().seconds() + 2).to_string().into();
    until("a new one holds again", async || {
        hooks.deliver(&statuses("3001", std::slice::from_ref(&status))).await;
        hooks.store.holds(now()).await.expect("a store").contains_key(&waba)
    })
    .await;
    hooks.stop().await;
}

#[tokio::test]
async fn a_ban_or_restriction_holds_the_waba_until_it_ends() {
    macro_rules! fixture {
        ($name:literal) => {
            include_str!(concat!("../../fixtures/webhooks/", $name, ".json"))
        };
    }
    let hooks = Hooks::start().await;
    let waba = HoldScope::Waba("2001".into());
    let end = UnixMs(4_102_444_805_000);
    let later = |body: &str| body.replace("1795300100", &(now().seconds() + 5).to_string());
    let steps = [
        (fixture!("account_violation").to_owned(), None),
        (fixture!("phone_number_quality").to_owned(), None),
        (fixture!("security").to_owned(), None),
        (fixture!("account_alert").to_owned(), None),
        (fixture!("business_capability").to_owned(), None),
        (fixture!("errors_alone").to_owned(), None),
        (fixture!("account_restricted").replace("\"2001\"", "\"2999\""), None),
        (fixture!("account_restricted").to_owned(), Some(Some(end))),
        (fixture!("account_reinstated").to_owned(), None),
        (fixture!("account_disabled").to_owned(), None),
        (later(fixture!("account_disabled")), Some(None)),
        (fixture!("account_reinstated").to_owned(), Some(None)),
        (later(fixture!("account_reinstated")), None),
    ];
    for (body, held) in steps {
        assert_eq!(hooks.deliver_bytes(body.as_bytes()).await, 200);
        let holds = hooks.store.holds(now()).await.expect("a store");
        assert_eq!(holds.get(&waba).map(|hold| hold.until), held, "{body}");
        assert_eq!(holds.len(), usize::from(held.is_some()), "{holds:?}");
    }
    hooks.stop().await;
}

#[tokio::test]
async fn a_restriction_ends_the_hold_that_a_refused_send_began() {
    let hooks = Hooks::start().await;
    let waba = HoldScope::Waba("2001".into());
    let refusal = Hold { code: Some(MetaCode(368)), reason: "refused".into(), since: now(), until: None };
    hooks.store.hold(&waba, &refusal).await.expect("a store");
    let restriction = include_str!("../../fixtures/webhooks/account_restricted.json");
    assert_eq!(hooks.deliver_bytes(restriction.as_bytes()).await, 200);
    let holds = hooks.store.holds(now()).await.expect("a store");
    assert_eq!(holds[&waba].until, Some(UnixMs(4_102_444_805_000)));
    hooks.stop().await;
}

#[tokio::test]
async fn the_cap_on_utility_messages_holds_only_them_until_meta_ends_it() {
    let hooks = Hooks::start().await;
    let utility = HoldScope::Utility("2001".into());
    let report = |at: u64, value: Value| {
        let changes = [json!({"field": "account_update", "value": value})];
        json!({"entry": [{"id": "2001", "time": at, "changes": changes}]})
    };
    let capped = json!({"event": "ACCOUNT_RESTRICTION", "restriction_info": [
        {"restriction_type": "RATE_LIMITED_UTILITY_TEMPLATE_MESSAGING", "expiration": 4_102_444_800_u64}]});
    let recovered = json!({"event": "ACCOUNT_VIOLATION", "violation_info":
        {"violation_type": "UTILITY_TEMPLATE_ABUSE_RATE_LIMIT_RECOVERY"}});
    let seconds = now().seconds();
    assert_eq!(hooks.deliver(&report(seconds, capped)).await, 200);
    let holds = hooks.store.holds(now()).await.expect("redis");
    let until = UnixMs(4_102_444_805_000);
    assert_eq!(holds.iter().map(|(scope, hold)| (scope, hold.until)).collect::<Vec<_>>(), [(&utility, Some(until))]);
    assert_eq!(hooks.deliver(&report(seconds - 60, recovered.clone())).await, 200);
    assert_eq!(hooks.store.holds(now()).await.expect("redis").len(), 1, "the end of an earlier cap");
    assert_eq!(hooks.deliver(&report(seconds + 1, recovered)).await, 200);
    assert!(hooks.store.holds(now()).await.expect("redis").is_empty());
    hooks.stop().await;
}
