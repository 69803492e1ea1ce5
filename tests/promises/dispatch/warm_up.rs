//! The warm-up of a line: the messages of its first days.

use std::time::Duration;

use deadpool_redis::redis::cmd;
use pregon::{
    domain::{CampaignId, CampaignState, Line, OnDoubt, State, UnixMs},
    redis::{Store, lines::LineReport},
};

use crate::support::{
    hostile::{AcceptAll, Meta},
    redis::TestRedis,
    seed, until,
    world::{self, TestWorker, address, line, settings},
};

const DAY: Duration = Duration::from_secs(86_400);
const RECIPIENTS: u64 = 100;

/// A line that sends 20 messages on its first day, and 30 on its second.
fn new_line() -> Line {
    Line { warm_up: [20, 30].into(), ..line("3001", 200.0) }
}

/// A store on a private Redis, a fake Meta, and a campaign on a new line.
struct World {
    redis: TestRedis,
    store: Store,
    meta: Meta,
    campaign: CampaignId,
}

impl World {
    async fn start() -> Self {
        let redis = TestRedis::start().await;
        let store = Store::connect(&address(&redis)).await.expect("a store");
        let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
        let campaign = world::campaign(&store, &["3001"], RECIPIENTS, OnDoubt::Hold).await;
        world::launch(&store, campaign).await;
        Self { redis, store, meta, campaign }
    }

    async fn worker(&self, name: &str) -> TestWorker {
        TestWorker::start(name, &self.redis, &self.meta.url(), &[new_line()], settings()).await
    }

    /// Waits until `worker` reports that the day's share is used up. Returns when the next day begins.
    async fn spent(&self, worker: &str) -> UnixMs {
        let mut next = None;
        until("the share of the day is spent", async || {
            let reports = self.store.reports(&["3001".into()]).await.expect("redis");
            let report = reports.into_iter().next().flatten().filter(|report: &LineReport| report.worker == worker);
            next = report.and_then(|report| report.warm_up_until);
            next.is_some()
        })
        .await;
        next.expect("a time")
    }

    /// Lets `days` pass since the first message.
    async fn pass(&self, start: UnixMs, days: u32) {
        let mut set = cmd("HSET");
        set.arg(self.store.keys.warm_up(&"3001".into())).arg("start").arg(start.0 - (DAY * days).as_millis() as u64);
        self.store.query::<u8>("HSET warm_up", &set).await.expect("redis");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_line_sends_the_share_of_each_day_and_then_is_free() {
    let world = World::start().await;
    let before = world.store.time().await.expect("redis");
    let worker = world.worker("w1").await;
    let next = world.spent("w1").await;
    let start = UnixMs(next.0 - DAY.as_millis() as u64);
    assert!(start >= before, "the first day began with the first message");
    assert_eq!(world.meta.requests(), 20);
    let record = world.store.campaign(world.campaign).await.expect("redis").expect("a campaign");
    let counts = world::counts(&world.store, &record).await.by_state;
    assert_eq!((counts[&State::Accepted], counts[&State::Pending]), (20, RECIPIENTS - 20), "nothing stays claimed");
    worker.stop().await;

    let worker = world.worker("w2").await;
    assert_eq!(world.spent("w2").await, next, "a restart changes nothing");
    worker.stop().await;
    assert_eq!(world.meta.requests(), 20);

    world.pass(start, 1).await;
    let worker = world.worker("w3").await;
    world.spent("w3").await;
    worker.stop().await;
    assert_eq!(world.meta.requests(), 50);

    world.pass(start, 2).await;
    let worker = world.worker("w4").await;
    world::wait_for_state(&world.store, world.campaign, CampaignState::Completed).await;
    assert_eq!(world.meta.requests() as u64, RECIPIENTS);
    worker.stop().await;
}

#[tokio::test]
async fn owners_never_take_more_than_the_share_of_a_day() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let line = "3001".into();
    let take = async |day, share, wanted| store.take_warm_up(&line, day, share, wanted).await.expect("redis");
    assert_eq!([take(0, 20, 15).await, take(0, 20, 15).await, take(0, 20, 15).await], [15, 5, 0]);
    store.return_warm_up(&line, 0, 3).await.expect("redis");
    assert_eq!([take(0, 20, 15).await, take(0, 20, 15).await], [3, 0]);
    assert_eq!(take(0, 10, 5).await, 0, "the share was lowered below what was taken");
    assert_eq!([take(2, 30, 15).await, take(1, 25, 15).await, take(2, 30, 30).await], [15, 0, 15], "a day is over");
    store.return_warm_up(&line, 1, 15).await.expect("redis");
    assert_eq!(take(2, 30, 1).await, 0, "what was left of an earlier day is lost");
    let start = store.begin_warm_up(&line, UnixMs(1_000)).await.expect("redis");
    assert_eq!((start, store.begin_warm_up(&line, UnixMs(2_000)).await.expect("redis")), (UnixMs(1_000), start));
}
