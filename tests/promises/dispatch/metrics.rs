//! What the metrics of real workers show of their lines.

use std::time::Duration;

use pregon::{
    domain::{Hold, HoldScope, OnDoubt},
    redis::Store,
};

use crate::support::{
    hostile::{AcceptAll, Meta},
    redis::TestRedis,
    seed, until,
    world::{self, TestWorker, address, line, settings},
};

struct Stage {
    redis: TestRedis,
    store: Store,
    meta: Meta,
}

impl Stage {
    async fn start() -> Self {
        let redis = TestRedis::start().await;
        let store = Store::connect(&address(&redis)).await.expect("a store");
        Self { redis, store, meta: Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed()) }
    }

    async fn worker(&self, name: &str) -> TestWorker {
        TestWorker::start(name, &self.redis, &self.meta.url(), &[line("3001", 400.0)], settings()).await
    }
}

/// The value of a series on the page of a worker; `None` if it is not there.
fn value(worker: &TestWorker, series: &str) -> Option<f64> {
    let page = worker.metrics();
    let shown = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    shown.map(|value| value.parse().expect("a number"))
}

fn shows_lines(worker: &TestWorker) -> bool {
    worker.metrics().contains("line=\"")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_series_of_a_line_move_with_the_line() {
    const ACCEPTED: &str = "pregon_attempts_total{line=\"3001\",outcome=\"accepted\"}";
    let stage = Stage::start().await;
    let first = stage.worker("w1").await;
    let id = world::campaign(&stage.store, &["3001"], 50, OnDoubt::Hold).await;
    world::launch(&stage.store, id).await;
    until("every message is counted", async || value(&first, ACCEPTED) == Some(50.0)).await;
    assert_eq!(value(&first, "pregon_lines_owned"), Some(1.0));
    let second = stage.worker("w2").await;
    assert!(!shows_lines(&second), "the line has another owner");
    let of_first = first.stop().await;
    assert!(!of_first.contains("line=\""), "{of_first}");
    until("the line has its new owner", async || value(&second, ACCEPTED) == Some(0.0)).await;
    until("its rate is shown", async || value(&second, "pregon_line_rate{line=\"3001\"}") == Some(400.0)).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_a_hold_and_the_backlog_are_shown() {
    const PAUSED: &str = "pregon_lines_stopped{reason=\"paused\"}";
    const HELD: &str = "pregon_lines_stopped{reason=\"held\"}";
    let stage = Stage::start().await;
    let worker = stage.worker("w1").await;
    stage.store.set_paused(&"3001".into(), true).await.expect("redis");
    until("the pause is shown", async || value(&worker, PAUSED) == Some(1.0)).await;
    assert_eq!(value(&worker, HELD), Some(0.0));
    assert_eq!(value(&worker, "pregon_held_seconds{line=\"3001\"}"), Some(0.0));
    assert_eq!(value(&worker, "pregon_line_rate{line=\"3001\"}"), Some(0.0));
    let id = world::campaign(&stage.store, &["3001"], 20, OnDoubt::Hold).await;
    world::launch(&stage.store, id).await;
    let waiting = "pregon_line_waiting_messages{line=\"3001\"}";
    until("the backlog is shown", async || value(&worker, waiting) == Some(20.0)).await;

    let now = stage.store.time().await.expect("redis");
    let hour = Duration::from_secs(3_600);
    let hold = Hold { code: None, reason: "because".into(), since: now.before(hour), until: Some(now.after(hour)) };
    stage.store.hold(&HoldScope::Line("3001".into()), &hold).await.expect("redis");
    stage.store.set_paused(&"3001".into(), false).await.expect("redis");
    until("the hold is shown", async || value(&worker, PAUSED) == Some(0.0) && value(&worker, HELD) == Some(1.0)).await;
    let held = value(&worker, "pregon_held_seconds{line=\"3001\"}").expect("a line");
    assert!(held > 3_590.0, "the hold is older than the worker: {held}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_redis_shows_no_lines() {
    const ACCEPTED: &str = "pregon_attempts_total{line=\"3001\",outcome=\"accepted\"}";
    let stage = Stage::start().await;
    let worker = stage.worker("w1").await;
    let id = world::campaign(&stage.store, &["3001"], 4_000, OnDoubt::Hold).await;
    world::launch(&stage.store, id).await;
    until("messages are sent", async || value(&worker, ACCEPTED).is_some_and(|n| n > 0.0)).await;
    // The worker needs another claim to go on, and does not learn what it has claimed.
    stage.redis.signal("STOP");
    until("the lease has ended", async || value(&worker, "pregon_lines_owned") == Some(0.0)).await;
    assert!(!shows_lines(&worker));
    stage.redis.signal("CONT");
    until("the line is owned again", async || value(&worker, "pregon_lines_owned") == Some(1.0)).await;
    worker.stop().await;
}
