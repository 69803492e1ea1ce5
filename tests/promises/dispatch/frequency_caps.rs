//! Frequency caps: nobody gets more marketing than they allow, and messages that were not sent do not count.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use pregon::{
    domain::{CampaignId, CampaignState, FrequencyCap, Line, SkipReason, State},
    redis::Store,
};

use crate::support::{
    hostile::{AcceptAll, Conduct, Courier, Meta, Reply, Sent, accepted, refused, wamid},
    redis::TestRedis,
    seed,
    server::Installation,
    until,
    world::{self, TestWorker, address, line, settings},
};

const RECIPIENTS: u64 = 120;
const ALL: AcceptAll = AcceptAll { latency: Duration::from_millis(2) };

struct Stage {
    redis: TestRedis,
    store: Store,
    meta: Meta,
    cap: FrequencyCap,
}

impl Stage {
    /// A business with a cap of this many messages in 7 days.
    async fn with(messages: u8, conduct: impl Conduct) -> Self {
        let redis = TestRedis::start().await;
        let store = Store::connect(&address(&redis)).await.expect("a store");
        let meta = Meta::start(conduct, seed());
        Self { redis, store, meta, cap: FrequencyCap { messages, days: 7 } }
    }

    async fn worker(&self, name: &str, lines: &[&str]) -> TestWorker {
        let capped = |id: &&str| Line { frequency_cap: Some(self.cap), ..line(id, 1_000.0) };
        let lines: Vec<Line> = lines.iter().map(capped).collect();
        TestWorker::start(name, &self.redis, &self.meta.url(), &lines, settings()).await
    }

    async fn launch(&self, category: &str, lines: &[&str]) -> CampaignId {
        let id = world::campaign_of(&self.store, category, lines, RECIPIENTS).await;
        world::launch(&self.store, id).await;
        id
    }

    /// Waits until a campaign is completed. Returns how many were skipped for the cap, and the counts by state.
    async fn completed(&self, id: CampaignId) -> (u64, HashMap<State, u64>) {
        let record = world::wait_for_state(&self.store, id, CampaignState::Completed).await;
        let counts = world::counts(&self.store, &record).await;
        let skipped = counts.skips.get(&SkipReason::FrequencyCap).copied().unwrap_or(0);
        assert_eq!(counts.by_state[&State::Skipped], skipped);
        (skipped, counts.by_state)
    }

    /// How many people got how many messages, by number of messages.
    fn people_by_messages(&self) -> BTreeMap<usize, usize> {
        let mut messages: HashMap<String, usize> = HashMap::new();
        for arrival in self.meta.arrivals() {
            *messages.entry(arrival.to).or_default() += 1;
        }
        let mut people = BTreeMap::new();
        for n in messages.into_values() {
            *people.entry(n).or_default() += 1;
        }
        people
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_holds_over_the_campaigns_lines_and_workers_of_a_business() {
    let stage = Stage::with(2, ALL).await;
    let first = stage.worker("w1", &["3001", "3002"]).await;
    let second = stage.worker("w2", &["3001", "3002"]).await;
    let lines = ["3001", "3002"];
    let ids = [
        stage.launch("MARKETING", &lines[..1]).await,
        stage.launch("MARKETING", &lines[1..]).await,
        stage.launch("MARKETING", &lines).await,
    ];
    let (mut skipped, mut accepted) = (0, 0);
    for id in ids {
        let (capped, by_state) = stage.completed(id).await;
        skipped += capped;
        accepted += by_state[&State::Accepted];
    }
    assert_eq!((skipped, accepted), (RECIPIENTS, 2 * RECIPIENTS));
    assert_eq!(stage.people_by_messages(), BTreeMap::from([(2, RECIPIENTS as usize)]));

    // Messages other than marketing do not count and are not skipped.
    let id = stage.launch("UTILITY", &lines).await;
    assert_eq!(stage.completed(id).await.1[&State::Accepted], RECIPIENTS);
    let id = stage.launch("MARKETING", &lines).await;
    assert_eq!(stage.completed(id).await.0, RECIPIENTS);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn utility_messages_are_not_counted_as_marketing() {
    let stage = Stage::with(1, ALL).await;
    let worker = stage.worker("w1", &["3001"]).await;
    for (category, skipped) in [("UTILITY", 0), ("MARKETING", 0), ("UTILITY", 0), ("MARKETING", RECIPIENTS)] {
        let id = stage.launch(category, &["3001"]).await;
        assert_eq!(stage.completed(id).await.0, skipped, "{category}");
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaigns_own_cap_counts_all_marketing_of_the_business() {
    let stage = Stage::with(3, ALL).await;
    let worker = stage.worker("w1", &["3001"]).await;
    let once = FrequencyCap { messages: 1, days: 7 };
    for (own_cap, skipped) in [(None, 0), (Some(once), RECIPIENTS), (None, 0), (None, 0), (None, RECIPIENTS)] {
        let id = world::capped_campaign(&stage.store, own_cap, &["3001"], RECIPIENTS).await;
        world::launch(&stage.store, id).await;
        assert_eq!(stage.completed(id).await.0, skipped, "{own_cap:?}");
    }
    worker.stop().await;
}

/// Refuses a third of the people for good and throttles another third, each once.
#[derive(Default)]
struct OnceRefused(HashSet<String>);

impl Conduct for OnceRefused {
    fn send(&mut self, Sent { to, .. }: Sent, _: &Courier) -> Reply {
        let is_first = self.0.insert(to.clone());
        let answer = match to.parse::<u64>().expect("digits") % 3 {
            0 if is_first => refused(400, 131_026),
            1 if is_first => refused(400, 131_056),
            _ => accepted(&to, &wamid(&to, 1)),
        };
        Reply::of(answer, Duration::from_millis(2))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_was_not_sent_gives_its_place_back() {
    let stage = Stage::with(1, OnceRefused::default()).await;
    let worker = stage.worker("w1", &["3001"]).await;
    let third = RECIPIENTS / 3;
    let id = stage.launch("MARKETING", &["3001"]).await;
    let (skipped, by_state) = stage.completed(id).await;
    // A throttled message had been counted already, and is sent.
    assert_eq!((skipped, by_state[&State::Refused], by_state[&State::Accepted]), (0, third, 2 * third));
    let id = stage.launch("MARKETING", &["3001"]).await;
    let (skipped, by_state) = stage.completed(id).await;
    assert_eq!((skipped, by_state[&State::Accepted]), (2 * third, third));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_whom_a_killed_worker_claimed_gets_no_second_message() {
    let stage = Stage::with(1, ALL).await;
    let installation =
        Installation::new(&stage.redis, &stage.meta.url(), &[("3001", 200.0)], "doubt_deadline = \"3s\"");
    let environment = [
        ("PREGON__GRAPH__TIMEOUT", "2s"),
        ("PREGON__GRAPH__CONNECT_TIMEOUT", "1s"),
        ("PREGON__BUSINESS__0__FREQUENCY_CAP__MESSAGES", "1"),
        ("PREGON__BUSINESS__0__FREQUENCY_CAP__DAYS", "7"),
    ];
    let ids = [stage.launch("MARKETING", &["3001"]).await, stage.launch("MARKETING", &["3001"]).await];
    let killed = installation.serve_with("killed", "dispatch", &environment).await;
    until("the line sends", async || stage.meta.requests() > 30).await;
    killed.signal("KILL");
    let worker = installation.serve_with("worker", "dispatch", &environment).await;
    let mut ended = 0;
    for id in ids {
        let (skipped, by_state) = stage.completed(id).await;
        ended += skipped + by_state[&State::Accepted] + by_state[&State::Unknown];
    }
    assert_eq!(ended, 2 * RECIPIENTS);
    let people = stage.people_by_messages();
    assert_eq!(people.keys().copied().collect::<Vec<_>>(), [1], "{people:?}");
    worker.signal("TERM");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_holds_if_redis_loses_its_last_writes() {
    let mut stage = Stage::with(1, ALL).await;
    let worker = stage.worker("w1", &["3001"]).await;
    let id = stage.launch("MARKETING", &["3001"]).await;
    until("the line sends", async || stage.meta.requests() > 20).await;
    let kept = stage.redis.written();
    assert_eq!(stage.completed(id).await.0, 0);
    stage.redis.lose_power(kept).await;
    stage.redis.restart().await;
    let id = stage.launch("MARKETING", &["3001"]).await;
    assert_eq!(stage.completed(id).await.0, RECIPIENTS);
    assert_eq!(stage.people_by_messages(), BTreeMap::from([(1, RECIPIENTS as usize)]));
    worker.stop().await;
}
