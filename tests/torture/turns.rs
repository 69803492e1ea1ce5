//! One fault repeated throughout a campaign: workers killed or stopped in turn, Redis killed.
//!
//! The fake Meta accepts every message and reports it as sent, so every recipient that ends as unknown is one that
//! Meta never saw.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    thread,
    time::{Duration, Instant},
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
/// The time between two kills or stops.
const TURN: Duration = Duration::from_millis(1_200);
/// Messages per second of each line.
const RATE: u64 = 200;
const COMPLETE_WITHIN: Duration = Duration::from_secs(60);

/// Accepts every message, answers after 20 ms, and reports it as sent.
struct AcceptAndReport;

impl Conduct for AcceptAndReport {
    fn send(&mut self, sent: Sent, courier: &Courier) -> Reply {
        let wamid = hostile::wamid(&sent.to, 1);
        let answer = hostile::accepted(&sent.to, &wamid);
        let Sent { line, to, token, .. } = sent;
        courier.report(Duration::from_millis(100), Status { line, to, wamid, token: Some(token), word: "sent".into() });
        Reply::of(answer, Duration::from_millis(20))
    }
}

/// The result of a campaign.
#[derive(Debug)]
pub struct Figures {
    pub fault: &'static str,
    pub times: usize,
    pub recipients: u64,
    /// Recipients with a message at Meta.
    pub sent: usize,
    /// Recipients with more than one message at Meta.
    pub twice: usize,
    pub unknown: usize,
    pub never_seen: usize,
    /// The most messages of any line in one second, in percent of its rate.
    pub worst_percent: f64,
    /// Time from launch to completion.
    pub took: Duration,
}

/// A running campaign.
struct Campaign {
    stage: Stage,
    api: Api,
    id: String,
    recipients: u64,
    launched: Instant,
}

impl Campaign {
    async fn launch(roles: &[&'static str], recipients: u64) -> Self {
        let meta = Meta::start(AcceptAndReport, support::seed());
        let stage = Stage::set(Fsync::Everysec, [RATE; 3], roles, meta, None, |_| false).await;
        let api = Api::at(&stage.front.url());
        let id = api.campaign(&LINES, FIRST..FIRST + recipients, json!({})).await;
        Self { stage, api, id, recipients, launched: Instant::now() }
    }

    /// Whether any message is still to be sent.
    async fn has_work(&self) -> bool {
        let campaign = self.api.get(&format!("campaigns/{}", self.id)).await;
        let by_state = &campaign["statistics"]["by_state"];
        ["pending", "retrying", "in_flight"].iter().any(|state| by_state[state] != 0)
    }

    /// Waits for the end of the campaign, and checks what must hold under every fault: a recipient is `sent` if Meta
    /// has its message and `unknown` if Meta never saw it, none has two messages, no line exceeded its rate, and the
    /// counts are exact.
    async fn complete(self, fault: &'static str, times: usize) -> Figures {
        let completed = self.api.wait_for_state(&self.id, "completed", COMPLETE_WITHIN).await;
        let took = self.launched.elapsed();
        support::until("every status is reported", async || self.stage.meta.is_idle()).await;
        let arrivals = self.stage.meta.arrivals();
        let mut messages: HashMap<&str, u64> = HashMap::new();
        arrivals.iter().for_each(|arrival| *messages.entry(&arrival.to).or_default() += 1);
        let twice: Vec<_> = messages.iter().filter(|(_, n)| **n > 1).collect();
        assert!(twice.is_empty(), "two messages: {twice:?}");
        let worst = LINES.map(|line| worst_second(&arrivals, line));
        assert!(
            worst.iter().all(|worst| *worst as u64 <= RATE * 105 / 100),
            "lines got {worst:?} messages within a second"
        );
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
        assert_eq!(unknown, unseen, "unknown recipients and those never seen by Meta");
        assert_eq!(by_state.into_keys().collect::<Vec<_>>(), ["sent"], "states of all others");
        let campaign = self.api.get(&format!("campaigns/{}", self.id)).await;
        let counted = |state: &str| campaign["statistics"]["by_state"][state].as_u64();
        assert_eq!((counted("sent"), counted("unknown")), (Some(messages.len() as u64), Some(unknown.len() as u64)));
        assert_eq!(self.stage.problems(), Vec::<String>::new());
        let figures = Figures {
            fault,
            times,
            recipients: self.recipients,
            sent: messages.len(),
            twice: twice.len(),
            unknown: unknown.len(),
            never_seen: unseen.len(),
            worst_percent: 100.0 * worst.into_iter().max().unwrap_or(0) as f64 / RATE as f64,
            took,
        };
        println!("{figures:?}");
        figures
    }
}

/// One worker serves the API and webhooks, two send.
const TWO_SEND: [&str; 3] = ["api,webhook", "dispatch", "dispatch"];

async fn killed_in_turn(recipients: u64) -> Figures {
    let campaign = Campaign::launch(&TWO_SEND, recipients).await;
    let mut kills = 0;
    let mut turns = tokio::time::interval(TURN);
    turns.tick().await;
    while campaign.has_work().await {
        turns.tick().await;
        let worker = 1 + kills % 2;
        campaign.stage.kill_worker(worker).await;
        campaign.stage.start_worker(worker).await;
        kills += 1;
    }
    let figures = campaign.complete("two workers killed in turn, every 1.2 s", kills).await;
    assert!(kills >= 2 && figures.unknown > 0, "{figures:?}");
    figures
}

async fn stopped_in_turn(recipients: u64) -> Figures {
    let campaign = Campaign::launch(&TWO_SEND, recipients).await;
    let mut stops = 0;
    let mut turns = tokio::time::interval(TURN);
    turns.tick().await;
    while campaign.has_work().await {
        turns.tick().await;
        let worker = 1 + stops % 2;
        campaign.stage.stop_worker(worker).await;
        campaign.stage.start_worker(worker).await;
        stops += 1;
    }
    let figures = campaign.complete("two workers stopped in turn with SIGTERM", stops).await;
    assert!(stops >= 2 && figures.unknown == 0, "{figures:?}");
    figures
}

async fn redis_killed_three_times(recipients: u64) -> Figures {
    let campaign = Campaign::launch(&["api,webhook,dispatch", "dispatch"], recipients).await;
    // Redis loses its last writes each time, and the last time it is down for longer than a lease.
    for (quarter, forgets_ms, down_ms) in [(1, 300, 200), (2, 600, 1_000), (3, 1_000, 3_500)] {
        let sent = (recipients * quarter / 4) as usize;
        support::until("messages are sent", async || campaign.stage.meta.requests() >= sent).await;
        let [forgets, down] = [forgets_ms, down_ms].map(Duration::from_millis);
        campaign.stage.kill_redis(Some(forgets), down).await;
    }
    campaign.complete("Redis without power, up to 1 s lost", 3).await
}

/// Runs all campaigns one after the other, with this many recipients each. Returns their figures, and how many
/// panicked.
pub fn run_all(recipients: u64) -> (Vec<Figures>, usize) {
    // On a separate thread, so that a panic ends only this campaign.
    let played = [0, 1, 2].map(|number| {
        let run = move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("a runtime").block_on(async {
                match number {
                    0 => killed_in_turn(recipients).await,
                    1 => stopped_in_turn(recipients).await,
                    _ => redis_killed_three_times(recipients).await,
                }
            })
        };
        thread::spawn(run).join()
    });
    let n = played.len();
    let figures: Vec<Figures> = played.into_iter().flatten().collect();
    let panicked = n - figures.len();
    (figures, panicked)
}

const RECIPIENTS: u64 = 1_200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_workers_killed_in_turn_unknown_equals_unseen_by_meta() {
    killed_in_turn(RECIPIENTS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_stopped_in_turn_leave_no_recipient_unknown() {
    // A worker that stops waits until Redis has stored its outcomes, which takes seconds while other tests run.
    // Meanwhile the other worker sends.
    stopped_in_turn(3 * RECIPIENTS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_redis_kills_with_lost_writes_lose_no_message() {
    redis_killed_three_times(3 * RECIPIENTS).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_are_taken_over_in_time_after_a_clock_step_back() {
    let campaign = Campaign::launch(&TWO_SEND, RECIPIENTS).await;
    let sent = RECIPIENTS as usize / 4;
    support::until("messages are sent", async || campaign.stage.meta.requests() >= sent).await;
    campaign.stage.step_clock(-3_600_000).await;
    campaign.stage.kill_worker(1).await;
    campaign.complete("the clock set back an hour, and a worker killed", 1).await;
}
