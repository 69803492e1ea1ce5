//! The same thing again and again through one campaign: workers killed or stopped in turn, Redis killed.
//!
//! Meta takes every message here and tells of each that it was sent: whoever is unknown in the end, she never saw.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use serde_json::json;

use crate::{
    schedule::{Fsync, LINES},
    stage::Stage,
    support::{
        self,
        hostile::{self, Conduct, Courier, Meta, Reply, Sent, Status, worst_second},
        server::Api,
    },
};

const FIRST: u64 = 5_491_190_000_000;
/// Between the end of one worker and that of the other.
const TURN: Duration = Duration::from_millis(1_200);
/// Of each line, a second.
const RATE: u64 = 200;
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes every message, answers soon, and tells that it was sent.
struct Honest;

impl Conduct for Honest {
    fn send(&mut self, sent: Sent, courier: &Courier) -> Reply {
        let wamid = hostile::wamid(&sent.to, 1);
        let answer = hostile::accepted(&sent.to, &wamid);
        let Sent { line, to, token, .. } = sent;
        courier.tell(Duration::from_millis(100), Status { line, to, wamid, token: Some(token), word: "sent".into() });
        Reply::of(answer, Duration::from_millis(20))
    }
}

/// A campaign under way.
struct Campaign {
    stage: Stage,
    api: Api,
    id: String,
    recipients: u64,
}

impl Campaign {
    async fn launch(roles: &[&'static str], recipients: u64) -> Self {
        let meta = Meta::start(Honest, support::seed());
        let stage = Stage::set(Fsync::Everysec, [RATE; 3], roles, meta, |_| false).await;
        let api = Api::at(&stage.front.url());
        let id = api.campaign(&LINES, FIRST..FIRST + recipients, json!({})).await;
        Self { stage, api, id, recipients }
    }

    /// Whether anybody has still to be sent to.
    async fn goes_on(&self) -> bool {
        let campaign = self.api.get(&format!("campaigns/{}", self.id)).await;
        let by_state = &campaign["statistics"]["by_state"];
        ["pending", "retrying", "in_flight"].iter().any(|state| by_state[state] != 0)
    }

    /// Waits for the end, and checks what holds in any case: every recipient is `sent` if Meta has its message and
    /// `unknown` if she never saw it, nobody has two, no line was too fast, the counts are those. Gives how many are unknown.
    async fn ends(self) -> u64 {
        let completed = self.api.reaches(&self.id, "completed", PATIENCE).await;
        support::until("every status is told", async || self.stage.meta.is_idle()).await;
        let arrivals = self.stage.meta.arrivals();
        let mut messages: HashMap<&str, u64> = HashMap::new();
        arrivals.iter().for_each(|arrival| *messages.entry(&arrival.to).or_default() += 1);
        let twice: Vec<_> = messages.iter().filter(|(_, n)| **n > 1).collect();
        assert!(twice.is_empty(), "two messages: {twice:?}");
        for line in LINES {
            let worst = worst_second(&arrivals, line);
            assert!(worst as u64 <= RATE * 105 / 100, "line {line} got {worst} messages within a second");
        }
        let shown = self.api.recipients(&self.id).await;
        assert_eq!(shown.len() as u64, self.recipients, "{completed}");
        let mut by_state: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for recipient in &shown {
            let text = |key: &str| recipient[key].as_str().expect("text");
            by_state.entry(text("state")).or_default().insert(text("to").trim_start_matches('+'));
        }
        let numbers: Vec<String> = (FIRST..FIRST + self.recipients).map(|to| to.to_string()).collect();
        let unseen: BTreeSet<&str> =
            numbers.iter().map(String::as_str).filter(|to| !messages.contains_key(to)).collect();
        let unknown = by_state.remove("unknown").unwrap_or_default();
        println!("{} sent, {} never seen by Meta, {} unknown", messages.len(), unseen.len(), unknown.len());
        assert_eq!(unknown, unseen, "unknown, and never seen by Meta");
        assert_eq!(by_state.into_keys().collect::<Vec<_>>(), ["sent"], "all others");
        let campaign = self.api.get(&format!("campaigns/{}", self.id)).await;
        let counted = |state: &str| campaign["statistics"]["by_state"][state].as_u64();
        assert_eq!((counted("sent"), counted("unknown")), (Some(messages.len() as u64), Some(unknown.len() as u64)));
        assert_eq!(self.stage.problems(), Vec::<String>::new());
        unknown.len() as u64
    }
}

/// One takes calls and webhooks, and two send.
const TWO_SEND: [&str; 3] = ["api,webhook", "dispatch", "dispatch"];

async fn killed_in_turn(recipients: u64) {
    let campaign = Campaign::launch(&TWO_SEND, recipients).await;
    let mut kills = 0;
    let mut turns = tokio::time::interval(TURN);
    turns.tick().await;
    while campaign.goes_on().await {
        turns.tick().await;
        let worker = 1 + kills % 2;
        campaign.stage.kill_worker(worker).await;
        campaign.stage.start_worker(worker).await;
        kills += 1;
    }
    let unknown = campaign.ends().await;
    println!("{kills} workers killed");
    assert!(kills >= 2 && unknown > 0, "{kills} killed, {unknown} unknown");
}

async fn stopped_in_turn(recipients: u64) {
    let campaign = Campaign::launch(&TWO_SEND, recipients).await;
    let mut stops = 0;
    let mut turns = tokio::time::interval(TURN);
    turns.tick().await;
    while campaign.goes_on().await {
        turns.tick().await;
        let worker = 1 + stops % 2;
        campaign.stage.stop_worker(worker).await;
        campaign.stage.start_worker(worker).await;
        stops += 1;
    }
    assert_eq!(campaign.ends().await, 0, "unknown after {stops} clean stops");
    assert!(stops >= 2, "{stops} stopped");
}

async fn redis_killed_three_times(recipients: u64) {
    let campaign = Campaign::launch(&["api,webhook,dispatch", "dispatch"], recipients).await;
    // Each time it forgets what came last, and the last time it is away longer than a lease.
    for (quarter, forgets_ms, down_ms) in [(1, 300, 200), (2, 600, 1_000), (3, 1_000, 3_500)] {
        let sent = (recipients * quarter / 4) as usize;
        support::until("messages are sent", async || campaign.stage.meta.requests() >= sent).await;
        let [forgets, down] = [forgets_ms, down_ms].map(Duration::from_millis);
        let forgotten = campaign.stage.kill_redis(Some(forgets), down).await;
        println!("{forgotten} bytes forgotten");
    }
    campaign.ends().await;
}

const SHORT: u64 = 1_200;
const LONG: u64 = 12_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_meta_never_saw_of_workers_killed_in_turn_is_what_is_unknown() {
    killed_in_turn(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_unknown_of_workers_stopped_in_turn() {
    stopped_in_turn(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_goes_twice_when_redis_is_killed_three_times_and_forgets() {
    redis_killed_three_times(3 * SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: make torture"]
async fn what_meta_never_saw_of_workers_killed_in_turn_is_what_is_unknown_of_12_000() {
    killed_in_turn(LONG).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: make torture"]
async fn nothing_is_unknown_of_workers_stopped_in_turn_of_12_000() {
    stopped_in_turn(LONG).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: make torture"]
async fn nothing_is_lost_or_goes_twice_when_redis_is_killed_three_times_and_forgets_of_12_000() {
    redis_killed_three_times(LONG).await;
}
