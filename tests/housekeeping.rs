//! What housekeeping repairs after a crash between two writes.

mod support;

use std::{sync::Arc, time::Duration};

use deadpool_redis::redis::Pipeline;
use pregon::{
    dispatch::housekeeping::Housekeeping,
    domain::{CampaignId, LineId, OnDoubt, PartId, State},
    graph::{GraphClient, GraphConfig},
    store::{
        Store,
        clock::Clock,
        parts::{Claim, ClaimedRow, Fact, News},
    },
};
use support::{claim_wish, redis::TestRedis, until, world};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Housekeeping that runs beside a campaign whose line no worker serves.
struct World {
    _redis: TestRedis,
    store: Store,
    id: CampaignId,
    part: PartId,
    line: LineId,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl World {
    async fn start(n: u64) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let redis = TestRedis::start().await;
        let store = Store::connect(&world::address(&redis)).await.expect("a store");
        let id = world::campaign(&store, &["3001"], n, OnDoubt::Hold).await;
        world::launch(&store, id).await;
        let (part, line) = store.campaign(id).await.expect("redis").expect("a campaign").parts[0].clone();
        let housekeeping = Housekeeping {
            name: "w1".to_owned(),
            store: store.clone(),
            clock: Arc::new(Clock::start(&store).await.expect("a clock")),
            lines: Vec::new(),
            graph: GraphClient::new(GraphConfig::default()).expect("a client"),
            lease: Duration::from_secs(3),
            templates_every: Duration::from_secs(3_600),
            retention: Duration::from_secs(3_600),
            doubt_deadline: Duration::from_secs(2),
            attempts_max: 6,
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move { housekeeping.run(stopped).await.expect("it never fails") });
        Self { _redis: redis, store, id, part, line, stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("no panic");
    }
}

#[tokio::test]
async fn an_open_part_that_its_line_does_not_list_is_listed_again() {
    let world = World::start(2).await;
    world.store.work_done(&world.line, &[world.part]).await.expect("redis");
    let pulse = world.store.pulse().await.expect("redis");
    until("the part is listed", async || world.store.work(&world.line).await.expect("redis") == [world.part]).await;
    until("workers are woken", async || world.store.pulse().await.expect("redis") > pulse).await;
    world.stop().await;
}

#[tokio::test]
async fn a_row_left_pending_by_an_ended_campaign_is_ended() {
    let world = World::start(1).await;
    let now = world.store.time().await.expect("the time");
    let Claim::Rows { rows, .. } = world.store.claim(world.part, &claim_wish(1, now, 1, now)).await.expect("a claim")
    else {
        panic!("no rows")
    };
    let ClaimedRow { row, send } = rows[0].claimed;
    let fact = Fact { row, send, news: News::Returned(131_042), at: now, message: None };
    world.store.apply(&[(world.part, vec![fact])], Duration::from_secs(60)).await.expect("applied");
    // As a process leaves it that dies between closing the gate and ending what was reopened meanwhile.
    let record = world.store.campaign(world.id).await.expect("redis").expect("a campaign");
    let version = (record.version + 1).to_string();
    let campaign = [("state", "completed"), ("version", &version), ("applied", &version)];
    let part = [("gate", "completed"), ("version", &version)];
    let mut changes = Pipeline::new();
    changes.cmd("HSET").arg(world.store.keys.campaign(world.id)).arg(&campaign);
    changes.cmd("HSET").arg(world.store.keys.part(world.part)).arg(&part);
    world.store.query_all::<u64>("HSET", &changes).await.expect("redis");
    until("the row is ended", async || {
        let bytes = world.store.state_bytes(world.part).await.expect("bytes");
        State::of(bytes[0]) == Some(State::Failed)
    })
    .await;
    world.stop().await;
}
