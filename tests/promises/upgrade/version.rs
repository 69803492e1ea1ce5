//! The version of the data: which releases may read it, and when it rises.

use std::time::Duration;

use deadpool_redis::redis::{Cmd, cmd};
use pregon::{
    domain::State,
    redis::{Store, data_version::DataVersion},
};
use serde_json::json;

use crate::support::{
    hostile::{AcceptAll, Meta},
    redis::TestRedis,
    seed,
    server::Installation,
    until,
    world::{self, address},
};

const NOWHERE: &str = "http://127.0.0.1:9";
const TOO_NEW: &str = "the data in redis has version 2, and this is release";

/// The command by which a newer release raises the version.
fn raise() -> Cmd {
    cmd("ZADD").arg(&["pregon:data_version", "2", "0.9.0"]).clone()
}

async fn version(store: &Store) -> (u32, String) {
    let DataVersion { version, release } = store.data_version().await.expect("redis");
    (version, release)
}

#[tokio::test]
async fn data_has_version_1_until_a_release_raises_it() {
    let mut redis = TestRedis::start().await;
    let store = Store::connect(&address(&redis)).await.expect("a store");
    assert_eq!(version(&store).await, (1, "0.1.0".to_owned()), "data of 0.1.0");
    store.open_data().await.expect("redis");
    let stored = cmd("EXISTS").arg(store.keys.data_version()).clone();
    assert_eq!(store.query::<u8>("EXISTS", &stored).await.expect("redis"), 1);
    redis.lose_all().await;
    until("redis answers", async || store.time().await.is_ok()).await;
    assert_eq!(store.query::<u8>("EXISTS", &stored).await.expect("redis"), 1, "written again");
}

#[tokio::test]
async fn a_process_that_cannot_read_the_data_exits_and_says_why() {
    let redis = TestRedis::start().await;
    raise().exec_async(&mut redis.connection().await).await.expect("raised");
    let installation = Installation::new(&redis, NOWHERE, &[("3001", 80.0)], "");
    for roles in ["api", "webhook", "dispatch"] {
        let mut server = installation.start(roles, roles, &[]);
        assert_eq!(server.ended().await.code(), Some(1), "{roles}");
        let log = server.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(TOO_NEW)).collect();
        assert!(matches!(lines[..], [line] if line.ends_with("use release 0.9.0 or newer")), "{roles}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_process_stops_when_it_can_no_longer_read_the_data() {
    let redis = TestRedis::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let installation = Installation::new(&redis, &meta.url(), &[("3001", 100.0)], "");
    let mut server = installation.serve("all", "api,webhook,dispatch").await;
    let to = (0..1_000).map(|n| 5_491_100_000_000 + n);
    let id = server.api().campaign(&["3001"], to, json!({})).await;
    until("it sends", async || meta.requests() > 0).await;
    raise().exec_async(&mut redis.connection().await).await.expect("raised");
    assert_eq!(server.ended().await.code(), Some(1));
    assert!(server.log().contains(TOO_NEW), "{}", server.log());
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let record = store.campaign(id.parse().expect("an id")).await.expect("redis").expect("a campaign");
    let counts = world::counts(&store, &record).await;
    let count = |state| counts.by_state[&state];
    assert_eq!((count(State::InFlight), count(State::InDoubt)), (0, 0), "a clean stop");
    assert_eq!(count(State::Pending) + meta.requests() as u64, 1_000);
}

#[tokio::test]
async fn the_version_rises_only_if_every_live_worker_reads_it() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&address(&redis)).await.expect("a store");
    store.open_data().await.expect("redis");
    let now = store.time().await.expect("the time");
    let later = now.after(Duration::from_secs(60));
    // The worker of 0.1.0 does not publish what it reads.
    for (worker, reads) in [("w-0.1.0", None), ("w-next", Some(2)), ("w-present", Some(1))] {
        store.worker_heartbeat(worker, now, later).await.expect("alive");
        if let Some(reads) = reads {
            let publish = cmd("HSET").arg(store.keys.readable_versions()).arg(worker).arg(reads).clone();
            store.query::<u8>("HSET", &publish).await.expect("redis");
        }
    }
    let error = store.raise_data_version(2, "0.8.0").await.expect_err("two workers do not read it").to_string();
    let expected = "cannot read: w-0.1.0, w-present; upgrade them to release 0.8.0 or newer first";
    assert!(error.ends_with(expected), "{error}");
    assert_eq!(version(&store).await, (1, "0.1.0".to_owned()));
    for worker in ["w-0.1.0", "w-present"] {
        store.remove_worker(worker).await.expect("stopped");
    }
    store.raise_data_version(2, "0.8.0").await.expect("all workers read it");
    assert_eq!(version(&store).await, (2, "0.8.0".to_owned()));
    store.raise_data_version(1, "0.1.0").await.expect("nothing to do");
    assert_eq!(version(&store).await, (2, "0.8.0".to_owned()));
}

#[tokio::test]
async fn a_worker_publishes_the_version_that_it_reads() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let installation = Installation::new(&redis, NOWHERE, &[("3001", 80.0)], "");
    let mut server = installation.serve("worker", "dispatch").await;
    let read = cmd("HGETALL").arg(store.keys.readable_versions()).clone();
    let published = async || store.query::<Vec<(String, u32)>>("HGETALL", &read).await.expect("redis");
    until("it is registered", async || published().await == [(server.worker.clone(), 1)]).await;
    server.signal("TERM");
    assert!(server.ended().await.success());
    assert_eq!(published().await, []);
}
