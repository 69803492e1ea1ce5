//! The same thing again and again through one campaign: workers killed or stopped in turn, Redis killed.
//!
//! Meta takes every message here and tells of each that it was sent: whoever is unknown in the end, she never saw.

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
        courier.report(Duration::from_millis(100), Status { line, to, wamid, token: Some(token), word: "sent".into() });
        Reply::of(answer, Duration::from_millis(20))
    }
}

/// What became of a campaign.
#[derive(Debug)]
pub struct Figures {
    pub fault: &'static str,
    pub times: usize,
    pub recipients: u64,
    /// Recipients of whom Meta has a message.
    pub sent: usize,
    /// Those of whom she has more than one.
    pub twice: usize,
    pub unknown: usize,
    pub never_seen: usize,
    /// The worst second of any line, in percent of its rate.
    pub worst_percent: f64,
    /// From the launch to the end.
    pub took: Duration,
}

/// A campaign under way.
struct Campaign {
    stage: Stage,
    api: Api,
    id: String,
    recipients: u64,
    launched: Instant,
}

impl Campaign {
    async fn launch(roles: &[&'static str], recipients: u64) -> Self {
        let meta = Meta::start(Honest, support::seed());
        let stage = Stage::set(Fsync::Everysec, [RATE; 3], roles, meta, |_| false).await;
        let api = Api::at(&stage.front.url());
        let id = api.campaign(&LINES, FIRST..FIRST + recipients, json!({})).await;
        Self { stage, api, id, recipients, launched: Instant::now() }
    }

    /// Whether anybody has still to be sent to.
    async fn goes_on(&self) -> bool {
        let campaign = self.api.get(&format!("campaigns/{}", self.id)).await;
        let by_state = &campaign["statistics"]["by_state"];
        ["pending", "retrying", "in_flight"].iter().any(|state| by_state[state] != 0)
    }

    /// Waits for the end, and checks what holds in any case: every recipient is `sent` if Meta has its message and
    /// `unknown` if she never saw it, nobody has two, no line was too fast, the counts are those.
    async fn ends(self, fault: &'static str, times: usize) -> Figures {
        let completed = self.api.wait_for_state(&self.id, "completed", PATIENCE).await;
        let took = self.launched.elapsed();
        support::until("every status is told", async || self.stage.meta.is_idle()).await;
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
        assert_eq!(unknown, unseen, "unknown, and never seen by Meta");
        assert_eq!(by_state.into_keys().collect::<Vec<_>>(), ["sent"], "all others");
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

/// One takes calls and webhooks, and two send.
const TWO_SEND: [&str; 3] = ["api,webhook", "dispatch", "dispatch"];

async fn killed_in_turn(recipients: u64) -> Figures {
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
    let figures = campaign.ends("two workers killed in turn, every 1.2 s", kills).await;
    assert!(kills >= 2 && figures.unknown > 0, "{figures:?}");
    figures
}

async fn stopped_in_turn(recipients: u64) -> Figures {
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
    let figures = campaign.ends("two workers stopped in turn with SIGTERM", stops).await;
    assert!(stops >= 2 && figures.unknown == 0, "{figures:?}");
    figures
}

async fn redis_killed_three_times(recipients: u64) -> Figures {
    let campaign = Campaign::launch(&["api,webhook,dispatch", "dispatch"], recipients).await;
    // Each time it forgets what came last, and the last time it is away longer than a lease.
    for (quarter, forgets_ms, down_ms) in [(1, 300, 200), (2, 600, 1_000), (3, 1_000, 3_500)] {
        let sent = (recipients * quarter / 4) as usize;
        support::until("messages are sent", async || campaign.stage.meta.requests() >= sent).await;
        let [forgets, down] = [forgets_ms, down_ms].map(Duration::from_millis);
        campaign.stage.kill_redis(Some(forgets), down).await;
    }
    campaign.ends("Redis without power, up to 1 s forgotten", 3).await
}

/// All of them, one after the other, with so many recipients each. Gives what became of them, and how many broke off.
pub fn play(recipients: u64) -> (Vec<Figures>, usize) {
    // On a thread of its own, so that it may break off alone.
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
    let broken = n - figures.len();
    (figures, broken)
}

const SHORT: u64 = 1_200;

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

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lines_of_a_killed_worker_are_taken_over_in_time_though_the_clock_was_set_back_an_hour() {
    let campaign = Campaign::launch(&TWO_SEND, SHORT).await;
    let sent = SHORT as usize / 4;
    support::until("messages are sent", async || campaign.stage.meta.requests() >= sent).await;
    campaign.stage.step_clock(-3_600_000).await;
    campaign.stage.kill_worker(1).await;
    campaign.ends("the clock set back an hour, and a worker killed", 1).await;
}
