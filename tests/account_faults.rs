//! Faults of an account that Meta tells by `failed` statuses only: it accepts every send.

mod support;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use reqwest::Method;
use serde_json::{Value, json};
use support::{
    hooks::signature,
    hostile::{Conduct, Courier, Meta, Reply, Sent, Status, accepted, wamid},
    redis::TestRedis,
    server::{Installation, Server},
    until,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// From a send to its status.
const TOLD_AFTER: Duration = Duration::from_millis(20);

/// Accepts every send. While it has a code, each message fails with it; otherwise each is delivered.
#[derive(Clone, Default)]
struct Faulty {
    code: Arc<Mutex<Option<u32>>>,
    /// Statuses come without our token.
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
        courier.tell(TOLD_AFTER, status);
        Reply::of(accepted(&sent.to, &wamid), Duration::ZERO)
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
        meta.tells(server.webhook());
        Self { _redis: redis, _installation: installation, server, faulty, meta }
    }

    async fn campaign(&self, id: &str) -> Value {
        self.server.api().get(&format!("campaigns/{id}")).await
    }

    /// Lets go what is held, as an operator or Meta does once the cause is gone.
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

/// A campaign meets `code` by status: the work waits for `reason`, nobody fails, and everybody is reached in the end.
async fn holds_and_loses_nobody(world: &World, code: u32, reason: &str, first: u64) {
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
    until("every status is told", async || world.meta.is_idle()).await;
    let statistics = world.campaign(&id).await["statistics"].clone();
    assert_eq!(statistics["failures"], json!([]), "{code}: nobody fails for it: {statistics}");
    assert_eq!(statistics["by_state"]["failed"], 0, "{code}: {statistics}");
    assert_eq!(statistics["waiting_for"][0]["reason"], reason, "{code}: sends have stopped: {statistics}");
    assert!(world.meta.requests() > 0, "{code}");
    world.faulty.set(None);
    world.lift().await;
    let completed = world.server.api().reaches(&id, "completed", PATIENCE).await;
    until("every status is told", async || world.meta.is_idle()).await;
    let statistics = world.campaign(&id).await["statistics"].clone();
    assert_eq!(statistics["by_state"]["delivered"], N, "{code}: {completed}");
    assert_eq!(statistics["failures"], json!([]), "{code}");
    let told = world.meta.told();
    for to in first..first + N {
        let to = to.to_string();
        let delivered = told.iter().filter(|status| status.to == to && status.word == "delivered").count();
        assert_eq!(delivered, 1, "{code}: {to}");
    }
}

#[tokio::test]
async fn account_faults_by_status_hold_their_scope_and_lose_nobody() {
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
        holds_and_loses_nobody(&world, code, reason, 5_491_155_000_000 + n as u64 * 1_000).await;
    }
}

#[tokio::test]
async fn account_faults_without_our_token_hold_and_lose_nobody_too() {
    let world = World::start(Faulty { without_token: true, ..Faulty::default() }).await;
    for (n, (code, reason)) in [(131_042, "line_blocked"), (132_015, "template_paused")].into_iter().enumerate() {
        holds_and_loses_nobody(&world, code, reason, 5_491_155_000_000 + n as u64 * 1_000).await;
    }
}

#[tokio::test]
async fn a_streak_that_blames_the_message_pauses_the_campaign() {
    const N: u64 = 150;
    let world = World::start(Faulty::default()).await;
    world.faulty.set(Some(131_053));
    let api = world.server.api();
    let id = api.campaign(&["3001"], 5_491_155_000_000..5_491_155_000_000 + N, json!({})).await;
    let paused = api.reaches(&id, "paused", PATIENCE).await;
    assert_eq!(paused["statistics"]["waiting_for"][0]["code"], 131_053, "{paused}");
    until("every status is told", async || world.meta.is_idle()).await;
    let statistics = world.campaign(&id).await["statistics"].clone();
    let failed = json!([{"code": 131_053, "title": "Outgoing media could not be fetched/uploaded", "count": 19}]);
    let without_details = |failures: &Value| {
        let mut failures = failures.clone();
        for failure in failures.as_array_mut().expect("a list") {
            failure.as_object_mut().expect("an object").remove("details");
        }
        failures
    };
    assert_eq!(without_details(&statistics["failures"]), failed, "those before the pause: {statistics}");
    world.faulty.set(None);
    assert_eq!(api.call(Method::POST, &format!("campaigns/{id}/resume"), None).await.0, 200);
    api.reaches(&id, "completed", PATIENCE).await;
    until("every status is told", async || world.meta.is_idle()).await;
    let statistics = world.campaign(&id).await["statistics"].clone();
    assert_eq!(statistics["by_state"]["delivered"], N - 19, "{statistics}");
    assert_eq!(without_details(&statistics["failures"]), failed, "{statistics}");
}
