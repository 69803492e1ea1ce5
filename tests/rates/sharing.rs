//! Invariants 3, 5 and 6 as Meta sees them: how much a line is used, for whom, from when and until when.
//!
//! One test at a time: they measure rates.

use std::time::{Duration, Instant};

use pregon::{domain::UnixMs, telemetry::clock};
use serde_json::{Value, json};

use crate::{
    ONE_AT_A_TIME,
    support::{
        self,
        hostile::{Arrival, Calm, Meta, rate, worst_second},
        redis::TestRedis,
        server::{Api, Installation, Server},
    },
};

const RATE: f64 = 200.0;
/// 105 % of it.
const WORST_SECOND_MAX: usize = 210;
/// What a line claims at once: what it sends in 50 ms.
const CLAIM: usize = 10;
/// Numbers of the big campaign, and of the other one.
const BIG: u64 = 5_491_160_000_000;
const OTHER: u64 = 5_491_170_000_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// A Meta that takes everything, and a server with all roles.
struct Calmly {
    meta: Meta,
    api: Api,
    _server: Server,
    _redis: TestRedis,
}

impl Calmly {
    async fn start(lines: &[&str]) -> Self {
        let redis = TestRedis::start().await;
        let meta = Meta::start(Calm { latency: Duration::from_millis(20) }, support::seed());
        let lines: Vec<(&str, f64)> = lines.iter().map(|line| (*line, RATE)).collect();
        let installation = Installation::new(&redis, &meta.url(), &lines, "doubt_deadline = \"6s\"");
        let server = installation.serve("all", "api,webhook,dispatch").await;
        Self { meta, api: server.api(), _server: server, _redis: redis }
    }

    /// Waits until so many messages have arrived.
    async fn sent(&self, requests: usize) {
        support::until("messages are sent", async || self.meta.requests() >= requests).await;
    }

    async fn act(&self, id: &str, action: &str) -> Value {
        self.api.post(&format!("campaigns/{id}/{action}")).await
    }

    async fn completed(&self, id: &str) -> Value {
        self.api.reaches(id, "completed", PATIENCE).await
    }
}

/// Recipients of a campaign by state, those that there are.
fn by_state(campaign: &Value) -> Vec<(&str, u64)> {
    let states = campaign["statistics"]["by_state"].as_object().expect("an object").iter();
    states.map(|(state, n)| (state.as_str(), n.as_u64().expect("a count"))).filter(|(_, n)| *n > 0).collect()
}

fn is_big(arrival: &&Arrival) -> bool {
    arrival.to.parse::<u64>().expect("a number") < OTHER
}

fn time_text(at: UnixMs) -> Value {
    serde_json::to_value(at).expect("a time")
}

/// The upper bound holds in every round. Use is lost whenever the machine keeps the worker from running, which is not the
/// worker's doing: the lower bound has to be reached by all lines together in one round of several.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_lines_of_200_a_second_are_used_to_97_percent_and_never_above_105() {
    const ROUNDS: u64 = 6;
    const MESSAGES: u64 = 4_000;
    let _alone = ONE_AT_A_TIME.lock().await;
    let lines = ["3001", "3002", "3003", "3004"];
    let calmly = Calmly::start(&lines).await;
    let mut rates = Vec::new();
    for round in 0..ROUNDS {
        let first = BIG + round * MESSAGES;
        let id = calmly.api.campaign(&lines, first..first + MESSAGES, json!({})).await;
        let campaign = calmly.completed(&id).await;
        assert_eq!(by_state(&campaign), [("accepted", MESSAGES)]);
        let arrivals = calmly.meta.arrivals();
        assert_eq!(arrivals.len() as u64, (round + 1) * MESSAGES);
        for line in lines {
            let worst = worst_second(&arrivals, line);
            assert!(worst <= WORST_SECOND_MAX, "line {line} got {worst} messages within a second");
        }
        rates = lines.map(|line| rate(&arrivals[(round * MESSAGES) as usize..], line)).to_vec();
        println!("{rates:.1?} a second");
        if rates.iter().all(|rate| *rate >= 0.97 * RATE) {
            return;
        }
    }
    panic!("not used to 97 % in any of {ROUNDS} rounds; in the last: {rates:?} a second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_takes_effect_at_once_and_a_cancel_ends_the_rest() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let calmly = Calmly::start(&["3001"]).await;
    let id = calmly.api.campaign(&["3001"], BIG..BIG + 2_000, json!({})).await;
    calmly.sent(300).await;

    assert_eq!(calmly.act(&id, "pause").await["state"], "paused");
    let still = Instant::now() + Duration::from_millis(150);
    tokio::time::sleep(Duration::from_millis(1_150)).await;
    let paused = calmly.meta.arrivals();
    let late = paused.iter().filter(|arrival| arrival.earliest > still).count();
    assert_eq!(late, 0, "messages 150 ms after the answer to the pause");
    let campaign = calmly.api.get(&format!("campaigns/{id}")).await;
    let sent = paused.len() as u64;
    assert_eq!(by_state(&campaign), [("accepted", sent), ("pending", 2_000 - sent)], "what was claimed went back");

    assert_eq!(calmly.act(&id, "resume").await["state"], "running");
    calmly.sent(paused.len() + 300).await;
    assert_eq!(calmly.act(&id, "cancel").await["state"], "cancelled");
    let mut campaign = Value::Null;
    support::until("everything has ended", async || {
        campaign = calmly.api.get(&format!("campaigns/{id}")).await;
        let states = &campaign["statistics"]["by_state"];
        ["pending", "retrying", "in_flight", "in_doubt"].iter().all(|state| states[state] == 0)
    })
    .await;
    let arrivals = calmly.meta.arrivals();
    let sent = arrivals.len() as u64;
    assert!(sent < 2_000);
    assert_eq!(by_state(&campaign), [("accepted", sent), ("cancelled", 2_000 - sent)]);
    assert_eq!(campaign["state"], "cancelled");
    let worst = worst_second(&arrivals, "3001");
    assert!(worst <= WORST_SECOND_MAX, "{worst} messages within a second, over a pause and a resume");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_recipients_do_not_wait_behind_thousands_on_the_same_line() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let calmly = Calmly::start(&["3001"]).await;
    let big = calmly.api.campaign(&["3001"], BIG..BIG + 5_000, json!({})).await;
    calmly.sent(200).await;
    let small = calmly.api.draft(&["3001"], OTHER..OTHER + 10, json!({})).await;
    let before = calmly.meta.requests();
    calmly.act(&small, "launch").await;
    let campaign = calmly.completed(&small).await;
    assert_eq!(by_state(&campaign), [("accepted", 10)]);
    calmly.act(&big, "cancel").await;

    let arrivals = calmly.meta.arrivals();
    let ours: Vec<usize> = (0..arrivals.len()).filter(|at| !is_big(&&arrivals[*at])).collect();
    let (first, last) = (ours[0], ours[ours.len() - 1]);
    println!("{} of the other before the first, {} between", first - before, last - first + 1 - ours.len());
    assert_eq!(ours.len(), 10);
    assert!(
        last - before <= RATE as usize,
        "{} messages of the other went before: more than a second's",
        last - before - 9
    );
    assert!(last - first + 1 - ours.len() <= 2 * CLAIM, "once begun, it has its half of the line");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_is_shared_by_priority() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let calmly = Calmly::start(&["3001"]).await;
    // Both begin at the same moment.
    calmly.api.post("lines/3001/pause").await;
    let low = calmly.api.campaign(&["3001"], BIG..BIG + 1_000, json!({"priority": 2})).await;
    let high = calmly.api.campaign(&["3001"], OTHER..OTHER + 1_000, json!({"priority": 8})).await;
    calmly.api.post("lines/3001/resume").await;
    calmly.sent(1_000).await;
    calmly.act(&low, "cancel").await;
    calmly.act(&high, "cancel").await;
    let arrivals = calmly.meta.arrivals();
    for n in [250, 500, 1_000] {
        let of_low = arrivals[..n].iter().filter(is_big).count();
        println!("{of_low} of {n}");
        assert!(of_low.abs_diff(n / 5) <= 2 * CLAIM, "{of_low} of the first {n}, and a fifth was due");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_sent_by_its_end_expires() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let calmly = Calmly::start(&["3001"]).await;
    // The end is set when the campaign is created, and creating it takes its time.
    let expires_at = UnixMs(clock::now().0 + 4_000);
    let more = json!({"expires_at": time_text(expires_at)});
    let id = calmly.api.campaign(&["3001"], BIG..BIG + 3_000, more).await;
    let campaign = calmly.completed(&id).await;
    let arrivals = calmly.meta.arrivals();
    let sent = arrivals.len() as u64;
    assert!(sent > 0 && sent < 4 * WORST_SECOND_MAX as u64 + 2 * CLAIM as u64, "{sent}");
    assert_eq!(by_state(&campaign), [("accepted", sent), ("expired", 3_000 - sent)]);
    let late = arrivals.iter().filter(|arrival| arrival.at > expires_at).count();
    println!("{sent} sent, {late} of them after the end");
    assert!(late <= 2 * CLAIM, "only what was claimed before the end is sent after it: {late}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_campaign_waits_for_its_start_and_then_goes_out() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let calmly = Calmly::start(&["3001"]).await;
    let start_at = UnixMs(clock::now().0 + 3_000);
    let id = calmly.api.campaign(&["3001"], BIG..BIG + 100, json!({"start_at": time_text(start_at)})).await;
    assert_eq!(calmly.api.get(&format!("campaigns/{id}")).await["state"], "scheduled");
    assert!(clock::now() < start_at, "this machine is too slow to see it wait");
    let campaign = calmly.completed(&id).await;
    assert_eq!(by_state(&campaign), [("accepted", 100)]);
    let first = calmly.meta.arrivals()[0].at;
    // The server's clock is Redis', as far as a round trip tells it.
    assert!(first.0 + 50 >= start_at.0, "{} ms too early", start_at.0 - first.0);
}
