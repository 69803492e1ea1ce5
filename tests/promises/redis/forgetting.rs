//! Promises 1, 2 and 4 when Redis loses its last writes.

use std::{collections::BTreeMap, time::Duration};

use deadpool_redis::redis::cmd;
use pregon::{
    domain::{
        Applied, CampaignId, CampaignState, ClaimedRow, Due, Fact, News, OnDoubt, PartId, Settled, State, Wamid,
        campaign::{CampaignRetry, RetriedState},
    },
    redis::{
        Store,
        campaigns::StateChange,
        parts::{Claim, ToSend},
        retries::RetryChange,
    },
};

use crate::support::{self, claim_request, meta_code, redis::TestRedis, world};

const KEPT: Duration = Duration::from_secs(60);
const N: u64 = 8;

/// A running campaign on one line, without claims.
struct World {
    redis: TestRedis,
    store: Store,
    id: CampaignId,
    part: PartId,
}

impl World {
    async fn start() -> Self {
        let redis = TestRedis::start().await;
        let store = Store::connect(&world::address(&redis)).await.expect("a store");
        let id = world::campaign(&store, &["3001"], N, OnDoubt::Hold).await;
        world::launch(&store, id).await;
        let part = store.campaign(id).await.expect("redis").expect("a campaign").parts[0].0;
        Self { redis, store, id, part }
    }

    async fn claim(&self, store: &Store, epoch: u64, limit: usize, in_grace_period: bool) -> Claim {
        let now = store.time().await.expect("the time");
        let wish = claim_request(epoch, now, limit, now.after(KEPT));
        store.claim(self.part, &pregon::redis::parts::ClaimRequest { in_grace_period, ..wish }).await.expect("a claim")
    }

    async fn claim_rows(&self, epoch: u64, limit: usize) -> Vec<ClaimedRow> {
        match self.claim(&self.store, epoch, limit, false).await {
            Claim::Rows { rows, .. } => rows.into_iter().map(|ToSend { claimed, .. }| claimed).collect(),
            other => panic!("{other:?}"),
        }
    }

    async fn settle(&self, epoch: u64, outcomes: Vec<(ClaimedRow, Settled)>) {
        let now = self.store.time().await.expect("the time");
        self.store.settle(&BTreeMap::from([(self.part, outcomes)]), epoch, now, KEPT).await.expect("settled");
    }

    /// The length of Redis' append-only file once every command is in it. While the disk is busy, Redis writes
    /// after it has answered.
    async fn written(&self) -> u64 {
        support::until("all is written", async || {
            let info: String = self.store.query("INFO", cmd("INFO").arg("persistence")).await.expect("redis");
            info.contains("aof_buffer_length:0\r\n")
        })
        .await;
        self.redis.written()
    }

    /// Restarts Redis with only the first `kept` bytes of its append-only file.
    async fn forget(&mut self, kept: u64) {
        self.redis.lose_power(kept).await;
        self.redis.restart().await;
    }

    async fn states(&self, store: &Store) -> Vec<(State, u8)> {
        let bytes = store.state_bytes(self.part).await.expect("bytes");
        bytes.iter().map(|&byte| (State::of(byte).expect("a state"), State::send_of(byte))).collect()
    }

    /// Checks that the counters agree with the state bytes.
    async fn assert_consistent(&self) {
        let record = self.store.campaign(self.id).await.expect("redis").expect("a campaign");
        let counts = world::counts(&self.store, &record).await;
        assert_eq!(counts.by_state, world::recount(&self.store, &record).await);
        assert_eq!(counts.recipients, N);
    }
}

fn accepted(claimed: &ClaimedRow) -> (ClaimedRow, Settled) {
    (*claimed, Settled::Accepted(Wamid::from(format!("wamid.{}", claimed.row).as_str())))
}

#[tokio::test]
async fn claims_outcomes_and_statuses_lost_by_redis_are_replayed() {
    let mut world = World::start().await;
    let before = world.written().await;
    let rows = world.claim_rows(1, 5).await;
    let now = world.store.time().await.expect("the time");
    let again = (rows[2], Settled::Retry { at: now, reason: meta_code(131_000) });
    let back = (rows[3], Settled::Back { at: Due::At(now) });
    world.settle(1, vec![accepted(&rows[0]), accepted(&rows[1]), again, back]).await;
    let read = Fact { row: rows[1].row, send: rows[1].send, news: News::Read, at: now, message: None };
    world.store.apply(&[(world.part, vec![read])], KEPT).await.expect("applied");
    let expected = world.states(&world.store).await;

    world.forget(before).await;
    let newcomer = Store::connect(&world::address(&world.redis)).await.expect("a store");
    assert!(world.states(&newcomer).await.iter().all(|state| *state == (State::Pending, 0)), "Redis lost nothing");

    // Before its next command, this process replays its journal. The broken connection fails one command first.
    support::until("redis answers", async || world.store.time().await.is_ok()).await;
    assert_eq!(world.states(&world.store).await, expected);
    let whole_ids = world.store.wamids(world.part, &rows[..2]).await.expect("redis");
    assert_eq!(whole_ids, [Some(Wamid::from("wamid.0")), Some(Wamid::from("wamid.1"))]);
    world.assert_consistent().await;
    let next = world.claim_rows(1, 100).await;
    let fresh: Vec<u16> = next.iter().filter(|row| row.send == 1).map(|row| row.row).collect();
    assert_eq!(fresh, [5, 6, 7], "no row is claimed whose message Meta may have");
    let mut tried: Vec<u16> = next.iter().filter(|row| row.send == 2).map(|row| row.row).collect();
    tried.sort_unstable();
    assert_eq!(tried, [rows[2].row, rows[3].row]);
}

#[tokio::test]
async fn nothing_is_taken_over_in_the_grace_period() {
    let mut world = World::start().await;
    let before = world.written().await;
    world.claim_rows(1, 3).await;
    world.forget(before).await;
    let newcomer = Store::connect(&world::address(&world.redis)).await.expect("a store");
    assert!(newcomer.in_grace_period(KEPT), "this incarnation has just started");
    assert!(matches!(world.claim(&newcomer, 2, 100, true).await, Claim::InGracePeriod));
    support::until("redis answers", async || world.store.time().await.is_ok()).await;
    // The first owner has replayed its claim. The next owner finds those rows in flight and puts them in doubt.
    assert!(matches!(world.claim(&newcomer, 2, 0, false).await, Claim::Rows { .. }));
    let in_doubt = world.states(&newcomer).await.iter().filter(|(state, _)| *state == State::InDoubt).count();
    assert_eq!(in_doubt, 3);
    world.assert_consistent().await;
}

#[tokio::test]
async fn a_claim_replayed_after_a_takeover_is_in_doubt() {
    let mut world = World::start().await;
    let before = world.written().await;
    let rows = world.claim_rows(1, 3).await;
    world.settle(1, vec![accepted(&rows[0])]).await;
    world.forget(before).await;
    let newcomer = Store::connect(&world::address(&world.redis)).await.expect("a store");
    assert!(matches!(world.claim(&newcomer, 2, 0, false).await, Claim::Rows { .. }));
    support::until("redis answers", async || world.store.time().await.is_ok()).await;
    let states: Vec<State> = world.states(&newcomer).await.iter().map(|(state, _)| *state).collect();
    assert_eq!(&states[..4], [State::Accepted, State::InDoubt, State::InDoubt, State::Pending]);
    world.assert_consistent().await;
}

#[tokio::test]
async fn a_status_of_a_lost_claim_prevents_a_second_message() {
    let mut world = World::start().await;
    let before = world.written().await;
    let rows = world.claim_rows(1, 1).await;
    world.forget(before).await;
    // Meta sends the status to another process, which has no journal of the claim.
    let newcomer = Store::connect(&world::address(&world.redis)).await.expect("a store");
    let at = newcomer.time().await.expect("the time");
    let sent = Fact { row: rows[0].row, send: rows[0].send, news: News::Sent, at, message: None };
    newcomer.apply(&[(world.part, vec![sent])], KEPT).await.expect("applied");
    assert_eq!(world.states(&newcomer).await[0], (State::Sent, 1));
    support::until("redis answers", async || world.store.time().await.is_ok()).await;
    assert_eq!(world.states(&world.store).await[0], (State::Sent, 1));
    world.assert_consistent().await;
}

#[tokio::test]
async fn a_replayed_claim_supersedes_the_outcome_of_an_earlier_one() {
    let mut world = World::start().await;
    let second = Store::connect(&world::address(&world.redis)).await.expect("a store");
    let [first] = world.claim_rows(1, 1).await[..] else { panic!("one row") };
    // Another worker takes over. The first one settles its row as a retry, so that the other worker claims it again.
    assert!(matches!(world.claim(&second, 2, 0, false).await, Claim::Rows { .. }));
    let before = world.written().await;
    let now = world.store.time().await.expect("the time");
    world.settle(1, vec![(first, Settled::Retry { at: now, reason: meta_code(131_000) })]).await;
    let Claim::Rows { rows, .. } = world.claim(&second, 2, 1, false).await else { panic!("rows") };
    assert_eq!((rows[0].claimed.row, rows[0].claimed.send), (first.row, 2));
    world.forget(before).await;
    // The other worker replays its claim while Redis has the earlier claim in doubt. Then the first worker replays its
    // outcome.
    support::until("redis answers", async || second.time().await.is_ok()).await;
    support::until("redis answers", async || world.store.time().await.is_ok()).await;
    assert_eq!(world.states(&second).await[usize::from(first.row)], (State::InFlight, 2));
    let Claim::Rows { rows, .. } = world.claim(&second, 2, 100, false).await else { panic!("rows") };
    assert!(rows.iter().all(|row| row.claimed.row != first.row), "it would be sent twice: {rows:?}");
    world.assert_consistent().await;
}

#[tokio::test]
async fn a_status_of_a_lost_claim_counts_while_an_earlier_one_is_open() {
    let mut world = World::start().await;
    let webhooks = Store::connect(&world::address(&world.redis)).await.expect("a store");
    let [first] = world.claim_rows(1, 1).await[..] else { panic!("one row") };
    let before = world.written().await;
    let now = world.store.time().await.expect("the time");
    world.settle(1, vec![(first, Settled::Back { at: Due::At(now) })]).await;
    let [again] = world.claim_rows(1, 1).await[..] else { panic!("one row") };
    assert_eq!((again.row, again.send), (first.row, 2));
    world.settle(1, vec![accepted(&again)]).await;
    world.forget(before).await;
    // Meta sends the statuses to another process before the worker replays.
    support::until("redis answers", async || webhooks.time().await.is_ok()).await;
    let fact = |news| Fact { row: again.row, send: again.send, news, at: now, message: None };
    let reported = webhooks.apply(&[(world.part, vec![fact(News::Replied), fact(News::Delivered)])], KEPT).await;
    assert_eq!(reported.expect("applied")[0].applied, [Applied::Moved, Applied::Moved]);
    support::until("redis answers", async || world.store.time().await.is_ok()).await;
    assert_eq!(world.states(&webhooks).await[usize::from(first.row)], (State::Delivered, 2));
    world.assert_consistent().await;
}

#[tokio::test]
async fn a_status_of_a_lost_claim_counts_after_the_campaign_is_cancelled() {
    let mut world = World::start().await;
    let before = world.written().await;
    let rows = world.claim_rows(1, 1).await;
    world.forget(before).await;
    let webhooks = Store::connect(&world::address(&world.redis)).await.expect("a store");
    let at = webhooks.time().await.expect("the time");
    let running = [CampaignState::Running];
    let cancelled = webhooks.change_campaign(world.id, &running, CampaignState::Cancelled, at, None).await;
    assert_eq!(cancelled.expect("redis"), StateChange::Done);
    assert_eq!(world.states(&webhooks).await[usize::from(rows[0].row)], (State::Cancelled, 0));
    let sent = Fact { row: rows[0].row, send: rows[0].send, news: News::Sent, at, message: None };
    webhooks.apply(&[(world.part, vec![sent])], KEPT).await.expect("applied");
    support::until("redis answers", async || world.store.time().await.is_ok()).await;
    assert_eq!(world.states(&webhooks).await[usize::from(rows[0].row)], (State::Sent, 1));
    world.assert_consistent().await;
}

#[tokio::test]
async fn the_first_incarnation_of_redis_has_no_grace_period() {
    let mut redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    assert!(!store.in_grace_period(KEPT));
    let second = Store::connect(&world::address(&redis)).await.expect("a store");
    assert!(!second.in_grace_period(KEPT));
    redis.stop().await;
    redis.restart().await;
    support::until("redis answers", async || store.time().await.is_ok()).await;
    assert!(store.in_grace_period(KEPT));
}

#[tokio::test]
async fn a_retry_is_whole_wherever_redis_forgot_the_rest_of_it() {
    const CUTS: u64 = 8;
    let retry = CampaignRetry { states: [RetriedState::Failed].into(), ..CampaignRetry::default() };
    for cut in 0..=CUTS {
        let mut world = World::start().await;
        let rows = world.claim_rows(1, 100).await;
        let refused = |row: &ClaimedRow| (*row, Settled::Refused { reason: meta_code(131_042) });
        let outcomes = rows.iter().map(|row| if row.row < 4 { refused(row) } else { accepted(row) });
        world.settle(1, outcomes.collect()).await;
        let now = world.store.time().await.expect("the time");
        assert!(world.store.complete_if_done(world.id, now).await.expect("redis"));
        let before = world.written().await;
        let done = world.store.retry_campaign(world.id, &retry, now).await;
        assert_eq!(done.expect("redis"), RetryChange::Done);
        let after = world.written().await;
        world.forget(before + (after - before) * cut / CUTS).await;
        support::until("redis answers", async || world.store.time().await.is_ok()).await;

        let record = world.store.campaign(world.id).await.expect("redis").expect("a campaign");
        if record.state == CampaignState::Completed {
            // The caller got no response and calls again.
            let done = world.store.retry_campaign(world.id, &retry, now).await;
            assert_eq!(done.expect("redis"), RetryChange::Done, "cut {cut}");
        } else {
            world.store.follow(world.id, now).await.expect("redis");
        }
        let mut again = world.claim_rows(1, 100).await;
        again.sort_by_key(|row| row.row);
        let expected: Vec<ClaimedRow> = (0..4).map(|row| ClaimedRow { row, send: 2 }).collect();
        assert_eq!(again, expected, "cut {cut}");
        world.assert_consistent().await;
    }
}

#[tokio::test]
async fn a_row_that_was_claimed_before_waits_until_forgotten_news_are_replayed() {
    let world = World::start().await;
    let rows = world.claim_rows(1, 2).await;
    let now = world.store.time().await.expect("the time");
    let back = Settled::Back { at: Due::AtOnce };
    world.settle(1, rows.iter().map(|row| (*row, back.clone())).collect()).await;
    let Claim::Rows { rows, next_due, .. } = world.claim(&world.store, 1, 3, true).await else { panic!("no rows") };
    let fresh: Vec<u16> = rows.iter().map(|row| row.claimed.row).collect();
    assert_eq!(fresh, [2, 3, 4], "whose recipients can have no message");
    assert!(next_due.is_some_and(|due| due > now), "{next_due:?}");
    let Claim::Rows { rows, .. } = world.claim(&world.store, 1, 3, false).await else { panic!("no rows") };
    let all: Vec<u16> = rows.iter().map(|row| row.claimed.row).collect();
    assert_eq!(all, [0, 1, 5]);
}
