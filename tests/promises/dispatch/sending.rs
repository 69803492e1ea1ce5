//! Sending with a real Redis and a scripted fake Meta.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use deadpool_redis::redis::cmd;
use pregon::{
    dispatch::DispatchSettings,
    domain::{CampaignState, MetaCode, OnDoubt, State},
    redis::{Address, Store, StoreError, campaigns::StateChange},
};

use crate::support::{
    self,
    hostile::{self, Answer, Conduct, Courier, Reply, Sent, accepted, refused, wamid},
    meta_code,
    redis::TestRedis,
    until,
    world::{self, TestWorker},
};

/// The response to the `n`th request (from 0), for the recipient `to`; `None` accepts the message.
type Script = fn(n: u64, to: &str) -> Option<Answer>;

/// Accepted messages by recipient.
type Messages = Arc<Mutex<HashMap<String, u64>>>;

/// Responds as the script says, and counts the accepted messages.
struct Scripted {
    script: Script,
    requests: u64,
    messages: Messages,
}

impl Conduct for Scripted {
    fn send(&mut self, sent: Sent, _: &Courier) -> Reply {
        let n = self.requests;
        self.requests += 1;
        let answer = (self.script)(n, &sent.to).unwrap_or_else(|| {
            *self.messages.lock().expect("no panic").entry(sent.to.clone()).or_default() += 1;
            accepted(&sent.to, &wamid(&sent.to, n))
        });
        Reply::of(answer, Duration::ZERO)
    }
}

/// A fake Meta with a script.
struct Meta {
    server: hostile::Meta,
    messages: Messages,
}

impl Meta {
    fn start(script: Script) -> Self {
        let messages = Messages::default();
        let conduct = Scripted { script, requests: 0, messages: messages.clone() };
        Self { server: hostile::Meta::start(conduct, 0), messages }
    }

    fn url(&self) -> String {
        self.server.url()
    }

    /// The number of recipients with a message, and the highest number of messages of one recipient.
    fn sent(&self) -> (usize, u64) {
        let messages = self.messages.lock().expect("no panic");
        (messages.len(), messages.values().copied().max().unwrap_or(0))
    }
}

#[tokio::test]
async fn every_recipient_gets_one_message_and_is_counted() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let meta = Meta::start(|_, _| None);
    let id = world::campaign(&store, &["3001", "3002"], 5_000, OnDoubt::Hold).await;
    world::launch(&store, id).await;
    let lines = [world::line("3001", 1e6), world::line("3002", 1e6)];
    let worker = TestWorker::start("w1", &redis, &meta.url(), &lines, world::settings()).await;
    let record = world::wait_for_state(&store, id, CampaignState::Completed).await;
    worker.stop().await;
    assert_eq!(meta.sent(), (5_000, 1), "recipients, and messages to one of them at most");
    let counts = world::counts(&store, &record).await;
    assert_eq!(counts.by_state[&State::Accepted], 5_000);
    assert_eq!(counts.by_state, world::recount(&store, &record).await);
}

#[tokio::test]
async fn a_throttled_message_keeps_its_attempts() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let meta = Meta::start(|n, _| (n < 3).then(|| refused(429, 130_429)));
    let id = world::campaign(&store, &["3001"], 1, OnDoubt::Hold).await;
    world::launch(&store, id).await;
    let worker = TestWorker::start("w1", &redis, &meta.url(), &[world::line("3001", 100.0)], world::settings()).await;
    let record = world::wait_for_state(&store, id, CampaignState::Completed).await;
    worker.stop().await;
    let rows = store.part_rows(record.parts[0].0).await.expect("rows");
    assert_eq!(
        (State::of(rows.states[0]), State::send_of(rows.states[0])),
        (Some(State::Accepted), 4),
        "claimed four times"
    );
    assert!(rows.tries.is_empty(), "three throttled sends use up no attempt: {:?}", rows.tries);
}

#[tokio::test]
async fn an_out_of_range_stored_rate_stops_no_worker() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let meta = Meta::start(|_, _| None);
    for (line, rate) in [("3001", 1e-11), ("3002", 1e300)] {
        store.set_rate(&line.into(), Some(rate)).await.expect("redis");
    }
    let id = world::campaign(&store, &["3001", "3002"], 32, OnDoubt::Hold).await;
    world::launch(&store, id).await;
    let lines = [world::line("3001", 80.0), world::line("3002", 80.0)];
    let worker = TestWorker::start("w1", &redis, &meta.url(), &lines, world::settings()).await;
    until("the other line sends", async || meta.sent() == (16, 1)).await;
    store.set_rate(&"3001".into(), Some(80.0)).await.expect("redis");
    world::wait_for_state(&store, id, CampaignState::Completed).await;
    worker.stop().await;
    assert_eq!(meta.sent(), (32, 1));
}

fn parameter_missing() -> Answer {
    refused(400, 131_008)
}

#[tokio::test]
async fn an_error_of_one_row_fails_only_that_row() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    // Recipient 37, in whichever order the requests arrive.
    let meta = Meta::start(|_, to| (to == "5491100000037").then(parameter_missing));
    let id = world::campaign(&store, &["3001"], 2_000, OnDoubt::Hold).await;
    world::launch(&store, id).await;
    let worker = TestWorker::start("w1", &redis, &meta.url(), &[world::line("3001", 1e6)], world::settings()).await;
    let record = world::wait_for_state(&store, id, CampaignState::Completed).await;
    worker.stop().await;
    assert_eq!(meta.sent(), (1_999, 1), "recipients, and messages to one of them at most");
    let counts = world::counts(&store, &record).await;
    assert_eq!((counts.by_state[&State::Accepted], counts.by_state[&State::Refused]), (1_999, 1));
    assert_eq!(counts.failures, HashMap::from([(meta_code(131_008), 1)]));
}

#[tokio::test]
async fn a_template_that_fails_for_everyone_pauses_after_a_few() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let meta = Meta::start(|n, _| (n < 5).then(parameter_missing));
    let id = world::campaign(&store, &["3001"], 100, OnDoubt::Hold).await;
    world::launch(&store, id).await;
    // Slow enough that each response arrives before the next message is sent.
    let worker = TestWorker::start("w1", &redis, &meta.url(), &[world::line("3001", 20.0)], world::settings()).await;
    let paused = world::wait_for_state(&store, id, CampaignState::Paused).await;
    assert_eq!(paused.reason.as_ref().map(|reason| reason.code), Some(Some(MetaCode(131_008))));
    let now = store.time().await.expect("the time");
    let resumed = store.change_campaign(id, &[CampaignState::Paused], CampaignState::Running, now, None).await;
    assert_eq!(resumed.expect("redis"), StateChange::Done);
    let record = world::wait_for_state(&store, id, CampaignState::Completed).await;
    worker.stop().await;
    let counts = world::counts(&store, &record).await;
    let of = |state| counts.by_state[&state];
    assert_eq!((of(State::Accepted), of(State::Refused)), (95, 5), "failed recipients are not sent again");
}

#[tokio::test]
async fn rows_of_a_claim_without_a_response_are_sent_once() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let meta = Meta::start(|_, _| None);
    let id = world::campaign(&store, &["3001"], 1_000, OnDoubt::Hold).await;
    world::launch(&store, id).await;
    // The lease is longer than the pause, so that no newer epoch puts the claimed rows in doubt.
    let settings = DispatchSettings { lease: Duration::from_secs(30), ..world::settings() };
    let worker = TestWorker::start("w1", &redis, &meta.url(), &[world::line("3001", 400.0)], settings).await;
    support::until("messages are sent", async || meta.sent().0 > 100).await;
    let mut connection = redis.connection().await;
    // Longer than the Redis timeout: calls in flight, claims among them, get no response and take effect later.
    let pause = world::address(&redis).timeout + Duration::from_millis(500);
    let () = cmd("CLIENT")
        .arg("PAUSE")
        .arg(pause.as_millis() as u64)
        .arg("ALL")
        .query_async(&mut connection)
        .await
        .expect("a pause");
    let record = world::wait_for_state(&store, id, CampaignState::Completed).await;
    worker.stop().await;
    assert_eq!(meta.sent(), (1_000, 1), "recipients, and messages to one of them at most");
    let counts = world::counts(&store, &record).await;
    assert_eq!(counts.by_state[&State::Accepted], 1_000);
    assert_eq!(counts.by_state, world::recount(&store, &record).await);
}

#[tokio::test]
async fn a_claim_not_applied_is_distinguished_from_an_unknown_outcome() {
    let mut redis = TestRedis::start().await;
    let address = Address { timeout: Duration::from_millis(300), ..world::address(&redis) };
    let store = Store::connect(&address).await.expect("a store");
    let id = world::campaign(&store, &["3001"], 10, OnDoubt::Hold).await;
    world::launch(&store, id).await;
    let part = store.campaign(id).await.expect("redis").expect("a campaign").parts[0].0;
    // As dispatch threads use the store: a pinned connection is not tested before use.
    let store = store.with_own_connections().expect("a store").with_pinned_connection();
    let now = store.time().await.expect("the time");
    let wish = || support::claim_request(1, now, 2, now);
    let mut connection = redis.connection().await;
    let mut send_command = async |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        let () = cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await.expect("redis");
    };

    send_command("CONFIG SET maxmemory 1").await;
    let full = store.claim(part, &wish()).await.expect_err("redis is full");
    assert!(matches!(full, StoreError::Full(_)), "{full:?}");
    send_command("CONFIG SET maxmemory 0").await;

    // Longer than the Redis timeout.
    send_command("CLIENT PAUSE 1500").await;
    let late = store.claim(part, &wish()).await.expect_err("no response");
    assert!(matches!(late, StoreError::OutcomeUnknown(_)), "{late:?}");

    redis.kill_hard().await;
    support::until("the store notices that redis is down", async || store.time().await.is_err()).await;
    let gone = store.claim(part, &wish()).await.expect_err("redis is down");
    assert!(matches!(gone, StoreError::NotApplied(_)), "{gone:?}");
}
