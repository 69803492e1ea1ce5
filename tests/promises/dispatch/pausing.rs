//! Pauses of everything, obeyed by real workers.

use std::time::Duration;

use pregon::{
    domain::{CampaignState, Line, OnDoubt, PauseScope, State},
    redis::{Store, campaigns::CampaignRecord},
};

use crate::support::{
    hostile::{AcceptAll, Meta},
    redis::TestRedis,
    seed, until,
    world::{self, TestWorker, address, line, settings},
};

/// Pauses `scope`, and waits until every worker has confirmed it.
async fn pause(store: &Store, scope: &PauseScope) {
    let now = store.time().await.expect("redis");
    let (_, version) = store.pause(scope, now).await.expect("redis");
    until("every worker obeys", async || store.workers_not_obeying(version).await.expect("redis").is_empty()).await;
}

async fn count(store: &Store, record: &CampaignRecord, state: State) -> u64 {
    world::counts(store, record).await.by_state.get(&state).copied().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_pause_of_everything_no_worker_claims() {
    const RECIPIENTS: u64 = 3_000;
    let redis = TestRedis::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(20) }, seed());
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let lines = ["3001", "3002"].map(|id| line(id, 400.0));
    let first = TestWorker::start("w1", &redis, &meta.url(), &lines, settings()).await;
    let second = TestWorker::start("w2", &redis, &meta.url(), &lines, settings()).await;
    let id = world::campaign(&store, &["3001", "3002"], RECIPIENTS, OnDoubt::Hold).await;
    world::launch(&store, id).await;
    let record = store.campaign(id).await.expect("redis").expect("it");
    until("messages are sent", async || meta.requests() > 200).await;

    pause(&store, &PauseScope::Installation).await;
    let pending = count(&store, &record, State::Pending).await;
    until("nothing is in flight", async || count(&store, &record, State::InFlight).await == 0).await;
    let sent = meta.requests() as u64;
    assert!(count(&store, &record, State::Pending).await >= pending, "a recipient was claimed after the pause");
    assert_eq!(count(&store, &record, State::Pending).await, RECIPIENTS - sent, "what was not sent is given back");
    assert_eq!(count(&store, &record, State::Accepted).await, sent, "what was in flight is settled");
    // A second pause returns only when every worker has read the pauses again.
    pause(&store, &PauseScope::Installation).await;
    assert_eq!(meta.requests() as u64, sent);

    assert!(store.resume(&PauseScope::Installation).await.expect("redis"));
    world::wait_for_state(&store, id, CampaignState::Completed).await;
    assert_eq!(meta.requests() as u64, RECIPIENTS);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_starts_during_a_pause_obeys_it() {
    let redis = TestRedis::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let scope = PauseScope::Business("1001".into());
    pause(&store, &scope).await;
    let paused = world::campaign(&store, &["3001", "3002"], 20, OnDoubt::Hold).await;
    let other = world::campaign(&store, &["3009"], 20, OnDoubt::Hold).await;
    world::launch(&store, paused).await;
    world::launch(&store, other).await;
    let lines = [
        line("3001", 200.0),
        line("3002", 200.0),
        Line { business: "1002".into(), waba: "2002".into(), ..line("3009", 200.0) },
    ];
    let worker = TestWorker::start("w1", &redis, &meta.url(), &lines, settings()).await;
    // The other business is not paused. Its campaign completes, so the worker is running.
    world::wait_for_state(&store, other, CampaignState::Completed).await;
    until("the worker has reported its lines", async || {
        let reports = store.reports(&["3001".into(), "3002".into()]).await.expect("redis");
        reports.iter().all(Option::is_some)
    })
    .await;
    assert_eq!(meta.requests(), 20);
    let record = store.campaign(paused).await.expect("redis").expect("it");
    assert_eq!((record.state, count(&store, &record, State::Pending).await), (CampaignState::Running, 20));

    assert!(store.resume(&scope).await.expect("redis"));
    world::wait_for_state(&store, paused, CampaignState::Completed).await;
    assert_eq!(meta.requests(), 40);
    worker.stop().await;
    let confirmed = store.pauses().await.expect("redis");
    assert!(!confirmed.is_obeyed_by("w1", 1), "a worker that has stopped leaves nothing: {confirmed:?}");
}
