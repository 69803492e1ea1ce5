//! The rate of a campaign: a ceiling over all of its lines.

use std::time::Duration;

use pregon::{
    domain::{CampaignId, CampaignState, OnDoubt, State},
    redis::Store,
};

use crate::support::{
    hostile::{AcceptAll, Meta, worst_second},
    redis::TestRedis,
    seed, until,
    world::{self, TestWorker, address, line, settings},
};

/// Sets the rate of a campaign.
async fn set_rate(store: &Store, id: CampaignId, rate: Option<f64>) {
    world::amend(store, id, |campaign| campaign.rate = rate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_keeps_its_rate_over_lines_of_several_workers() {
    const RATE: f64 = 60.0;
    let redis = TestRedis::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(20) }, seed());
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let first = TestWorker::start("w1", &redis, &meta.url(), &[line("3001", 400.0)], settings()).await;
    let second = TestWorker::start("w2", &redis, &meta.url(), &[line("3002", 400.0)], settings()).await;
    let id = world::campaign(&store, &["3001", "3002"], 100, OnDoubt::Hold).await;
    set_rate(&store, id, Some(RATE)).await;
    world::launch(&store, id).await;
    let record = world::wait_for_state(&store, id, CampaignState::Completed).await;
    assert_eq!(world::counts(&store, &record).await.by_state[&State::Accepted], 100);
    for line in ["3001", "3002"] {
        let worst = worst_second(&meta.arrivals(), line);
        assert!(worst as f64 <= RATE / 2.0, "{worst} messages in a second on line {line}");
    }
    let rows = store.part_rows(record.parts[0].0).await.expect("rows");
    assert!(rows.tries.is_empty(), "waiting uses up no attempt: {:?}", rows.tries);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_with_a_rate_does_not_slow_another_one_on_its_line() {
    let redis = TestRedis::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let slow = world::campaign(&store, &["3001"], 200, OnDoubt::Hold).await;
    set_rate(&store, slow, Some(2.0)).await;
    world::launch(&store, slow).await;
    let worker = TestWorker::start("w1", &redis, &meta.url(), &[line("3001", 400.0)], settings()).await;
    until("the slow one has begun", async || world::count(&store, slow, State::Accepted).await > 0).await;
    let other = world::campaign(&store, &["3001"], 400, OnDoubt::Hold).await;
    world::launch(&store, other).await;
    world::wait_for_state(&store, other, CampaignState::Completed).await;
    assert!(world::count(&store, slow, State::Pending).await > 100, "the other one did not wait for it");

    // Without a rate, the campaign is as fast as its line. At two messages a second, it would time out this test.
    set_rate(&store, slow, None).await;
    world::wait_for_state(&store, slow, CampaignState::Completed).await;
    worker.stop().await;
}
