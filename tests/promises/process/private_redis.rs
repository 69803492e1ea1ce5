//! `redis.url = "spawn:DIR"`: a private Redis that dies is started again, and nothing is lost or sent twice.

use std::{path::Path, process::Command, time::Duration};

use deadpool_redis::redis::{Client, cmd};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    hostile::{AcceptAll, Meta},
    redis::TestRedis,
    seed,
    server::{Installation, Server},
    until,
};

const FIRST: u64 = 5_491_100_000_000;

/// A configuration whose process starts a Redis in the directory.
async fn private(meta: &Meta, rate: f64) -> (Installation, TempDir) {
    let (other, dir) = (TestRedis::start().await, tempfile::tempdir().expect("a directory"));
    let url = format!("spawn:{}", dir.path().join("data").display());
    (Installation::new(&other, &meta.url(), &[("3001", rate)], "").replaced(other.url(), &url), dir)
}

/// Kills the server in `dir` with SIGKILL.
async fn kill(dir: &Path) {
    let url = format!("redis+unix://{}", dir.join("data/redis.sock").display());
    let client = Client::open(url).expect("a URL of the redis crate");
    let mut connection = client.get_multiplexed_async_connection().await.expect("a connection");
    let info: String = cmd("INFO").arg("server").query_async(&mut connection).await.expect("INFO");
    let pid = info.lines().find_map(|line| line.strip_prefix("process_id:")).expect("its pid").trim();
    assert!(Command::new("kill").args(["-s", "KILL", pid]).status().expect("kill").success());
}

/// The lines of the log whose message begins with `message`.
fn lines(server: &Server, message: &str) -> Vec<Value> {
    let log = server.log();
    let all = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    all.filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with(message))).collect()
}

const DIED: &str = "the private redis-server died";
const RUNS_AGAIN: &str = "the private redis-server runs again";

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_private_redis_is_started_again_and_nothing_is_lost_or_twice() {
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(5) }, seed());
    let (installation, dir) = private(&meta, 200.0).await;
    let mut server = installation.serve("all", "api,dispatch").await;
    let api = server.api();
    let id = api.campaign(&["3001"], FIRST..FIRST + 1_200, json!({})).await;
    for n in 1..=2 {
        let sent = meta.requests();
        until("it sends", async || meta.requests() > sent + 100).await;
        kill(dir.path()).await;
        until("it runs again", async || lines(&server, RUNS_AGAIN).len() == n).await;
    }
    let campaign = api.wait_for_state(&id, "completed", Duration::from_secs(120)).await;
    assert_eq!(campaign["statistics"]["funnel"]["accepted"], 1_200, "{campaign}");
    let arrivals = meta.arrivals();
    let people: std::collections::HashSet<&str> = arrivals.iter().map(|arrival| arrival.to.as_str()).collect();
    assert_eq!((arrivals.len(), people.len()), (1_200, 1_200), "none is sent twice");
    let died = lines(&server, DIED);
    assert!(died.len() == 2 && died.iter().all(|line| line["level"] == "ERROR"), "{died:?}");
    assert_eq!(died[0]["ended"], "signal 9", "{died:?}");
    assert!(server.log().contains("the last writes were replayed"), "the usual way after a restart");
    server.signal("TERM");
    assert!(server.ended().await.success(), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_redis_that_cannot_start_again_says_why() {
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(5) }, seed());
    let (installation, dir) = private(&meta, 80.0).await;
    let mut server = installation.serve("all", "api").await;
    let data = dir.path().join("data/appendonlydir");
    let manifest = data.join("appendonly.aof.manifest");
    let whole = std::fs::read(&manifest).expect("the list of its files");
    std::fs::write(&manifest, "no list\n").expect("written");
    kill(dir.path()).await;
    const NOT: &str = "the private redis-server could not be started again";
    until("it fails to start twice", async || lines(&server, NOT).len() >= 2).await;
    let failed = &lines(&server, NOT)[0];
    assert!(failed["error"].as_str().is_some_and(|error| error.contains("AOF manifest")), "{failed}");
    assert_eq!(lines(&server, DIED).len(), 1, "the death is told once");
    std::fs::write(&manifest, whole).expect("written");
    until("it runs again", async || lines(&server, RUNS_AGAIN).len() == 1).await;
    until("it is ready", async || server.ops("readyz").await.0 == 200).await;
    server.signal("TERM");
    assert!(server.ended().await.success(), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_process_does_not_start_its_redis_again() {
    let meta = Meta::start(AcceptAll { latency: Duration::from_secs(2) }, seed());
    let (installation, dir) = private(&meta, 80.0).await;
    let installation = installation.replaced("grace = \"20s\"", "grace = \"6s\"");
    let mut server = installation.serve("all", "api,dispatch").await;
    server.api().campaign(&["3001"], FIRST..FIRST + 500, json!({})).await;
    until("it sends", async || meta.requests() > 20).await;
    server.signal("TERM");
    // The attempts in flight delay the stop.
    until("it stops", async || server.ops("readyz").await.1.contains("stopping")).await;
    kill(dir.path()).await;
    assert!(!server.ended().await.success(), "open work is left");
    assert_eq!((lines(&server, DIED).len(), lines(&server, RUNS_AGAIN).len()), (1, 0), "{}", server.log());
    assert!(!lines(&server, "stopped with open work").is_empty(), "{}", server.log());
}
