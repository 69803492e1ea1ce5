//! What housekeeping repairs after a crash between two writes.

mod support;

use std::{sync::Arc, time::Duration};

use pregon::{
    dispatch::housekeeping::Housekeeping,
    domain::{LineId, OnDoubt, PartId},
    graph::{GraphClient, GraphConfig},
    store::{Store, clock::Clock},
};
use support::{redis::TestRedis, until, world};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Housekeeping that runs beside a campaign whose line no worker serves.
struct World {
    _redis: TestRedis,
    store: Store,
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
        Self { _redis: redis, store, part, line, stop, task }
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
