//! Marketing that Meta withholds from a person (131049) is sent once more, a day later, if the campaign asks for that.
//! Until then, no campaign of the business sends marketing to the person.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use deadpool_redis::redis::cmd;
use pregon::{
    domain::{
        CampaignId, CampaignState, ClaimedRow, Fact, Line, News, OnWithheld, PartId, Settled, SkipReason, State,
        UnixMs, policy, template::Category,
    },
    redis::{Store, parts::Claim},
};

use crate::support::{
    claim_request, clock,
    hooks::{Hooks, now, status_without_token, statuses},
    hostile::{AcceptAll, Conduct, Courier, Meta, Reply, Sent, accepted, refused, wamid},
    meta_code,
    redis::TestRedis,
    until,
    world::{self, TestWorker, address, line, recipient, settings},
};

const KEPT: Duration = Duration::from_secs(3_600);
const RECIPIENTS: u64 = 30;
const HOUR_MS: i64 = 3_600_000;

/// Withholds the first messages to each person: none, one or all, by the last digit of the number.
#[derive(Default)]
struct Withholds {
    sent: HashMap<String, u64>,
}

impl Conduct for Withholds {
    fn send(&mut self, sent: Sent, _: &Courier) -> Reply {
        let before = self.sent.entry(sent.to.clone()).or_default();
        *before += 1;
        let answer = match *before <= withheld_messages(&sent.to) {
            true => refused(400, 131_049),
            false => accepted(&sent.to, &wamid(&sent.to, *before)),
        };
        Reply::of(answer, Duration::from_millis(2))
    }
}

fn withheld_messages(to: &str) -> u64 {
    let digit = to.bytes().last().unwrap_or_default() - b'0';
    [0, 1, u64::MAX][usize::from(digit % 3)]
}

/// For how many people Meta withholds this number of messages.
fn people_with(withheld: u64) -> u64 {
    (0..RECIPIENTS).filter(|n| withheld_messages(&n.to_string()) == withheld).count() as u64
}

async fn by_state(store: &Store, id: CampaignId) -> HashMap<State, u64> {
    let record = store.campaign(id).await.expect("redis").expect("a campaign");
    let mut counts = world::counts(store, &record).await.by_state;
    counts.retain(|_, n| *n > 0);
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withheld_message_is_sent_once_more_after_a_day_and_a_take_over() {
    let (redis, clock) = clock::redis().await;
    let Some(clock) = clock else { return };
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let meta = Meta::start(Withholds::default(), 0);
    let lines = [line("3001", 200.0)];
    let id = world::campaign_on_withheld(&store, OnWithheld::Retry, &["3001"], RECIPIENTS).await;
    let part = store.campaign(id).await.expect("redis").expect("a campaign").parts[0].0;
    let first = TestWorker::start("w1", &redis, &meta.url(), &lines, settings()).await;
    let began = store.time().await.expect("redis");
    world::launch(&store, id).await;
    let [never, once, always] = [0, 1, u64::MAX].map(people_with);
    let waiting = HashMap::from([(State::Accepted, never), (State::Retrying, once + always)]);
    until("a third is accepted", async || by_state(&store, id).await == waiting).await;
    let range = cmd("ZRANGE").arg(store.keys.retry(part)).arg(&["0", "-1", "WITHSCORES"]).clone();
    let due: Vec<(u16, f64)> = store.query("ZRANGE retry", &range).await.expect("redis");
    assert_eq!(due.len() as u64, once + always);
    let earliest = began.after(policy::WITHHELD_FOR).0 as f64;
    assert!(due.iter().all(|(_, at)| *at >= earliest), "not before {earliest}: {due:?}");

    // A day later, another worker sends them again. Those that are withheld again fail.
    first.stop().await;
    clock.step(26 * HOUR_MS).await;
    let second = TestWorker::start("w2", &redis, &meta.url(), &lines, settings()).await;
    let ended = HashMap::from([(State::Accepted, never + once), (State::Refused, always)]);
    until("all have ended", async || by_state(&store, id).await == ended).await;
    assert_eq!(meta.requests() as u64, RECIPIENTS + once + always);
    second.stop().await;

    // Meta may still report an accepted message as withheld, so the campaign waits for a minute before it completes.
    let at = store.time().await.expect("redis");
    assert!(!store.complete_if_done(id, at).await.expect("redis"));
    assert!(store.complete_if_done(id, at.after(Duration::from_secs(62))).await.expect("redis"));
    let record = store.campaign(id).await.expect("redis").expect("a campaign");
    assert_eq!(world::counts(&store, &record).await.failures, HashMap::from([(meta_code(131_049), always)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_choice_of_the_campaign_a_withheld_message_fails() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let meta = Meta::start(Withholds::default(), 0);
    let worker = TestWorker::start("w1", &redis, &meta.url(), &[line("3001", 200.0)], settings()).await;
    let id = world::campaign_on_withheld(&store, OnWithheld::Fail, &["3001"], RECIPIENTS).await;
    world::launch(&store, id).await;
    let never = people_with(0);
    let ended = HashMap::from([(State::Accepted, never), (State::Refused, RECIPIENTS - never)]);
    until("all have ended", async || by_state(&store, id).await == ended).await;
    assert_eq!(meta.requests() as u64, RECIPIENTS);
    worker.stop().await;
}

/// A row that was claimed by epoch 1.
struct Row {
    _redis: TestRedis,
    store: Store,
    part: PartId,
}

impl Row {
    async fn start() -> Self {
        let redis = TestRedis::start().await;
        let store = Store::connect(&address(&redis)).await.expect("a store");
        let id = world::campaign_on_withheld(&store, OnWithheld::Retry, &["3001"], 1).await;
        world::launch(&store, id).await;
        let part = store.campaign(id).await.expect("redis").expect("a campaign").parts[0].0;
        Self { _redis: redis, store, part }
    }

    /// Claims at `now`. Returns the row and the number of its attempt, if the row is due.
    async fn claim(&self, epoch: u64, now: UnixMs) -> Option<(ClaimedRow, u8)> {
        match self.store.claim(self.part, &claim_request(epoch, now, 10, now)).await.expect("a claim") {
            Claim::Rows { rows, .. } => rows.first().map(|row| (row.claimed, row.attempt)),
            other => panic!("{other:?}"),
        }
    }

    async fn settle(&self, epoch: u64, claimed: ClaimedRow, settled: Settled) {
        let outcomes = BTreeMap::from([(self.part, vec![(claimed, settled)])]);
        self.store.settle(&outcomes, epoch, now(), KEPT).await.expect("settled");
    }

    async fn withheld(&self, claimed: ClaimedRow, at: UnixMs) {
        let ClaimedRow { row, send } = claimed;
        let fact = Fact { row, send, news: News::Withheld(meta_code(131_049)), at, message: None };
        self.store.apply(&[(self.part, vec![fact])], KEPT).await.expect("applied");
    }

    async fn state(&self) -> Option<State> {
        State::of(self.store.state_bytes(self.part).await.expect("redis")[0])
    }
}

#[tokio::test]
async fn a_person_is_withheld_from_once_by_response_or_by_status() {
    let at = now();
    let (day_later, later) = (at.after(policy::WITHHELD_FOR), at.after(3 * policy::WITHHELD_FOR));
    let refusal = || Settled::Withheld { at: day_later, reason: meta_code(131_049) };
    let accepted = || Settled::Accepted("wamid.1".into());
    for (first_by_status, second_by_status) in [(false, false), (false, true), (true, false), (true, true)] {
        let row = Row::start().await;
        let (mut epoch, mut claimed) = (1, row.claim(1, at).await.expect("the row").0);
        for by_status in [first_by_status, second_by_status] {
            match by_status {
                true => {
                    row.settle(epoch, claimed, accepted()).await;
                    // Meta repeats its statuses, and Pregón its settlements.
                    row.withheld(claimed, at).await;
                    row.withheld(claimed, at).await;
                    row.settle(epoch, claimed, accepted()).await;
                }
                false => {
                    row.settle(epoch, claimed, refusal()).await;
                    row.settle(epoch, claimed, refusal()).await;
                }
            }
            if epoch > 1 {
                break;
            }
            assert_eq!(row.state().await, Some(State::Retrying));
            assert_eq!(row.claim(1, UnixMs(day_later.0 - 1)).await, None, "not before the day is over");
            // The next claim is by a later owner, and an error of another kind comes in between.
            let (again, attempt) = row.claim(2, later).await.expect("due");
            assert_eq!(attempt, 2);
            row.settle(2, again, Settled::Retry { at, reason: meta_code(131_000) }).await;
            (claimed, epoch) = (row.claim(3, later).await.expect("due").0, 3);
        }
        let failed = if second_by_status { State::Failed } else { State::Refused };
        assert_eq!(row.state().await, Some(failed), "{first_by_status} {second_by_status}");
        assert_eq!(row.claim(3, later.after(policy::WITHHELD_FOR * 2)).await, None);
    }
}

#[tokio::test]
async fn a_withheld_status_follows_the_choice_of_the_campaign() {
    let hooks = Hooks::start().await;
    for (on_withheld, expected) in [(OnWithheld::Fail, State::Failed), (OnWithheld::Retry, State::Retrying)] {
        let id = world::campaign_on_withheld(&hooks.store, on_withheld, &["3001"], 3).await;
        let messages = hooks.launch(id, 3).await.remove(&"3001".into()).expect("its messages");
        hooks.accept(&messages[..2]).await;
        let failed = "failed 131049";
        // Found by the token, by the message id, and by the message id before the response to the send is stored.
        let reported = [
            hooks.status(&messages[0], failed),
            status_without_token(&messages[1].wamid(), failed),
            status_without_token(&messages[2].wamid(), failed),
        ];
        assert_eq!(hooks.deliver(&statuses("3001", &reported)).await, 200);
        hooks.accept(&messages[2..]).await;
        until("every status is applied", async || hooks.by_state(id).await == HashMap::from([(expected, 3)])).await;
        // If the campaign is cancelled, the rows that were to be sent again fail with the code of the status.
        let from = [CampaignState::Running];
        hooks.store.change_campaign(id, &from, CampaignState::Cancelled, now(), None).await.expect("redis");
        until("nothing is left", async || hooks.by_state(id).await == HashMap::from([(State::Failed, 3)])).await;
        assert_eq!(hooks.counts(id).await.failures, HashMap::from([(meta_code(131_049), 3)]));
    }
    hooks.stop().await;
}

/// Withholds the first message to each person.
#[derive(Default)]
struct WithholdsFirst(HashSet<String>);

impl Conduct for WithholdsFirst {
    fn send(&mut self, sent: Sent, _: &Courier) -> Reply {
        let answer = match self.0.insert(sent.to.clone()) {
            true => refused(400, 131_049),
            false => accepted(&sent.to, &wamid(&sent.to, 2)),
        };
        Reply::of(answer, Duration::from_millis(2))
    }
}

/// Launches a campaign to [`RECIPIENTS`] people.
async fn launched(store: &Store, category: Category, on_withheld: OnWithheld, line: &str) -> CampaignId {
    let set = |campaign: &mut pregon::domain::Campaign| {
        (campaign.template.category, campaign.on_withheld) = (category, on_withheld);
    };
    let id = world::campaign_with(store, &[line], RECIPIENTS, set).await;
    world::launch(store, id).await;
    id
}

/// Launches a marketing campaign, and waits for its end. Returns how many recipients were skipped because Meta had
/// withheld marketing from them, and how many messages Meta accepted.
async fn marketing(store: &Store, line: &str) -> (u64, u64) {
    let id = launched(store, Category::Marketing, OnWithheld::Fail, line).await;
    let record = world::wait_for_state(store, id, CampaignState::Completed).await;
    let counts = world::counts(store, &record).await;
    let skipped = counts.skips.get(&SkipReason::Withheld).copied().unwrap_or(0);
    assert_eq!(counts.by_state[&State::Skipped], skipped);
    (skipped, counts.by_state[&State::Accepted])
}

#[tokio::test(flavor = "multi_thread")]
async fn who_had_marketing_withheld_gets_none_of_the_business_for_a_day() {
    let (redis, clock) = clock::redis().await;
    let Some(clock) = clock else { return };
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let meta = Meta::start(WithholdsFirst::default(), 0);
    let other = Line { waba: "2002".into(), business: "1002".into(), ..line("3009", 200.0) };
    let lines = [line("3001", 200.0), line("3002", 200.0), other];
    let first = TestWorker::start("w1", &redis, &meta.url(), &lines, settings()).await;
    let began = store.time().await.expect("redis");
    let again = launched(&store, Category::Marketing, OnWithheld::Retry, "3001").await;
    let retrying = HashMap::from([(State::Retrying, RECIPIENTS)]);
    until("Meta has withheld all", async || by_state(&store, again).await == retrying).await;

    // Another line of the business skips these people, but only for marketing. Another business does not skip them.
    assert_eq!(marketing(&store, "3002").await, (RECIPIENTS, 0));
    assert_eq!(marketing(&store, "3009").await, (0, RECIPIENTS));
    let utility = launched(&store, Category::Utility, OnWithheld::Fail, "3002").await;
    let accepted = HashMap::from([(State::Accepted, RECIPIENTS)]);
    until("no other message is withheld", async || by_state(&store, utility).await == accepted).await;

    // A campaign that sends withheld messages again waits until the day is over.
    let waiting = launched(&store, Category::Marketing, OnWithheld::Retry, "3002").await;
    let part = store.campaign(waiting).await.expect("redis").expect("a campaign").parts[0].0;
    let range = cmd("ZRANGE").arg(store.keys.retry(part)).arg(&["0", "-1", "WITHSCORES"]).clone();
    let due = async || store.query::<Vec<(u16, f64)>>("ZRANGE retry", &range).await.expect("redis");
    until("all wait", async || due().await.len() as u64 == RECIPIENTS).await;
    let earliest = began.after(policy::WITHHELD_FOR).0 as f64;
    assert!(due().await.iter().all(|(_, at)| *at >= earliest), "not before {earliest}");

    // A new worker, which reads the whole list, skips them too.
    first.stop().await;
    let second = TestWorker::start("w2", &redis, &meta.url(), &lines, settings()).await;
    assert_eq!(marketing(&store, "3001").await, (RECIPIENTS, 0));
    let sent = meta.requests() as u64;
    assert_eq!(sent, 3 * RECIPIENTS);

    second.stop().await;
    clock.step(26 * HOUR_MS).await;
    let third = TestWorker::start("w3", &redis, &meta.url(), &lines, settings()).await;
    for id in [again, waiting] {
        until("the day is over", async || by_state(&store, id).await == accepted).await;
    }
    assert_eq!(marketing(&store, "3001").await, (0, RECIPIENTS));
    assert_eq!(meta.requests() as u64, sent + 3 * RECIPIENTS);
    third.stop().await;
}

/// A failed status of a message to the `n`th person. The message may be another app's.
fn failed(n: u64, code: u32, at: UnixMs) -> serde_json::Value {
    let mut status = status_without_token(&format!("wamid.{n}"), &format!("failed {code}"));
    status["recipient_id"] = recipient(n).to.digits().to_string().into();
    status["timestamp"] = at.seconds().to_string().into();
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_acknowledged_withheld_status_no_marketing_is_claimed() {
    let mut hooks = Hooks::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, 0);
    let lines = [line("3001", 200.0), line("3002", 200.0)];
    let worker = TestWorker::start("w1", &hooks.redis, &meta.url(), &lines, settings()).await;
    assert_eq!(marketing(&hooks.store, "3001").await, (0, RECIPIENTS));
    let day_ago = UnixMs(now().0 - 25 * HOUR_MS as u64);
    let reported = [failed(0, 131_049, now()), failed(1, 131_026, now()), failed(2, 131_049, day_ago)];
    for _ in 0..2 {
        assert_eq!(hooks.deliver(&statuses("3001", &reported)).await, 200);
        assert_eq!(marketing(&hooks.store, "3002").await, (1, RECIPIENTS - 1));
    }

    // Redis loses the last status. The receiver stores it again before marketing is claimed.
    let kept = hooks.redis.written();
    assert_eq!(hooks.deliver(&statuses("3002", &[failed(3, 131_049, now())])).await, 200);
    hooks.redis.lose_power(kept).await;
    hooks.redis.restart().await;
    assert_eq!(marketing(&hooks.store, "3002").await, (2, RECIPIENTS - 2));
    worker.stop().await;
    hooks.stop().await;
}
