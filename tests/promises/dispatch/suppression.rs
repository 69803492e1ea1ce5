//! People who want no messages from a business get none.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use pregon::{
    domain::{
        CampaignId, CampaignState, OnDoubt, PersonHash, Phone, SkipReason, State, Suppression, SuppressionReason,
        SuppressionScope, SuppressionSource, UnixMs,
    },
    redis::{Store, suppressions::SuppressedCounts},
};

use crate::support::{
    hostile::{AcceptAll, Conduct, Courier, Meta, Reply, Sent, accepted, refused, wamid},
    redis::TestRedis,
    seed, until,
    world::{self, TestWorker, address, line, recipient, settings},
};

struct Stage {
    redis: TestRedis,
    store: Store,
    meta: Meta,
}

impl Stage {
    async fn start() -> Self {
        Self::with(AcceptAll { latency: Duration::from_millis(2) }).await
    }

    async fn with(conduct: impl Conduct) -> Self {
        let redis = TestRedis::start().await;
        let store = Store::connect(&address(&redis)).await.expect("a store");
        let meta = Meta::start(conduct, seed());
        Self { redis, store, meta }
    }

    async fn worker(&self, name: &str, rate: f64) -> TestWorker {
        TestWorker::start(name, &self.redis, &self.meta.url(), &[line("3001", rate)], settings()).await
    }

    /// Suppresses recipients of the campaigns, by number. Returns when that is acknowledged.
    async fn suppress(&self, people: impl IntoIterator<Item = u64>, scope: SuppressionScope) -> SuppressedCounts {
        let key = self.store.token_key().await.expect("a key").get();
        let entry = |n: u64| {
            let phone = recipient(n).to;
            let (reason, source) = (SuppressionReason::OptOut, SuppressionSource::Api);
            let entry = Suppression { phone: Some(phone), scope, reason, source, since: UnixMs(1_795_300_000_000) };
            (PersonHash::of(phone.into(), &key), entry)
        };
        let people: Vec<_> = people.into_iter().map(entry).collect();
        let counts = self.store.suppress(&"1001".into(), &people, false).await.expect("suppressed");
        self.store.make_durable().await.expect("durable");
        counts
    }

    async fn completed(&self, id: CampaignId) -> HashMap<State, u64> {
        let record = world::wait_for_state(&self.store, id, CampaignState::Completed).await;
        let counts = world::counts(&self.store, &record).await;
        let skipped = counts.by_state[&State::Skipped];
        assert_eq!(counts.skips.get(&SkipReason::Suppressed).copied().unwrap_or(0), skipped);
        counts.by_state
    }

    fn reached(&self) -> HashSet<Phone> {
        self.meta.arrivals().iter().map(|arrival| format!("+{}", arrival.to).parse().expect("a number")).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suppressed_person_is_skipped_with_the_reason_and_everybody_else_gets_the_message() {
    let stage = Stage::start().await;
    let suppressed: Vec<u64> = (0..300).filter(|n| n % 7 == 3).collect();
    let n = suppressed.len() as u64;
    let counts = stage.suppress(suppressed.iter().copied(), SuppressionScope::All).await;
    assert_eq!(counts, SuppressedCounts { new: n, changed: 0 });
    assert_eq!(stage.suppress([3], SuppressionScope::All).await, SuppressedCounts::default(), "known already");
    let id = world::campaign(&stage.store, &["3001"], 300, OnDoubt::Hold).await;
    world::launch(&stage.store, id).await;
    let worker = stage.worker("w1", 10_000.0).await;
    let by_state = stage.completed(id).await;
    assert_eq!((by_state[&State::Skipped], by_state[&State::Accepted]), (n, 300 - n));
    let reached = stage.reached();
    assert!(suppressed.iter().all(|n| !reached.contains(&recipient(*n).to)));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_stops_marketing_still_gets_other_messages() {
    let stage = Stage::start().await;
    stage.suppress(0..10, SuppressionScope::Marketing).await;
    let worker = stage.worker("w1", 10_000.0).await;
    for (category, skipped) in [("UTILITY", 0), ("MARKETING", 10)] {
        let id = world::campaign_of(&stage.store, category, &["3001"], 20).await;
        world::launch(&stage.store, id).await;
        assert_eq!(stage.completed(id).await[&State::Skipped], skipped, "{category}");
    }
    // The scope is widened from marketing to all messages, and one of the ten is unsuppressed.
    assert_eq!(stage.suppress(0..10, SuppressionScope::All).await.changed, 10);
    let key = stage.store.token_key().await.expect("a key").get();
    let first = PersonHash::of(recipient(0).to.into(), &key);
    assert!(stage.store.unsuppress(&"1001".into(), first).await.expect("redis"));
    assert!(!stage.store.unsuppress(&"1001".into(), first).await.expect("redis"));
    let id = world::campaign_of(&stage.store, "UTILITY", &["3001"], 20).await;
    world::launch(&stage.store, id).await;
    assert_eq!(stage.completed(id).await[&State::Skipped], 9);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_claimed_after_their_opt_out_was_acknowledged() {
    const RECIPIENTS: u64 = 600;
    let stage = Stage::start().await;
    // One person is suppressed from the start, so that the worker already has a filter to update.
    stage.suppress([RECIPIENTS + 1], SuppressionScope::All).await;
    let worker = stage.worker("w1", 300.0).await;
    let id = world::campaign(&stage.store, &["3001"], RECIPIENTS, OnDoubt::Hold).await;
    world::launch(&stage.store, id).await;
    let record = stage.store.campaign(id).await.expect("redis").expect("a campaign");
    let part = record.parts[0].0;
    let (mut unclaimed, mut next) = (HashSet::new(), RECIPIENTS);
    while next > 0 {
        let arrived = stage.meta.requests();
        until("the campaign goes on", async || stage.meta.requests() > arrived + 20).await;
        // From the last rows backwards, so that many of them are not claimed yet, until the campaign has got this far.
        next = next.saturating_sub(60);
        stage.suppress(next..next + 20, SuppressionScope::All).await;
        let states = stage.store.state_bytes(part).await.expect("redis");
        unclaimed.extend((next..next + 20).filter(|n| State::of(states[*n as usize]) == Some(State::Pending)));
        if next < arrived as u64 {
            break;
        }
    }
    let by_state = stage.completed(id).await;
    assert!(unclaimed.len() >= 100, "{}", unclaimed.len());
    assert!(by_state[&State::Skipped] >= unclaimed.len() as u64);
    let reached = stage.reached();
    let broken: Vec<u64> = unclaimed.into_iter().filter(|n| reached.contains(&recipient(*n).to)).collect();
    assert!(broken.is_empty(), "{broken:?} got a message after they opted out");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_opt_out_holds_after_redis_lost_power() {
    let mut stage = Stage::start().await;
    let worker = stage.worker("w1", 10_000.0).await;
    stage.suppress(0..10, SuppressionScope::All).await;
    let id = world::campaign(&stage.store, &["3001"], 20, OnDoubt::Hold).await;
    world::launch(&stage.store, id).await;
    assert_eq!(stage.completed(id).await[&State::Skipped], 10);
    stage.suppress(10..15, SuppressionScope::All).await;
    let written = stage.redis.written();
    stage.redis.lose_power(written).await;
    stage.redis.restart().await;
    // After the restart, the worker has read its filter anew or still has the old one. Either way, it knows every
    // suppressed person.
    stage.suppress(15..18, SuppressionScope::All).await;
    let id = world::campaign(&stage.store, &["3001"], 20, OnDoubt::Hold).await;
    world::launch(&stage.store, id).await;
    assert_eq!(stage.completed(id).await[&State::Skipped], 18);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_had_stopped_marketing_at_meta_gets_no_second_try() {
    /// Refuses the first ten people, who have stopped marketing.
    struct Stopped;
    impl Conduct for Stopped {
        fn send(&mut self, Sent { to, .. }: Sent, _: &Courier) -> Reply {
            let has_stopped = (0..10).any(|n| recipient(n).to.digits().to_string() == to);
            let answer = if has_stopped { refused(400, 131_050) } else { accepted(&to, &wamid(&to, 0)) };
            Reply::of(answer, Duration::from_millis(2))
        }
    }
    let stage = Stage::with(Stopped).await;
    let worker = stage.worker("w1", 10_000.0).await;
    let mut refused = Vec::new();
    for _ in 0..2 {
        let id = world::campaign_of(&stage.store, "MARKETING", &["3001"], 20).await;
        world::launch(&stage.store, id).await;
        let by_state = stage.completed(id).await;
        refused.push((by_state[&State::Refused], by_state[&State::Skipped]));
        let key = stage.store.token_key().await.expect("a key").get();
        let people: Vec<_> = (0..10).map(|n| PersonHash::of(recipient(n).to.into(), &key)).collect();
        until("the wishes are stored", async || {
            let found = stage.store.suppressions(&"1001".into(), &people).await.expect("redis");
            found.iter().all(Option::is_some)
        })
        .await;
    }
    assert_eq!(refused, [(10, 0), (0, 10)]);
    worker.stop().await;
}
