//! The examples that follow the event feed: even if processes are killed, their table equals the statistics in the end.

use std::{
    collections::BTreeMap,
    fs::File,
    net::{Ipv4Addr, TcpListener as StdListener},
    path::PathBuf,
    time::Duration,
};

use deadpool_redis::redis::{Value, cmd};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Child;

use super::{Stage, file};
use crate::support;

/// Recipients of the campaign: some four seconds of sending.
const RECIPIENTS: u64 = 300;

/// Settings with which a campaign soon completes after a crash.
const QUICK: [(&str, &str); 7] = [
    ("PREGON__REDIS__TIMEOUT", "1s"),
    ("PREGON__GRAPH__TIMEOUT", "2s"),
    ("PREGON__GRAPH__CONNECT_TIMEOUT", "1s"),
    ("PREGON__DISPATCH__LEASE", "3s"),
    ("PREGON__DISPATCH__DOUBT_DEADLINE", "5s"),
    ("PREGON__DISPATCH__RETRY__INITIAL", "100ms"),
    ("PREGON__DISPATCH__RETRY__MAX", "1s"),
];

/// The number of recipients in each state.
type Counts = BTreeMap<String, u64>;

/// An example that follows the feed, with its table in a separate directory.
struct Follower {
    program: PathBuf,
    dir: TempDir,
    environment: Vec<(&'static str, String)>,
}

impl Follower {
    fn of(program: &str, environment: &[(&'static str, &str)]) -> Self {
        let environment = environment.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let mut follower = Self { program: file(program), dir: tempfile::tempdir().expect("a directory"), environment };
        let table = follower.dir.path().join("events.db").to_str().expect("text").to_owned();
        follower.environment.push(("PREGON_EVENTS_DB", table));
        follower
    }

    fn environment(&self) -> Vec<(&str, &str)> {
        self.environment.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    /// Starts the example with this consumer name.
    fn start(&self, stage: &Stage, consumer: &'static str) -> Running {
        let log = self.dir.path().join(format!("{consumer}.log"));
        let file = File::options().create(true).append(true).open(&log).expect("a log");
        let mut command = stage.command("python3", &self.environment());
        command.arg(&self.program).env("PREGON_CONSUMER", consumer).stderr(file);
        Running { child: command.spawn().expect("a program that starts"), log }
    }

    /// What `--report` prints.
    async fn report(&self, stage: &Stage, campaign: &str) -> Counts {
        let arguments = [self.program.as_path(), "--report".as_ref(), campaign.as_ref()];
        let ran = stage.run("python3", &arguments, &self.environment()).await;
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
        let count = |line: &str| line.split_once(' ').and_then(|(state, n)| Some((state.to_owned(), n.parse().ok()?)));
        ran.out.lines().map(|line| count(line).unwrap_or_else(|| panic!("{ran:?}"))).collect()
    }

    /// Waits until the table has at least `n` recipients.
    async fn wait_for_rows(&self, stage: &Stage, campaign: &str, n: u64) {
        // Waits for the statistics first: they are cheaper to read than the table, which takes a process each time.
        support::until(&format!("Meta has {n} messages"), async || {
            stage.api().get(&format!("campaigns/{campaign}")).await["statistics"]["funnel"]["accepted"].as_u64()
                >= Some(n)
        })
        .await;
        support::until(&format!("the table has {n} recipients"), async || {
            self.report(stage, campaign).await.values().sum::<u64>() >= n
        })
        .await;
    }

    /// Waits until the campaign has ended and the table equals its statistics.
    async fn ends_with_the_statistics(&self, stage: &Stage, campaign: &str) {
        stage.api().wait_for_state(campaign, "completed", Duration::from_secs(60)).await;
        stage.sim.idle().await;
        let (mut table, mut counts) = (Counts::new(), Counts::new());
        support::until("the table has the last event of every recipient", async || {
            (table, counts) = (self.report(stage, campaign).await, statistics(stage, campaign).await);
            table == counts
        })
        .await;
        assert_eq!(counts.values().sum::<u64>(), RECIPIENTS);
        assert!(counts.len() > 2, "recipients end in several states: {counts:?}");
    }
}

/// A running process of an example. It is killed when dropped.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    async fn kill(mut self) {
        assert_eq!(self.child.try_wait().expect("a process of ours"), None, "it runs");
        self.child.kill().await.expect("killed");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}:\n{}", self.log.display(), std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// The states of the campaign's recipients, without those that have none.
async fn statistics(stage: &Stage, campaign: &str) -> Counts {
    let campaign = stage.api().get(&format!("campaigns/{campaign}")).await;
    let by_state = campaign["statistics"]["by_state"].as_object().expect("an object");
    let counts = by_state.iter().map(|(state, n)| (state.clone(), n.as_u64().expect("a number")));
    counts.filter(|(_, n)| *n > 0).collect()
}

/// The number of events that a consumer received and has not acknowledged.
async fn unfinished(stage: &Stage) -> u64 {
    let mut pending = cmd("XPENDING");
    pending.arg("pregon:events").arg("example");
    let summary = pending.query_async(&mut stage.redis.connection().await).await;
    let (n, ..): (u64, Option<String>, Option<String>, Value) = summary.expect("a summary");
    n
}

async fn launch(stage: &Stage) -> String {
    let numbers = 5_491_150_000_000..5_491_150_000_000 + RECIPIENTS;
    stage.api().campaign(&["3001"], numbers, json!({})).await
}

/// Kills the example, the worker and Redis during a campaign. In the end the table equals the statistics.
async fn follows_through_kills(stage: &mut Stage, follower: &Follower, running: Running) {
    let campaign = launch(stage).await;
    follower.wait_for_rows(stage, &campaign, 20).await;
    running.kill().await;
    let _running = follower.start(stage, "one");
    follower.wait_for_rows(stage, &campaign, 80).await;
    stage.restart_worker().await;
    follower.wait_for_rows(stage, &campaign, 150).await;
    stage.redis.kill_hard().await;
    stage.redis.restart().await;
    follower.ends_with_the_statistics(stage, &campaign).await;
}

#[tokio::test]
async fn events_sse_py_ends_with_the_statistics_through_kills() {
    let mut stage = Stage::start_with("rough", &QUICK).await;
    let follower = Follower::of("events_sse.py", &[]);
    let running = follower.start(&stage, "one");
    follows_through_kills(&mut stage, &follower, running).await;
}

#[tokio::test]
async fn events_redis_py_ends_with_the_statistics_through_kills() {
    let mut stage = Stage::start_with("rough", &QUICK).await;
    // redis-py has its own form of the URL of a socket.
    let url = stage.redis.url().replace("redis+unix://", "unix://");
    let follower = Follower::of("events_redis.py", &[("REDIS_URL", &url), ("PREGON_DEAD_AFTER_MS", "1000")]);
    // A consumer that dies before it finishes what it received.
    let mut group = cmd("XGROUP");
    group.arg("CREATE").arg("pregon:events").arg("example").arg("0").arg("MKSTREAM");
    group.query_async::<()>(&mut stage.redis.connection().await).await.expect("a group");
    let campaign = launch(&stage).await;
    support::until("a consumer that dies has 50 events", async || {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg("example").arg("dead").arg("COUNT").arg(50).arg("STREAMS").arg("pregon:events").arg(">");
        read.query_async::<Value>(&mut stage.redis.connection().await).await.expect("events");
        unfinished(&stage).await >= 50
    })
    .await;

    let (first, second) = (follower.start(&stage, "first"), follower.start(&stage, "second"));
    follower.wait_for_rows(&stage, &campaign, 80).await;
    first.kill().await;
    let _first = follower.start(&stage, "first");
    follower.wait_for_rows(&stage, &campaign, 150).await;
    second.kill().await;
    stage.redis.kill_hard().await;
    stage.redis.restart().await;
    stage.restart_worker().await;
    follower.ends_with_the_statistics(&stage, &campaign).await;
    support::until("the events of the dead are taken over", async || unfinished(&stage).await == 0).await;
}

#[tokio::test]
async fn events_webhook_py_ends_with_the_statistics_through_kills() {
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    let address = listener.expect("a free port").to_string();
    let url = format!("http://{address}/");
    let subscriber = [
        ("PREGON__SUBSCRIBER__0__ID", "example"),
        ("PREGON__SUBSCRIBER__0__URL", url.as_str()),
        ("PREGON__SUBSCRIBER__0__SECRET__ENV", "PREGON_WEBHOOK_SECRET"),
        ("PREGON__SUBSCRIBER__0__BATCH", "7"),
        ("PREGON__SUBSCRIBER__0__ALLOW_PRIVATE", "true"),
        ("PREGON_WEBHOOK_SECRET", secret),
    ];
    let mut stage = Stage::start_with("rough", &[&QUICK[..], &subscriber].concat()).await;
    let receiver = [("PREGON_WEBHOOK_LISTEN", address.as_str()), ("PREGON_WEBHOOK_SECRET", secret)];
    let follower = Follower::of("events_webhook.py", &receiver);
    let running = follower.start(&stage, "one");
    support::until("a worker delivers", async || {
        !stage.api().get("subscribers").await["subscribers"][0]["position"].is_null()
    })
    .await;
    let mut forged = None;
    support::until("the receiver listens", async || {
        forged = support::http_client().post(&url).body("[]").send().await.ok();
        forged.is_some()
    })
    .await;
    assert_eq!(forged.map(|answer| answer.status().as_u16()), Some(401), "without a signature");

    follows_through_kills(&mut stage, &follower, running).await;
}
