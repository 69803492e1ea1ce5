//! The messaging limit of a business, with the simulator as Meta: it is never exceeded, it can be used up to the last
//! person, and an increase takes effect at once.

use std::time::Duration;

use deadpool_redis::redis::cmd;
use pregon::{
    api_types::{WaitReason, Waiting},
    domain::{CampaignId, CampaignState, Line, MessagingLimit, MetaCode, OnDoubt, Secret, State},
    redis::places::Places,
    sim::scenario::{Business, MessagingLimit as SimLimit, Odds, Statuses, Target},
    stats::StatisticsReader,
};
use serde_json::json;

use crate::{
    sim::kit::{SimServer, TOKEN, Webhook, with_webhook},
    support::{
        hooks::{APP_SECRET, Hooks},
        until,
        world::{self, TestWorker, settings},
    },
};

/// Business 1001 with a limit of 250 people, lines 3001 and 3002, and a receiver of its webhooks.
struct Stage {
    hooks: Hooks,
    sim: SimServer,
    lines: [Line; 2],
}

impl Stage {
    async fn start(statuses: Statuses) -> Self {
        let hooks = Hooks::start().await;
        let mut scenario = with_webhook(&Webhook::start().await, statuses);
        scenario.businesses =
            vec![Business { id: "1001".into(), limit: SimLimit::Tier250, pacing: None, frequency_cap: None }];
        scenario.wabas[0].business = "1001".into();
        scenario.wabas[0].webhook = Some(Target { url: hooks.url.clone(), app_secret: APP_SECRET.into() });
        let sim = SimServer::start(scenario).await;
        let lines = ["3001", "3002"].map(|id| Line { token: Secret::new(TOKEN), ..world::line(id, 10_000.0) });
        Self { hooks, sim, lines }
    }

    async fn worker(&self, name: &str) -> TestWorker {
        TestWorker::start(name, &self.hooks.redis, &self.sim.base, &self.lines, settings()).await
    }

    async fn launch(&self, lines: &[&str], n: u64) -> CampaignId {
        let id = world::campaign(&self.hooks.store, lines, n, OnDoubt::Hold).await;
        world::launch(&self.hooks.store, id).await;
        id
    }

    async fn count(&self, id: CampaignId, of: impl Fn(State) -> bool) -> u64 {
        let record = self.hooks.store.campaign(id).await.expect("redis").expect("a campaign");
        let counts = world::counts(&self.hooks.store, &record).await;
        counts.by_state.into_iter().filter(|(state, _)| of(*state)).map(|(_, n)| n).sum()
    }

    /// Waits until `n` messages of a campaign are delivered and no other one is on its way.
    async fn delivered(&self, id: CampaignId, n: u64) {
        let open = |state| matches!(state, State::InFlight | State::Accepted | State::Sent | State::InDoubt);
        until("the messages are delivered", async || {
            self.count(id, |state| matches!(state, State::Delivered | State::Read)).await >= n
                && self.count(id, open).await == 0
        })
        .await;
        assert_eq!(self.count(id, |state| matches!(state, State::Delivered | State::Read)).await, n);
    }

    /// Waits until the limit is used up. Returns the campaign's entry in `waiting_for`.
    async fn wait_until_spent(&self, id: CampaignId) -> Waiting {
        let reader = StatisticsReader::new(self.hooks.store.clone(), self.lines.iter().cloned().collect());
        let mut waiting = None;
        until("the campaign waits for its limit", async || {
            let record = self.hooks.store.campaign(id).await.expect("redis").expect("a campaign");
            let statistics = reader.statistics(&record, self.hooks.clock.now()).await.expect("redis");
            waiting = statistics.waiting_for.into_iter().find(|wait| wait.reason == WaitReason::PortfolioLimit);
            waiting.as_ref().is_some_and(|wait| wait.until.is_some())
        })
        .await;
        waiting.expect("it waits")
    }

    async fn places(&self) -> Places {
        self.hooks.store.places(&"1001".into(), 250, self.hooks.clock.now()).await.expect("redis")
    }

    /// The number of open service windows.
    async fn windows(&self) -> u64 {
        let windows = self.hooks.store.keys.windows(&"1001".into());
        self.hooks.store.query("ZCARD", cmd("ZCARD").arg(windows)).await.expect("redis")
    }

    fn assert_kept(&self) {
        let violations = self.sim.ledger().total.violations;
        assert!(violations.values().all(|n| *n == 0), "{violations:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_workers_and_restarts_share_the_limit_until_meta_raises_it() {
    let stage = Stage::start(Statuses::default()).await;
    let first = stage.worker("w1").await;
    let second = stage.worker("w2").await;
    let id = stage.launch(&["3001", "3002"], 400).await;
    let waiting = stage.wait_until_spent(id).await;
    assert_eq!(waiting.text, "business 1001 has reached its limit of 250 people in 24 hours");
    stage.delivered(id, 250).await;
    let wait = waiting.until.expect("an end").since(stage.hooks.clock.now());
    assert!(wait > Duration::from_hours(23) && wait <= Duration::from_hours(72), "{wait:?}");

    first.stop().await;
    second.stop().await;
    let third = stage.worker("w3").await;
    let again = stage.launch(&["3001"], 250).await;
    stage.wait_until_spent(again).await;
    assert_eq!((stage.places().await.used, stage.places().await.left), (250, 0));
    assert_eq!(stage.sim.ledger().total.accepted, 250);

    assert_eq!(stage.sim.control("business", &json!({"id": "1001", "limit": 2000})).await.0, 200);
    let record = world::wait_for_state(&stage.hooks.store, id, CampaignState::Completed).await;
    assert_eq!(world::counts(&stage.hooks.store, &record).await.recipients, 400);
    let limits = stage.hooks.store.messaging_limits().await.expect("redis");
    assert_eq!(limits[&"1001".into()].limit, MessagingLimit::People(2_000));
    stage.delivered(id, 400).await;
    stage.delivered(again, 250).await;
    assert_eq!(stage.places().await.used, 400, "the people of the second campaign have places from the first");
    stage.assert_kept();
    third.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_who_wrote_to_the_line_cost_no_place() {
    let stage = Stage::start(Statuses::default()).await;
    let worker = stage.worker("w1").await;
    // After the first campaign, the webhook receiver knows the limit too.
    let first = stage.launch(&["3002"], 1).await;
    stage.delivered(first, 1).await;
    for n in 0..30 {
        let from = world::recipient(n).to.to_string();
        let wrote = json!({"line": "3001", "from": from, "text": "hola"});
        assert_eq!(stage.sim.control("inbound", &wrote).await.0, 200);
    }
    until("the windows are stored", async || stage.windows().await == 30).await;
    let id = stage.launch(&["3001"], 300).await;
    stage.wait_until_spent(id).await;
    // 249 places are left. Recipient 0 has the other, and also has an open window.
    stage.delivered(id, 279).await;
    stage.assert_kept();
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_fails_gives_its_place_back() {
    let failing = Statuses { failed: Odds([(131_026, 1.0)].into()), ..Statuses::default() };
    let stage = Stage::start(failing).await;
    let worker = stage.worker("w1").await;
    let id = stage.launch(&["3001", "3002"], 600).await;
    until("all have failed", async || stage.count(id, |state| state == State::Failed).await == 600).await;
    until("all places are free", async || stage.places().await.used == 0).await;
    stage.assert_kept();
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_meta_refuses_gives_its_place_back() {
    let stage = Stage::start(Statuses::default()).await;
    let worker = stage.worker("w1").await;
    let refusals = json!({"faults": {"refuse": {"131026": 1.0}}});
    assert_eq!(stage.sim.control("scenario", &refusals).await.0, 200);
    let id = stage.launch(&["3001"], 300).await;
    let record = world::wait_for_state(&stage.hooks.store, id, CampaignState::Completed).await;
    let counts = world::counts(&stage.hooks.store, &record).await;
    assert_eq!(counts.by_state[&State::Refused], 300);
    assert_eq!(counts.failures.keys().filter_map(|reason| reason.code()).collect::<Vec<_>>(), [MetaCode(131_026)]);
    until("all places are free", async || stage.places().await.used == 0).await;
    worker.stop().await;
}
