//! Leases and the list of live workers when Redis' clock is set back.
#![cfg(target_os = "linux")]

use std::{collections::BTreeSet, time::Duration};

use deadpool_redis::redis::cmd;
use pregon::{
    domain::{LineId, UnixMs},
    redis::{Store, lines::LeaseTarget},
};

use crate::support::{
    clock::{self, Clock},
    redis::TestRedis,
    world,
};

const LEASE: Duration = Duration::from_secs(3);
const AN_HOUR_BACK: i64 = -3_600_000;

async fn store() -> (Store, TestRedis, Clock) {
    let (redis, clock) = clock::redis().await;
    (Store::connect(&world::address(&redis)).await.expect("a store"), redis, clock.expect("a clock that can be set"))
}

#[tokio::test]
async fn a_lease_from_before_a_clock_step_back_is_shortened() {
    let (store, _redis, clock) = store().await;
    let line = LineId::from("3001");
    let right = LeaseTarget::Line(line.clone());
    let held = store.acquire(&[(right.clone(), None)], "dead", LEASE).await.expect("redis");
    assert!(held[0].is_some());
    clock.step(AN_HOUR_BACK).await;
    let left = async || store.lease_ttls(std::slice::from_ref(&line)).await.expect("redis")[0];
    assert!(left().await > Some(60 * LEASE), "{:?}", left().await);
    assert_eq!(store.acquire(&[(right.clone(), None)], "next", LEASE).await.expect("redis"), [None]);
    assert!(left().await <= Some(LEASE), "{:?}", left().await);
}

#[tokio::test]
async fn a_worker_dead_before_a_clock_step_back_is_not_live() {
    let (store, _redis, clock) = store().await;
    let live_workers = async |worker| {
        let now = store.time().await.expect("redis");
        store.worker_heartbeat(worker, now, now.after(LEASE)).await.expect("redis").workers.len()
    };
    assert_eq!((live_workers("dead").await, live_workers("living").await), (1, 2));
    clock.step(AN_HOUR_BACK).await;
    assert_eq!(live_workers("living").await, 1);
    assert_eq!(
        (live_workers("other").await, live_workers("living").await),
        (2, 2),
        "a worker with a new heartbeat counts"
    );
}

#[tokio::test]
async fn a_lost_epoch_is_not_issued_again_with_the_clock_behind() {
    let (store, redis, clock) = store().await;
    let (line, mut epochs) = (LineId::from("3001"), BTreeSet::new());
    let right = LeaseTarget::Line(line.clone());
    let first = store.acquire(&[(right.clone(), None)], "w", LEASE).await.expect("redis")[0].expect("free");
    clock.step(AN_HOUR_BACK).await;
    assert!(store.time().await.expect("redis") < UnixMs(first), "the epochs must be ahead of the clock");
    for _ in 0..10 {
        let mut redis = redis.connection().await;
        let () = cmd("DEL").arg(store.keys.lease(&line)).query_async(&mut redis).await.expect("redis");
        let () = cmd("SET").arg(store.keys.epoch(&line)).arg(first).query_async(&mut redis).await.expect("redis");
        epochs.extend(store.acquire(&[(right.clone(), None)], "w", LEASE).await.expect("redis"));
    }
    assert!(epochs.len() > 5 && epochs.iter().all(|epoch| *epoch > Some(first)), "{epochs:?} after {first}");
}
