//! A Redis that restarts empty: processes that were connected to it keep working together.

use std::{collections::HashMap, time::Duration};

use pregon::{
    domain::{CampaignState, OnDoubt, State},
    intake::jobs::read_jobs,
    redis::Store,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{
    hooks::{self, Hooks, Message, statuses},
    hostile::{AcceptAll, Meta},
    intake::{World, campaign_json, row, templates},
    redis::TestRedis,
    seed, until,
    world::{self, TestWorker, line, settings},
};

/// Checks that `hooks` counts statuses whose tokens the process of `sender` signed.
async fn assert_statuses_count(hooks: &Hooks, sender: &Store) {
    let (id, messages) = hooks.campaign(&["3001"], 4).await;
    let ours = &messages[&"3001".into()];
    hooks.accept(ours).await;
    let key = sender.token_key().await.expect("a key").get();
    let status = |message: &Message| {
        let mut status = hooks::status_without_token(&message.wamid(), "delivered");
        status["biz_opaque_callback_data"] = hooks::token(&key, message).into();
        status
    };
    let all: Vec<_> = ours.iter().map(status).collect();
    assert_eq!(hooks.deliver(&statuses("3001", &all)).await, 200);
    assert_eq!(hooks.by_state(id).await, HashMap::from([(State::Delivered, 4)]));
}

#[tokio::test]
async fn statuses_count_whichever_process_restores_the_token_key() {
    let mut hooks = Hooks::start().await;
    let sender = Store::connect(&world::address(&hooks.redis)).await.expect("a store");
    let first = sender.token_key().await.expect("a key").get();
    assert_statuses_count(&hooks, &sender).await;

    // A process that was connected before is the first to return. It restores the key that all processes have.
    hooks.redis.lose_all().await;
    sender.time().await.expect("redis");
    let newcomer = Store::connect(&world::address(&hooks.redis)).await.expect("a store");
    let key = newcomer.token_key().await.expect("a key").get();
    assert_eq!(key.secret(), first.secret(), "the old key is restored");
    assert_statuses_count(&hooks, &newcomer).await;

    // A new process is the first, and writes a new key. The others adopt it.
    hooks.redis.lose_all().await;
    let newcomer = Store::connect(&world::address(&hooks.redis)).await.expect("a store");
    let key = newcomer.token_key().await.expect("a key").get();
    assert_statuses_count(&hooks, &newcomer).await;
    sender.time().await.expect("redis");
    assert_eq!(sender.token_key().await.expect("a key").get().secret(), key.secret());
    hooks.stop().await;
}

#[tokio::test]
async fn a_token_signed_with_a_new_key_counts_at_once() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 1).await;
    let message = messages[&"3001".into()][0];
    hooks.accept([&message]).await;
    // As if Redis had lost the key and another process had written a new one, which this process has not read yet.
    let mut redis = hooks.redis.connection().await;
    let secret = [9; 16];
    let key = hooks.store.keys.token_key();
    let () = deadpool_redis::redis::cmd("SET").arg(key).arg(&secret).query_async(&mut redis).await.expect("redis");
    let mut status = hooks::status_without_token(&message.wamid(), "read");
    status["biz_opaque_callback_data"] = hooks::token(&pregon::domain::TokenKey::new(secret), &message).into();
    assert_eq!(hooks.deliver(&statuses("3001", &[status])).await, 200);
    assert_eq!(hooks.by_state(id).await, HashMap::from([(State::Read, 1)]));
    hooks.stop().await;
}

#[tokio::test]
async fn a_process_started_on_an_emptied_redis_is_in_the_grace_period() {
    let mut hooks = Hooks::start().await;
    hooks.redis.lose_all().await;
    hooks.store.time().await.expect("redis");
    let newcomer = Store::connect(&world::address(&hooks.redis)).await.expect("a store");
    assert!(newcomer.in_grace_period(Duration::from_secs(60)), "other processes may still replay");
    hooks.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_serve_their_lines_again_after_redis_lost_all_data() {
    let mut redis = TestRedis::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let lines = [line("3001", 200.0), line("3002", 200.0)];
    let first = TestWorker::start("first", &redis, &meta.url(), &lines, settings()).await;
    let second = TestWorker::start("second", &redis, &meta.url(), &lines, settings()).await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    redis.lose_all().await;
    let id = world::campaign(&store, &["3001", "3002"], 100, OnDoubt::Hold).await;
    world::launch(&store, id).await;
    world::wait_for_state(&store, id, CampaignState::Completed).await;
    assert_eq!(meta.requests(), 100);
    until("their lists are registered again", async || {
        let lists = store.line_lists(&["first".to_owned(), "second".to_owned()]).await.expect("redis");
        lists.iter().all(|list| list.as_ref().is_some_and(|list| list.len() == 2))
    })
    .await;
    assert_eq!(store.known_lines().await.expect("redis").len(), 2);
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn jobs_are_read_again_after_redis_lost_all_data() {
    let mut world = World::start().await;
    let stop = CancellationToken::new();
    let reading = read_jobs(world.intake.clone(), "w1".into(), stop.clone(), Duration::from_millis(600));
    let reader = tokio::spawn(reading);
    world.redis.lose_all().await;
    let mut job = campaign_json(
        "order_update/es_AR",
        json!({ "external_id": "spring", "recipients": [row(5_491_100_000_000)], "launch": true }),
    );
    job["type"] = "campaign".into();
    let mut backend = world.redis.connection().await;
    let mut add = deadpool_redis::redis::cmd("XADD");
    let added: String =
        add.arg("pregon:jobs").arg("*").arg("job").arg(job.to_string()).query_async(&mut backend).await.expect("added");
    assert!(!added.is_empty());
    // Housekeeping reads the templates again when it reacquires its duty. The job waits for them.
    let now = world.intake.clock.now();
    world.store().put_templates(&"2001".into(), &templates(), now).await.expect("templates");
    until("the job is applied", async || {
        let id = world.store().campaign_by_external_id("spring").await.expect("redis");
        let Some(id) = id else { return false };
        let record = world.store().campaign(id).await.expect("redis");
        record.is_some_and(|record| record.state == CampaignState::Running)
    })
    .await;
    stop.cancel();
    let Ok(()) = reader.await.expect("no panic");
}
