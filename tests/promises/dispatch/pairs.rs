//! The least time between two messages of a line to the same person.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use pregon::{
    dispatch::DispatchSettings,
    domain::{CampaignId, CampaignState, OnDoubt, Person, State},
    redis::Store,
};

use crate::support::{
    hostile::{AcceptAll, Arrival, Conduct, Courier, Meta, Reply, Sent, accepted, refused, wamid},
    redis::TestRedis,
    seed, until,
    world::{self, TestWorker, address, line, settings},
};

const SPACING: Duration = Duration::from_secs(2);
const RECIPIENTS: u64 = 30;

fn spaced() -> DispatchSettings {
    DispatchSettings { pair_spacing: SPACING, ..settings() }
}

/// Launches a campaign to the people to whom every campaign of this file is sent.
async fn launched(store: &Store, line: &str) -> CampaignId {
    let id = world::campaign(store, &[line], RECIPIENTS, OnDoubt::Hold).await;
    world::launch(store, id).await;
    id
}

/// Panics if two messages of a line to the same person certainly left within the spacing.
fn assert_spaced(arrivals: &[Arrival]) {
    let mut last: HashMap<(&str, &str), &Arrival> = HashMap::new();
    for arrival in arrivals {
        if let Some(before) = last.insert((&arrival.line, &arrival.to), arrival) {
            let apart = arrival.latest - before.earliest;
            assert!(apart >= SPACING, "two messages to {} {apart:?} apart", arrival.to);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_several_campaigns_to_a_person_keep_their_distance() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let lines = [line("3001", 200.0), line("3002", 200.0)];
    let worker = TestWorker::start("w1", &redis, &meta.url(), &lines, spaced()).await;
    let mut campaigns = Vec::new();
    for line in ["3001", "3001", "3002"] {
        campaigns.push(launched(&store, line).await);
    }
    for id in campaigns {
        let record = world::wait_for_state(&store, id, CampaignState::Completed).await;
        assert_eq!(world::counts(&store, &record).await.by_state[&State::Accepted], RECIPIENTS);
        let rows = store.part_rows(record.parts[0].0).await.expect("rows");
        assert!(rows.tries.is_empty(), "waiting uses up no attempt: {:?}", rows.tries);
    }
    assert_eq!(meta.requests() as u64, 3 * RECIPIENTS);
    assert_spaced(&meta.arrivals());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_owner_of_a_line_keeps_the_distance_too() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let lines = [line("3001", 200.0)];
    let first = TestWorker::start("w1", &redis, &meta.url(), &lines, spaced()).await;
    let before = launched(&store, "3001").await;
    world::wait_for_state(&store, before, CampaignState::Completed).await;
    first.stop().await;
    let handed_over = store.last_sends(&"3001".into()).await.expect("redis").expect("the last sends");
    // On a new connection, a message is recorded twice: when the client takes it, and when it leaves.
    let people: HashSet<Person> = handed_over.sends.iter().map(|(to, _)| *to).collect();
    assert_eq!(people.len() as u64, RECIPIENTS);
    let after = launched(&store, "3001").await;
    let second = TestWorker::start("w2", &redis, &meta.url(), &lines, spaced()).await;
    world::wait_for_state(&store, after, CampaignState::Completed).await;
    assert_eq!(meta.requests() as u64, 2 * RECIPIENTS);
    assert_spaced(&meta.arrivals());
    second.stop().await;
}

/// Refuses the first message to one person with a code.
struct RefusesOnce {
    code: u32,
    refused: bool,
}

const REFUSED_PERSON: &str = "5491100000007";

impl Conduct for RefusesOnce {
    fn send(&mut self, sent: Sent, _: &Courier) -> Reply {
        let refuses = sent.to == REFUSED_PERSON && !std::mem::replace(&mut self.refused, sent.to == REFUSED_PERSON);
        let answer = if refuses { refused(400, self.code) } else { accepted(&sent.to, &wamid(&sent.to, 1)) };
        Reply::of(answer, Duration::ZERO)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_meta_refuses_waits_alone() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let meta = Meta::start(RefusesOnce { code: 131_056, refused: false }, seed());
    let worker = TestWorker::start("w1", &redis, &meta.url(), &[line("3001", 200.0)], spaced()).await;
    let id = launched(&store, "3001").await;
    until("everybody else has a message", async || meta.requests() as u64 == RECIPIENTS).await;
    let now = store.time().await.expect("redis");
    assert!(store.holds(now).await.expect("redis").is_empty(), "nothing is held");
    let record = world::wait_for_state(&store, id, CampaignState::Completed).await;
    assert_eq!(world::counts(&store, &record).await.by_state[&State::Accepted], RECIPIENTS);
    let arrivals = meta.arrivals();
    let last = arrivals.last().expect("arrivals");
    assert_eq!((arrivals.len() as u64, last.to.as_str()), (RECIPIENTS + 1, REFUSED_PERSON));
    let first = arrivals.iter().find(|arrival| arrival.to == REFUSED_PERSON).expect("its first attempt");
    assert!(last.latest - first.earliest >= Duration::from_secs(1));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_keeps_the_distance_to_the_attempt_before_it() {
    for code in [131_000, 130_429] {
        let redis = TestRedis::start().await;
        let store = Store::connect(&address(&redis)).await.expect("a store");
        let meta = Meta::start(RefusesOnce { code, refused: false }, seed());
        let worker = TestWorker::start("w1", &redis, &meta.url(), &[line("3001", 200.0)], spaced()).await;
        let id = launched(&store, "3001").await;
        world::wait_for_state(&store, id, CampaignState::Completed).await;
        assert_eq!(meta.requests() as u64, RECIPIENTS + 1, "{code}");
        assert_spaced(&meta.arrivals());
        worker.stop().await;
    }
}
