//! Holds that follow from several answers, and those that stop only some recipients or campaigns.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use pregon::{
    domain::{CampaignState, Hold, HoldScope, Line, MetaCode, OnDoubt, State},
    redis::Store,
};

use crate::support::{
    hostile::{Answer, Conduct, Courier, Meta, Reply, Sent, accepted, refused, wamid},
    redis::TestRedis,
    seed, until,
    world::{self, TestWorker, address, line, settings},
};

/// Returns the refusal of a message on a line, or `None` if Meta accepts it.
type Refusal = Option<fn(line: &str) -> Option<Answer>>;

/// A fake Meta that refuses what its script says, and accepts the rest.
#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<Refusal>>);

impl Scripted {
    fn set(&self, refusal: Refusal) {
        *self.0.lock().expect("no panic") = refusal;
    }
}

impl Conduct for Scripted {
    fn send(&mut self, sent: Sent, _: &Courier) -> Reply {
        let refusal = self.0.lock().expect("no panic").and_then(|refusal| refusal(&sent.line));
        let answer = refusal.unwrap_or_else(|| accepted(&sent.to, &wamid(&sent.to, 1)));
        Reply::of(answer, Duration::from_millis(2))
    }
}

struct Stage {
    _redis: TestRedis,
    store: Store,
    meta: Meta,
    scripted: Scripted,
    worker: TestWorker,
}

impl Stage {
    async fn start(refusal: Refusal, lines: &[Line]) -> Self {
        let (redis, scripted) = (TestRedis::start().await, Scripted::default());
        scripted.set(refusal);
        let meta = Meta::start(scripted.clone(), seed());
        let store = Store::connect(&address(&redis)).await.expect("a store");
        let worker = TestWorker::start("w1", &redis, &meta.url(), lines, settings()).await;
        Self { _redis: redis, store, meta, scripted, worker }
    }

    async fn holds(&self) -> Vec<(String, Hold)> {
        let now = self.store.time().await.expect("redis");
        let holds = self.store.holds(now).await.expect("redis");
        let mut holds: Vec<_> = holds.into_iter().map(|(scope, hold)| (scope.to_string(), hold)).collect();
        holds.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        holds
    }

    async fn scopes(&self) -> Vec<String> {
        self.holds().await.into_iter().map(|(scope, _)| scope).collect()
    }
}

fn of_business(line: Line, waba: &str, business: &str) -> Line {
    Line { waba: waba.into(), business: business.into(), ..line }
}

#[tokio::test(flavor = "multi_thread")]
async fn recipients_in_a_country_that_meta_blocks_fail_without_being_sent() {
    let stage = Stage::start(None, &[line("3001", 400.0)]).await;
    let now = stage.store.time().await.expect("redis");
    let argentina = HoldScope::Country { waba: "2001".into(), code: "54".parse().expect("a code") };
    let hold = Hold { code: Some(MetaCode(130_497)), reason: "not here".into(), since: now, until: None };
    stage.store.hold(&argentina, &hold).await.expect("redis");
    let elsewhere = HoldScope::Country { waba: "2009".into(), code: "54".parse().expect("a code") };
    stage.store.hold(&elsewhere, &hold).await.expect("redis");
    let id = world::campaign(&stage.store, &["3001"], 300, OnDoubt::Hold).await;
    world::launch(&stage.store, id).await;
    let record = world::wait_for_state(&stage.store, id, CampaignState::Completed).await;
    assert_eq!(world::counts(&stage.store, &record).await.by_state[&State::Refused], 300);
    assert_eq!(stage.meta.requests(), 0);

    stage.store.unhold(&argentina).await.expect("redis");
    let id = world::campaign(&stage.store, &["3001"], 10, OnDoubt::Hold).await;
    world::launch(&stage.store, id).await;
    let record = world::wait_for_state(&stage.store, id, CampaignState::Completed).await;
    assert_eq!(world::counts(&stage.store, &record).await.by_state[&State::Accepted], 10, "the hold of another waba");
    stage.worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_restricted_lines_hold_their_business_and_no_other() {
    let lines = [
        of_business(line("3001", 100.0), "2001", "1001"),
        of_business(line("3002", 100.0), "2002", "1001"),
        of_business(line("3003", 100.0), "2003", "1001"),
        of_business(line("3009", 100.0), "2009", "1009"),
    ];
    let restricted: Refusal = Some(|line| ["3001", "3002"].contains(&line).then(|| refused(400, 131_048)));
    let stage = Stage::start(restricted, &lines).await;
    let id = world::campaign(&stage.store, &["3001"], 1, OnDoubt::Hold).await;
    world::launch(&stage.store, id).await;
    until("the first line is held", async || stage.scopes().await == ["line:3001"]).await;
    let second = world::campaign(&stage.store, &["3002"], 1, OnDoubt::Hold).await;
    world::launch(&stage.store, second).await;
    until("the business is held", async || stage.scopes().await == ["business:1001", "line:3001", "line:3002"]).await;
    let hold = stage.holds().await.swap_remove(0).1;
    assert_eq!(hold.until, Some(hold.since.after(Duration::from_secs(3_600))), "{hold:?}");
    let third = world::campaign(&stage.store, &["3003"], 5, OnDoubt::Hold).await;
    let other = world::campaign(&stage.store, &["3009"], 5, OnDoubt::Hold).await;
    world::launch(&stage.store, third).await;
    world::launch(&stage.store, other).await;
    world::wait_for_state(&stage.store, other, CampaignState::Completed).await;
    assert_eq!(stage.meta.requests(), 2 + 5, "nothing of the held business is sent");

    // After an operator lifts the hold, it does not return by itself, although the lines are still held.
    assert!(stage.store.unhold(&HoldScope::Business("1001".into())).await.expect("redis"));
    world::wait_for_state(&stage.store, third, CampaignState::Completed).await;
    assert_eq!(stage.scopes().await, ["line:3001", "line:3002"]);
    stage.worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_meta_is_down_nothing_is_sent() {
    let stage = Stage::start(Some(|_| Some(refused(503, 131_016))), &[line("3001", 400.0), line("3002", 400.0)]).await;
    let id = world::campaign(&stage.store, &["3001", "3002"], 400, OnDoubt::Hold).await;
    world::launch(&stage.store, id).await;
    until("everything is held", async || stage.scopes().await == ["platform:meta"]).await;
    let hold = stage.holds().await.swap_remove(0).1;
    assert_eq!((hold.code, hold.until), (Some(MetaCode(131_016)), Some(hold.since.after(Duration::from_secs(15)))));
    let record = stage.store.campaign(id).await.expect("redis").expect("it");
    until("nothing is in flight", async || {
        let counts = world::counts(&stage.store, &record).await;
        counts.by_state.get(&State::InFlight).is_none_or(|n| *n == 0)
    })
    .await;
    let sent = stage.meta.requests();
    assert!(sent < 400, "{sent} messages were sent in vain");
    let counts = world::counts(&stage.store, &record).await.by_state;
    assert_eq!(counts[&State::Pending] + counts[&State::Retrying], 400, "{counts:?}");

    stage.scripted.set(None);
    assert!(stage.store.unhold(&HoldScope::Platform).await.expect("redis"));
    until("the line sends again", async || stage.meta.requests() > sent + 100).await;
    assert_eq!(stage.scopes().await, [""; 0], "a success closes the breaker");
    stage.worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_on_utility_messages_stops_only_campaigns_with_utility_templates() {
    let stage = Stage::start(None, &[line("3001", 400.0)]).await;
    let now = stage.store.time().await.expect("redis");
    let hold = Hold { code: Some(MetaCode(131_064)), reason: "the cap".into(), since: now, until: None };
    stage.store.hold(&HoldScope::Utility("2009".into()), &hold).await.expect("redis");
    let sent = world::campaign(&stage.store, &["3001"], 5, OnDoubt::Hold).await;
    world::launch(&stage.store, sent).await;
    world::wait_for_state(&stage.store, sent, CampaignState::Completed).await;

    stage.store.hold(&HoldScope::Utility("2001".into()), &hold).await.expect("redis");
    let utility = world::campaign(&stage.store, &["3001"], 5, OnDoubt::Hold).await;
    let marketing = world::campaign_of(&stage.store, "MARKETING", &["3001"], 5).await;
    world::launch(&stage.store, utility).await;
    world::launch(&stage.store, marketing).await;
    world::wait_for_state(&stage.store, marketing, CampaignState::Completed).await;
    assert_eq!(stage.meta.requests(), 10);
    let record = stage.store.campaign(utility).await.expect("redis").expect("it");
    assert_eq!(world::counts(&stage.store, &record).await.by_state[&State::Pending], 5);
    stage.store.unhold(&HoldScope::Utility("2001".into())).await.expect("redis");
    world::wait_for_state(&stage.store, utility, CampaignState::Completed).await;
    stage.worker.stop().await;
}
