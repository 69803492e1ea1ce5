//! The rate of a line that follows what Meta allows, as the simulator's referee measures it.

use std::{net::Ipv4Addr, time::Duration};

use pregon::sim::{
    Scenario, Sim, Tally,
    scenario::{Limits, Target},
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    ONE_AT_A_TIME,
    support::{
        self,
        hooks::APP_SECRET,
        redis::TestRedis,
        server::{Api, Installation, Server},
    },
};

const FIRST: u64 = 5_491_150_000_000;
const PATIENCE: Duration = Duration::from_secs(120);
const ENVIRONMENT: [(&str, &str); 1] = [("PREGON__DISPATCH__HEADROOM", "0.1")];

/// The simulator, and a server whose lines follow what the simulator allows.
struct Stage {
    sim: Sim,
    base: String,
    installation: Installation,
    server: Server,
    _redis: TestRedis,
    _stop: DropGuard,
}

impl Stage {
    /// `lines`: for each line its rate at Meta, and whether its number is used in the Business app.
    async fn start(lines: &[(u32, bool)]) -> Self {
        let redis = TestRedis::start().await;
        // The simulator's port is bound before the server starts, and served afterwards: each needs the other's
        // address.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let mut scenario = Scenario::named("calm").expect("it comes with the program");
        scenario.limits = Limits { pair: false, ..Limits::default() };
        scenario.wabas[0].token = "token-2001".into();
        scenario.lines.truncate(lines.len());
        let mut config = String::new();
        for (line, (rate, is_on_biz_app)) in scenario.lines.iter_mut().zip(lines) {
            (line.messages_per_second, line.is_on_biz_app) = (*rate, *is_on_biz_app);
            config += &format!("[[line]]\nid = \"{}\"\nwaba = \"2001\"\n", line.id);
        }
        let installation = Installation::new(&redis, &base, &[], "").with(&config);
        let server = installation.serve_with("w1", "api,webhook,dispatch", &ENVIRONMENT).await;
        scenario.wabas[0].webhook = Some(Target { url: server.webhook(), app_secret: APP_SECRET.into() });
        let stop = CancellationToken::new();
        let sim = Sim::start(scenario, listener, stop.clone()).await.expect("the simulator");
        Self { sim, base, installation, server, _redis: redis, _stop: stop.drop_guard() }
    }

    fn api(&self) -> Api {
        self.server.api()
    }

    async fn line(&self, id: &str) -> Value {
        self.api().get(&format!("lines/{id}")).await
    }

    /// Waits until the line has this rate, from this source.
    async fn wait_for_rate(&self, id: &str, rate: f64, source: &str) {
        support::until("the line has its rate", async || {
            let line = self.line(id).await;
            line["messages_per_second"] == rate && line["rate_source"] == source
        })
        .await;
    }

    async fn set_rate(&self, id: &str, rate: Value) {
        let body = json!({ "messages_per_second": rate });
        let (status, answer) = self.api().call(Method::PATCH, &format!("lines/{id}"), Some(body)).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// Waits until the simulator has received this many sends on the line.
    async fn wait_for_requests(&self, id: &str, n: u64) {
        support::until("messages are sent", async || self.tally(id).requests >= n).await;
    }

    fn tally(&self, id: &str) -> Tally {
        self.sim.ledger().lines[id].clone()
    }

    /// Checks that no message on the line was too fast.
    fn assert_no_violation(&self, id: &str) {
        let tally = self.tally(id);
        println!("line {id}: {:?}, {:?}", tally.rates, tally.answers);
        assert_eq!((tally.violations["rate"], tally.answers.get("130429")), (0, None), "line {id}");
    }

    /// People write to a line this often, until the task is aborted.
    fn receive(&self, line: &str, every: Duration) -> JoinHandle<()> {
        let (url, line, client) = (format!("{}/sim/inbound", self.base), line.to_owned(), support::http_client());
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(every);
            for person in 0.. {
                ticks.tick().await;
                let from = format!("+{}", FIRST - 1 - person % 1_000);
                let message = json!({ "line": line, "from": from, "text": "hola" });
                let answer = client.post(&url).json(&message).send().await.expect("an answer");
                assert_eq!(answer.status(), 200);
            }
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_by_webhook_raises_the_rate_of_a_running_line() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let stage = Stage::start(&[(80, false)]).await;
    stage.wait_for_rate("3001", 80.0, "meta").await;
    let id = stage.api().campaign(&["3001"], FIRST..FIRST + 1_500, json!({})).await;
    stage.wait_for_requests("3001", 100).await;
    let upgrade = json!({"id": "3001", "messages_per_second": 1_000, "for": "200ms"});
    let answer = support::http_client().post(format!("{}/sim/line", stage.base)).json(&upgrade).send().await;
    assert_eq!(answer.expect("an answer").status(), 200);
    stage.wait_for_rate("3001", 1_000.0, "meta").await;
    let held = stage.line("3001").await;
    assert_eq!(held["holds"][0]["code"], 131_057, "Meta refuses sends during the upgrade: {held}");
    stage.api().post("lines/3001/resume").await;
    stage.api().wait_for_state(&id, "completed", PATIENCE).await;
    stage.assert_no_violation("3001");
    let rates = stage.tally("3001").rates.expect("the rates of a line");
    assert!(rates.requests_in_1s_max > 100, "{rates:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_leave_room_for_the_messages_of_people() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let stage = Stage::start(&[(80, true), (80, false)]).await;
    stage.wait_for_rate("3001", 20.0, "meta").await;
    stage.wait_for_rate("3002", 80.0, "meta").await;
    assert_eq!(stage.line("3002").await["allowance"], 80.0);
    let people = [("3001", 200), ("3002", 40)].map(|(line, ms)| stage.receive(line, Duration::from_millis(ms)));
    support::until("the lines leave room", async || {
        let rates = [stage.line("3001").await, stage.line("3002").await].map(|line| line["allowed_now"].as_f64());
        matches!(rates, [Some(first), Some(second)] if first < 13.0 && second < 50.0)
    })
    .await;
    let campaigns = [
        stage.api().campaign(&["3001"], FIRST..FIRST + 100, json!({})).await,
        stage.api().campaign(&["3002"], FIRST..FIRST + 400, json!({})).await,
    ];
    for id in campaigns {
        stage.api().wait_for_state(&id, "completed", PATIENCE).await;
    }
    people.iter().for_each(JoinHandle::abort);
    for line in ["3001", "3002"] {
        stage.assert_no_violation(line);
        assert!(stage.tally(line).inbound > 0);
    }
    support::until("the campaigns have the whole rate again", async || stage.line("3002").await["allowed_now"] == 72.0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rate_of_an_operator_wins_over_meta_and_survives_a_restart() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut stage = Stage::start(&[(80, false)]).await;
    stage.wait_for_rate("3001", 80.0, "meta").await;
    for (rate, allowed) in [(200.0, 180.0), (40.0, 36.0)] {
        stage.set_rate("3001", json!(rate)).await;
        stage.wait_for_rate("3001", rate, "operator").await;
        support::until("the owner obeys", async || stage.line("3001").await["allowed_now"] == allowed).await;
    }
    stage.server.signal("TERM");
    stage.server.ended().await;
    stage.server = stage.installation.serve_with("w2", "api,webhook,dispatch", &ENVIRONMENT).await;
    let line = stage.line("3001").await;
    assert_eq!((&line["messages_per_second"], &line["allowance"]), (&json!(40.0), &json!(80.0)), "{line}");
    support::until("the next owner obeys", async || stage.line("3001").await["allowed_now"] == 36.0).await;
    let id = stage.api().campaign(&["3001"], FIRST..FIRST + 150, json!({})).await;
    stage.api().wait_for_state(&id, "completed", PATIENCE).await;
    stage.assert_no_violation("3001");
    let rates = stage.tally("3001").rates.expect("the rates of a line");
    assert!(rates.requests_in_1s_max <= 42, "{rates:?}");
    stage.set_rate("3001", Value::Null).await;
    stage.wait_for_rate("3001", 80.0, "meta").await;
}
